"""What the verdict on a variant alone does not say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from edgeq.pipeline.drift import worst
from edgeq.pipeline.saturating import saturating_in
from edgeq.runtime.executors import CAN_SATURATE
from edgeq.tasks import LABELLED_METRICS
from edgeq.tasks.older import unsaid_kind
from edgeq.types import ONNX_RUNTIME

if TYPE_CHECKING:
    from edgeq.bundle.manifest import Gate
    from edgeq.bundle.reader import Bundle
    from edgeq.pipeline.validation.evidence import Evidence


def variant_notices(
    bundle: Bundle, evidence: Evidence, gates: Sequence[Gate], *, has_requests: bool
) -> tuple[str, ...]:
    """Everything to be said of one execution of a variant.

    Args:
        bundle: that holds the variant.
        evidence: what running it gave.
        gates: that it was held to, with their verdicts.
        has_requests: whether the user's gates stand in for the bundle's.
    """
    return (
        *_unbounded(bundle, evidence),
        *_labelled(bundle, evidence, has_requests=has_requests),
        *_old_kernels(bundle, evidence, gates),
    )


def _unbounded(bundle: Bundle, evidence: Evidence) -> Iterator[str]:
    """Recorded outputs that may be anything: whoever made the bundle said nothing of them."""
    variant = evidence.variant.id
    bounds = [bound for entry in bundle.manifest.golden for bound in entry.tolerances]
    bounds += [gate for gate in bundle.manifest.gates if gate.metric not in LABELLED_METRICS]
    bounded = {bound.output for bound in bounds if bound.variant == variant}
    for output in dict.fromkeys(name for case in evidence.cases for name in case.outputs[variant]):
        if output not in bounded:
            yield f"nothing bounds `{output}` of {variant}: the bundle has no gate on it, and no tolerance"


def _labelled(bundle: Bundle, evidence: Evidence, *, has_requests: bool) -> Iterator[str]:
    if evidence.examined is None:
        return
    if (unsaid := unsaid_kind(bundle.manifest)) is not None:
        yield unsaid
    if (undecided := evidence.examined.result.undecided) is not None:
        judges = "the --gate" if has_requests else "the bundle's own floors"
        yield f"{evidence.variant.id}: {undecided}; {judges} judge"


def _old_kernels(bundle: Bundle, evidence: Evidence, gates: Sequence[Gate]) -> Iterator[str]:
    """Why a variant may compute something else than is recorded, though its file is what it was.

    Bundles that do not say which layers can saturate were recorded with whatever kernels their machine had.
    """
    variant = evidence.variant
    differs = any(worst(drifts).max_abs > 0 for drifts in evidence.drifts.values())
    if all(gate.passed for gate in gates) or not differs:
        return
    if CAN_SATURATE in variant.placement or variant.runtime != ONNX_RUNTIME:
        return
    layers = saturating_in(bundle.model_path(variant))
    if layers:
        yield (
            f"{variant.id}: integer sums of {len(layers)} layers can saturate (first `{layers[0]}`), and the recorded "
            "values may come from kernels that do: export it again, which writes layers that are exact everywhere"
        )
