"""Where a canonical graph can be quantized: linear layers and embedding tables, by structure and not by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeq.types import Array

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True, slots=True)
class LinearSite:
    """A linear layer: `output = input @ weight + bias`.

    Attributes:
        name: the MatMul's or Gemm's name; plans refer to it.
        input: the tensor that is multiplied, `[..., in]`.
        product: the MatMul's output, before the bias.
        output: after the bias (equal to `product` without one), `[..., out]`.
        weight: initializer, `[in, out]` (`[out, in]` when `transposed`).
        bias: initializer `[out]`, or None.
        transposed: a Gemm with transB.
        folds_into: the layer whose output channels can carry this layer's input scale, because what lies between is
            linear in them: the value projection before an output projection, the gate (or up projection) before the
            down projection of a gated feed-forward part; None elsewhere.
    """

    name: str
    input: str
    product: str
    output: str
    weight: str
    bias: str | None
    shape: tuple[int, int]
    transposed: bool = False
    folds_into: str | None = None


@dataclass(frozen=True, slots=True)
class EmbeddingSite:
    """A table read by Gather: `table [rows, columns]`, looked up by integer ids.

    Attributes:
        name: the Gather's name; plans refer to it.
        output: what it looks up.
        table: initializer.
        shape: `(rows, columns)`.
        product_input: the tensor that is multiplied with the transposed table, `[..., columns]`, where the table is
            the output head too; None elsewhere.
    """

    name: str
    output: str
    table: str
    shape: tuple[int, int]
    product_input: str | None = None


@dataclass(frozen=True, slots=True)
class Sites:
    """Everything in a graph that holds quantizable weights."""

    linears: tuple[LinearSite, ...]
    embeddings: tuple[EmbeddingSite, ...]

    def outputs(self) -> tuple[str, ...]:
        """Tensors that leave linear layers."""
        return tuple(dict.fromkeys(site.output for site in self.linears))


def find_sites(model: ir.Model, *, min_table_rows: int = 64) -> Sites:
    """Find linear layers (MatMul or Gemm with a constant matrix) and embedding tables.

    Tables with fewer than `min_table_rows` rows (token types) are not worth their scales.
    """
    linears = tuple(site for node in model.graph if (site := _linear(node)) is not None)
    by_product = {site.output: site for site in linears}
    linears = tuple(_with_fold(model, site, by_product) for site in linears)
    embeddings = tuple(
        table for node in model.graph if (table := _embedding(node, min_table_rows)) is not None
    )
    return Sites(linears, embeddings)


def weight_of(model: ir.Model, site: LinearSite) -> Array:
    """The site's weight as `[in, out]` float32."""
    tensor = model.graph.initializers[site.weight].const_value
    assert tensor is not None
    weight = tensor.numpy()
    return np.ascontiguousarray(weight.T) if site.transposed else weight


def _linear(node: ir.Node) -> LinearSite | None:
    from edgeq.graph.edit import attribute, constant_shape, only_user

    if node.op_type not in ("MatMul", "Gemm") or node.domain:
        return None
    data, weight = node.inputs[0], node.inputs[1]
    if data is None or weight is None or not _is_matrix(weight) or data.const_value is not None:
        return None
    transposed = bool(attribute(node, "transB", 0))
    product = node.outputs[0]
    if node.op_type == "Gemm":
        if (
            attribute(node, "alpha", 1.0) != 1.0
            or attribute(node, "beta", 1.0) != 1.0
            or attribute(node, "transA", 0)
        ):
            return None
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        output = product
    else:
        bias, output = _bias_after(product, only_user(product))
    rows, columns = constant_shape(weight)
    shape = (columns, rows) if transposed else (rows, columns)
    return LinearSite(
        name=str(node.name),
        input=str(data.name),
        product=str(product.name),
        output=str(output.name),
        weight=str(weight.name),
        bias=None if bias is None else str(bias.name),
        shape=shape,
        transposed=transposed,
    )


def _bias_after(product: ir.Value, user: ir.Node | None) -> tuple[ir.Value | None, ir.Value]:
    if user is None or user.op_type != "Add":
        return None, product
    bias = user.inputs[1] if user.inputs[0] is product else user.inputs[0]
    if bias is None or bias.const_value is None or len(bias.const_value.shape) != 1:
        return None, product
    return bias, user.outputs[0]


def _is_matrix(value: ir.Value) -> bool:
    import onnx_ir as ir

    tensor = value.const_value
    return (
        value.is_initializer()
        and tensor is not None
        and len(tensor.shape) == 2
        and tensor.dtype == ir.DataType.FLOAT
        and min(tensor.shape.numpy()) > 1
    )


def _embedding(node: ir.Node, min_rows: int) -> EmbeddingSite | None:
    from edgeq.graph.edit import attribute, constant_shape

    if node.op_type != "Gather" or attribute(node, "axis", 0) != 0:
        return None
    table, ids = node.inputs[0], node.inputs[1]
    if table is None or ids is None or not _is_matrix(table) or ids.const_value is not None:
        return None
    rows, columns = constant_shape(table)
    if rows < min_rows:
        return None
    product = _product_with(table)
    return EmbeddingSite(str(node.name), str(node.outputs[0].name), str(table.name), (rows, columns), product)


def _product_with(table: ir.Value) -> str | None:
    """What a MatMul multiplies with the transposed table."""
    for turned in (user for user in table.consumers() if user.op_type == "Transpose"):
        for node in turned.outputs[0].consumers():
            data = node.inputs[0]
            if node.op_type == "MatMul" and node.inputs[1] is turned.outputs[0] and data is not None:
                return str(data.name)
    return None


def _with_fold(model: ir.Model, site: LinearSite, by_output: dict[str, LinearSite]) -> LinearSite:
    """Recognize a linear layer whose output channels reach this one's input multiplied by something else."""
    from dataclasses import replace

    node = next(node for node in model.graph if node.name == site.name)
    for source in _linear_in(node.inputs[0]):
        target = by_output.get(str(source.name))
        if target is not None and target.shape[1] == site.shape[0] and _is_read_once(source):
            return replace(site, folds_into=target.name)
    return site


def _linear_in(value: ir.Value | None) -> tuple[ir.Value, ...]:
    """Tensors whose channel c enters channel c of `value` linearly, and nothing else's.

    V of `probabilities @ V`, the heads joined again; both factors of an elementwise product.
    """
    product = _through_layout(value)
    producer = None if product is None else product.producer()
    if product is None or producer is None or not _is_read_once(product):
        return ()
    if producer.op_type == "MatMul":
        values = _through_layout(producer.inputs[1])
        return () if values is None else (values,)
    if producer.op_type == "Mul" and product is value:
        return tuple(factor for factor in producer.inputs if factor is not None)
    return ()


def _is_read_once(value: ir.Value) -> bool:
    return len(value.uses()) == 1 and not value.is_graph_output()


def _through_layout(value: ir.Value | None) -> ir.Value | None:
    """Walk back through Reshape and Transpose, stopping where another node reads the tensor too."""
    while value is not None:
        producer = value.producer()
        if producer is None or producer.op_type not in ("Reshape", "Transpose"):
            return value
        # Only the [batch, sequence, heads, size] <-> [batch, heads, sequence, size] swap keeps channels in order.
        swaps = (
            tuple(producer.attributes["perm"].as_ints()) if producer.op_type == "Transpose" else (0, 2, 1, 3)
        )
        if len(value.uses()) != 1 or swaps != (0, 2, 1, 3):
            return None
        value = producer.inputs[0]
    return None
