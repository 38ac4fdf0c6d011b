"""What a calibration run found: statistics by tensor, and their file."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from edgeq.errors import DataError
from edgeq.files import atomic_write_bytes, reproducible_zip_info
from edgeq.quantize.observers.channels import ChannelStatistics
from edgeq.quantize.observers.histogram import BINS, Histogram
from edgeq.quantize.observers.tensor import TensorStatistics
from edgeq.types import Array

STATISTICS_VERSION = 1
"""Raised whenever the same data would give other numbers or another file; part of every cache key."""

_FORMAT = "edgeq-statistics"
_HEADER = "header"


@dataclass(frozen=True, slots=True)
class Statistics(Mapping[str, TensorStatistics]):
    """Statistics by tensor name, in the order the tensors were asked for.

    Attributes:
        tensors: the statistics.
        samples: how many samples were run.
        positions: how many tokens of them were not padding.
        batches: how many batches were run.
    """

    tensors: Mapping[str, TensorStatistics]
    samples: int = 0
    positions: int = 0
    batches: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "tensors", MappingProxyType(dict(self.tensors)))

    def __getitem__(self, name: str) -> TensorStatistics:
        """Statistics of the tensor `name`."""
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        """Tensor names."""
        return iter(self.tensors)

    def __len__(self) -> int:
        """Number of tensors."""
        return len(self.tensors)

    @property
    def nbytes(self) -> int:
        """Size of all arrays."""
        return sum(array.nbytes for found in self.tensors.values() for array in _arrays(found).values())

    def merge(self, other: Statistics) -> Statistics:
        """Statistics of both runs together; a tensor seen by only one of them is kept as it is."""
        merged = dict(self.tensors)
        for name, found in other.tensors.items():
            merged[name] = merged[name].merge(found) if name in merged else found
        return Statistics(
            merged,
            self.samples + other.samples,
            self.positions + other.positions,
            self.batches + other.batches,
        )

    def save(self, path: Path, *, key: str = "") -> None:
        """Write as .npz, whole or not at all; equal statistics give equal bytes.

        Args:
            path: of the file.
            key: stored with the numbers and checked by `load`.
        """
        atomic_write_bytes(path, self.to_bytes(key=key))

    def to_bytes(self, *, key: str = "") -> bytes:
        """The bytes `save` writes."""
        header = {
            "format": _FORMAT,
            "version": STATISTICS_VERSION,
            "key": key,
            "samples": self.samples,
            "positions": self.positions,
            "batches": self.batches,
            "tensors": [_describe(name, found) for name, found in self.tensors.items()],
        }
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            text = json.dumps(header, sort_keys=True).encode()
            _write(archive, _HEADER, np.frombuffer(text, np.uint8))
            for index, found in enumerate(self.tensors.values()):
                for name, array in _arrays(found).items():
                    _write(archive, f"{index}/{name}", array)
        return buffer.getvalue()

    @classmethod
    def load(cls, path: Path, *, key: str | None = None) -> Statistics:
        """Read what `save` wrote.

        Args:
            path: of the file.
            key: what the file must have been saved with; None accepts any.

        Raises:
            DataError: the file is missing, damaged, of another version or saved with another key.
        """
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
                header = json.loads(archive[_HEADER].tobytes())
                _check_header(header, key)
                tensors = {
                    entry["name"]: _restore(entry, archive, index)
                    for index, entry in enumerate(header["tensors"])
                }
            return cls(tensors, header["samples"], header["positions"], header["batches"])
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(
                f"`{path}` is not a readable statistics file ({error})", hint="calibrate again"
            ) from error


def _describe(name: str, found: TensorStatistics) -> dict[str, Any]:
    return {
        "name": name,
        "exponent": found.histogram.exponent,
        "minimum": found.min,
        "maximum": found.max,
        "rows": found.rows,
    }


def _arrays(found: TensorStatistics) -> dict[str, Array]:
    channels = found.channels
    arrays: dict[str, Array] = {
        "counts": found.histogram.counts,
        "channel_minimum": channels.minimum,
        "channel_maximum": channels.maximum,
        "channel_total": channels.total,
        "channel_square_total": channels.square_total,
    }
    return arrays if channels.gram is None else arrays | {"gram": channels.gram}


def _restore(entry: Mapping[str, Any], archive: Mapping[str, Array], index: int) -> TensorStatistics:
    def array(name: str) -> Array:
        return archive[f"{index}/{name}"]

    histogram = Histogram(entry["exponent"], array("counts"), entry["minimum"], entry["maximum"])
    channels = ChannelStatistics(
        entry["rows"],
        array("channel_minimum"),
        array("channel_maximum"),
        array("channel_total"),
        array("channel_square_total"),
        array("gram") if f"{index}/gram" in archive else None,
    )
    if histogram.counts.shape != (BINS,) or histogram.count != channels.rows * channels.channels:
        raise ValueError(f"counts of `{entry['name']}` do not add up")
    return TensorStatistics(histogram, channels)


def _check_header(header: Mapping[str, Any], key: str | None) -> None:
    found = (header["format"], header["version"])
    if found != (_FORMAT, STATISTICS_VERSION):
        raise ValueError(
            f"got {found[0]} version {found[1]}, expected {_FORMAT} version {STATISTICS_VERSION}"
        )
    if key is not None and header["key"] != key:
        raise ValueError(f"made for key {header['key'] or 'none'}, expected {key}")


def _write(archive: zipfile.ZipFile, name: str, array: Array) -> None:
    with archive.open(reproducible_zip_info(f"{name}.npy"), "w") as stream:
        np.lib.format.write_array(stream, np.ascontiguousarray(array), allow_pickle=False)
