"""What llama.cpp changes in weights, both ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from edgeq.errors import UnsupportedError
from edgeq.types import Array, FloatArray

Config: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """How a tensor of the file comes from a parameter.

    Attributes:
        suffixes: parameters it is for, by the end of their names.
        apply: parameter to tensor.
        undo: tensor to parameter. Where the order of rows alone changes, rows of bytes are taken too.
        is_transposed: rows and columns change places.
    """

    suffixes: tuple[str, ...]
    apply: Callable[[FloatArray, Config], FloatArray]
    undo: Callable[[Array, Config], Array]
    is_transposed: bool = False

    def shape(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """Of the tensor, from that of the parameter, and of the parameter from that of the tensor."""
        return size[::-1] if self.is_transposed else size


def rotated(letter: str, key: str) -> Change:
    """Rotated rows: llama.cpp pairs neighbours where transformers pairs the two halves of a head.

    Args:
        letter: `q` or `k`.
        key: of the config, where it says how many heads these rows are.
    """
    return Change(
        (f"{letter}_proj.weight", f"{letter}_proj.bias"),
        lambda rows, config: _swapped(rows, int(config[key]), halves_first=True),
        lambda rows, config: _swapped(rows, int(config[key]), halves_first=False),
    )


def _swapped(rows: Array, heads: int, *, halves_first: bool) -> Array:
    if len(rows) % (2 * heads):
        raise UnsupportedError(f"{len(rows)} rows cannot be the rotated rows of {heads} heads")
    half = len(rows) // heads // 2
    inside = (2, half) if halves_first else (half, 2)
    parts = rows.reshape(heads, *inside, *rows.shape[1:])
    return np.ascontiguousarray(parts.swapaxes(1, 2)).reshape(rows.shape)


def _turned(matrix: Array, config: Config) -> Array:
    return np.ascontiguousarray(matrix.T)


def turned(*suffixes: str) -> Change:
    """Matrices that the parameter has as `[in, out]`."""
    return Change(suffixes, _turned, _turned, is_transposed=True)


ONE_MORE = Change(("norm.weight",), lambda w, _: w + np.float32(1), lambda w, _: w - np.float32(1))
"""Gemma's norms multiply by `1 + w`; llama.cpp stores the sum."""
