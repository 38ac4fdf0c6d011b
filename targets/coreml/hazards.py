"""Where float16 would overflow, found from the ranges a calibration run really reaches.

A node that is listed here computes in float32 (`fp32_nodes` of `lower_to_mil`); everything else stays float16.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeq.graph.edit import Editor, attribute
from edgeq.quantize.instrument import run, session_of
from edgeq.targets.coreml.context import FP16_LARGEST
from edgeq.types import Feeds

MARGIN = 2.0
"""Calibration has not seen the largest value there is: room that is kept below float16's limit."""

MASK = 1e30
"""Magnitudes above this are masks, which the lowering replaces by a value float16 holds."""

_EXP_LIMIT = math.log(FP16_LARGEST / MARGIN)


@dataclass(frozen=True, slots=True)
class Hazard:
    """A node that could overflow in float16.

    Attributes:
        node: its name.
        op: its operator.
        reason: what overflows, in a few words.
        magnitude: the largest magnitude seen there.
    """

    node: str
    op: str
    reason: str
    magnitude: float


Ranges = Mapping[str, tuple[float, float]]
Rule = Callable[[ir.Node, Ranges], tuple[str, float] | None]


def find_hazards(model: ir.Model, ranges: Ranges) -> tuple[Hazard, ...]:
    """Nodes that must not compute in float16.

    Args:
        model: the canonical graph.
        ranges: `(lowest, highest)` per value name, as `measure_ranges` gives them.
    """
    found = []
    for node in model.graph:
        for rule in (_operands, *_INSIDE.get(node.op_type, ())):
            hit = rule(node, ranges)
            if hit is not None:
                found.append(Hazard(str(node.name), node.op_type, *hit))
                break
    return tuple(found)


def measure_ranges(model: ir.Model, feeds: Iterable[Feeds]) -> dict[str, tuple[float, float]]:
    """Lowest and highest value of every float tensor over some inputs, padding included.

    Padding counts because an infinity there reaches real positions through a product with zero.
    """
    probe = model.clone()
    editor = Editor(probe)
    end = list(probe.graph)[-1]
    names = [
        str(value.name) for node in probe.graph for value in node.outputs if value.dtype == ir.DataType.FLOAT
    ]
    values = {str(value.name): value for node in probe.graph for value in node.outputs}
    for name in names:
        for kind in ("Min", "Max"):
            reduced = ir.node(f"Reduce{kind}", [values[name]], {"keepdims": 0}, num_outputs=1)
            reduced.outputs[0].name = editor.unique(_probe_name(name, kind))
            end.graph.append(reduced)  # type: ignore[union-attr]
            probe.graph.outputs.append(reduced.outputs[0])
    wanted = [_probe_name(name, kind) for name in names for kind in ("Min", "Max")]
    result = dict.fromkeys(names, (math.inf, -math.inf))
    with session_of(probe, wanted, None) as session:
        for batch in feeds:
            found = [float(array) for array in run(session, wanted, batch)]
            for name, low, high in zip(names, found[::2], found[1::2], strict=True):
                result[name] = (min(result[name][0], low), max(result[name][1], high))
    return result


def _probe_name(name: str, kind: str) -> str:
    return f"{name}.range_{kind}"


def _magnitude(value: ir.Value | None, ranges: Ranges) -> float:
    """Largest magnitude of a value; 0 for values without a range and for masks."""
    name = "" if value is None else str(value.name)
    if name not in ranges:
        return 0.0
    sizes = [abs(bound) for bound in ranges[name] if abs(bound) < MASK]
    return max(sizes, default=0.0)


def _operands(node: ir.Node, ranges: Ranges) -> tuple[str, float] | None:
    """Anything read or written beyond the limit: a reader of such a value must not round it first."""
    size = max((_magnitude(value, ranges) for value in (*node.inputs, *node.outputs)), default=0.0)
    return ("a value beyond float16", size) if size > FP16_LARGEST / MARGIN else None


def _input_above(limit: float, reason: str) -> Rule:
    def rule(node: ir.Node, ranges: Ranges) -> tuple[str, float] | None:
        size = _magnitude(node.inputs[0], ranges)
        return (reason, size) if size > limit else None

    return rule


def _highest_above(limit: float, reason: str) -> Rule:
    def rule(node: ir.Node, ranges: Ranges) -> tuple[str, float] | None:
        value = node.inputs[0]
        name = "" if value is None else str(value.name)
        highest = ranges[name][1] if name in ranges else -math.inf
        return (reason, highest) if highest > limit else None

    return rule


def _sum_of_squares(node: ir.Node, ranges: Ranges) -> tuple[str, float] | None:
    size = _magnitude(node.outputs[0], ranges) ** 2
    return ("the sum of squares under the root", size) if size > FP16_LARGEST / MARGIN else None


def _tanh_cube(node: ir.Node, ranges: Ranges) -> tuple[str, float] | None:
    if attribute(node, "approximate", "none") != "tanh":
        return None
    return _input_above(float(np.cbrt(FP16_LARGEST / MARGIN)), "the cube inside tanh-Gelu")(node, ranges)


_SQUARE = _input_above(math.sqrt(FP16_LARGEST / MARGIN), "the square inside the variance")

_INSIDE: dict[str, tuple[Rule, ...]] = {
    "Gelu": (_tanh_cube,),
    "LayerNormalization": (_SQUARE,),
    "ReduceL2": (_sum_of_squares,),
    "ReduceLogSumExp": (_highest_above(_EXP_LIMIT, "the exponential before the logarithm"),),
    "RMSNormalization": (_SQUARE,),
    "Softplus": (_highest_above(_EXP_LIMIT, "the exponential inside softplus"),),
}
"""Intermediate results that no output range shows."""
