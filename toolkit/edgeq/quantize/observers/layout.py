"""Which axes of a tensor are positions and which are channels, and how padding is dropped."""

from __future__ import annotations

from enum import StrEnum

import numpy as np
import numpy.typing as npt

from edgeq.graph.component import Padding
from edgeq.types import Array, Feeds

Mask = npt.NDArray[np.bool_]


class Layout(StrEnum):
    """Axes of a tensor, one letter each.

    b batch, s sequence, k sequence again (keys of attention scores), n batch and sequence in one axis,
    h heads, d head size, c channels. The axes h, d and c together are the channels.
    """

    TOKENS = "bsc"
    FLAT_TOKENS = "nc"
    POOLED = "bc"
    HEADS = "bhsd"
    HEADS_TRANSPOSED = "bhds"
    SCORES = "bhsk"


def layout_of(shape: tuple[int, ...], batch: int, sequence: int) -> Layout:
    """The layout of a tensor of two or three axes, from the batch it was computed on.

    Three axes are `[batch, sequence, channels]`; two are `[batch * sequence, channels]` or `[batch,
    channels]`.

    Raises:
        ValueError: the shape fits none of them; say the layout explicitly.
    """
    if len(shape) == 3 and shape[:2] == (batch, sequence):
        return Layout.TOKENS
    if len(shape) == 2 and shape[0] == batch * sequence:
        return Layout.FLAT_TOKENS
    if len(shape) == 2 and shape[0] == batch:
        return Layout.POOLED
    raise ValueError(
        f"shape {list(shape)} fits no layout of a batch of {batch} x {sequence} tokens: name its layout"
    )


def layout_for(tensor: Array, mask: Mask | None) -> Layout:
    """The layout of a tensor from its own shape and the batch's mask.

    Raises:
        ValueError: see `layout_of`.
    """
    if mask is not None:
        return layout_of(tensor.shape, *mask.shape)
    return layout_of(tensor.shape, *(tensor.shape[:2] if tensor.ndim == 3 else (tensor.shape[0], 1)))


def mask_of(feeds: Feeds, padding: Padding | None) -> Mask | None:
    """Which positions are real, `[batch, sequence]`; None where the feeds do not say."""
    mask = None if padding is None else padding.mask(feeds)
    return None if mask is None else mask != 0


def rows_of(tensor: Array, layout: Layout, mask: Mask | None) -> Array:
    """Positions that are not padding, as `[rows, channels]`; a view where nothing has to be dropped.

    Args:
        tensor: values laid out as `layout`.
        layout: its axes.
        mask: `[batch, sequence]`, true where a token is real; None keeps everything.

    Raises:
        ValueError: the tensor's axes do not match the layout or the mask.
    """
    if tensor.ndim != len(layout):
        raise ValueError(
            f"shape {list(tensor.shape)} has {tensor.ndim} axes, layout {layout.value} has {len(layout)}"
        )
    positions = [axis for axis, letter in enumerate(layout) if letter in "bskn"]
    others = [axis for axis, letter in enumerate(layout) if letter not in "bskn"]
    moved = tensor.transpose(positions + others)
    lead = moved.shape[: len(positions)]
    channels = int(np.prod(moved.shape[len(positions) :], dtype=np.int64))
    keep = None if mask is None or layout is Layout.POOLED else _positions_kept(layout, mask)
    if keep is None:
        return moved.reshape(-1, channels)
    if keep.shape != lead:
        raise ValueError(
            f"positions {list(lead)} of layout {layout.value} do not match the mask's {list(keep.shape)}"
        )
    return moved[keep].reshape(-1, channels)


def _positions_kept(layout: Layout, mask: Mask) -> Mask | None:
    """The mask over a layout's position axes, None when it drops nothing."""
    if mask.all():
        return None
    if layout is Layout.FLAT_TOKENS:
        return mask.reshape(-1)
    if layout is Layout.SCORES:
        both: Mask = mask[:, :, None] & mask[:, None, :]
        return both
    return mask
