"""Products of factors written out as operators on constants, which ONNX Runtime folds when it loads the model."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeq.graph.block_factors import Product
from edgeq.graph.edit import Editor


def write_product(editor: Editor, product: Product, name: str, before: ir.Node) -> ir.Value:
    """`[N, blocks]` float32: two casts, a product over groups, and a reshape."""
    rows, groups = product.coarse.shape
    blocks = product.fine.shape[1]
    parts = {
        "coarse": product.coarse[..., None],
        "fine": product.fine.reshape(rows, groups, blocks // groups),
    }
    floats = [
        editor.op(
            "Cast",
            [editor.constant(array, f"{name}_{part}")],
            f"{name}_{part}_fp32",
            before=before,
            attributes={"to": int(ir.DataType.FLOAT)},
        )
        for part, array in parts.items()
    ]
    grouped = editor.op("Mul", floats, f"{name}_product", before=before)
    shape = editor.constant(np.array([rows, blocks], np.int64), f"{name}_shape")
    return editor.op("Reshape", [grouped, shape], name, before=before, shape=ir.Shape([rows, blocks]))
