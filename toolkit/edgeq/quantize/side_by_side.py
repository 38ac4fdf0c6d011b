"""The original and a model being quantized, run over the same inputs a segment of nodes at a time.

Sequential GPTQ needs what each layer sees behind the layers that are quantized already, and what it saw in the
original.
Running the whole model again for every layer would cost the square of its depth; here what crosses from one segment
into the next is kept, so that all layers together cost one run of each version.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Self

import numpy as np

from edgeq.errors import ModelError
from edgeq.graph.component import Padding
from edgeq.quantize.observers.layout import Mask, layout_for, mask_of, rows_of
from edgeq.quantize.segmented.values import ValueStore
from edgeq.quantize.segmented.walk import SEGMENT_BYTES, Walk
from edgeq.quantize.segmented.weights import HeldWeight, Weight
from edgeq.types import Array, Feeds

if TYPE_CHECKING:
    import onnx_ir as ir

RAM_BYTES = 1 << 30
"""What crosses a border is held in memory up to this, in each version; the rest lies in a temporary file."""


class SideBySide:
    """Two versions of one graph over the same batches; a context manager, because values may lie in files.

    Args:
        model: the original; not changed.
        weights: initializers that will be replaced, by name.
        batches: feeds and the number of samples in them.
        ram_bytes: most bytes of values held in memory, in each version.
        segment_bytes: most bytes of weights held in memory.
        threads: of onnxruntime; None leaves the choice to it.
    """

    def __init__(
        self,
        model: ir.Model,
        weights: Iterable[str],
        batches: Iterable[tuple[Feeds, int]],
        *,
        ram_bytes: int = RAM_BYTES,
        segment_bytes: int = SEGMENT_BYTES,
        threads: int | None = None,
        padding: Padding | None,
    ) -> None:
        self._shapes = {name: _shape(model, name) for name in weights}
        self._walk = Walk(model, replaceable=self._shapes, segment_bytes=segment_bytes, threads=threads)
        self._ram_bytes, self._at = ram_bytes, 0
        self._replaced: dict[str, Weight] = {}
        self._masks: list[Mask | None] = []
        self._original = ValueStore(ram_bytes)
        for feeds, _ in batches:
            self._masks.append(mask_of(feeds, padding))
            self._original.append({name: feeds[name] for name in self._walk.inputs})
        # The same values until a weight is replaced: nothing differs yet.
        self._changed = self._original

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Forget all values, and remove their files."""
        self._original.close()
        self._changed.close()

    def replace(self, initializer: str, weight: Array | Weight) -> None:
        """From here on the changed version computes with another weight, stored as the graph has it.

        Args:
            initializer: its name.
            weight: float32, or where to read it from when it is needed.
        """
        if isinstance(weight, np.ndarray):
            if weight.shape != self._shapes[initializer]:
                raise ModelError(
                    f"`{initializer}` is {list(self._shapes[initializer])}, its replacement {list(weight.shape)}"
                )
            weight = HeldWeight(np.ascontiguousarray(weight, np.float32))
        self._replaced[initializer] = weight

    def advance(self, node: str) -> None:
        """Run both versions up to, not including, a node behind the last one.

        Raises:
            ModelError: the graph fails on the inputs.
        """
        end = self._walk.place(node)
        if end < self._at:
            raise ModelError(f"`{node}` lies before what has been run already")
        for place, segment in self._walk.segments(self._at, end):
            before, changed = self._original, self._changed
            differs = changed is not before or bool(self._replaced)
            self._original = self._walk.step(segment, place, before, self._walk.original, self._ram_bytes)
            self._changed = self._original
            if differs:
                self._changed = self._walk.step(segment, place, changed, self._weight, self._ram_bytes)
            before.close()
            changed.close()
            # Nobody behind this place reads them.
            self._replaced = {
                name: weight for name, weight in self._replaced.items() if self._walk.is_read(name, place)
            }
        self._at = end

    def rows(self, tensor: str) -> Iterator[tuple[Array, Array]]:
        """A tensor at the present border in the original and in the changed version, `[rows, channels]` by batch.

        Padding is left out.
        """
        for index, mask in enumerate(self._masks):
            before, after = self._original.get(index, tensor), self._changed.get(index, tensor)
            layout = layout_for(before, mask)
            yield rows_of(before, layout, mask), rows_of(after, layout, mask)

    def _weight(self, initializer: str) -> Weight:
        replaced = self._replaced.get(initializer)
        return self._walk.original(initializer) if replaced is None else replaced


def _shape(model: ir.Model, name: str) -> tuple[int, ...]:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tuple(tensor.shape.numpy())
