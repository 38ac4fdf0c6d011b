"""From a file, a proto or an onnx_ir model to a `GraphView`: Constants lifted, shapes inferred."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from edgeq.errors import MissingExtraError, ModelError
from edgeq.onnx_references import check_references
from edgeq.targets.placement.contrib_shapes import fill_contrib_shapes
from edgeq.targets.placement.lift_constants import lifted_constant
from edgeq.targets.placement.model_view import GraphView, Node, Shape
from edgeq.targets.placement.unique_dq import give_each_consumer_its_dq

if TYPE_CHECKING:
    import onnx
    import onnx_ir

ModelLike: TypeAlias = "Path | str | onnx.ModelProto | onnx_ir.Model"

KEEP_ELEMENTS = 256
"""Initializers up to this size go to shape inference with their values (axes, shapes); others without."""


def load_proto(model: ModelLike) -> tuple[onnx.ModelProto, Path | None]:
    """The model as a proto, weights in external files left there, and the folder of those files.

    Raises:
        MissingExtraError: onnx is not installed.
        ModelError: the file is missing, truncated or no ONNX model, or its external data is incomplete.
    """
    try:
        import onnx
    except ImportError as error:
        raise MissingExtraError("placement prediction", "export") from error

    if isinstance(model, onnx.ModelProto):
        return model, None
    if isinstance(model, str | Path):
        proto = _parse(Path(model))
        check_references(Path(model), any_domain=True)
        return proto, Path(model).resolve().parent
    import onnx_ir as ir

    return ir.to_proto(model), None


def _parse(path: Path) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    if not path.is_file():
        raise ModelError(
            f"no such model file: `{path}`", hint="give the path of an .onnx file or of a bundle"
        )
    try:
        proto = onnx.load(str(path), load_external_data=False)
    except (DecodeError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"`{path}` ({path.stat().st_size} bytes) is not a complete ONNX model: {error}",
            hint="it may be truncated or another format; export or download it again",
        ) from error
    if not proto.opset_import or not proto.graph.output:
        missing = "operator set" if proto.graph.output else "graph outputs"
        raise ModelError(
            f"`{path}` is no complete ONNX model: it declares no {missing}",
            hint="it may be truncated or another format; export or download it again",
        )
    return proto


def read_graph(proto: onnx.ModelProto, *, base_dir: Path | None = None) -> GraphView:
    """The view of a model whose dimensions are already fixed.

    Local functions are inlined and shared DequantizeLinear nodes duplicated, as ONNX Runtime does on load
    even with optimizations disabled.

    Raises:
        ModelError: the graph has a cycle or a value with two producers.
    """
    proto = _inline_functions(proto)
    graph = proto.graph
    opsets = {entry.domain or "": entry.version for entry in proto.opset_import}
    opsets.setdefault("", opsets.get("ai.onnx", 1))
    tensors, protos = _split_constants(graph)
    overridable = {value.name for value in graph.input} if proto.ir_version >= 4 else set()
    inferred = infer_shapes(proto, protos, tensors)
    fill_contrib_shapes(proto, inferred, base_dir)
    dtypes, shapes = _types_and_shapes(inferred.graph, tensors)
    outputs = [value.name for value in graph.output]
    nodes = give_each_consumer_its_dq(_sorted_nodes(protos, opsets), outputs, dtypes, shapes)
    return GraphView(
        nodes,
        inputs=[value.name for value in graph.input if value.name not in tensors],
        outputs=outputs,
        tensors={name: tensor for name, tensor in tensors.items() if name not in overridable},
        dtypes=dtypes,
        shapes=shapes,
        opset=opsets[""],
        base_dir=str(base_dir or ""),
    )


def _inline_functions(proto: onnx.ModelProto) -> onnx.ModelProto:
    if not proto.functions:
        return proto
    from onnx import inliner

    return inliner.inline_local_functions(proto)


def _split_constants(
    graph: onnx.GraphProto,
) -> tuple[dict[str, onnx.TensorProto], list[onnx.NodeProto]]:
    """Initializers and Constant nodes (the runtime makes those initializers), and the other nodes."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        constant = lifted_constant(node)
        if constant is None:
            nodes.append(node)
        else:
            tensors[node.output[0]] = constant
    return tensors, nodes


def infer_shapes(
    proto: onnx.ModelProto, nodes: Iterable[onnx.NodeProto], tensors: Mapping[str, onnx.TensorProto]
) -> onnx.ModelProto:
    """Shape inference on a skeleton without the large weights, so a model of any size fits."""
    import onnx

    skeleton = onnx.ModelProto(ir_version=max(proto.ir_version, 4))
    skeleton.opset_import.extend(proto.opset_import)
    graph = skeleton.graph
    graph.name = proto.graph.name or "graph"
    graph.input.extend(value for value in proto.graph.input)
    graph.output.extend(proto.graph.output)
    graph.value_info.extend(proto.graph.value_info)
    graph.node.extend(nodes)
    graph.initializer.extend(_skeleton_tensor(name, tensor) for name, tensor in tensors.items())
    try:
        return onnx.shape_inference.infer_shapes(skeleton, data_prop=True)
    except Exception:
        # An operator whose types contradict each other: what was written in the file is all we know.
        return skeleton


