"""What `light_install.py` tries in a clean environment, told from the imports: it is not run with every change."""

from __future__ import annotations

import pytest
from tests.layout.light_install import EXTRAS, LIGHT
from tests.support.imports import comes_with, modules


@pytest.mark.parametrize("module", sorted(LIGHT))
def test_commands_start_without_any_extra(module: str) -> None:
    """Where one needs an extra, it says so itself, after what it can refuse without."""
    assert module in modules()
    assert comes_with(module) & EXTRAS == set()


def test_the_check_can_fail() -> None:
    assert comes_with("edgeq.pipeline.ways") & EXTRAS
