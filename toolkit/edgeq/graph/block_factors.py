"""Scales and offsets of blocks as the products they came from: a float16 for many blocks times a small integer each.

The K types of GGUF store them so. A float32 for every block would hold the same numbers in up to four times the bytes;
the file keeps the factors, and ONNX Runtime folds the product when it loads the model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeq.types import Array, FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """`[N, blocks]` float32 numbers.

    Attributes:
        coarse: `[N, groups]` float16.
        fine: `[N, blocks]` int8, the blocks of a group side by side.
    """

    coarse: Array
    fine: Array

    def values(self) -> FloatArray:
        """The products, rounded once to float32."""
        rows, groups = self.coarse.shape
        parts = self.fine.reshape(rows, groups, -1).astype(np.float32)
        products: FloatArray = parts * self.coarse.astype(np.float32)[..., None]
        return products.reshape(rows, -1)

    def rows(self, chosen: Array) -> Product:
        """Some rows, in another order."""
        return Product(self.coarse[chosen], self.fine[chosen])

    @property
    def size_bytes(self) -> int:
        """Bytes in the file."""
        return int(self.coarse.nbytes + self.fine.nbytes)


@dataclass(frozen=True, slots=True, eq=False)
class BlockFactors:
    """Where a weight's scales, and its offsets if it has any, came from.

    Attributes:
        scale: the scales.
        minimum: what is added to unsigned codes; None without offsets.
        center: what was subtracted from those codes: offsets are `center * scale + minimum`.
    """

    scale: Product
    minimum: Product | None = None
    center: int = 0

    def offsets(self) -> FloatArray | None:
        """`[N, blocks]` float32, rounded once after the product with a power of two, which is exact."""
        if self.minimum is None:
            return None
        return np.asarray(np.float32(self.center) * self.scale.values() + self.minimum.values(), np.float32)

    def rows(self, chosen: Array) -> BlockFactors:
        """Some rows, in another order."""
        minimum = None if self.minimum is None else self.minimum.rows(chosen)
        return BlockFactors(self.scale.rows(chosen), minimum, self.center)

    @property
    def size_bytes(self) -> int:
        """Bytes in the file."""
        return self.scale.size_bytes + (0 if self.minimum is None else self.minimum.size_bytes)


def join_factors(parts: list[BlockFactors]) -> BlockFactors:
    """Rows of several weights, one after the other."""

    def joined(products: list[Product]) -> Product:
        return Product(
            np.concatenate([product.coarse for product in products]),
            np.concatenate([product.fine for product in products]),
        )

    minimums = [part.minimum for part in parts if part.minimum is not None]
    minimum = joined(minimums) if minimums else None
    return BlockFactors(joined([part.scale for part in parts]), minimum, parts[0].center)
