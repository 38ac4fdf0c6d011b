"""How close outputs of golden cases are to the original's, and the gates that bound it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeq.bundle.golden import GoldenCase
from edgeq.bundle.manifest import Gate
from edgeq.pipeline.drift import MEAN, RMS, require_shape
from edgeq.tasks.comparison import compare_all
from edgeq.tasks.tokens import Tokens
from edgeq.types import Outputs, TensorSpec

if TYPE_CHECKING:
    from edgeq.tasks import Head

GOLDEN = "golden_"
"""Before the name of a metric that is measured on the golden cases, not on held-out samples."""


def is_golden(gate: Gate) -> bool:
    """Whether a gate of the manifest bounds the golden cases, not held-out samples."""
    return gate.metric in (RMS, MEAN) or gate.metric.startswith(GOLDEN)


def golden_metrics(
    head: Head, cases: Sequence[GoldenCase], recorded: Sequence[Outputs]
) -> dict[str, dict[str, float]]:
    """Metrics by output of some outputs, as cases record them, against the original's."""
    for case, outputs in zip(cases, recorded, strict=True):
        for spec in head.outputs:
            require_shape(spec, case, case.reference[spec.name], outputs[spec.name])
    batches = zip(cases, recorded, strict=True)
    return compare_all(
        head.compare(), ((case.reference, outputs, Tokens.of_case(case)) for case, outputs in batches)
    )


def kept_of(case: GoldenCase, specs: Sequence[TensorSpec], outputs: Outputs) -> Outputs:
    """The part of some outputs that a case records."""
    return {spec.name: case.kept(spec, outputs[spec.name]) for spec in specs}
