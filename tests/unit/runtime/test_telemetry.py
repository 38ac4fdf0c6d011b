"""ONNX Runtime's own telemetry stays off, unless the user turned it on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(("given", "expected"), [(None, "1"), ("0", "0")])
def test_what_the_user_set_stays(given: str | None, expected: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {} if given is None else {"ORT_DISABLE_TELEMETRY": given}
    program = "import edgeq, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    found = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == expected


def test_a_run_leaves_nothing_in_the_home_folder(tiny_bundle: Path, tmp_path: Path) -> None:
    """With telemetry on, ONNX Runtime 1.29 and later write a device id and a database there."""
    places = {name: tmp_path / name for name in ("HOME", "TMPDIR")}
    for place in places.values():
        place.mkdir()
    # These would turn it off, too.
    without = ("CI", "ORT_RUNNING_UNIT_TESTS", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in without}
    subprocess.run(
        [sys.executable, "-m", "edgeq", "run", str(tiny_bundle), "--text", "the cat"],
        env=environment | {name: str(place) for name, place in places.items()},
        capture_output=True,
        check=True,
    )
    assert [path for place in places.values() for path in place.rglob("*")] == []
