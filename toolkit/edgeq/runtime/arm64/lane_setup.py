"""Setting the lane up by one call: an interrupted set-up continues, a finished one is checked.

packages  apt-get: the ARM64 Python and libraries
emulator  the one on PATH, else from its Debian package
wheels    pip: ONNX Runtime for ARM64, the installed version
unpack    into root/ and site/
selftest  every core the emulator can be, one exact integer product each
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

from edgeq.errors import EdgeqError, UnsupportedError
from edgeq.files import check_free_space
from edgeq.runtime.arm64.clients import Clients, find_clients, last_lines
from edgeq.runtime.arm64.cores import CORES, emulator_model
from edgeq.runtime.arm64.downloads import (
    EMULATOR_PACKAGES,
    Apt,
    download_emulator,
    download_packages,
    download_wheels,
    find_emulator,
    python_version,
    require_intact,
)
from edgeq.runtime.arm64.executor import EmulatedArm64Executor
from edgeq.runtime.arm64.lane import (
    Journal,
    Lane,
    forget_lane,
    lane_folder,
    read_lane,
    setup_lock,
    tree_digest,
    write_lane,
)
from edgeq.runtime.arm64.lane_root import write_core_root
from edgeq.runtime.arm64.selftest import check_executor
from edgeq.runtime.arm64.unpack import unpack_emulator, unpack_root, unpack_wheels
from edgeq.runtime.executors import require_emulation_host

StageFactory: TypeAlias = Callable[[str], AbstractContextManager[Any]]
"""Shows that a named stage is running, like `Progress.stage`."""

_TREE_PARTS = ("root", "site", "emulator", "cores")
_NEEDED_BYTES = 500 * 2**20


def set_up_lane(
    cache: Path | None = None, *, apt_sources: Path | None = None, stage: StageFactory | None = None
) -> Lane:
    """The lane, set up if it is not; nothing is written outside the cache folder.

    A finished lane is compared with its recorded digest and set up anew where a file differs.

    Args:
        cache: edgeq's cache folder.
        apt_sources: a sources.list to use instead of the system's.
        stage: shows progress.

    Raises:
        UnsupportedError: not x86-64 Linux, or no ARM64 packages.
        EdgeqError: a package client is missing or failed, or another set-up is running.
    """
    require_emulation_host()
    stage = stage or (lambda _: nullcontext())
    folder = lane_folder(cache)
    with setup_lock(folder):
        if lane := _finished_lane(folder, stage):
            return lane
        check_free_space(folder, _NEEDED_BYTES)
        return _SetUp(folder, find_clients(), apt_sources, stage).run()


def _finished_lane(folder: Path, stage: StageFactory) -> Lane | None:
    lane = read_lane(folder)
    if lane is None:
        return None
    with stage("checking the ARM64 lane"):
        intact = lane.emulator.is_file() and tree_digest(folder, _TREE_PARTS) == lane.tree_sha256
    if intact:
        return lane
    with stage("the ARM64 lane is damaged: setting it up again"):
        forget_lane(folder)
    return None


@dataclass(frozen=True, slots=True)
class _SetUp:
    """The steps; each returns what it recorded, from the journal when it was done before."""

    folder: Path
    clients: Clients
    apt_sources: Path | None
    stage: StageFactory

    def run(self) -> Lane:
        journal = Journal(self.folder)
        apt = Apt(self.clients, self.folder / "apt", self.apt_sources)
        packages = self._packages(journal, apt)
        emulator = self._emulator(journal, apt)
        wheels = self._wheels(journal, python_version(packages))
        self._unpack(journal, apt, packages, wheels)
        lane = self._self_test(emulator, packages, wheels)
        write_lane(lane)
        self._clear_downloads()
        return lane

    def _packages(self, journal: Journal, apt: Apt) -> dict[str, str]:
        done = journal.get("packages")
        if done and _is_intact(apt.archives, done["files"]):
            return dict(done["files"])
        journal.drop("packages")
        with self.stage("ARM64 packages"):
            files = download_packages(apt)
        journal.record("packages", {"files": files})
        return files

    def _emulator(self, journal: Journal, apt: Apt) -> dict[str, Any]:
        done = journal.get("emulator")
        if done and (self.folder / done["path"]).is_file():
            return done
        journal.drop("emulator")
        with self.stage("ARM64 emulator"):
            path, files = self._fetch_emulator(apt)
            emulator_version, models = _probe_emulator(path)
        relative = path.relative_to(self.folder) if path.is_relative_to(self.folder) else path
        record = {"path": str(relative), "version": emulator_version, "models": models, "files": files}
        journal.record("emulator", record)
        return record

    def _fetch_emulator(self, apt: Apt) -> tuple[Path, dict[str, str]]:
        if path := find_emulator():
            return path, {}
        shutil.rmtree(self.folder / "emulator", ignore_errors=True)
        problem: EdgeqError | None = None
        for package in EMULATOR_PACKAGES:
            try:
                files = download_emulator(apt, package)
            except EdgeqError as error:
                problem = problem or error
                continue
            for name in files:
                found = unpack_emulator(self.clients, apt.archives / name, self.folder / "emulator")
                if found:
                    return found, files
        raise UnsupportedError(
            f"no package with the ARM64 emulator among {', '.join(EMULATOR_PACKAGES)}"
            + (f"\n{problem.message}" if problem else ""),
            hint="install QEMU's user-mode emulator, or name other package sources with --apt-sources FILE",
        )

    def _wheels(self, journal: Journal, python: str) -> dict[str, str]:
        downloads = self.folder / "wheels"
        done = journal.get("wheels")
        known = dict(done["files"]) if done else {}
        if done and done["python"] == python and _is_intact(downloads, known):
            return known
        journal.drop("wheels")
        with self.stage("ARM64 wheels"):
            files = download_wheels(
                self.clients, downloads, python=python, onnxruntime=version("onnxruntime"), known=known
            )
        journal.record("wheels", {"python": python, "files": files})
        return files

    def _unpack(self, journal: Journal, apt: Apt, packages: dict[str, str], wheels: dict[str, str]) -> None:
        if journal.get("unpack") is not None:
            return
        with self.stage("unpacking"):
            root = self.folder / "root"
            unpack_root(self.clients, [apt.archives / name for name in packages], root)
            unpack_wheels([self.folder / "wheels" / name for name in wheels], self.folder / "site")
            for core in CORES.values():
                write_core_root(self.folder / "cores" / core.name, root, core)
        journal.record("unpack", {})

    def _self_test(self, emulator: dict[str, Any], packages: dict[str, str], wheels: dict[str, str]) -> Lane:
        lane = self._lane(emulator, {**packages, **emulator["files"], **wheels}, tree_sha256="")
        with self.stage("self-test"):
            for core in CORES.values():
                try:
                    emulator_model(core, frozenset(lane.emulator_models))
                except UnsupportedError:
                    continue
                check_executor(EmulatedArm64Executor(lane, core, compile_bytecode=True))
            digest = tree_digest(self.folder, _TREE_PARTS)
        return self._lane(emulator, dict(lane.downloads), tree_sha256=digest)

    def _lane(self, emulator: dict[str, Any], downloads: dict[str, str], tree_sha256: str) -> Lane:
        return Lane(
            folder=self.folder,
            onnxruntime=version("onnxruntime"),
            python=python_version(downloads),
            emulator=self.folder / emulator["path"],
            emulator_version=emulator["version"],
            emulator_models=tuple(emulator["models"]),
            downloads=downloads,
            tree_sha256=tree_sha256,
        )

    def _clear_downloads(self) -> None:
        for name in ("apt", "wheels", "tmp"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        Journal(self.folder).drop("packages")


def _is_intact(folder: Path, files: dict[str, str]) -> bool:
    try:
        require_intact(folder, files)
    except EdgeqError:
        return False
    return True


def _probe_emulator(path: Path) -> tuple[str, list[str]]:
    """Version and known cores of the emulator, by asking it."""
    told = _output_of(path, "--version")
    found = re.search(r"version (\S+)", told)
    if not found:
        raise EdgeqError(f"the emulator `{path}` does not start\n{last_lines(told)}")
    known = _output_of(path, "-cpu", "help").split()
    return found[1], [word for word in known if word.startswith(("cortex-", "neoverse-"))]


def _output_of(path: Path, *options: str) -> str:
    # `-cpu help` ends with status 1 after printing its list, so the status says nothing.
    done = subprocess.run([path, *options], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr
