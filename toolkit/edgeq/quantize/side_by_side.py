"""The original and a model being quantized, run over the same inputs a stretch of nodes at a time.

Sequential GPTQ needs what each layer sees behind the layers that are quantized already, and what it saw in the
original.
Running the whole model again for every layer would cost the square of its depth; here what crosses from one stretch
into the next is kept, so that all layers together cost one run of each version.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from edgeq.errors import ModelError
from edgeq.quantize.observers.layout import Mask, layout_for, mask_of, rows_of
from edgeq.types import Array, Feeds

if TYPE_CHECKING:
    import onnx_ir as ir

RAM_BYTES = 1 << 30
"""What crosses a border is held in memory up to this; the rest is mapped from a temporary file."""

Values = dict[str, Array]


class SideBySide:
    """Two versions of one graph over the same batches; a context manager, because values may lie in files.

    Args:
        model: the original; not changed.
        weights: initializers that will be replaced, by name.
        batches: feeds and the number of samples in them.
        ram_bytes: most bytes of values held in memory.
        threads: of onnxruntime; None leaves the choice to it.
    """

    def __init__(
        self,
        model: ir.Model,
        weights: Iterable[str],
        batches: Iterable[tuple[Feeds, int]],
        *,
        ram_bytes: int = RAM_BYTES,
        threads: int | None = None,
    ) -> None:
        self._nodes = list(model.graph)
        self._index = {str(node.name): index for index, node in enumerate(self._nodes)}
        self._graph, self._opsets = model.graph, dict(model.opset_imports)
        self._originals = {name: _initializer(model, name) for name in weights}
        self._replaced: Values = {}
        self._threads, self._ram_bytes, self._held = threads, ram_bytes, 0
        self._spill: Path | None = None
        self._at = 0
        self._masks: list[Mask | None] = []
        self._original: list[Values] = []
        for feeds, _ in batches:
            self._masks.append(mask_of(feeds))
            self._original.append({value.name: feeds[value.name] for value in model.graph.inputs})  # type: ignore[misc, index]
        # The same lists until a weight is replaced: nothing differs yet.
        self._changed = self._original

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Forget all values, and remove their files."""
        self._original, self._changed = [], []
        if self._spill is not None:
            shutil.rmtree(self._spill, ignore_errors=True)

    def replace(self, initializer: str, weight: Array) -> None:
        """From here on the changed version computes with another weight, stored as the graph has it."""
        original = self._originals[initializer]
        if weight.shape != original.shape:
            raise ModelError(
                f"`{initializer}` is {list(original.shape)}, its replacement {list(weight.shape)}"
            )
        self._replaced[initializer] = np.ascontiguousarray(weight, original.dtype)

    def advance(self, node: str) -> None:
        """Run both versions up to, not including, a node behind the last one.

        Raises:
            ModelError: the graph fails on the inputs.
        """
        end = self._index[node]
        if end < self._at:
            raise ModelError(f"`{node}` lies before what has been run already")
        if end == self._at:
            return
        stretch = self._nodes[self._at : end]
        crossing = self._crossing(end)
        session = self._session(stretch, crossing)
        shared = self._changed is self._original and not self._replaced
        self._held = 0
        before, changed = self._original, self._changed
        self._original = [self._run(session, values, {}, crossing) for values in before]
        self._changed = (
            self._original
            if shared
            else [self._run(session, values, self._replaced, crossing) for values in changed]
        )
        self._at = end

    def rows(self, tensor: str) -> Iterator[tuple[Array, Array]]:
        """A tensor at the present border in the original and in the changed version, `[rows, channels]` by batch.

        Padding is left out.
        """
        for mask, before, after in zip(self._masks, self._original, self._changed, strict=True):
            layout = layout_for(before[tensor], mask)
            yield rows_of(before[tensor], layout, mask), rows_of(after[tensor], layout, mask)

    def _crossing(self, end: int) -> list[str]:
        """Values computed before a border, or fed, that somebody behind it reads."""
        found = dict.fromkeys(
            str(value.name)
            for node in self._nodes[end:]
            for value in node.inputs
            if value is not None and not value.is_initializer()
        )
        behind = {value.name for node in self._nodes[end:] for value in node.outputs}
        return [name for name in found if name not in behind]

    def _session(self, stretch: list[ir.Node], crossing: list[str]) -> Any:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.enable_cpu_mem_arena = False
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        try:
            return ort.InferenceSession(
                self._proto(stretch, crossing), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise ModelError(f"onnxruntime does not load nodes {self._at} and on: {error}") from error

    def _proto(self, stretch: list[ir.Node], crossing: list[str]) -> bytes:
        """The stretch as a model: its inputs are the values at its border and the replaceable weights it reads."""
        import onnx
        import onnx_ir as ir

        computed = {value.name for node in stretch for value in node.outputs}
        read = dict.fromkeys(v for node in stretch for v in node.inputs if v is not None)
        available = self._original[0] if self._original else {}
        given = [*self._originals, *available]
        inputs = [
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), None)
            for name in given
            if name in {value.name for value in read}
            for array in [self._originals.get(name, available.get(name))]
            if array is not None
        ]
        constants = [
            ir.to_proto(value.const_value)
            for value in read
            if value.is_initializer() and value.name not in self._originals and value.const_value is not None
        ]
        outputs = [
            onnx.helper.make_value_info(name, onnx.TypeProto()) for name in crossing if name in computed
        ]
        graph = onnx.helper.make_graph(
            [ir.to_proto(node) for node in stretch], "stretch", inputs, outputs, constants
        )
        opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in self._opsets.items()]
        model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
        return bytes(model.SerializeToString())

    def _run(
        self, session: Any, values: Values, replaced: Mapping[str, Array], crossing: list[str]
    ) -> Values:
        known = {**self._originals, **replaced, **values}
        feeds = {item.name: known[item.name] for item in session.get_inputs()}
        names = [item.name for item in session.get_outputs()]
        try:
            results = session.run(names, feeds) if names else []
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise ModelError(f"the model fails on calibration data: {error}") from error
        computed = {name: self._keep(array) for name, array in zip(names, results, strict=True)}
        return {name: computed[name] if name in computed else values[name] for name in crossing}

    def _keep(self, array: Array) -> Array:
        self._held += array.nbytes
        if self._held <= self._ram_bytes or array.size == 0:
            return array
        if self._spill is None:
            self._spill = Path(tempfile.mkdtemp(prefix="edgeq-calibration-"))
        with tempfile.NamedTemporaryFile(dir=self._spill) as file:
            # Unlinked when closed; the mapping keeps the bytes until the values are dropped.
            mapped = np.memmap(file, array.dtype, "w+", shape=array.shape)
            mapped[...] = array
            return mapped


def _initializer(model: ir.Model, name: str) -> Array:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()
