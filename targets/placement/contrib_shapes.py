"""Types and shapes behind the runtime's own operators, which ONNX shape inference does not know."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.targets.placement.optimized import OptimizeError, outputs_as_loaded

if TYPE_CHECKING:
    import onnx

_STANDARD = ("", "ai.onnx")


def fill_contrib_shapes(proto: onnx.ModelProto, inferred: onnx.ModelProto, base_dir: Path | None) -> None:
    """Add to `inferred` the values it does not know, when contrib operators are the cause.

    The runtime tells types and shapes of graph outputs only: a copy gets the unknown values as outputs.
    A model it cannot load stays as it is: its values are then reported as unknown.
    """
    if all(node.domain in _STANDARD for node in inferred.graph.node):
        return
    unknown = _unknown_values(inferred.graph)
    if not unknown:
        return
    try:
        found = outputs_as_loaded(_with_outputs(proto, unknown), base_dir)
    except OptimizeError:
        return
    import onnx

    for name in unknown:
        if name in found and (dtype := _elem_type(found[name][0])):
            inferred.graph.value_info.append(onnx.helper.make_tensor_value_info(name, dtype, found[name][1]))


def _unknown_values(graph: onnx.GraphProto) -> list[str]:
    known = {
        value.name
        for values in (graph.value_info, graph.output)
        for value in values
        if value.type.tensor_type.elem_type and value.type.tensor_type.HasField("shape")
    }
    return [name for node in graph.node for name in node.output if name and name not in known]


def _with_outputs(proto: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    import onnx

    wider = onnx.ModelProto()
    wider.CopyFrom(proto)
    present = {value.name for value in wider.graph.output}
    wider.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    return wider


def _elem_type(text: str) -> int:
    """`tensor(float)` to its ONNX element type; 0 for anything but a tensor."""
    import onnx

    name = text.removeprefix("tensor(").removesuffix(")").upper()
    return int(onnx.TensorProto.DataType.Value(name)) if text.startswith("tensor(") else 0
