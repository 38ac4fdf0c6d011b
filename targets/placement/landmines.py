"""Patterns that NNAPI's support check lets pass and that then fail.

The session is not created, nothing falls back. Known from reading ONNX Runtime's sources, not from devices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from edgeq.targets.placement.model_view import GraphView, Node
from edgeq.targets.placement.nnapi_qdq_rules import NNAPI_GROUP_RULES, is_disguised_per_channel
from edgeq.targets.placement.nnapi_rules import NNAPI_RULES
from edgeq.targets.placement.node_units import NodeUnit, same_quantization
from edgeq.targets.placement.partition import partition_inputs, partition_outputs
from edgeq.targets.placement.report import Landmine
from edgeq.targets.placement.rules import Context

Partition: TypeAlias = Sequence[NodeUnit]
Finder: TypeAlias = Callable[[Context, Partition], Iterator[Landmine]]
_NO_SESSION = "session creation fails"
_IO_DTYPES = ("float32", "int32", "uint8")


def find_landmines(
    context: Context, units: Sequence[NodeUnit], partitions: Sequence[Partition]
) -> tuple[Landmine, ...]:
    """All landmines of the taken partitions, and the one that strikes before anything is taken."""
    found = list(gemm_without_q(context, units))
    for partition in partitions:
        for finder in FINDERS:
            found.extend(finder(context, partition))
    return tuple(found)


def gemm_without_q(context: Context, units: Sequence[NodeUnit]) -> Iterator[Landmine]:
    """L1: the provider asks for the output quantization of a group that has none."""
    for unit in units:
        if unit.is_group and unit.op_type == "Gemm" and not unit.qs:
            yield Landmine(
                "gemm-without-q",
                (unit.target.name,),
                "all inputs of the Gemm come through DequantizeLinear but no QuantizeLinear follows",
                "an assertion is thrown while the provider looks at the graph: no session",
                "put QuantizeLinear and DequantizeLinear behind the Gemm, or leave its inputs in float",
            )


def _quantized_gemms(partition: Partition) -> Iterator[NodeUnit]:
    return (unit for unit in partition if unit.is_group and unit.op_type == "Gemm" and unit.qs)


def gemm_transposed(context: Context, partition: Partition) -> Iterator[Landmine]:
    """L2 and L3: transB=1 of a quantized Gemm works for constant uint8 only."""
    for unit in _quantized_gemms(partition):
        if not int(unit.target.attributes.get("transB", 0)):
            continue
        weight = unit.input(1).name
        if not context.graph.is_constant(weight):
            yield Landmine(
                "gemm-dynamic-b",
                (unit.target.name,),
                "quantized Gemm with transB=1 and a computed B",
                "a null pointer is dereferenced while the model is built: the app crashes",
                "make B an initializer, or leave the Gemm in float",
            )
        elif context.graph.dtype(weight) == "int8":
            yield Landmine(
                "gemm-int8-transb",
                (unit.target.name,),
                "quantized Gemm with transB=1 and an int8 weight",
                f"the weight is registered as int8, which has no NNAPI type: {_NO_SESSION}",
                "store the weight transposed and use transB=0",
            )


def gemm_per_channel(context: Context, partition: Partition) -> Iterator[Landmine]:
    """L4: as many scales as weight rows passes a check that was meant for Conv; square layers hit it."""
    for unit in _quantized_gemms(partition):
        if is_disguised_per_channel(context, unit.input(1), NNAPI_GROUP_RULES["Gemm"]):
            yield Landmine(
                "gemm-per-channel",
                (unit.target.name,),
                "Gemm weight with a scale per channel, as many as it has rows",
                f"the operand gets scale 0, NNAPI answers BAD_DATA: {_NO_SESSION}",
                "quantize the weight per tensor",
            )


def requantized_differently(context: Context, partition: Partition) -> Iterator[Landmine]:
    """L5: a tensor has one scale in NNAPI."""
    graph = context.graph
    inside = {node.index for unit in partition for node in unit.nodes}
    for unit in partition:
        for node in unit.nodes:
            if not node.is_q:
                continue
            for user, _ in graph.output_edges(node):
                if user.is_dq and user.index in inside and not _equal_params(graph, node, user):
                    yield Landmine(
                        "scale-mismatch",
                        (node.name, user.name),
                        "a tensor is quantized with one scale or zero point and dequantized with another",
                        f"the quantization parameters contradict each other: {_NO_SESSION}",
                        "use the same scale and zero point on both sides",
                    )


def _equal_params(graph: GraphView, q: Node, dq: Node) -> bool:
    if q.inputs[1:] == dq.inputs[1:]:
        return True
    if len(q.inputs) != len(dq.inputs):
        # One zero point left out: the same when the other one is 0.
        values = (graph.constant(name) for node in (q, dq) for name in node.inputs[2:3])
        zero = all(value is not None and not value.any() for value in values)
        scales = [graph.constant(node.inputs[1]) for node in (q, dq)]
        return (
            zero and scales[0] is not None and scales[1] is not None and (scales[0] == scales[1]).all().item()
        )
    return same_quantization(graph, q, dq)


def shared_scale(context: Context, partition: Partition) -> Iterator[Landmine]:
    """L6: an initializer that is both a scale and an operand may be dropped before its last use."""
    as_parameter: dict[str, Node] = {}
    as_operand: dict[str, Node] = {}
    for unit in partition:
        for node in unit.nodes:
            for position, name in enumerate(node.inputs):
                if not context.graph.is_constant(name):
                    continue
                is_parameter = (node.is_q or node.is_dq) and position in (1, 2)
                (as_parameter if is_parameter else as_operand).setdefault(name, node)
    for name in as_parameter.keys() & as_operand.keys():
        yield Landmine(
            "shared-scale",
            (as_parameter[name].name, as_operand[name].name),
            f"initializer `{name}` is a scale or zero point and also an ordinary operand",
            f"its use count reaches 0 too early, the operand is never registered: {_NO_SESSION}",
            "give each its own initializer with a different value: ONNX Runtime merges equal scalars",
        )


def tied_weight(context: Context, partition: Partition) -> Iterator[Landmine]:
    """L7: the weight of a MatMul or Gemm is registered transposed under its own name."""
    transposed: dict[str, Node] = {}
    plain: dict[str, Node] = {}
    for unit in partition:
        for position in range(len(unit.target.inputs)):
            if not unit.has_input(position):
                continue
            name = unit.input(position).name
            if context.graph.is_constant(name):
                is_weight = position == 1 and _transposes(context, unit)
                (transposed if is_weight else plain).setdefault(name, unit.target)
    for name in transposed.keys() & plain.keys():
        yield Landmine(
            "tied-weight",
            (transposed[name].name, plain[name].name),
            f"initializer `{name}` is the weight of a {transposed[name].op_type} and an operand elsewhere",
            "it is registered twice, once transposed: one of the two reads wrong data or fails",
            "store a copy of the tensor under another name",
        )


def _transposes(context: Context, unit: NodeUnit) -> bool:
    if unit.op_type == "MatMul":
        return context.graph.rank(unit.input(1).name) == 2
    return unit.op_type == "Gemm" and not int(unit.target.attributes.get("transB", 0))


def aliased_identity(context: Context, partition: Partition) -> Iterator[Landmine]:
    """L8: an output may not be an input."""
    graph = context.graph
    members = [node for unit in partition for node in unit.nodes]
    entering, leaving = set(partition_inputs(graph, members)), set(partition_outputs(graph, members))
    for node in members:
        if node.op_type == "Identity" and node.inputs[0] in entering and node.outputs[0] in leaving:
            yield Landmine(
                "identity-alias",
                (node.name,),
                "Identity leads directly from an input of the partition to an output",
                f"NNAPI rejects an output that is an input: {_NO_SESSION}",
                "remove the Identity",
            )


def too_many_dimensions(context: Context, partition: Partition) -> Iterator[Landmine]:
    """L10: nobody checks the rank of what these produce."""
    for unit in partition:
        rank = context.graph.rank(unit.target.outputs[0])
        if unit.op_type in ("Reshape", "Unsqueeze", "Gather") and rank is not None and rank > 4:
            yield Landmine(
                "rank-above-4",
                (unit.target.name,),
                f"{unit.op_type} makes a tensor of rank {rank}",
                f"NNAPI operations are documented up to rank 4; drivers reject more: {_NO_SESSION}",
                "keep every tensor at rank 4 or below",
            )


def level_too_low(context: Context, partition: Partition) -> Iterator[Landmine]:
    """Operations emitted for an operator may need more than its support check asks for."""
    for unit in partition:
        built = NNAPI_RULES[unit.op_type].built_level
        if built > context.level:
            yield Landmine(
                "built-level",
                (unit.target.name,),
                f"{unit.op_type} is accepted but built from operations of Android API level {built}",
                f"NNAPI of API level {context.level} does not know them: {_NO_SESSION}",
                f"require API level {built}, or write Max(x, slope * x)",
            )


def partition_types(context: Context, partition: Partition) -> Iterator[Landmine]:
    """What crosses the border of a partition is float32, int32 or uint8."""
    graph = context.graph
    members = [node for unit in partition for node in unit.nodes]
    entering = (name for name in partition_inputs(graph, members) if not graph.is_constant(name))
    for name in (*entering, *partition_outputs(graph, members)):
        dtype = graph.dtype(name)
        if dtype is not None and dtype not in _IO_DTYPES:
            yield Landmine(
                "border-type",
                tuple(node.name for node, _ in graph.consumers(name)[:1]) or (name,),
                f"`{name}` is {dtype} where it enters or leaves the partition",
                f"only float32, int32 and uint8 can be passed to NNAPI: {_NO_SESSION}",
                "use int32 or float32 for values that stay outside",
            )


FINDERS: tuple[Finder, ...] = (
    gemm_transposed,
    gemm_per_channel,
    requantized_differently,
    shared_scale,
    tied_weight,
    aliased_identity,
    too_many_dimensions,
    level_too_low,
    partition_types,
)
