"""Weight-only int4 and int8: constant matrices become MatMulNBits, embedding tables GatherBlockQuantized.

Scales are stored as float16 behind a Cast, which ONNX Runtime folds when it loads the model. A table that is
also the output head is stored once. The forms that ONNX Runtime runs on a slow path are never written: 8 bits
with accuracy level 0, float zero points, `g_idx`. Inputs that a weight wants in another order are gathered into it,
once for the layers that share it. Weights whose blocks have an offset (GGUF types with a minimum) get it by operators
of their own (`block_offsets`), beside the fast kernel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from edgeq.errors import ModelError, UnsupportedError
from edgeq.graph.block_weight import BlockWeight
from edgeq.graph.edit import Editor, attribute
from edgeq.graph.passes.block_factors import write_product
from edgeq.graph.passes.block_offsets import OffsetWriter
from edgeq.graph.passes.in_place import in_place
from edgeq.types import Array, FloatArray

if TYPE_CHECKING:
    import onnx

DOMAIN = "com.microsoft"
ACCURACY_LEVEL = 4
"""Inputs are rounded to int8 per block where the CPU has such a kernel; 10 to 50 times faster at 8 bits."""


@dataclass(frozen=True, slots=True)
class LoweredNode:
    """One operator this pass wrote: what a reader of the file must find.

    Attributes:
        name: the node's name (that of the node it replaces).
        op_type: MatMulNBits or GatherBlockQuantized.
        bits: 4 or 8.
        block_size: codes per scale.
        symmetric: no zero points are stored.
        in_features: length of a row of codes.
        out_features: rows.
    """

    name: str
    op_type: str
    bits: int
    block_size: int
    symmetric: bool
    in_features: int
    out_features: int


LOWERED = "edgeq.lowered"
"""Under this key a graph's `meta` says what was written into it; nothing of it is saved."""


def lowered_nodes(model: ir.Model) -> tuple[LoweredNode, ...]:
    """What the passes wrote into a graph, for `verify_weight_only`."""
    nodes: tuple[LoweredNode, ...] = model.graph.meta.get(LOWERED, ())
    return nodes


def note_lowered(model: ir.Model, nodes: Iterable[LoweredNode]) -> None:
    """Say what is in a graph now."""
    model.graph.meta[LOWERED] = tuple(nodes)


@in_place
def lower_weight_only(model: ir.Model, weights: Mapping[str, BlockWeight]) -> bool:
    """Replace the operators that read these weights; `lowered_nodes` then says by what.

    Args:
        model: MatMul and Gemm weights are initializers, `[K, N]` or transposed; tables are `[rows, K]`.
        weights: by initializer name (every MatMul, Gemm and Gather that reads it) or by node name.

    Raises:
        ModelError: a name is not in the graph, or a weight has another shape there.
        UnsupportedError: the weight is read in a way these operators do not offer.
    """
    writer = _Writer(model)
    nodes = [writer.lower(node, weight) for node, weight in _targets(model, weights)]
    model.graph.opset_imports[DOMAIN] = 1
    writer.editor.finish()
    note_lowered(model, nodes)
    return bool(nodes)


def _targets(model: ir.Model, weights: Mapping[str, BlockWeight]) -> list[tuple[ir.Node, BlockWeight]]:
    """The nodes to replace, in graph order."""
    names = {node.name for node in model.graph}
    unknown = [name for name in weights if name not in model.graph.initializers and name not in names]
    if unknown:
        raise ModelError(f"no initializer or node named `{unknown[0]}` in the graph")
    found: list[tuple[ir.Node, BlockWeight]] = []
    used: set[str] = set()
    for node in model.graph:
        table = _table(node)
        for name in (node.name, None if table is None else table.name):
            if name is not None and name in weights:
                found.append((node, weights[name]))
                used.add(name)
                break
    unread = [name for name in weights if name not in used]
    if unread:
        raise UnsupportedError(f"`{unread[0]}` is not the constant weight of a MatMul, Gemm or Gather")
    return found


def _table(node: ir.Node) -> ir.Value | None:
    """The initializer a MatMul, Gemm or Gather reads its weight from, through a Transpose if need be."""
    if node.op_type not in ("MatMul", "Gemm", "Gather") or node.domain != "":
        return None
    value = node.inputs[0 if node.op_type == "Gather" else 1]
    if value is not None and _is_transposed(value):
        value = value.producer().inputs[0]  # type: ignore[union-attr]
    return value if value is not None and value.is_initializer() else None


