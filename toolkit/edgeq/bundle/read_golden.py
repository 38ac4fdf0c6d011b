"""Golden cases of a bundle, read back and checked: a case that lacks what the manifest bounds compares nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeq.arrays import read_arrays
from edgeq.bundle.codec import decode
from edgeq.bundle.documents import read_document
from edgeq.bundle.golden import GOLDEN_INDEX, POSITIONS, GoldenCase
from edgeq.bundle.golden_checks import check_case
from edgeq.bundle.manifest import GoldenEntry
from edgeq.errors import IntegrityError
from edgeq.files import contained_path
from edgeq.samples import KINDS, Sample, as_sample, kinds_in_words
from edgeq.types import Array, Outputs

MAX_INDEX_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class IndexedCase:
    """What the index says of a case: its id, and its samples as JSON has them."""

    id: str
    samples: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class GoldenIndex:
    """The contents of `golden/golden.json` that readers use."""

    cases: tuple[IndexedCase, ...]


def read_golden(folder: Path, entries: Sequence[GoldenEntry]) -> list[GoldenCase]:
    """The golden cases of a bundle folder, in the manifest's order.

    Raises:
        IntegrityError: the index or an array file is malformed, or a case lacks what the manifest bounds in it.
    """
    if not entries:
        return []
    try:
        samples = _read_samples(contained_path(folder, GOLDEN_INDEX))
        cases = [_case(entry.id, samples[entry.id], contained_path(folder, entry.path)) for entry in entries]
    except KeyError as error:
        raise IntegrityError(f"`{GOLDEN_INDEX}` has no case {error}") from error
    except (OSError, ValueError) as error:
        raise IntegrityError(f"the golden cases cannot be read: {error}") from error
    for case, entry in zip(cases, entries, strict=True):
        check_case(case, entry.tolerances)
    return cases


def _read_samples(path: Path) -> dict[str, tuple[Sample, ...]]:
    """By case id."""
    index, _ = decode(GoldenIndex, read_document(path, max_bytes=MAX_INDEX_BYTES))
    return {case.id: tuple(_sample(case.id, item) for item in case.samples) for case in index.cases}


def _sample(case_id: str, item: Any) -> Sample:
    sample = as_sample(item)
    if sample is None:
        raise ValueError(
            f"a sample of the case `{case_id}` is {item!r:.60}, expected {kinds_in_words(KINDS)}"
        )
    return sample


def _case(case_id: str, samples: tuple[Sample, ...], path: Path) -> GoldenCase:
    feeds: dict[str, Array] = {}
    reference: Outputs = {}
    outputs: dict[str, Outputs] = {}
    positions = None
    for key, array in read_arrays(path).items():
        stage, _, name = key.partition("/")
        if stage == "inputs":
            feeds[name] = array
        elif stage == "reference":
            reference[name] = array
        elif key == POSITIONS:
            positions = array
        else:
            variant, _, output = name.partition("/")
            outputs.setdefault(variant, {})[output] = array
    return GoldenCase(case_id, samples, feeds, reference, outputs, positions)
