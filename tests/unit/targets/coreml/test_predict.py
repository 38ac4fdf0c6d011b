"""Core ML's own runtime: refused with a way out where there is none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgeq.errors import UnsupportedError
from edgeq.targets.coreml.predict import CoreMLRunner


@pytest.mark.skipif(sys.platform == "darwin", reason="runs there")
def test_core_ml_needs_a_mac() -> None:
    with pytest.raises(UnsupportedError, match="macOS only") as caught:
        CoreMLRunner(Path("Model.mlpackage"))
    assert caught.value.hint is not None
