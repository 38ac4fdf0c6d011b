"""Canonical ONNX graph -> MIL program -> `.mlpackage`, for a fixed batch of one."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeq.errors import ConfigError, UnsupportedError
from edgeq.graph.component import BATCH, SEQUENCE
from edgeq.targets.coreml.backend import coremltools, deployment_target, quiet, to_package
from edgeq.targets.coreml.context import Context, Var, dtype_of, is_float, safe_name
from edgeq.targets.coreml.decisions import (
    ActivationQuant,
    ComputeDtype,
    PackageInfo,
    WeightDecision,
    check_platform,
)
from edgeq.targets.coreml.known import Known, fold
from edgeq.targets.coreml.operators import LOWERINGS, MEASURES, check_operators
from edgeq.targets.coreml.package import save_package
from edgeq.targets.coreml.site import Site


@dataclass(frozen=True, slots=True)
class LoweredPackage:
    """What was written.

    Attributes:
        path: the `.mlpackage` folder.
        ios: deployment target.
        compressed: initializers stored compressed, and linear nodes with static activations.
        notes: values that were changed to fit float16.
    """

    path: Path
    ios: int
    compressed: tuple[str, ...]
    notes: tuple[str, ...]


def lower_to_mil(
    model: ir.Model,
    output: Path,
    *,
    precision: ComputeDtype = "fp16",
    ios: int = 17,
    seq_lens: Sequence[int] = (128,),
    weights: Mapping[str, WeightDecision] | None = None,
    activations: Mapping[str, ActivationQuant] | None = None,
    fp32_nodes: frozenset[str] = frozenset(),
    info: PackageInfo | None = None,
) -> LoweredPackage:
    """Write a canonical graph as a Core ML package.

    Token inputs become int32 `[1, sequence]`; outputs are float32.

    Args:
        model: the canonical graph; it is read, not changed.
        output: folder to create, ending in `.mlpackage`.
        precision: what float operators compute in.
        ios: deployment target, 16, 17 or 18.
        seq_lens: sequence lengths; several become enumerated shapes.
        weights: decision per initializer name; the others stay dense in `precision`.
        activations: static quantization per linear node name.
        fp32_nodes: nodes that compute in float32 although `precision` is fp16 (see `hazards`).
        info: the package's description.

    Raises:
        ConfigError: a decision names nothing in the graph.
        UnsupportedError: an operator without a lowering, or a decision that needs a newer iOS.
    """
    weights, activations = dict(weights or {}), dict(activations or {})
    lengths = tuple(sorted(set(seq_lens)))
    check_platform(
        ios,
        weights.values(),
        static_activations=bool(activations),
        seq_lens=lengths,
        inputs=len(model.graph.inputs),
    )
    _check_names(model, weights, activations, fp32_nodes)
    check_operators(model)
    ct = coremltools()
    with quiet():
        context, program = _build(model, ios, lengths, precision, fp32_nodes, weights, activations)
    mlmodel = to_package(
        program, ios=ios, inputs=[_input_type(ct, value, lengths) for value in model.graph.inputs]
    )
    save_package(mlmodel, output, info or PackageInfo(), lengths)
    _note_unused(context)
    return LoweredPackage(output, ios, tuple(sorted(context.applied)), tuple(context.notes))


def _check_names(
    model: ir.Model, weights: Mapping[str, Any], activations: Mapping[str, Any], fp32_nodes: frozenset[str]
) -> None:
    nodes = {str(node.name) for node in model.graph}
    for what, given, present in (
        ("weight", weights, set(model.graph.initializers)),
        ("activation", activations, nodes),
        ("fp32 node", fp32_nodes, nodes),
    ):
        for name in given:
            if name not in present:
                near = difflib.get_close_matches(name, [str(item) for item in present], 1)
                raise ConfigError(
                    f"a decision for {what} `{name}` names nothing in the graph",
                    hint=f"did you mean `{near[0]}`?" if near else None,
                )


def _note_unused(context: Context) -> None:
    for name in [*context.weights, *context.activations]:
        if name not in context.applied:
            context.note(
                f"the decision for `{name}` was not used: the lowering folds that value or never reads it"
            )


def _build(
    model: ir.Model,
    ios: int,
    lengths: tuple[int, ...],
    precision: ComputeDtype,
    fp32_nodes: frozenset[str],
    weights: Mapping[str, WeightDecision],
    activations: Mapping[str, ActivationQuant],
) -> tuple[Context, Any]:
    from coremltools.converters.mil import Builder
    from coremltools.converters.mil.mil import Function, Program, get_new_symbol

    Builder.name_count.clear()  # names must not depend on what this process lowered before
    symbol = get_new_symbol() if len(lengths) > 1 else None
    context = Context(Builder, ios, lengths, precision, fp32_nodes, weights, activations)
    if symbol is not None:
        context.symbols[symbol] = lengths
    placeholders = {
        value.name: _placeholder(Builder, value, symbol or lengths[0]) for value in model.graph.inputs
    }
    with Function(placeholders, deployment_target(ios)) as function:
        _bind_inputs(context, model, function)
        for node in model.graph:
            if node not in context.done:
                _lower_node(context, node)
        function.set_outputs([_output(context, value) for value in model.graph.outputs])
    program = Program()
    program.add_function("main", function)
    return context, program


def _placeholder(mb: Any, value: ir.Value, sequence: Any) -> Any:
    from coremltools.converters.mil.mil import types

    dtype = types.int32 if _is_integer(value) else types.fp32
    return mb.placeholder(shape=_input_shape(value, sequence), dtype=dtype)


def _is_integer(value: ir.Value) -> bool:
    return value.dtype in (ir.DataType.INT64, ir.DataType.INT32)


def _input_shape(value: ir.Value, sequence: Any) -> tuple[Any, ...]:
    """An input's shape with a batch of one and the given sequence length."""
    if value.shape is None:
        raise UnsupportedError(f"input `{value.name}` has no shape")
    known = {BATCH: 1, SEQUENCE: sequence}
    dims: list[Any] = []
    for dim in value.shape:
        name = dim if isinstance(dim, int) else str(dim.value)
        if isinstance(name, str) and name not in known:
            raise UnsupportedError(
                f"input `{value.name}` has a free dimension `{name}`; expected {sorted(known)}"
            )
        dims.append(name if isinstance(name, int) else known[name])
    return tuple(dims)


