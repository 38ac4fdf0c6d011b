"""Many texts through a bundle into a file, a batch in memory at a time."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

import numpy as np

from edgeq.bundle.codec import finite
from edgeq.calibration.lines import read_lines
from edgeq.errors import DataError, OutputError, UsageError
from edgeq.files import check_output_file
from edgeq.progress import Progress, SilentProgress
from edgeq.samples import Sample, Text, TextPair
from edgeq.tasks.tokens import Tokens
from edgeq.types import Outputs, Role

if TYPE_CHECKING:
    from edgeq.runtime.runtime import Runtime

BATCH = 32
JSONL, NPY = ".jsonl", ".npy"
_PER_TOKEN = (Role.START_LOGITS, Role.END_LOGITS)


@dataclass(frozen=True, slots=True)
class BatchSummary:
    """What became of the texts.

    Attributes:
        texts: how many there were, each with a row of the output in the same order.
        cut: how many are longer than the model takes.
        not_finite: values that are NaN or infinite.
    """

    output: Path
    texts: int
    cut: int
    not_finite: int


def check_batch_output(output: Path) -> None:
    """Find out before the work that the file cannot be written.

    Raises:
        UsageError: it is named neither `.npy` nor `.jsonl`.
        OutputError: it exists, or its folder is not there or cannot be written.
    """
    if output.suffix not in (NPY, JSONL):
        raise UsageError(f"--output is `{output}`, expected a name that ends in {NPY} or {JSONL}")
    if output.exists():
        raise OutputError(f"`{output}` exists", hint="choose another --output, or remove it first")
    check_output_file(output, "--output")


def run_texts(
    runtime: Runtime,
    source: Path,
    output: Path,
    progress: Progress | None = None,
    *,
    role: str | None = None,
) -> BatchSummary:
    """Write one row per line of `source`: text, or with `.jsonl` a JSON string, `{"text": ...}` or also `"pair"`.

    Args:
        runtime: an opened bundle that takes texts.
        source: UTF-8; empty lines are texts too, so that row and line numbers agree.
        output: `.npy`, `[texts, values]` of one output; `.jsonl`, per line the text and its answer, or all outputs.
        progress: told how many are done.
        role: whose prompt is put before texts, as in `Runtime.prepare`.

    Raises:
        DataError: a line is not what it should be, or there is none; nothing is written then.
        UsageError: per-token outputs for `.npy`, whose rows have one length.
        OutputError: see `check_batch_output`.
    """
    check_batch_output(output)
    if runtime.preprocessor is None:
        raise DataError("the bundle has no tokenizer; texts need one", hint="edgeq run BUNDLE --npz FILE")
    preprocessor = runtime.preprocessor if role is None else runtime.preprocessor.with_role(role)
    limit = preprocessor.max_length
    total = sum(1 for _ in read_samples(source))
    counts = {"cut": 0, "not_finite": 0}
    with (
        (progress or SilentProgress()).stage(f"running {source.name}", total) as stage,
        _whole_or_not(output) as temporary,
        _writer(runtime, temporary, output.suffix, total) as writer,
    ):
        for batch in _batches(read_samples(source)):
            feeds = runtime.prepare(batch, role=role)
            outputs = runtime.run(feeds=feeds)
            lengths = Tokens.of_feeds(feeds).lengths.tolist()
            full = [sample for sample, length in zip(batch, lengths, strict=True) if length == limit]
            counts["cut"] += sum(map(preprocessor.is_longer, full))
            counts["not_finite"] += sum(int((~np.isfinite(array)).sum()) for array in outputs.values())
            answers = runtime.interpret(outputs, feeds)
            rows = zip(batch, lengths, answers or [{} for _ in batch], strict=True)
            writer.add(outputs, [Row(*row) for row in rows])
            stage.advance(len(batch))
    return BatchSummary(output, total, **counts)


def read_samples(source: Path) -> Iterator[Sample]:
    """The lines of a file as texts or pairs, one in memory at a time.

    Raises:
        DataError: see `read_lines`; or a line is not the JSON that is expected.
    """
    # However long a line is, the model sees its beginning.
    for number, line in read_lines(source, limited=False):
        try:
            yield _sample(line.rstrip("\r\n"), is_json=source.suffix == JSONL)
        except json.JSONDecodeError as error:
            raise DataError(f"line {number} of `{source}` is not JSON: {error}") from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"line {number} of `{source}`: {error}") from error


def _sample(line: str, *, is_json: bool) -> Sample:
    if not is_json:
        return Text(line)
    item = json.loads(line)
    if isinstance(item, str):
        return Text(item)
    if isinstance(item, dict) and isinstance(item.get("text"), str):
        pair = item.get("pair")
        if pair is None:
            return Text(item["text"])
        if isinstance(pair, str):
            return TextPair(item["text"], pair)
    raise ValueError(f'{line[:60]!r} is not a JSON string, {{"text": ...}} or {{"text": ..., "pair": ...}}')


def _batches(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    iterator = iter(samples)
    while batch := list(islice(iterator, BATCH)):
        yield batch


@contextmanager
def _whole_or_not(output: Path) -> Iterator[Path]:
    """A hidden neighbour that is renamed at the end, and removed where something goes wrong."""
    descriptor, name = tempfile.mkstemp(
        dir=output.absolute().parent, prefix=f".{output.name}.", suffix=".tmp"
    )
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(output)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@dataclass(frozen=True, slots=True)
class Row:
    """One text of a batch, its tokens as the model saw them, and its answer; empty where the bundle has no steps."""

    sample: Sample
    tokens: int
    answer: Mapping[str, Any]


class _Writer(Protocol):
    def add(self, outputs: Outputs, rows: Sequence[Row]) -> None:
        """Write a batch."""


@contextmanager
def _writer(runtime: Runtime, path: Path, suffix: str, total: int) -> Iterator[_Writer]:
    if suffix == NPY:
        yield _ArrayWriter(vector_output(runtime), path, total)
        return
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        yield _LineWriter(stream)


class _ArrayWriter:
    """Rows of one output; the file is mapped, so that memory does not grow with the number of texts."""

    def __init__(self, name: str, path: Path, total: int) -> None:
        self._name, self._path, self._total, self._done = name, path, total, 0
        self._array: Any = None

    def add(self, outputs: Outputs, rows: Sequence[Row]) -> None:
        """Write a batch."""
        found = outputs[self._name]
        if self._array is None:
            shape = (self._total, *found.shape[1:])
            self._array = np.lib.format.open_memmap(self._path, mode="w+", dtype=found.dtype, shape=shape)
        self._array[self._done : self._done + len(rows)] = found
        self._done += len(rows)
        self._array.flush()


def vector_output(runtime: Runtime) -> str:
    """The sentence embedding, else the first output that has one row of fixed length per text.

    Raises:
        UsageError: all have a row per token.
    """
    per_text = [spec for spec in runtime.outputs if len(spec.shape) == 2 and spec.role not in _PER_TOKEN]
    for spec in (*(item for item in per_text if item.role is Role.SENTENCE_EMBEDDING), *per_text):
        return spec.name
    names = ", ".join(spec.name for spec in runtime.outputs)
    raise UsageError(
        f"the bundle's outputs ({names}) have a row per token, which a {NPY} of rows per text cannot hold",
        hint=f"--output NAME{JSONL}",
    )


class _LineWriter:
    """A JSON object per text: its answer where the bundle says how to read one, else its outputs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def add(self, outputs: Outputs, rows: Sequence[Row]) -> None:
        """Write a batch."""
        for index, row in enumerate(rows):
            texts = dict(zip(("text", "pair"), row.sample.texts, strict=False))
            found = row.answer or self._values(outputs, index, row)
            document = finite({**texts, **found})
            self._stream.write(json.dumps(document, ensure_ascii=False, allow_nan=False) + "\n")

    def _values(self, outputs: Outputs, index: int, row: Row) -> dict[str, Any]:
        """One text's outputs; per-token ones without those of the padding."""
        return {
            name: (array[index, : row.tokens] if array.ndim == 3 else array[index]).tolist()
            for name, array in outputs.items()
        }
