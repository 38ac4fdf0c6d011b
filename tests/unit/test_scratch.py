"""Temporary folders go with their block, and those of killed processes at the next start."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgeq.scratch import ScratchFolder, host, remove_abandoned, scratch_beside, scratch_folder

_CHILD = """
import sys, time
from pathlib import Path
from edgeq.scratch import scratch_beside, scratch_folder
with scratch_beside(Path(sys.argv[1])), scratch_folder("fp32") as folder:
    (folder / "model.onnx").write_bytes(b"x" * 1000)
    print("ready", flush=True)
    time.sleep(60)
"""


def test_beside_the_output_and_gone_at_the_end(tmp_path: Path) -> None:
    with scratch_beside(tmp_path / "new" / "out"):
        assert os.listdir(tmp_path) == []
        with scratch_folder("a") as first, scratch_folder("b") as second:
            (first / "x").write_text("x")
            assert first.parent == second.parent
            assert first.parent.parent == tmp_path / "new"
        assert not first.exists()
        kept = ScratchFolder("c")
    assert not kept.path.exists()
    assert os.listdir(tmp_path) == []


def test_elsewhere_in_the_place_for_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with scratch_folder("fp32") as folder:
        assert folder.parent == tmp_path
        assert folder.name.startswith(f"edgeq-fp32.{host()}.{os.getpid()}.")
        assert folder.stat().st_mode & 0o777 == 0o700
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_handed_on_lives_as_long_as_its_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Owner:
        pass

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    owner = Owner()
    with ScratchFolder("weights") as scratch:
        scratch.keep_for(owner)
    path = scratch.path
    del scratch
    gc.collect()
    assert path.is_dir()
    del owner
    gc.collect()
    assert not path.exists()


def test_the_dead_are_cleaned_up_after_and_the_living_are_not(start_child: Any, tmp_path: Path) -> None:
    with start_child(_CHILD, tmp_path / "dead") as killed:
        killed.kill()
        killed.wait(30)
    (left,) = os.listdir(tmp_path)
    with start_child(_CHILD, tmp_path / "living") as living:
        (working,) = os.listdir(tmp_path)
        assert working != left
        with scratch_beside(tmp_path / "third"):
            pass
        assert os.listdir(tmp_path) == [working]
        living.send_signal(signal.SIGKILL)
        living.wait(30)


def test_nothing_is_removed_when_in_doubt(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / "target").mkdir()
    another_machine, living = f"edgeq-x.00000000.{dead.pid}.0", f"edgeq-x.{host()}.{os.getppid()}.0"
    for name in (another_machine, living, "edgeq-x", f"edgeq-x.{host()}.abc.0"):
        (tmp_path / name).mkdir()
    (tmp_path / f"edgeq-link.{host()}.{dead.pid}.0").symlink_to(tmp_path / "target")
    (tmp_path / f"edgeq-dead.{host()}.{dead.pid}.0").mkdir()
    before = set(os.listdir(tmp_path))
    remove_abandoned(tmp_path, "edgeq-")
    assert before - set(os.listdir(tmp_path)) == {f"edgeq-dead.{host()}.{dead.pid}.0"}


def test_a_process_number_that_is_used_again_protects_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container every run has the same number: the lock tells this run's folders from the last one's."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / f"edgeq-x.{host()}.{os.getpid()}.0").mkdir()
    with scratch_folder("mine") as mine:
        remove_abandoned(tmp_path, "edgeq-")
        assert os.listdir(tmp_path) == [mine.name]
