"""The helpers of tests/support, which are no package: models to measure and ways to damage bundles."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

SUPPORT = Path(__file__).parents[1] / "tests" / "support"


@cache
def support(name: str) -> ModuleType:
    """`tests/support/<name>.py`, run once."""
    spec = importlib.util.spec_from_file_location(f"edgeq_tests_{name}", SUPPORT / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
