"""Weights that torch pickled (`pytorch_model.bin`): read as data, no code run."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from edgeq.errors import ModelError


def read_pickled(path: Path) -> dict[str, Any]:
    """What a file holds by name, tensors mapped where its format allows it.

    Raises:
        ModelError: the file is damaged, would run code, or holds something else than a table.
    """
    import torch

    try:
        # Files of before torch 1.6 are no zip archives and cannot be mapped.
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # pickle fails in many ways, all of them a bad file
        raise ModelError(f"`{path}` cannot be loaded as plain weights: {error}") from error
    if not isinstance(found, dict):
        raise ModelError(f"`{path}` holds a {type(found).__name__}, expected tensors by name")
    return found
