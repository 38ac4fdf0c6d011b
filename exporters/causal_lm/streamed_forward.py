"""The original run by torch in bounded memory: a matrix is read when it is multiplied with, and forgotten after."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeq.errors import ModelError
from edgeq.exporters.causal_lm.exported_language_model import Logits
from edgeq.exporters.causal_lm.weights import DecoderWeights
from edgeq.exporters.checkpoint import quiet_transformers
from edgeq.quantize.streaming.stacked_rows import values_of
from edgeq.quantize.streaming.stored_tensor import StoredTensor
from edgeq.types import Array, FloatArray

if TYPE_CHECKING:
    import torch

PIECE_ELEMENTS = 1 << 23
"""Weights multiplied at a time: 32 MB as float32."""
RESIDENT_BYTES = 256_000_000
"""A model whose matrices take less than this in float32 keeps them after the first run."""


@dataclass(frozen=True, slots=True, eq=False)
class Replacement:
    """Other values for a matrix, looked up each time they are needed.

    Attributes:
        name: of the parameter.
        shape: of the parameter.
        source: where they are looked up.
    """

    name: str
    shape: tuple[int, ...]
    source: Mapping[str, FloatArray]

    @property
    def size(self) -> int:
        """Number of values."""
        return prod(self.shape)

    def values(self) -> FloatArray:
        """All of them.

        Raises:
            ModelError: the shape is another.
        """
        found = self.source[self.name]
        if found.shape != self.shape:
            raise ModelError(f"parameter `{self.name}` has shape {self.shape}, got {found.shape}")
        return np.array(found, np.float32)

    def rows(self, *, max_elements: int = 0) -> Iterator[FloatArray]:
        """All rows, at once."""
        yield self.values()

    def take(self, indices: Sequence[int]) -> FloatArray:
        """Some rows."""
        return self.values()[list(indices)]


def streamed_logits(
    model: Any, weights: DecoderWeights, instead: Mapping[str, Replacement] | None = None
) -> Logits:
    """The original as a function of token ids.

    Args:
        model: from `decoder_without_matrices`.
        weights: of the same.
        instead: matrices whose values are others, by parameter; tied ones once.
    """
    matrices = _Matrices(model, weights, instead or {})

    def run(token_ids: Array) -> FloatArray:
        import torch

        ids = torch.from_numpy(np.ascontiguousarray(token_ids, np.int64))
        with torch.no_grad(), quiet_transformers(), matrices.reading():
            logits: FloatArray = model(input_ids=ids, use_cache=False).logits.float().numpy()
        return logits

    return run


class _Matrices:
    """Products and lookups with parameters that are on the meta device, from their stored values."""

    def __init__(self, model: Any, weights: DecoderWeights, instead: Mapping[str, Replacement]) -> None:
        # Kept, because files made for them go with them.
        self._weights = weights
        self._stored: dict[int, StoredTensor | Replacement] = {
            id(parameter): weights[name]
            for name, parameter in model.state_dict(keep_vars=True).items()
            if parameter.is_meta
        }
        self._stored |= {
            id(parameter): instead[name] for name, parameter in model.named_parameters() if name in instead
        }
        needed = 4 * sum(tensor.size for tensor in set(self._stored.values()))
        self._resident: dict[StoredTensor | Replacement, torch.Tensor] | None = (
            {} if needed <= RESIDENT_BYTES else None
        )

    def reading(self) -> Any:
        """A context in which torch's functions find these values."""
        import torch
        from torch.overrides import TorchFunctionMode

        instead: dict[Any, tuple[int, Callable[..., torch.Tensor]]] = {
            torch.nn.functional.linear: (1, self._linear),
            torch.nn.functional.embedding: (1, self._embedding),
            torch.addmm: (2, self._addmm),
        }
        stored = self._stored

        class Reading(TorchFunctionMode):  # type: ignore[misc]
            def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                place, replacement = instead.get(func, (0, None))
                if replacement is not None and id(args[place]) in stored:
                    return replacement(*args, **(kwargs or {}))
                return func(*args, **(kwargs or {}))

        return Reading()

    def _linear(
        self, values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        import torch

        tensor = self._stored[id(weight)]
        if self._resident is not None:
            return torch.nn.functional.linear(values, self._whole(tensor), bias)
        parts = [
            torch.nn.functional.linear(values, torch.from_numpy(rows))
            for rows in tensor.rows(max_elements=PIECE_ELEMENTS)
        ]
        product = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        return product if bias is None else product + bias

    def _embedding(self, ids: torch.Tensor, weight: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        import torch

        unique, inverse = np.unique(ids.numpy(), return_inverse=True)
        rows = torch.from_numpy(self._stored[id(weight)].take(unique.tolist()))
        return rows[torch.from_numpy(inverse.reshape(ids.shape))]

    def _addmm(self, bias: torch.Tensor, values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        import torch

        return torch.addmm(bias, values, self._whole(self._stored[id(weight)]))

    def _whole(self, tensor: StoredTensor | Replacement) -> torch.Tensor:
        import torch

        kept = None if self._resident is None else self._resident.get(tensor)
        if kept is None:
            values = tensor.values() if isinstance(tensor, Replacement) else values_of(tensor)
            kept = torch.from_numpy(values)
            if self._resident is not None:
                self._resident[tensor] = kept
        return kept
