"""The lane's cache folder: where it is, what state it is in, its lock and its journal."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edgeq.caches import FOLDER_VARIABLE, cache_folder
from edgeq.errors import EdgeqError
from edgeq.files import atomic_write_text, sha256_file

SETUP_COMMAND = "edgeq doctor --setup arm64"
_COMPLETE = "lane.json"
_JOURNAL = "state.json"


@dataclass(frozen=True, slots=True)
class Lane:
    """A lane that is set up.

    Attributes:
        folder: everything of it but, where the system has one, the emulator.
        onnxruntime: version inside the lane, the same as outside.
        python: version of the emulated Python, such as `3.11`.
        emulator: path of `qemu-aarch64`.
        emulator_version: such as `7.2.22`.
        emulator_models: cores the emulator knows.
        downloads: sha256 of each downloaded file by name.
        tree_sha256: digest of the unpacked files, see `tree_digest`.
    """

    folder: Path
    onnxruntime: str
    python: str
    emulator: Path
    emulator_version: str
    emulator_models: tuple[str, ...]
    downloads: Mapping[str, str]
    tree_sha256: str

    def core_root(self, core: str) -> Path:
        """The root folder that programs emulated on `core` see."""
        return self.folder / "cores" / core

    @property
    def site(self) -> Path:
        """The ARM64 wheels, unpacked."""
        return self.folder / "site"


def lane_folder(cache: Path | None = None) -> Path:
    """The folder of the lane for the installed ONNX Runtime."""
    return cache_folder(cache) / f"arm64-onnxruntime-{version('onnxruntime')}"


def load_lane(cache: Path | None = None) -> Lane:
    """The lane, ready to run; checks that it is complete, not every byte (`set_up_lane` does that).

    Raises:
        EdgeqError: it is not set up, was interrupted, or its emulator is gone.
    """
    folder = lane_folder(cache)
    lane = read_lane(folder)
    if lane is None:
        raise EdgeqError(f"the ARM64 lane is {describe_progress(folder)} in `{folder}`", hint=SETUP_COMMAND)
    if not lane.emulator.is_file():
        raise EdgeqError(f"the ARM64 lane's emulator `{lane.emulator}` is gone", hint=SETUP_COMMAND)
    return lane


def read_lane(folder: Path) -> Lane | None:
    """The lane in `folder` if its set-up was completed."""
    record = _read_json(folder / _COMPLETE)
    if not record:
        return None
    return Lane(
        folder=folder,
        onnxruntime=record["onnxruntime"],
        python=record["python"],
        emulator=folder / record["emulator"],
        emulator_version=record["emulator_version"],
        emulator_models=tuple(record["emulator_models"]),
        downloads=record["downloads"],
        tree_sha256=record["tree_sha256"],
    )


def write_lane(lane: Lane) -> None:
    """Mark the set-up as completed."""
    record = asdict(lane) | {"emulator": str(lane.emulator)}
    del record["folder"]
    if lane.emulator.is_relative_to(lane.folder):
        record["emulator"] = str(lane.emulator.relative_to(lane.folder))
    _write_json(lane.folder / _COMPLETE, record)


def forget_lane(folder: Path) -> None:
    """Take the completion mark and the journal away: the next set-up starts over."""
    (folder / _COMPLETE).unlink(missing_ok=True)
    (folder / _JOURNAL).unlink(missing_ok=True)


def describe_progress(folder: Path) -> str:
    """`ready`, `not set up`, or how far an interrupted set-up came."""
    if read_lane(folder):
        return "ready"
    steps = Journal(folder).steps
    return f"not completely set up (done: {', '.join(steps)})" if steps else "not set up"


class Journal:
    """Which steps of a set-up are done, and what each recorded; survives an interruption."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _JOURNAL
        self._steps: dict[str, dict[str, Any]] = _read_json(self._path) or {}

    @property
    def steps(self) -> tuple[str, ...]:
        """Names of the steps done, in order."""
        return tuple(self._steps)

    def get(self, step: str) -> dict[str, Any] | None:
        """What `step` recorded, None when it is not done."""
        return self._steps.get(step)

    def record(self, step: str, data: Mapping[str, Any]) -> None:
        """`step` is done."""
        self._steps[step] = dict(data)
        _write_json(self._path, self._steps)

    def drop(self, step: str) -> None:
        """`step` has to be done again, and so have those after it."""
        names = list(self._steps)
        if step in names:
            self._steps = {name: self._steps[name] for name in names[: names.index(step)]}
            _write_json(self._path, self._steps)


@contextmanager
def setup_lock(folder: Path) -> Iterator[None]:
    """Hold the folder for one set-up; the lock goes with the process, so a crash leaves none behind.

    Raises:
        EdgeqError: another set-up holds it.
    """
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "setup.lock").open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise EdgeqError(
                f"another set-up of the ARM64 lane is running in `{folder}`",
                hint="wait for it to end, or choose another folder with --cache",
            ) from error
        yield


def tree_digest(folder: Path, parts: tuple[str, ...]) -> str:
    """One sha256 over names and bytes of every file under `parts` of `folder`; links count by target."""
    digest = hashlib.sha256()
    for path in sorted(item for part in parts for item in (folder / part).rglob("*")):
        name = path.relative_to(folder).as_posix().encode()
        if path.is_symlink():
            digest.update(name + b"\0-> " + os.readlink(path).encode() + b"\0")
        elif path.is_file():
            digest.update(name + b"\0" + sha256_file(path).encode() + b"\0")
    return digest.hexdigest()


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        document = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    except OSError as error:
        raise EdgeqError(
            f"`{path}` cannot be read: {error.strerror}", hint=f"set {FOLDER_VARIABLE} to another folder"
        ) from error
    return document if isinstance(document, dict) else None


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    atomic_write_text(path, json.dumps(document, indent=1))
