"""What `edgeq doctor` finds out about this machine: metadata, and one integer product that it tries."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.caches import cache_folder
from edgeq.onnx_runtime import kernels_saturate
from edgeq.runtime.adb import attached_devices
from edgeq.runtime.arm64.lane import SETUP_COMMAND, describe_progress, lane_folder, read_lane
from edgeq.runtime.host import cpu_features, cpu_name, host_architecture

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_DISTRIBUTION = "edgeq"
# For those who work on edgeq itself.
_HIDDEN_EXTRAS = frozenset({"dev", "all"})
_CORE = ""


@dataclass(frozen=True, slots=True)
class Package:
    """A dependency: `version` is None when it is not installed, `extra` is "" for the light installation."""

    name: str
    version: str | None
    required: str
    extra: str
    satisfied: bool


@dataclass(frozen=True, slots=True)
class LaneState:
    """The ARM64 lane: `native`, `ready`, `not set up`, `not completely set up ...` or `unsupported`."""

    state: str
    folder: str
    details: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Everything the doctor reports.

    Attributes:
        versions: of edgeq and python.
        platform: operating system and architecture.
        cpu: its name.
        cpu_features: None where the system does not tell.
        kernels_saturate: this CPU's own kernels add uint8 x int8 products in 16 bits.
        packages: what edgeq can use.
        extras: installed completely or not, by name.
        cache: edgeq's cache folder.
        cache_bytes: what it holds.
        free_bytes: on the disk of the cache folder.
        arm64: the ARM64 lane.
        adb: devices by serial; None without adb.
    """

    versions: dict[str, str]
    platform: str
    cpu: str
    cpu_features: dict[str, bool | None]
    kernels_saturate: bool
    packages: tuple[Package, ...]
    extras: dict[str, bool]
    cache: str
    cache_bytes: int
    free_bytes: int
    arm64: LaneState
    adb: dict[str, str] | None


def diagnose(cache: Path | None = None) -> Diagnosis:
    """Look at this machine."""
    folder = cache_folder(cache)
    packages = tuple(_packages())
    return Diagnosis(
        versions={"edgeq": metadata.version(_DISTRIBUTION), "python": platform.python_version()},
        platform=f"{platform.system()} {platform.release()} {host_architecture()}",
        cpu=cpu_name(),
        cpu_features=cpu_features(),
        kernels_saturate=kernels_saturate(),
        packages=packages,
        extras=_extras(packages),
        cache=str(folder),
        cache_bytes=_size_bytes(folder),
        free_bytes=shutil.disk_usage(_nearest_existing(folder)).free,
        arm64=_lane_state(cache),
        adb=attached_devices(),
    )


def _lane_state(cache: Path | None) -> LaneState:
    if host_architecture() == "arm64":
        return LaneState("native", "", "this machine runs the ARM64 kernels itself")
    if sys.platform != "linux" or host_architecture() != "x86-64":
        return LaneState("unsupported", "", "emulation needs Linux on x86-64")
    folder = lane_folder(cache)
    lane = read_lane(folder)
    if lane is None:
        return LaneState(describe_progress(folder), str(folder), SETUP_COMMAND)
    details = f"onnxruntime {lane.onnxruntime}, Python {lane.python}, QEMU {lane.emulator_version}"
    return LaneState("ready", str(folder), details)


def _packages() -> Iterator[Package]:
    """Every package of the light installation and of each extra, once per extra that names it."""
    # Comes with onnxruntime, which needs it.
    from packaging.requirements import Requirement

    requirements = [Requirement(text) for text in metadata.requires(_DISTRIBUTION) or []]
    extras = metadata.metadata(_DISTRIBUTION).get_all("Provides-Extra") or []
    for requirement in requirements:
        extra = _extra_of(requirement, extras)
        if requirement.name != _DISTRIBUTION and extra not in _HIDDEN_EXTRAS:
            yield _package(requirement, extra)


def _extra_of(requirement: Requirement, extras: list[str]) -> str:
    marker = requirement.marker
    if marker is None or marker.evaluate({"extra": _CORE}):
        return _CORE
    return next((extra for extra in extras if marker.evaluate({"extra": extra})), _CORE)


def _package(requirement: Requirement, extra: str) -> Package:
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        version = None
    satisfied = version is not None and requirement.specifier.contains(version, prereleases=True)
    return Package(requirement.name, version, str(requirement.specifier), extra, satisfied)


def _extras(packages: tuple[Package, ...]) -> dict[str, bool]:
    names = dict.fromkeys(package.extra for package in packages if package.extra != _CORE)
    return {name: all(package.satisfied for package in packages if package.extra == name) for name in names}


def _size_bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def _nearest_existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())