def _is_transposed(value: ir.Value) -> bool:
    producer = value.producer()
    if producer is None or producer.op_type != "Transpose":
        return False
    return list(attribute(producer, "perm", [1, 0])) == [1, 0]


class _Writer:
    """Writes operators, sharing constants among those that read the same weight."""

    def __init__(self, model: ir.Model) -> None:
        self.editor = Editor(model)
        self._data: dict[int, ir.Value] = {}
        self._scales: dict[int, ir.Value] = {}
        self._zeros: dict[int, ir.Value] = {}
        self._divided: dict[tuple[str | None, bytes], ir.Value] = {}
        self._reordered: dict[tuple[str | None, bytes], ir.Value] = {}
        self.offsets = OffsetWriter(self.editor, lambda *place: self._parameters(*place)[0])

    def lower(self, node: ir.Node, weight: BlockWeight) -> LoweredNode:
        table = _table(node)
        if table is None:
            raise UnsupportedError(f"node `{node.name}` ({node.op_type}) has no constant weight")
        _check_shape(node, table, weight)
        name = node.name or table.name or "weight"
        node.name = self.editor.unique(f"{name}_float")
        write = self._gather if node.op_type == "Gather" else self._matmul
        written = write(node, weight, name, table.name or name)
        return LoweredNode(
            written.name or name,
            written.op_type,
            weight.bits,
            weight.block_size,
            weight.zero_points is None,
            weight.in_features,
            weight.out_features,
        )

    def _matmul(self, node: ir.Node, weight: BlockWeight, name: str, stem: str) -> ir.Node:
        product = self._op(
            "MatMulNBits",
            [
                self._input(node, weight, stem),
                self._packed(weight, stem),
                *self._parameters(node, weight, stem),
            ],
            name,
            node,
            {
                "K": weight.in_features,
                "N": weight.out_features,
                "bits": weight.bits,
                "block_size": weight.block_size,
                "accuracy_level": ACCURACY_LEVEL,
            },
        )
        written = product.producer()
        assert written is not None
        if weight.offsets is not None:
            product = self.offsets.add_to_product(product, node, weight, name, stem)
        bias = node.inputs[2] if node.op_type == "Gemm" and len(node.inputs) > 2 else None
        if bias is not None:
            product = self.editor.op("Add", [product, bias], f"{name}_bias", before=node)
            product.shape = node.outputs[0].shape
        self.editor.replace(node.outputs[0], product)
        return written

    def _gather(self, node: ir.Node, weight: BlockWeight, name: str, stem: str) -> ir.Node:
        if attribute(node, "axis", 0) != 0:
            raise UnsupportedError(f"Gather `{name}` reads axis {attribute(node, 'axis', 0)}; expected 0")
        output = self._op(
            "GatherBlockQuantized",
            [self._rows(node, weight, stem), node.inputs[1], *self._parameters(node, weight, stem)],
            name,
            node,
            {"bits": weight.bits, "block_size": weight.block_size, "quantize_axis": 1, "gather_axis": 0},
        )
        written = output.producer()
        assert written is not None
        if weight.offsets is not None:
            output = self.offsets.add_to_rows(output, node, weight, name, stem)
        self.editor.replace(node.outputs[0], output)
        return written

    def _op(
        self,
        op_type: str,
        inputs: list[ir.Value | None],
        name: str,
        before: ir.Node,
        attributes: dict[str, int],
    ) -> ir.Value:
        return self.editor.op(
            op_type,
            inputs,
            name,
            before=before,
            domain=DOMAIN,
            attributes=attributes,
            shape=before.outputs[0].shape,
        )

    def _packed(self, weight: BlockWeight, stem: str) -> ir.Value:
        """Codes as MatMulNBits reads them: `[N, blocks, bytes]`."""
        if id(weight) not in self._data:
            self._data[id(weight)] = self.editor.constant(weight.data, f"{stem}_q{weight.bits}")
        return self._data[id(weight)]

    def _rows(self, node: ir.Node, weight: BlockWeight, stem: str) -> ir.Value:
        """Codes as GatherBlockQuantized reads them, `[rows, bytes]`: a view of the packed ones if equal."""
        rows = weight.rows()
        if rows.size != weight.data.size:
            return self.editor.constant(rows, f"{stem}_q{weight.bits}_rows")
        shape = self.editor.constant(np.array(rows.shape, np.int64), f"{stem}_rows_shape")
        packed = self._packed(weight, stem)
        return self.editor.op(
            "Reshape", [packed, shape], f"{stem}_rows", before=node, dtype=ir.DataType.UINT8
        )

    def _parameters(self, node: ir.Node, weight: BlockWeight, stem: str) -> list[ir.Value | None]:
        """Scales, and zero points where there are any."""
        key = id(weight)
        if key not in self._scales:
            self._scales[key] = self._new_scales(node, weight, stem)
        if weight.zero_points is None:
            return [self._scales[key]]
        if key not in self._zeros:
            self._zeros[key] = self.editor.constant(weight.zero_points, f"{stem}_zero_points")
        return [self._scales[key], self._zeros[key]]

    def _new_scales(self, node: ir.Node, weight: BlockWeight, stem: str) -> ir.Value:
        if weight.factors is not None:
            return write_product(self.editor, weight.factors.scale, f"{stem}_scales", node)
        stored = self.editor.constant(weight.scales, f"{stem}_scales")
        if weight.scales.dtype == np.float32:
            return stored
        return self.editor.op(
            "Cast", [stored], f"{stem}_scales_fp32", before=node, attributes={"to": int(ir.DataType.FLOAT)}
        )

    def _input(self, node: ir.Node, weight: BlockWeight, stem: str) -> ir.Value | None:
        """The layer's input as the codes want it: divided by AWQ's scales, its channels in the order of the codes."""
        value = node.inputs[0]
        if value is None:
            return value
        divided = (
            value if weight.input_scales is None else self._divide(value, node, weight.input_scales, stem)
        )
        return (
            divided if weight.input_order is None else self._reorder(divided, node, weight.input_order, stem)
        )

    def _divide(self, value: ir.Value, node: ir.Node, scales: FloatArray, stem: str) -> ir.Value:
        key = (value.name, scales.tobytes())
        if key not in self._divided:
            factor = self.editor.constant((1 / scales).astype(np.float32), f"{stem}_input_factor")
            divided = self.editor.op("Mul", [value, factor], f"{stem}_input_scaled", before=node)
            divided.shape = value.shape
            self._divided[key] = divided
        return self._divided[key]

    def _reorder(self, value: ir.Value, node: ir.Node, order: Array, stem: str) -> ir.Value:
        """Layers that read one activation in one order (q, k and v of GPTQ) share the gather."""
        key = (value.name, order.tobytes())
        if key not in self._reordered:
            indices = self.editor.constant(order.astype(np.int64), f"{stem}_input_order")
            found = self.editor.op(
                "Gather", [value, indices], f"{stem}_input_reordered", before=node, attributes={"axis": -1}
            )
            found.shape = value.shape
            self._reordered[key] = found
        return self._reordered[key]


