"""Run a model over calibration batches and keep statistics of intermediate tensors, in bounded memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeq.errors import DataError, ModelError
from edgeq.graph.component import Padding
from edgeq.processors.text_padding import TEXT_PADDING
from edgeq.quantize.batches import Batches, FeedBatches, batches_of
from edgeq.quantize.cache import CalibrationCache, cache_key, feeds_digest, model_digest
from edgeq.quantize.instrument import run, session_of
from edgeq.quantize.observers.layout import (
    Layout,
    Mask,
    layout_for,
    mask_of,
    rows_of,
)
from edgeq.quantize.observers.tensor import TensorStatistics, tensor_statistics
from edgeq.quantize.statistics import Statistics
from edgeq.types import Array, Feeds

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["batches_of", "calibrate", "observe"]


def observe(
    model: ir.Model | Path | str,
    tensors: Sequence[str],
    batches: Iterable[tuple[Feeds, int]],
    *,
    gram: bool | Collection[str] = False,
    layouts: Mapping[str, Layout] | None = None,
    padding: Padding | None = TEXT_PADDING,
    threads: int | None = None,
    on_progress: Callable[[int], None] | None = None,
    resume_from: Statistics | None = None,
    on_batch: Callable[[Statistics], None] | None = None,
) -> Statistics:
    """Statistics of named tensors of a model over batches of inputs.

    Runs on onnxruntime's CPU provider, one batch at a time: memory does not depend on the number of batches.
    Padded positions enter no statistic.

    Args:
        model: the graph, which is not changed, or its file.
        tensors: names of floating-point tensors in it; two or three axes, or listed in `layouts`.
        batches: feeds and the number of samples in them, as `batches_of` gives them.
        gram: also collect `X^T X`, for all tensors or for those named (`channels ** 2` float64 each).
        layouts: axes of tensors that are neither `[batch, sequence, channels]`, `[batch * sequence,
        channels]` nor
            `[batch, channels]`.
        padding: says which positions are real; ignored where feeds lack its mask.
        threads: of onnxruntime; None leaves the choice to it.
        on_progress: called with the number of samples done after every batch.
        resume_from: statistics of the batches that came before these.
        on_batch: called after every batch with all statistics so far.

    Raises:
        ModelError: a tensor is not in the graph, or the graph does not run.
        DataError: there is no batch, or a value is NaN or infinite (names tensor and sample).
    """
    request = _Request(tuple(tensors), _wanted_grams(tensors, gram), layouts or {}, padding)
    found = resume_from or Statistics({})
    with session_of(model, tensors, threads) as session:
        for feeds, count in batches:
            found = found.merge(
                _observe_batch(session, request, feeds, count, _namer(batches, found.samples))
            )
            if on_batch:
                on_batch(found)
            if on_progress:
                on_progress(found.samples)
    if found.batches == 0:
        raise DataError("calibration got no batch, expected at least one", hint="check the calibration data")
    return found


def calibrate(
    model: ir.Model | Path | str,
    tensors: Sequence[str],
    batches: Batches | FeedBatches,
    *,
    cache: CalibrationCache | None = None,
    checkpoint_seconds: float = 30.0,
    gram: bool | Collection[str] = False,
    layouts: Mapping[str, Layout] | None = None,
    padding: Padding | None = TEXT_PADDING,
    threads: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Statistics:
    """`observe`, remembered: a run that was done is read from the cache, an interrupted one is continued.

    A continued run gives the same bytes as one without interruption.

    Args:
        model: as for `observe`, like all arguments that are not listed here.
        tensors: names.
        batches: of samples or feeds; they are iterated twice.
        cache: None computes everything and keeps nothing.
        checkpoint_seconds: time between two checkpoints.
        gram: as for `observe`.
        layouts: as for `observe`.
        padding: as for `observe`.
        threads: as for `observe`.
        on_progress: as for `observe`.

    Raises:
        ModelError: as `observe`.
        DataError: as `observe`.
    """
    import onnx_ir as ir

    graph = model if isinstance(model, ir.Model) else ir.load(model)
    run_over = partial(
        observe,
        graph,
        tensors,
        gram=gram,
        layouts=layouts,
        padding=padding,
        threads=threads,
        on_progress=on_progress,
    )
    if cache is None:
        return run_over(batches)
    settings = _settings(tensors, gram, layouts, padding)
    key = cache_key(model_digest(graph), feeds_digest(batches), settings)
    finished = cache.load(key)
    if finished is not None:
        return finished
    finished = cache.load_checkpoint(key)
    done = finished.batches if finished else 0
    if finished is None or done < len(batches):
        keep = _checkpointer(cache, key, checkpoint_seconds)
        finished = run_over(batches.after(done), resume_from=finished, on_batch=keep)
    cache.store(key, finished)
    return finished


def _settings(
    tensors: Sequence[str],
    gram: bool | Collection[str],
    layouts: Mapping[str, Layout] | None,
    padding: Padding | None,
) -> dict[str, object]:
    import onnxruntime as ort

    return {
        "tensors": list(tensors),
        "gram": sorted(_wanted_grams(tensors, gram)),
        "layouts": {name: layout.value for name, layout in (layouts or {}).items()},
        "mask": None if padding is None else padding.mask_input,
        "onnxruntime": ort.__version__,
        "integer_sums": "exact",  # caches of before hold what saturating kernels made
    }


def _checkpointer(cache: CalibrationCache, key: str, seconds: float) -> Callable[[Statistics], None]:
    last = time.monotonic()

    def keep(statistics: Statistics) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            cache.store_checkpoint(key, statistics)
            last = time.monotonic()

    return keep


def _wanted_grams(tensors: Sequence[str], gram: bool | Collection[str]) -> frozenset[str]:
    if isinstance(gram, bool):
        return frozenset(tensors if gram else ())
    unknown = sorted(set(gram) - set(tensors))
    if unknown:
        raise ModelError(f"Gram matrix asked for `{unknown[0]}`, which is not observed")
    return frozenset(gram)


@dataclass(frozen=True, slots=True)
class _Request:
    """What is observed, the same for every batch."""

    tensors: tuple[str, ...]
    grams: frozenset[str]
    layouts: Mapping[str, Layout]
    padding: Padding | None


def _observe_batch(
    session: Any, request: _Request, feeds: Feeds, count: int, sample_name: Callable[[int], str]
) -> Statistics:
    """Statistics of one batch. A function of its own, so that no batch's tensors outlive it."""
    outputs = run(session, request.tensors, feeds)
    mask = mask_of(feeds, request.padding)
    seen = {
        name: _statistics(name, array, mask, request, sample_name)
        for name, array in zip(request.tensors, outputs, strict=True)
    }
    return Statistics(seen, count, count if mask is None else int(mask.sum()), 1)


