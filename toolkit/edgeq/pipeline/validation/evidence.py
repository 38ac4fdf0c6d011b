"""What running one variant gave, before anything judges it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgeq.errors import IntegrityError
from edgeq.pipeline.drift import Drift, case_drifts
from edgeq.pipeline.golden_metrics import golden_metrics, kept_of
from edgeq.tasks import head_in

if TYPE_CHECKING:
    from edgeq.bundle.golden import GoldenCase
    from edgeq.bundle.manifest import Variant
    from edgeq.bundle.reader import Bundle
    from edgeq.pipeline.validation.judge import Compared, Examined
    from edgeq.tasks import Head
    from edgeq.types import Outputs, TensorSpec


@dataclass(frozen=True, slots=True)
class Evidence:
    """One execution of one variant.

    Attributes:
        variant: that was run.
        cases: golden cases that hold its outputs; none in a bundle that was packed without.
        drifts: how far its outputs are from what the cases record, by output.
        golden: metrics of its outputs against the original's, over the cases.
        recorded: the same of the outputs that the cases record.
        compared: live, where the user named an original.
        examined: on labelled samples, where the user named some.
    """

    variant: Variant
    cases: Sequence[GoldenCase]
    drifts: Mapping[str, Sequence[Drift]]
    golden: Mapping[str, Mapping[str, float]]
    recorded: Mapping[str, Mapping[str, float]]
    compared: Compared | None = None
    examined: Examined | None = None

    @property
    def metrics(self) -> Mapping[str, Mapping[str, float]]:
        """Against the original, by output: live, or else over the golden cases."""
        return self.golden if self.compared is None else self.compared.metrics

    @property
    def shown(self) -> Mapping[str, Mapping[str, float]]:
        """The same beside the metric of labelled samples."""
        if self.examined is None:
            return self.metrics
        output = self.examined.output
        return {**self.metrics, output: {**self.metrics[output], **self.examined.result.metrics()}}

    @property
    def source(self) -> str:
        """What `metrics` are over, for people."""
        return f"{len(self.cases)} golden cases" if self.compared is None else self.compared.source


def compared_head(bundle: Bundle, variant: Variant, cases: Sequence[GoldenCase]) -> Head:
    """The head of a variant, with the outputs that are compared: those that all of its golden cases hold.

    Args:
        bundle: that holds the variant.
        variant: to be run.
        cases: those with its outputs.

    Raises:
        IntegrityError: the bundle has golden cases, and nothing of this variant in them to compare with.
    """
    head = head_in(bundle.manifest, variant)
    if not bundle.manifest.golden:
        return head
    if not cases:
        raise IntegrityError(f"no golden case holds outputs of `{variant.id}`")
    found = tuple(spec for spec in head.outputs if all(_holds(case, variant, spec) for case in cases))
    if not found:
        raise IntegrityError(
            f"no output of `{variant.id}` is in all of its golden cases, beside the original's, to compare with"
        )
    return replace(head, outputs=found)


def _holds(case: GoldenCase, variant: Variant, spec: TensorSpec) -> bool:
    return spec.name in case.reference and spec.name in case.outputs[variant.id]


def replayed(
    variant: Variant, head: Head, cases: Sequence[GoldenCase], outputs: Sequence[Outputs]
) -> Evidence:
    """The golden cases of a variant, run again.

    Args:
        variant: that was run.
        head: with the outputs that are compared.
        cases: those with the variant's outputs.
        outputs: of each case now, of every position.

    Raises:
        IntegrityError: what a case holds has another shape.
    """
    if not cases:
        return Evidence(variant, cases, {}, {}, {})
    recorded = [case.outputs[variant.id] for case in cases]
    drifts = case_drifts(head.outputs, cases, recorded, outputs)
    kept = [kept_of(case, head.outputs, found) for case, found in zip(cases, outputs, strict=True)]
    golden = golden_metrics(head, cases, kept)
    return Evidence(variant, cases, drifts, golden, golden_metrics(head, cases, recorded))
