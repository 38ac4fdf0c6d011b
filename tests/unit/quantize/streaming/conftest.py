"""Checkpoints in safetensors, written byte by byte."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

WIDTHS = {"BF16": 2, "F16": 2, "F32": 4, "I64": 8}


def to_bf16(values):
    """The upper half of float32: exact for the values the tests use."""
    return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype("<u2")


def from_bf16(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def encoded(values, dtype):
    if dtype == "BF16":
        return to_bf16(values).tobytes()
    return np.asarray(values, {"F16": "<f2", "F32": "<f4", "I64": "<i8"}[dtype]).tobytes()


@pytest.fixture
def write_checkpoint() -> Callable[..., Path]:
    """`write_checkpoint(path, {"w": (array, "BF16")})`."""

    def write(path: Path, tensors, *, header=None, cut=0) -> Path:
        entries, data = {"__metadata__": {"format": "pt"}}, b""
        for name, (values, dtype) in tensors.items():
            blob = encoded(values, dtype)
            shape = list(np.shape(values))
            entries[name] = {
                "dtype": dtype,
                "shape": shape,
                "data_offsets": [len(data), len(data) + len(blob)],
            }
            data += blob
        text = header if header is not None else json.dumps(entries).encode()
        whole = len(text).to_bytes(8, "little") + text + data
        path.write_bytes(whole[: len(whole) - cut])
        return path

    return write
