"""Turning failed gates into the error that ends a command with exit code 3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeq.errors import GateError

if TYPE_CHECKING:
    from edgeq.bundle.manifest import Gate
    from edgeq.pipeline.plan import TargetResult


def describe_gate(gate: Gate) -> str:
    """`cpu-int8 sentence_embedding: cosine_mean 0.9511, gate >= 0.97 (default floor for int8)`."""
    value = "not measured" if gate.value is None else f"{gate.value:.6g}"
    bound = f"gate {gate.op} {gate.threshold:g} ({gate.derived_from})"
    return f"{gate.variant} {gate.output}: {gate.metric} {value}, {bound}"


def require_passed(results: Sequence[TargetResult]) -> None:
    """Raise when a bundle is below a gate.

    Raises:
        GateError: names every gate that does not hold and where the bundle was kept.
    """
    failed = [(result, gate) for result in results for gate in result.failed_gates]
    if not failed:
        return
    where = ", ".join(dict.fromkeys(str(result.bundle.path) for result, _ in failed))
    lines = "; ".join(describe_gate(gate) for _, gate in failed)
    raise GateError(
        f"quality is below the gate: {lines}",
        hint=f"the bundle is kept in {where}, marked failed; use more or closer --calib texts, or --precision fp16",
    )