def _statistics(
    name: str, array: Array, mask: Mask | None, request: _Request, sample_name: Callable[[int], str]
) -> TensorStatistics:
    """Statistics of one tensor of one batch."""
    try:
        layout = request.layouts.get(name) or layout_for(array, mask)
        rows = rows_of(array, layout, mask)
    except ValueError as error:
        raise ModelError(f"tensor `{name}`: {error}") from error
    try:
        return tensor_statistics(rows, gram=name in request.grams)
    except ValueError as error:
        where = _first_bad(array, layout, mask)
        if where is None:
            raise ModelError(f"tensor `{name}`: {error}") from error
        raise DataError(
            f"tensor `{name}` is NaN or infinite for {sample_name(where)}, expected finite values",
            hint="check the model's weights and run this sample through the original model",
        ) from error


def _first_bad(array: Array, layout: Layout, mask: Mask | None) -> int | None:
    """Index in the batch of the first sample with a value that is not finite, padding aside."""
    if not np.issubdtype(array.dtype, np.floating):
        return None
    if layout is Layout.FLAT_TOKENS:
        batch = len(mask) if mask is not None else len(array)
        array = array.reshape(batch, -1, array.shape[-1])
        layout = Layout.TOKENS
    for index in range(len(array)):
        own = None if mask is None else mask[index : index + 1]
        if not np.isfinite(rows_of(array[index : index + 1], layout, own)).all():
            return index
    return None


def _namer(batches: object, done: int) -> Callable[[int], str]:
    """How an error names the sample at an index of the running batch."""

    def name(index: int) -> str:
        number = f"sample {done + index + 1}"
        if not isinstance(batches, Batches):
            return number
        text = str(batches.sample(done + index).to_json())
        return f"{number} ({text[:60]!r}{'...' if len(text) > 60 else ''})"

    return name
