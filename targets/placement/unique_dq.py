"""One DequantizeLinear per consumer, as ONNX Runtime makes it on load whatever the optimization level.

A QDQ node unit owns its DequantizeLinear nodes, so the runtime copies a shared one for every further use
(its EnsureUniqueDQForNodeUnit step; skipped only with `session.disable_quant_qdq=1`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from edgeq.targets.placement.model_view import Node, Shape


def give_each_consumer_its_dq(
    nodes: Sequence[Node], outputs: Sequence[str], dtypes: dict[str, str], shapes: dict[str, Shape]
) -> list[Node]:
    """Nodes with shared DequantizeLinear duplicated; types and shapes of the copies are added to the maps."""
    uses = Counter(name for node in nodes for name in node.inputs)
    kept = set(outputs) | {name for node in nodes for name in node.captured}
    shared = {
        node.outputs[0]: node
        for node in nodes
        if node.is_dq and uses[node.outputs[0]] + (node.outputs[0] in kept) > 1
    }
    if not shared:
        return list(nodes)
    copies: dict[str, int] = Counter(name for name in shared if name in kept)
    result: list[Node] = []
    for node in nodes:
        inputs = list(node.inputs)
        for position, name in enumerate(inputs):
            if name not in shared:
                continue
            copies[name] += 1
            if copies[name] > 1:
                copy = _copy(shared[name], copies[name] - 1)
                inputs[position] = copy.outputs[0]
                _inherit(copy.outputs[0], name, dtypes, shapes)
                result.append(copy)
        result.append(replace(node, inputs=tuple(inputs)))
    return [replace(node, index=index) for index, node in enumerate(result)]


def _copy(dq: Node, number: int) -> Node:
    suffix = f"/copy_{number}"
    return replace(dq, name=dq.name + suffix, outputs=(dq.outputs[0] + suffix,))


def _inherit(copy: str, original: str, dtypes: dict[str, str], shapes: dict[str, Shape]) -> None:
    if original in dtypes:
        dtypes[copy] = dtypes[original]
    if original in shapes:
        shapes[copy] = shapes[original]
