"""Where edgeq keeps what can be computed or downloaded again."""

from __future__ import annotations

import os
from pathlib import Path

from edgeq.errors import OutputError

FOLDER_VARIABLE = "EDGEQ_CACHE"


def cache_folder(cache: Path | None = None) -> Path:
    """`cache`, else $EDGEQ_CACHE, else $XDG_CACHE_HOME/edgeq, else ~/.cache/edgeq; it need not exist.

    Raises:
        OutputError: none of them is given, and this user has no home folder.
    """
    try:
        if cache is not None:
            return cache.expanduser().resolve()
        if chosen := os.environ.get(FOLDER_VARIABLE):
            return Path(chosen).expanduser().resolve()
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return (Path(base).expanduser() / "edgeq").resolve()
    except RuntimeError as error:
        raise OutputError(
            "there is no cache folder: this user has no home folder",
            hint=f"set {FOLDER_VARIABLE} to a folder",
        ) from error