def _check_shape(node: ir.Node, table: ir.Value, weight: BlockWeight) -> None:
    if node.op_type == "Gemm" and (
        attribute(node, "alpha", 1.0) != 1
        or attribute(node, "beta", 1.0) != 1
        or attribute(node, "transA", 0)
    ):
        raise UnsupportedError(f"Gemm `{node.name}` scales or transposes its inputs; expected A @ B + C")
    stored = node.inputs[0 if node.op_type == "Gather" else 1]
    flipped = node.op_type == "Gather" or bool(attribute(node, "transB", 0))
    if stored is not None and _is_transposed(stored):
        flipped = not flipped
    wanted = (
        (weight.out_features, weight.in_features) if flipped else (weight.in_features, weight.out_features)
    )
    found = tuple(table.shape or ())
    if found != wanted:
        raise ModelError(
            f"`{table.name}` has shape {list(found)}; its quantized weight stands for {list(wanted)}"
        )
    if node.op_type == "Gather":
        _check_table(table, weight)


def _check_table(table: ir.Value, weight: BlockWeight) -> None:
    if weight.offsets is not None and weight.in_features % weight.block_size:
        raise UnsupportedError(
            f"table `{table.name}` has {weight.in_features} columns, blocks of {weight.block_size} with offsets do not "
            "divide them"
        )
    if weight.input_order is not None:
        raise UnsupportedError(
            f"table `{table.name}` has its columns in another order; a lookup cannot undo it"
        )
    if weight.input_scales is not None:
        raise UnsupportedError(f"table `{table.name}` has input scales (AWQ); a lookup cannot divide by them")
    if weight.in_features * weight.bits % 8:
        raise UnsupportedError(
            f"table `{table.name}` has {weight.in_features} columns; 4-bit lookups need an even number",
            hint="give this table 8 bits in the recipe",
        )


