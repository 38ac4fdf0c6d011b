"""Canonical feeds to what a variant declares, and its outputs back; runs nothing itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from edgeq.errors import DataError
from edgeq.text_inputs import OPTIONAL_INPUTS
from edgeq.types import Array, Dim, Feeds, Outputs, Role, TensorSpec

_SEQUENCE_ROLES = (Role.TOKEN_IDS, Role.ATTENTION_MASK, Role.TOKEN_TYPE_IDS, Role.POSITION_IDS)
_PER_TOKEN_ROLES = (Role.LAST_HIDDEN_STATE, Role.START_LOGITS, Role.END_LOGITS)


class HasSignature(Protocol):
    """Anything with declared inputs and outputs: a `Variant`, a `Component`, a `Signature`."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Declared inputs."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Declared outputs."""


@dataclass(frozen=True, slots=True)
class Signature:
    """Inputs and outputs of a graph that is not in a bundle yet."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class FeedAdapter:
    """Fits canonical feeds to a variant's declared inputs.

    Canonical feeds are int64 `[batch, sequence]`. They are cast to the declared dtypes; a static batch is
    served in pieces, a static sequence length by padding on the right; padding is cut off the outputs again.

    Args:
        signature: the variant, or a `Signature` of a graph that has no bundle yet.
        pad_id: what token ids are padded with. It matters to models that derive positions from it (RoBERTa).
    """

    def __init__(self, signature: HasSignature, *, pad_id: int = 0) -> None:
        self.inputs = signature.inputs
        self.outputs = signature.outputs
        self._pad_id = pad_id
        self._batch = _first_number(spec.shape[0] for spec in self.inputs if spec.shape)
        self.static_length = _first_number(spec.shape[1] for spec in self.inputs if _is_sequence(spec))

    def pieces(self, feeds: Feeds) -> list[dict[str, Array]]:
        """What the variant is run with, one dict per run.

        Raises:
            DataError: an input is missing or unknown, has another rank or size, holds values that its
                declared dtype cannot, or is longer than a static sequence.
        """
        batch, _ = self._check_feeds(feeds)
        prepared = {spec.name: self._prepare(spec, feeds[spec.name]) for spec in self.inputs}
        return list(self._pieces(prepared, batch))

    def join(self, pieces: Sequence[Outputs], feeds: Feeds) -> Outputs:
        """The outputs of all pieces as if the variant had taken the feeds as they are."""
        batch, length = self._check_feeds(feeds)
        joined = {name: np.concatenate([piece[name] for piece in pieces])[:batch] for name in pieces[0]}
        return {spec.name: self._crop(spec, joined[spec.name], length) for spec in self.outputs}

    def _check_feeds(self, feeds: Feeds) -> tuple[int, int]:
        names = [spec.name for spec in self.inputs]
        missing = [name for name in names if name not in feeds]
        if missing:
            raise DataError(
                f"missing inputs {', '.join(missing)}; got {', '.join(feeds) or 'none'}",
                hint="give an array for each input, by its name; edgeq inspect BUNDLE --full shows them",
            )
        for name in feeds:
            if name not in names and not (name in OPTIONAL_INPUTS and not np.any(feeds[name])):
                raise DataError(f"the model has no input `{name}`; it takes {', '.join(names)}")
        for spec in self.inputs:
            _check_shape(spec, feeds[spec.name])
        batches = {feeds[spec.name].shape[0] for spec in self.inputs if spec.shape}
        lengths = {feeds[spec.name].shape[1] for spec in self.inputs if _is_sequence(spec)}
        if len(batches) > 1 or len(lengths) > 1 or 0 in batches | lengths:
            shapes = {name: feeds[name].shape for name in names}
            raise DataError(f"the inputs must share one batch size and length, at least 1; got {shapes}")
        return batches.pop() if batches else 1, lengths.pop() if lengths else 0

    def _prepare(self, spec: TensorSpec, array: Array) -> Array:
        if _is_sequence(spec) and self.static_length is not None:
            missing = self.static_length - array.shape[1]
            fill = self._pad_id if spec.role is Role.TOKEN_IDS else 0
            array = np.pad(array, ((0, 0), (0, missing)), constant_values=fill)
        return _cast(spec, array)

    def _pieces(self, feeds: Mapping[str, Array], batch: int) -> Iterator[dict[str, Array]]:
        size = self._batch or batch
        for start in range(0, batch, size):
            rows = {name: array[start : start + size] for name, array in feeds.items()}
            # The last piece repeats its last row up to the static batch; `run` cuts it off.
            yield {name: _fill_batch(array, size) for name, array in rows.items()}

    def _crop(self, spec: TensorSpec, array: Array, length: int) -> Array:
        padded = self.static_length is not None and length != self.static_length
        if padded and _is_per_token(spec) and array.shape[1] == self.static_length:
            return array[:, :length]
        return array


def _first_number(dims: Iterable[Dim]) -> int | None:
    """The static size that some input declares; None when all are free."""
    return next((dim for dim in dims if isinstance(dim, int)), None)


def _is_sequence(spec: TensorSpec) -> bool:
    return spec.role in _SEQUENCE_ROLES and len(spec.shape) == 2


def _is_per_token(spec: TensorSpec) -> bool:
    return spec.role in _PER_TOKEN_ROLES or (spec.role in (Role.LOGITS, Role.OTHER) and len(spec.shape) >= 3)


def _check_shape(spec: TensorSpec, array: Array) -> None:
    declared = list(spec.shape)
    if array.ndim != len(declared):
        raise DataError(f"input `{spec.name}` has shape {list(array.shape)}; expected {declared}")
    for axis, (size, expected) in enumerate(zip(array.shape, declared, strict=True)):
        if not isinstance(expected, int):
            continue
        splittable = axis == 0
        paddable = _is_sequence(spec) and axis == 1
        if paddable and size > expected:
            raise DataError(
                f"input `{spec.name}` has {size} tokens; this variant takes {expected}",
                hint="truncate the texts, or choose a variant with a free sequence length",
            )
        if not splittable and not paddable and size != expected:
            raise DataError(f"input `{spec.name}` has shape {list(array.shape)}; expected {declared}")


def _cast(spec: TensorSpec, array: Array) -> Array:
    dtype: np.dtype[Any] = np.dtype(spec.dtype)
    cast = array.astype(dtype, copy=False)
    if array.dtype.kind in "iu" and not np.array_equal(cast, array):
        raise DataError(
            f"input `{spec.name}` holds values from {array.min()} to {array.max()}, which {spec.dtype} cannot"
        )
    return cast


def _fill_batch(array: Array, size: int) -> Array:
    missing = size - array.shape[0]
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing else array
