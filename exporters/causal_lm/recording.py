"""Which stored weights a tensor without values stands for: views are read off strides, concatenations are recorded.

An exporter that is handed meta tensors slices, transposes and stacks them as it would real ones. Whatever else it did
to a matrix would be computed on meta tensors too, and give one that `Recording` does not know: an error, never a guess.
"""

from __future__ import annotations

from typing import Any

from edgeq.errors import ModelError
from edgeq.exporters.causal_lm.weights import DecoderWeights
from edgeq.quantize.streaming.stacked_rows import StackedRows


class Recording:
    """Remembers where the matrices of a model without them come from.

    Args:
        model: from `decoder_without_matrices`.
        weights: of the same.
    """

    def __init__(self, model: Any, weights: DecoderWeights) -> None:
        self._rows: dict[int, StackedRows] = {}
        # A storage's address is its identity only while it lives.
        self._alive: list[Any] = []
        for name, tensor in model.state_dict(keep_vars=True).items():
            if tensor.is_meta:
                self._remember(tensor, StackedRows([weights[name]]))

    def stacking(self) -> Any:
        """A context in which concatenations of known matrices are remembered."""
        import torch
        from torch.utils._python_dispatch import TorchDispatchMode

        recording = self

        class Stacking(TorchDispatchMode):  # type: ignore[misc]
            def __torch_dispatch__(
                self, func: Any, types: Any, args: Any = (), kwargs: Any = None
            ) -> torch.Tensor:
                result: torch.Tensor = func(*args, **(kwargs or {}))
                if func is torch.ops.aten.cat.default and result.is_meta:
                    recording._stack(result, *args, **(kwargs or {}))
                return result

        return Stacking()

    def rows_of(self, tensor: Any) -> StackedRows:
        """The weights behind a meta tensor.

        Raises:
            ModelError: it is no view of a known matrix that consists of whole rows.
        """
        known = self._rows.get(tensor.untyped_storage()._cdata)
        if known is not None and tensor.ndim == 2:
            width = int(known.shape.numpy()[1])
            start, rest = divmod(tensor.storage_offset(), width)
            if rest == 0 and tensor.shape[1] == width and tensor.stride() == (width, 1):
                return known.part(start, start + tensor.shape[0])
            if rest == 0 and tensor.shape[0] == width and tensor.stride() == (1, width):
                return known.part(start, start + tensor.shape[1]).transposed()
        raise ModelError(
            f"a weight of shape {list(tensor.shape)} and strides {list(tensor.stride())} was made in a way that "
            "cannot be streamed",
            hint="this may be a bug of edgeq: please report the model's name",
        )

    def _stack(self, result: Any, tensors: Any, dim: int = 0) -> None:
        """Rows under rows; other axes stay unknown."""
        if dim == 0 and all(tensor.is_meta and tensor.ndim == 2 for tensor in tensors):
            found = [self.rows_of(tensor) for tensor in tensors]
            if not any(rows.is_turned for rows in found):
                self._remember(result, StackedRows([part for rows in found for part in rows.parts]))

    def _remember(self, tensor: Any, rows: StackedRows) -> None:
        self._rows[tensor.untyped_storage()._cdata] = rows
        self._alive.append(tensor)