def _input_type(ct: Any, value: ir.Value, lengths: tuple[int, ...]) -> Any:
    dtype = np.int32 if _is_integer(value) else np.float32
    shapes = [_input_shape(value, length) for length in lengths]
    distinct = len(set(shapes)) > 1
    shape = ct.EnumeratedShapes(shapes=shapes, default=shapes[-1]) if distinct else shapes[0]
    return ct.TensorType(name=value.name, shape=shape, dtype=dtype)


def _bind_inputs(context: Context, model: ir.Model, function: Any) -> None:
    count = len(context.lengths)
    for value in model.graph.inputs:
        context.values[value] = function.inputs[value.name]
    for name, value in model.graph.initializers.items():
        if value.const_value is None:
            raise UnsupportedError(f"initializer `{name}` has no data")
        context.values[value] = Known.same(value.const_value.numpy(), count, name)
    if context.symbols:
        context.length = _run_time_length(context, function)


def _run_time_length(context: Context, function: Any) -> Var:
    """The current sequence length, read off the first input that has it."""
    symbol = next(iter(context.symbols))
    for var in function.inputs.values():
        if symbol in var.shape:
            shape = context.mb.shape(x=var, name="input_shape")
            return context.mb.gather(
                x=shape, indices=np.int32(var.shape.index(symbol)), axis=0, name="sequence_length"
            )
    raise UnsupportedError("several sequence lengths were asked for, and no input has a sequence axis")


def _lower_node(context: Context, node: ir.Node) -> None:
    inputs = [None if value is None else context.values[value] for value in node.inputs]
    if node.op_type in MEASURES and not node.domain:
        _bind(context, node, [_measure(context, node)])
    elif all(value is None or isinstance(value, Known) for value in inputs) and not node.domain:
        _bind(context, node, fold(node, inputs, len(context.lengths)))
    else:
        _bind(context, node, _emit(context, node))


def _bind(context: Context, node: ir.Node, results: Sequence[Known | Var]) -> None:
    for value, result in zip(node.outputs, results, strict=False):
        context.values[value] = result
        if value in context.absorbed:
            context.values[context.absorbed[value]] = result


def _measure(context: Context, node: ir.Node) -> Known:
    """Shape and Size: known from MIL's own shape inference, at each sequence length."""
    value = node.inputs[0]
    assert value is not None
    dims = context.dims(value)
    if node.op_type == "Size":
        return Known(tuple(np.array(np.prod(shape, dtype=np.int64)) for shape in dims))
    start, end = node.attributes.get("start"), node.attributes.get("end")
    window = slice(start.as_int() if start else 0, end.as_int() if end else None)
    return Known(tuple(np.array(shape, np.int64)[window] for shape in dims))


def _emit(context: Context, node: ir.Node) -> Sequence[Var]:
    """Call the operator's lowering, and say which node it was when something does not fit."""
    site = Site(context, node)
    lowering = LOWERINGS[node.op_type]
    try:
        result = lowering(site)
    except UnsupportedError:
        raise
    except (ValueError, TypeError, AssertionError, NotImplementedError) as error:
        raise UnsupportedError(f"{site.where} does not fit Core ML: {error}") from error
    return result if isinstance(result, list) else [result]


def _output(context: Context, value: ir.Value) -> Var:
    """A graph output under its own name, floats as float32."""
    seen = context.values[value]
    name = str(value.name)
    if safe_name(name) != name:
        raise UnsupportedError(
            f"output `{name}` is no Core ML identifier; expected letters, digits, underscores"
        )
    var = context.constant(seen, "fp32", f"{name}_value") if isinstance(seen, Known) else seen
    if is_float(dtype_of(var)) and dtype_of(var) != "fp32":
        return context.mb.cast(x=var, dtype="fp32", name=name)
    if dtype_of(var) == "bool":
        return context.mb.cast(x=var, dtype="int32", name=name)
    return context.mb.identity(x=var, name=name)
