"""Ready tensors of an .npz file, checked as a tokenizer's output would be: nothing later looks at them again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeq.errors import DataError
from edgeq.text_inputs import ATTENTION_MASK, INPUT_IDS
from edgeq.types import Array, Feeds


def require_names(feeds: Feeds, names: Sequence[str], optional: Sequence[str] = ()) -> None:
    """Compare the names of arrays with those of a model's inputs.

    Raises:
        DataError: one is missing, or is none of them.
    """
    known = (*names, *optional)
    if any(name not in feeds for name in names) or any(name not in known for name in feeds):
        raise DataError(f"the .npz has arrays {', '.join(feeds)}; the model's inputs are {', '.join(known)}")


def ready_rows(feeds: Feeds, vocabulary_size: int) -> list[Array]:
    """The real token ids of each sample, `[tokens]`: what of a language model is cut into windows.

    Raises:
        DataError: see `require_names` and `ready_feeds`; the mask may be missing where nothing is padded.
    """
    require_names(feeds, (INPUT_IDS,), (ATTENTION_MASK,))
    found = ready_feeds(feeds, None, vocabulary_size)
    ids, mask = found[INPUT_IDS], found.get(ATTENTION_MASK)
    used = np.full(len(ids), ids.shape[1]) if mask is None else mask.sum(axis=1)
    return [row[:count] for row, count in zip(ids, used, strict=True)]


def ready_feeds(feeds: Feeds, max_length: int | None, vocabulary_size: int) -> dict[str, Array]:
    """Int64 inputs `[samples, tokens]`, columns of padding alone cut off.

    Args:
        feeds: arrays by input name, all inputs of the model.
        max_length: tokens that every variant takes; None where samples are cut to them.
        vocabulary_size: token ids are below it.

    Raises:
        DataError: an array is no matrix of whole numbers, the mask is not ones followed by zeros, a token id is not
            one of the tokenizer's, or a sample is longer than `max_length`.
    """
    found = {name: _whole_numbers(name, array) for name, array in feeds.items()}
    shapes = {name: array.shape for name, array in found.items()}
    if len(set(shapes.values())) > 1:
        raise DataError(f"the arrays of the .npz have different shapes: {shapes}")
    largest = int(found[INPUT_IDS].max())
    if largest >= vocabulary_size:
        raise DataError(
            f"`{INPUT_IDS}` of the .npz has the token id {largest}; the tokenizer's are below {vocabulary_size}"
        )
    used = next(iter(shapes.values()))[1]
    if ATTENTION_MASK in found:
        _check_mask(found[ATTENTION_MASK])
        used = int(found[ATTENTION_MASK].sum(axis=1).max())
    if max_length is not None and used > max_length:
        raise DataError(
            f"a sample of the .npz has {used} tokens; the variants take {max_length}",
            hint="shorter samples, or a longer --seq-len where the model has the positions",
        )
    return {name: array[:, :used] for name, array in found.items()}


def _whole_numbers(name: str, array: Array) -> Array:
    if array.ndim != 2:
        raise DataError(
            f"array `{name}` of the .npz has shape {list(array.shape)}, expected [samples, tokens]"
        )
    if array.dtype.kind == "f" and not np.array_equal(array, np.rint(array)):
        raise DataError(f"array `{name}` of the .npz holds fractions, expected whole numbers")
    if array.min(initial=0) < 0:
        raise DataError(f"array `{name}` of the .npz holds {array.min()}, expected numbers from 0 up")
    return array.astype(np.int64)


def _check_mask(mask: Array) -> None:
    """Padding is on the right: positions are counted from the left."""
    if not np.isin(mask, (0, 1)).all() or (np.diff(mask, axis=1) > 0).any() or not mask[:, 0].all():
        raise DataError(
            f"`{ATTENTION_MASK}` of the .npz is not ones followed by zeros in every row, with one at least",
            hint="pad on the right",
        )
