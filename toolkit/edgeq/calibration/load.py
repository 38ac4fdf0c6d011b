"""From what a user names to calibration data."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path

from edgeq.calibration import tables
from edgeq.calibration.columns import Table, samples_of, select
from edgeq.calibration.data import FEW_SAMPLES, MIN_SAMPLES, CalibrationData, digest_of
from edgeq.calibration.hub import PREFIX, hub_table
from edgeq.calibration.lines import read_texts
from edgeq.calibration.sampling import Draw
from edgeq.calibration.tensors import load_feeds
from edgeq.errors import DataError
from edgeq.samples import Sample, Text

BUILT_IN = "built-in"
"""Name of the set that is used when the user gives none."""

_TABLES: dict[str, Callable[[Path], Table]] = {
    ".csv": tables.delimited,
    ".tsv": tables.delimited,
    ".jsonl": tables.json_lines,
    ".parquet": tables.parquet,
}
_SUFFIXES = (".txt", *_TABLES, ".npz")


def load_samples(
    spec: str | None, *, column: str | None = None, count: int = 256, seed: int = 0
) -> CalibrationData:
    """Draw distinct samples from a file, a folder, a dataset or the built-in set.

    Files are streamed: memory does not depend on their size (.npz excepted). The draw depends on the samples
    and the seed alone, not on their order.

    Args:
        spec: a .txt (one sample a line), .jsonl, .csv, .tsv, .parquet or .npz file, a folder of them,
            `hf:NAME[@CONFIG][:SPLIT]`, or None for the built-in set.
        column: of a table, `NAME`, or `A,B` for pairs of texts; None chooses text-like columns.
        count: most samples to draw.
        seed: of the draw.

    Raises:
        DataError: the data cannot be used, with the file and line, or has fewer than `MIN_SAMPLES` distinct
        samples. MissingExtraError: .parquet or hf: without the `data` extra.
    """
    if count < MIN_SAMPLES:
        raise DataError(f"{count} calibration samples asked for, expected at least {MIN_SAMPLES}")
    data = _load(spec, column, count, seed)
    if len(data) < MIN_SAMPLES:
        skipped = f" ({data.blank:,} blank lines or cells skipped)" if data.blank else ""
        raise DataError(
            f"`{data.source}` has {len(data)} distinct samples{skipped}, expected at least {MIN_SAMPLES}",
            hint="add texts like those the app will see, or leave --calib out to use the built-in set",
        )
    return replace(data, notices=(*data.notices, *_notices(data)))


@dataclass(slots=True)
class _Reading:
    """A draw in progress and what was noticed on the way."""

    draw: Draw
    column: str | None
    blank: int = 0
    columns: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def take(self, samples: Iterator[Sample | None]) -> None:
        for sample in samples:
            if sample is None:
                self.blank += 1
            else:
                self.draw.add(sample)

    def take_table(self, table: Table) -> None:
        selection = select(table, self.column)
        if selection.chosen and len(table.columns) > 1:
            names = ", ".join(f"`{name}`" for name in selection.columns)
            self.notices.append(f"{table.name}: texts of {names} (of {', '.join(table.columns)})")
        self.columns += [name for name in selection.columns if name not in self.columns]
        self.take(samples_of(table, selection))

    def finish(self, source: str) -> CalibrationData:
        samples = self.draw.samples
        return CalibrationData(
            samples=samples,
            source=source,
            sha256=digest_of([sample.content() for sample in samples]),
            total=self.draw.total,
            duplicates=self.draw.duplicates,
            blank=self.blank,
            columns=tuple(self.columns),
            notices=tuple(self.notices),
        )


def _load(spec: str | None, column: str | None, count: int, seed: int) -> CalibrationData:
    reading = _Reading(Draw(count, seed), column)
    if spec is None:
        if column is not None:
            raise DataError(f"the built-in set has no column `{column}`", hint="give a file with --calib")
        reading.take(map(Text, _built_in()))
        reading.notices.append(
            "calibrating with the built-in texts; your own, given with --calib, fit better"
        )
        return reading.finish(BUILT_IN)
    if spec.startswith(PREFIX):
        reading.take_table(hub_table(spec))
        return reading.finish(spec)
    path = Path(spec)
    if path.is_dir():
        _take_folder(path, reading)
        return reading.finish(f"{path.name}/")
    if not path.exists():
        raise _missing(path)
    if path.suffix.lower() == ".npz":
        if column is not None:
            raise DataError(f"`{path}` holds tensors, not columns", hint="leave --calib-column out")
        return load_feeds(path, count, seed)
    _take_file(path, reading)
    return reading.finish(path.name)


def _built_in() -> tuple[str, ...]:
    text = resources.files("edgeq.calibration").joinpath("sentences.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if line and not line.startswith("# "))


def _take_file(path: Path, reading: _Reading) -> None:
    suffix = path.suffix.lower()
    if suffix in _TABLES:
        reading.take_table(_TABLES[suffix](path))
    elif suffix != ".txt":
        hint = f"one object a line: jq -c '.[]' {path} > {path.stem}.jsonl" if suffix == ".json" else None
        has = f"suffix `{suffix}`" if suffix else "no suffix"
        raise DataError(f"`{path}` has {has}, expected one of {', '.join(_SUFFIXES)}", hint=hint)
    elif tables.is_tab_separated(path):
        reading.notices.append(f"{path.name}: read as tab-separated columns")
        reading.take_table(tables.delimited(path))
    elif reading.column is not None:
        raise DataError(
            f"`{path}` has no columns, so no column `{reading.column}`", hint="leave --calib-column out"
        )
    else:
        reading.take(Text(text) if text else None for _, text in read_texts(path))


def _take_folder(folder: Path, reading: _Reading) -> None:
    """All supported files below a folder, hidden ones aside."""
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    usable = [path for path in found if path.suffix.lower() in _SUFFIXES]
    if not usable:
        raise DataError(f"`{folder}` has no file of a supported kind; expected {', '.join(_SUFFIXES)}")
    tensors = [path for path in usable if path.suffix.lower() == ".npz"]
    if tensors:
        raise DataError(
            f"`{tensors[0]}` holds tensors, which a folder of texts cannot mix", hint=f"--calib {tensors[0]}"
        )
    if len(usable) < len(found):
        reading.notices.append(f"{len(found) - len(usable)} files of other kinds left out")
    for path in usable:
        _take_file(path, reading)


def _missing(path: Path) -> DataError:
    siblings = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, siblings, n=1)
    hint = f"--calib {path.parent / close[0]}" if close else f"a dataset of the Hub is written {PREFIX}NAME"
    return DataError(f"`{path}` does not exist", hint=hint)


def _notices(data: CalibrationData) -> Iterator[str]:
    if data.duplicates:
        yield f"{data.duplicates:,} duplicates removed"
    if data.blank:
        yield f"{data.blank:,} blank lines or cells skipped"
    if len(data) < FEW_SAMPLES:
        yield f"only {len(data)} samples: ranges may be too narrow, 128 or more are customary"