def verify_weight_only(path: Path, expected: Iterable[LoweredNode]) -> None:
    """Read a written model back and check that it holds what was decided, and no slow form.

    Raises:
        ModelError: a node is missing, or its bits, block size, symmetry, shapes or types differ, or any
            MatMulNBits of the file has 8 bits without accuracy level 4, float zero points or `g_idx`.
    """
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = {node.name: node for node in model.graph.node if node.domain == DOMAIN}
    for node in nodes.values():
        _refuse_slow_forms(node, tensors)
    producers = {n.output[0]: n for n in model.graph.node if n.op_type in ("Cast", "Reshape")}
    for wanted in expected:
        if wanted.name not in nodes:
            raise ModelError(f"`{path}` has no node `{wanted.name}`, which was to be {wanted.op_type}")
        found = _read(nodes[wanted.name], tensors, producers)
        if found != wanted:
            raise ModelError(f"`{path}`: `{wanted.name}` was read back as {found}; expected {wanted}")


def _attributes(node: onnx.NodeProto) -> dict[str, int]:
    return {attr.name: int(attr.i) for attr in node.attribute}


def _refuse_slow_forms(node: onnx.NodeProto, tensors: Mapping[str, onnx.TensorProto]) -> None:
    if node.op_type != "MatMulNBits":
        return
    attributes = _attributes(node)
    if attributes["bits"] == 8 and attributes.get("accuracy_level", 0) != ACCURACY_LEVEL:
        raise ModelError(
            f"`{node.name}` has 8 bits without accuracy level {ACCURACY_LEVEL}: 10 to 50 times slower"
        )
    if len(node.input) > 4 and node.input[4]:
        raise ModelError(f"`{node.name}` has a g_idx input, which turns the fast kernels off")
    if len(node.input) > 3 and node.input[3]:
        zero_points = tensors.get(node.input[3])
        if zero_points is None or zero_points.data_type != int(ir.DataType.UINT8):
            raise ModelError(
                f"`{node.name}` has zero points that are not uint8, which turns the fast kernels off"
            )


def _scale_dims(
    name: str, tensors: Mapping[str, onnx.TensorProto], producers: Mapping[str, onnx.NodeProto]
) -> list[int]:
    """`[rows, blocks]` of scales: stored, behind a Cast, or a reshaped product of factors."""
    from onnx.numpy_helper import to_array

    if name in tensors:
        return list(tensors[name].dims)
    node = producers[name]
    if node.op_type == "Cast":
        return list(tensors[node.input[0]].dims)
    return [int(size) for size in to_array(tensors[node.input[1]])]


def _read(
    node: onnx.NodeProto,
    tensors: Mapping[str, onnx.TensorProto],
    producers: Mapping[str, onnx.NodeProto],
) -> LoweredNode:
    """What a node of the file is, from its attributes and the shapes of its constants."""
    attributes = _attributes(node)
    gather = node.op_type == "GatherBlockQuantized"
    table = node.input[0]
    if gather and table not in tensors:
        table = producers[table].input[0]
    data = tensors[table] if gather else tensors[node.input[1]]
    zeros = tensors[node.input[3]] if len(node.input) > 3 and node.input[3] else None
    rows, blocks = _scale_dims(node.input[2], tensors, producers)
    bits, block_size = attributes["bits"], attributes["block_size"]
    row_bytes = int(np.prod(data.dims[1:]))
    in_features = attributes.get("K", row_bytes * 8 // bits)
    packed = zeros is None or list(zeros.dims) == [rows, -(-blocks * bits // 8)]
    # Off by anything, and the shape below differs from the one decided.
    fits = packed and data.dims[0] == rows and -(-in_features // block_size) == blocks
    out_features = attributes.get("N", rows) if fits else -1
    return LoweredNode(node.name, node.op_type, bits, block_size, zeros is None, in_features, out_features)
