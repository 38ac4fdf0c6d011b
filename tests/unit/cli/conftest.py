"""What tables say is tested apart from where they wrap, which test_tables.py does."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for every table on one line per row."""
    monkeypatch.setenv("COLUMNS", "400")
