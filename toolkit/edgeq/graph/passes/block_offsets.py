"""What is added to every member of a block, beside the kernels that know scales only.

With `W[k, n] = s[b, n] * code[k, n] + c[b, n]`, b being the block of k, `x @ W` is the product by the codes plus
`blocksum(x) @ c`: one sum over each block of the input and one small product. Both terms are exact, and the codes stay
in the symmetric form that has the fast kernel; float zero points would say the same on a path that is tens of times
slower. A looked-up row gets its offsets by a second lookup.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeq.errors import UnsupportedError
from edgeq.graph.block_weight import BlockWeight
from edgeq.graph.edit import Editor


class OffsetWriter:
    """Adds the offsets of weights to what MatMulNBits and GatherBlockQuantized return.

    Args:
        editor: of the graph that is being written.
    """

    def __init__(self, editor: Editor) -> None:
        self.editor = editor
        self._tables: dict[int, ir.Value] = {}
        self._sums: dict[tuple[str, int], ir.Value] = {}

    def add_to_product(
        self, product: ir.Value, node: ir.Node, weight: BlockWeight, name: str, stem: str
    ) -> ir.Value:
        """`product + blocksum(x) @ c` for the layer `node`.

        Raises:
            UnsupportedError: the blocks do not divide the input.
        """
        # What the codes are multiplied by: scaled or reordered where the codes want it so.
        value = product.producer().inputs[0]  # type: ignore[union-attr]
        assert value is not None
        if weight.in_features % weight.block_size:
            raise UnsupportedError(
                f"`{name}` has {weight.in_features} inputs, which blocks of {weight.block_size} with offsets do not "
                "divide"
            )
        sums = self._block_sums(value, weight, node)
        flipped = self.editor.op(
            "Transpose",
            [self._table(weight, stem)],
            f"{name}_offsets",
            before=node,
            attributes={"perm": [1, 0]},
        )
        part = self.editor.op("MatMul", [sums, flipped], f"{name}_offset_part", before=node)
        return self.editor.op(
            "Add", [product, part], f"{name}_with_offsets", before=node, shape=node.outputs[0].shape
        )

    def add_to_rows(
        self, rows: ir.Value, node: ir.Node, weight: BlockWeight, name: str, stem: str
    ) -> ir.Value:
        """Looked-up rows plus their blocks' offsets."""
        ids = node.inputs[1]
        found = self.editor.op("Gather", [self._table(weight, stem), ids], f"{name}_offsets", before=node)
        last = self.editor.constant(np.array([-1], np.int64), f"{name}_last_axis")
        column = self.editor.op("Unsqueeze", [found, last], f"{name}_offset_column", before=node)
        leading = [0] * (2 if ids is None or ids.shape is None else len(ids.shape))
        blocks = self._reshape(rows, f"{name}_blocks", node, [*leading, -1, weight.block_size])
        shifted = self.editor.op("Add", [blocks, column], f"{name}_shifted", before=node)
        joined = self._reshape(shifted, f"{name}_with_offsets", node, [*leading, weight.in_features])
        joined.shape = node.outputs[0].shape
        return joined

    def _block_sums(self, value: ir.Value, weight: BlockWeight, node: ir.Node) -> ir.Value:
        """`[..., blocks]`: layers that read one tensor in blocks of one size share it."""
        key = (str(value.name), weight.block_size)
        if key not in self._sums:
            # Tokens of a decoder are [batch, sequence, channels] where the graph does not say.
            leading = [0] * (2 if value.shape is None else len(value.shape) - 1)
            shape = [*leading, weight.in_features // weight.block_size, weight.block_size]
            blocks = self._reshape(value, f"{value.name}_blocks{weight.block_size}", node, shape)
            axis = self.editor.constant(np.array([-1], np.int64), f"{value.name}_block_axis")
            self._sums[key] = self.editor.op(
                "ReduceSum",
                [blocks, axis],
                f"{value.name}_sums{weight.block_size}",
                before=node,
                attributes={"keepdims": 0},
            )
        return self._sums[key]

    def _reshape(self, value: ir.Value, name: str, node: ir.Node, shape: list[int]) -> ir.Value:
        wanted = self.editor.constant(np.array(shape, np.int64), f"{name}_shape")
        return self.editor.op("Reshape", [value, wanted], name, before=node)

    def _table(self, weight: BlockWeight, stem: str) -> ir.Value:
        """Offsets `[N, blocks]`, stored once for lookup and product."""
        if id(weight) not in self._tables:
            assert weight.offsets is not None
            self._tables[id(weight)] = self.editor.constant(
                weight.offsets.astype(np.float32), f"{stem}_offsets"
            )
        return self._tables[id(weight)]