def _skeleton_tensor(name: str, tensor: onnx.TensorProto) -> onnx.TensorProto:
    import onnx

    count = 1
    for dim in tensor.dims:
        count *= dim
    if count <= KEEP_ELEMENTS and not tensor.external_data:
        kept = onnx.TensorProto()
        kept.CopyFrom(tensor)
        kept.name = name
        return kept
    return onnx.TensorProto(name=name, data_type=tensor.data_type, dims=list(tensor.dims))


def _types_and_shapes(
    graph: onnx.GraphProto, tensors: Mapping[str, onnx.TensorProto]
) -> tuple[dict[str, str], dict[str, Shape]]:
    dtypes = {name: dtype_name(tensor.data_type) for name, tensor in tensors.items()}
    shapes: dict[str, Shape] = {name: tuple(tensor.dims) for name, tensor in tensors.items()}
    for values in (graph.value_info, graph.output, graph.input):
        for value in values:
            kind = value.type.tensor_type
            if not value.type.HasField("tensor_type") or value.name in tensors:
                continue
            if kind.elem_type:
                dtypes[value.name] = dtype_name(kind.elem_type)
            if kind.HasField("shape"):
                shapes[value.name] = tuple(_dim(dim) for dim in kind.shape.dim)
    return dtypes, shapes


def _dim(dim: Any) -> int | str | None:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return str(dim.dim_param) if dim.dim_param else None


@lru_cache(maxsize=64)
def dtype_name(elem_type: int) -> str:
    """`float32` for FLOAT, `float64` for DOUBLE, else the ONNX name in lower case."""
    import onnx

    if elem_type not in onnx.TensorProto.DataType.values():
        return f"type {elem_type}"
    name: str = onnx.TensorProto.DataType.Name(elem_type).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


def _sorted_nodes(protos: list[onnx.NodeProto], opsets: Mapping[str, int]) -> list[Node]:
    """Nodes in a stable topological order."""
    made_by: dict[str, int] = {}
    for position, proto in enumerate(protos):
        for name in proto.output:
            if name and made_by.setdefault(name, position) != position:
                raise ModelError(
                    f"value `{name}` has two producers, expected one",
                    hint="check the model with onnx.checker",
                )
    captured = [_captured(proto, made_by) for proto in protos]
    order = _topological_order(protos, captured, made_by)
    labels = _labels(protos)
    return [_node(protos[at], index, labels[at], opsets, captured[at]) for index, at in enumerate(order)]


def _labels(protos: list[onnx.NodeProto]) -> list[str]:
    """A name per node that no other node has: its own, or one made from its first output."""
    own = Counter(proto.name for proto in protos)
    return [
        proto.name
        if proto.name and own[proto.name] == 1
        else f"{proto.op_type}:{next((name for name in proto.output if name), position)}"
        for position, proto in enumerate(protos)
    ]


def _topological_order(
    protos: list[onnx.NodeProto], captured: list[tuple[str, ...]], made_by: Mapping[str, int]
) -> list[int]:
    import heapq

    users: list[list[int]] = [[] for _ in protos]
    waiting = [0] * len(protos)
    for position, proto in enumerate(protos):
        for name in (*proto.input, *captured[position]):
            if name in made_by:
                users[made_by[name]].append(position)
                waiting[position] += 1
    ready = [position for position, count in enumerate(waiting) if count == 0]
    heapq.heapify(ready)
    order = []
    while ready:
        position = heapq.heappop(ready)
        order.append(position)
        for user in users[position]:
            waiting[user] -= 1
            if waiting[user] == 0:
                heapq.heappush(ready, user)
    if len(order) != len(protos):
        stuck = next(protos[at].name or protos[at].op_type for at, count in enumerate(waiting) if count)
        raise ModelError(f"the graph has a cycle through `{stuck}`", hint="check the model with onnx.checker")
    return order


def _captured(proto: onnx.NodeProto, made_by: Mapping[str, int]) -> tuple[str, ...]:
    names: dict[str, None] = {}
    pending = list(_subgraphs(proto))
    while pending:
        graph = pending.pop()
        for node in graph.node:
            names.update(dict.fromkeys(name for name in node.input if name in made_by))
            pending.extend(_subgraphs(node))
        names.update(dict.fromkeys(value.name for value in graph.output if value.name in made_by))
    return tuple(name for name in names if name not in proto.output)


def _subgraphs(proto: onnx.NodeProto) -> Iterable[onnx.GraphProto]:
    for attribute in proto.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _node(
    proto: onnx.NodeProto, index: int, label: str, opsets: Mapping[str, int], captured: tuple[str, ...]
) -> Node:
    from onnx import helper

    domain = "" if proto.domain == "ai.onnx" else proto.domain
    return Node(
        index=index,
        op_type=proto.op_type,
        domain=domain,
        name=label,
        inputs=tuple(proto.input),
        outputs=tuple(proto.output),
        since_version=_since_version(proto.op_type, domain, opsets.get(domain, 1)),
        attributes={
            item.name: helper.get_attribute_value(item) for item in proto.attribute if not item.ref_attr_name
        },
        captured=captured,
    )


@lru_cache(maxsize=4096)
def _since_version(op_type: str, domain: str, opset: int) -> int:
    import onnx

    try:
        return int(onnx.defs.get_schema(op_type, opset, domain).since_version)
    except onnx.defs.SchemaError:
        return 1  # contrib operators start at 1
