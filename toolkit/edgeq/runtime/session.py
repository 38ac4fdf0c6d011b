"""Runs one variant on the CPU: canonical inputs in, outputs as if the variant took any batch and length."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.errors import ModelError
from edgeq.onnx_runtime import DEFAULT_LEVEL, OptimizationLevel, session_options
from edgeq.runtime.adapter import FeedAdapter, HasSignature, Signature
from edgeq.types import Array, Feeds, Outputs

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, SessionOptions

    from edgeq.runtime.executors import Executor

__all__ = ["Signature", "VariantSession", "execute_through"]


def execute_through(
    executor: Executor,
    model_path: Path,
    signature: HasSignature,
    batches: Sequence[Feeds],
    *,
    pad_id: int = 0,
    level: OptimizationLevel = DEFAULT_LEVEL,
) -> list[Outputs]:
    """Run canonical feeds through an executor (this machine, an emulated core, a phone), in one go.

    Args:
        executor: where.
        model_path: a `.onnx` file.
        signature: its inputs and outputs.
        batches: canonical feeds.
        pad_id: what token ids are padded with.
        level: graph optimizations.

    Raises:
        DataError: feeds do not fit the signature.
        ModelError: the runtime refuses the model.
    """
    adapter = FeedAdapter(signature, pad_id=pad_id)
    pieces = [adapter.pieces(feeds) for feeds in batches]
    results = iter(executor.run(model_path, [piece for group in pieces for piece in group], level))
    return [
        adapter.join([next(results) for _ in group], feeds)
        for group, feeds in zip(pieces, batches, strict=True)
    ]


class VariantSession:
    """An ONNX Runtime CPU session that takes canonical feeds whatever the variant declares.

    See `FeedAdapter` for how feeds are fitted.

    Args:
        model_path: a `.onnx` file.
        signature: the variant, or a `Signature` of a graph that has no bundle yet.
        threads: intra-op threads; None lets ONNX Runtime choose.
        spin: let idle threads spin for a moment, as ONNX Runtime does by itself. Sessions that are timed side by
            side must not: the threads of one would take the cores of the next.
        level: graph optimizations, as the variant orders them.
        exact: exact integer sums also where this CPU's own kernels saturate; False times what an app would run.
        pad_id: what token ids are padded with. It matters to models that derive positions from it (RoBERTa).

    Raises:
        ModelError: ONNX Runtime cannot load the file, or its inputs and outputs are not those declared.
    """

    def __init__(
        self,
        model_path: Path,
        signature: HasSignature,
        *,
        threads: int | None = None,
        pad_id: int = 0,
        spin: bool = True,
        level: OptimizationLevel = DEFAULT_LEVEL,
        exact: bool = True,
    ) -> None:
        self._adapter = FeedAdapter(signature, pad_id=pad_id)
        self.inputs = signature.inputs
        self.outputs = signature.outputs
        self._path = model_path
        options = session_options(exact=exact, level=level, threads=threads, spin=spin)
        self._session = _load(model_path, options)
        self._check_declared()

    @property
    def static_length(self) -> int | None:
        """Tokens of the static sequence; None when the length is free."""
        return self._adapter.static_length

    def run(self, feeds: Feeds) -> Outputs:
        """All outputs, `[batch, ...]`; per-token ones `[batch, sequence, ...]` of the feeds' own length.

        Raises:
            DataError: an input is missing or unknown, has another rank or size, holds values that its
                declared dtype cannot, or is longer than a static sequence.
            ModelError: ONNX Runtime fails on it.
        """
        return self._adapter.join([self._run_once(piece) for piece in self._adapter.pieces(feeds)], feeds)

    def _check_declared(self) -> None:
        for what, declared, actual in (
            ("inputs", self.inputs, self._session.get_inputs()),
            ("outputs", self.outputs, self._session.get_outputs()),
        ):
            expected = {spec.name: f"tensor({_onnx_name(spec.dtype)})" for spec in declared}
            got = {item.name: item.type for item in actual}
            if expected != got:
                raise ModelError(f"the {what} of `{self._path}` are {got}; its manifest declares {expected}")

    def _run_once(self, feeds: dict[str, Array]) -> Outputs:
        names = [spec.name for spec in self.outputs]
        try:
            values = self._session.run(names, feeds)
        except Exception as error:  # onnxruntime's exceptions share no base class
            shapes = {name: list(array.shape) for name, array in feeds.items()}
            raise ModelError(f"`{self._path}` failed on inputs {shapes}: {error}") from error
        return dict(zip(names, values, strict=True))


def _load(model_path: Path, options: SessionOptions) -> InferenceSession:
    import onnxruntime

    if not model_path.is_file():
        raise ModelError(f"there is no model at `{model_path}`")
    try:
        return onnxruntime.InferenceSession(str(model_path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise ModelError(f"ONNX Runtime cannot load `{model_path}`: {error}") from error


def _onnx_name(dtype: str) -> str:
    return {"float32": "float", "float64": "double"}.get(dtype, dtype)
