"""Palettization: a weight as indices into a small table, the table found by one-dimensional k-means.

Lloyd's algorithm on sorted values, with weights for the squared error as in SqueezeLLM (Kim et al. 2023):
there the Hessian's diagonal, here the mean squared activation of each input column.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeq.errors import ConfigError
from edgeq.quantize import formats
from edgeq.quantize.weight_only.quantized_weight import LayerStats, checked_weight
from edgeq.types import Array, FloatArray

METHOD = "kmeans"
_ITERATIONS = 40
_GRID = 65536
"""Distinct values kept by the histogram that k-means runs on."""


@dataclass(frozen=True, slots=True, eq=False)
class Palette:
    """Indices `[rows, columns]` uint8 and tables `[groups, 2 ** bits]`, groups being runs of rows."""

    indices: Array
    luts: FloatArray

    @property
    def bits_per_weight(self) -> float:
        """Indices and tables, in float16."""
        index_bits = int(self.luts.shape[1] - 1).bit_length()
        return index_bits + 16 * self.luts.size / self.indices.size

    def dense(self) -> FloatArray:
        """The matrix the palette stands for."""
        group = np.arange(len(self.indices)) // (len(self.indices) // len(self.luts))
        return np.asarray(self.luts[group[:, None], self.indices], np.float32)


def quantize(
    weight: Array, spec: formats.Palette, stats: LayerStats | None
) -> tuple[Palette, tuple[str, ...]]:
    """A palette of `weight [K, N]`, its rows being output channels; no notes.

    Raises:
        ModelError: the weight is not a finite matrix.
        ConfigError: the output channels cannot be divided.
    """
    rows = np.ascontiguousarray(checked_weight(weight).T)
    importance = None if stats is None else stats.mean_square
    return palettize(rows, spec.bits, group_rows=group_rows_of(spec), importance=importance), ()


def group_rows_of(spec: formats.Palette) -> int | None:
    """Output channels per table; None is one table."""
    return None if spec.channels == formats.PER_CHANNEL else spec.channels


def palettize(
    rows: FloatArray, bits: int, *, group_rows: int | None = None, importance: FloatArray | None = None
) -> Palette:
    """Cluster a matrix.

    Args:
        rows: `[rows, columns]`.
        bits: 4, 6 or 8.
        group_rows: rows per table; None is one table.
        importance: `[columns]`, weights of the squared error; None, or all zero, weighs all alike.

    Raises:
        ConfigError: bits or group size out of range.
    """
    if bits not in formats.Palette.widths:
        raise ConfigError(f"{bits}-bit palette; expected one of {formats.Palette.widths}")
    size = len(rows) if group_rows is None else group_rows
    if size < 1 or len(rows) % size:
        raise ConfigError(f"{len(rows)} rows cannot be split into groups of {size}")
    if importance is None or not importance.any():
        importance = np.ones(rows.shape[1], np.float32)
    weight = importance.astype(np.float32)
    luts = [
        cluster(group.ravel(), np.broadcast_to(weight, group.shape).ravel(), 2**bits)
        for group in rows.reshape(-1, size, rows.shape[1])
    ]
    tables = np.stack(luts)
    indices = [
        nearest(group, lut) for group, lut in zip(rows.reshape(-1, size, rows.shape[1]), tables, strict=True)
    ]
    return Palette(np.concatenate(indices), tables)


def cluster(values: FloatArray, weights: FloatArray, count: int) -> FloatArray:
    """`count` centroids, ascending, rounded to float16 because that is what the package stores."""
    points, mass = _histogram(values, weights)
    centers = _quantile_start(points, mass, count)
    cumulative = np.concatenate([[0.0], np.cumsum(mass)])
    moments = np.concatenate([[0.0], np.cumsum(mass * points)])
    for _ in range(_ITERATIONS):
        cuts = np.searchsorted(points, (centers[1:] + centers[:-1]) / 2)
        edges = np.concatenate([[0], cuts, [len(points)]])
        total, moment = np.diff(cumulative[edges]), np.diff(moments[edges])
        moved = np.where(total > 0, moment / np.where(total > 0, total, 1), centers)
        if np.allclose(moved, centers, rtol=1e-6, atol=0):
            break
        centers = np.sort(moved)
    return centers.astype(np.float16).astype(np.float32)


def nearest(values: FloatArray, lut: FloatArray) -> Array:
    """Index of the closest table entry of each value; the table is ascending."""
    return np.searchsorted((lut[1:] + lut[:-1]) / 2, values).astype(np.uint8)


def _histogram(
    values: FloatArray, weights: FloatArray
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Sorted distinct values and their weight, thinned to a grid where there are very many."""
    order = np.argsort(values, kind="stable")
    points, mass = values[order].astype(np.float64), weights[order].astype(np.float64)
    if len(points) > _GRID:
        edges = np.linspace(0, len(points), _GRID + 1).astype(np.int64)[:-1]
        total = np.add.reduceat(mass, edges)
        points = np.add.reduceat(points * mass, edges) / np.maximum(total, np.finfo(np.float64).tiny)
        mass = total
    return points, mass


def _quantile_start(
    points: npt.NDArray[np.float64], mass: npt.NDArray[np.float64], count: int
) -> npt.NDArray[np.float64]:
    """Starting centroids: half by weight, half evenly over the range, so that tails get some."""
    quantiles = (np.cumsum(mass) - mass / 2) / mass.sum()
    by_weight = np.interp((np.arange(count // 2) + 0.5) / (count // 2), quantiles, points)
    even = np.linspace(points[0], points[-1], count - count // 2)
    return np.sort(np.concatenate([by_weight, even]))
