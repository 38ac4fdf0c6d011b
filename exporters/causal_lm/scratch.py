"""Temporary folders that live as long as what refers to the files in them."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path
from types import TracebackType
from typing import Self


class ScratchFolder:
    """A temporary folder that goes when its block is left, or with the object it was handed to.

    Args:
        prefix: of its name.
    """

    def __init__(self, prefix: str) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=prefix))
        self._is_kept = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._is_kept:
            shutil.rmtree(self.path, ignore_errors=True)

    def keep_for(self, owner: object) -> None:
        """Stay after the block, until nobody has `owner` any more (or Python ends)."""
        weakref.finalize(owner, shutil.rmtree, self.path, ignore_errors=True)
        self._is_kept = True
