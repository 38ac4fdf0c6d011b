"""The root folder an emulated program sees: ARM64 libraries, and an ARM /proc and /sys.

Files under the emulator's root shadow the host's. Without them the emulated ONNX Runtime reads the host's x86
CPU description; 1.32 crashes on it after reading the cache topology.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from edgeq.runtime.arm64.cores import Core

CPU_COUNT = 2
"""Cores the emulated program believes in."""

_LINE_BYTES = 64


def write_core_root(core_root: Path, shared_root: Path, core: Core) -> None:
    """(Re)write `core_root`: the shared libraries by link, `core`'s identity in /proc and /sys."""
    shutil.rmtree(core_root, ignore_errors=True)
    core_root.mkdir(parents=True)
    up = Path(*[".."] * len(core_root.relative_to(shared_root.parent).parts))
    for entry in sorted(shared_root.iterdir()):
        (core_root / entry.name).symlink_to(up / shared_root.name / entry.name)
    for path, text in core_files(core).items():
        target = core_root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(f"{text}\n")


def core_files(core: Core) -> dict[str, str]:
    """Contents of every file of /proc and /sys that describes `core`, by path."""
    system = "sys/devices/system/cpu"
    online = f"0-{CPU_COUNT - 1}"
    files = {
        "proc/cpuinfo": "\n\n".join(_cpuinfo(core, index) for index in range(CPU_COUNT)),
        f"{system}/kernel_max": str(CPU_COUNT - 1),
        **{f"{system}/{name}": online for name in ("possible", "present", "online")},
    }
    for index in range(CPU_COUNT):
        described = {**_topology(online), **_identity(core), **_caches(index, online)}
        files |= {f"{system}/cpu{index}/{name}": text for name, text in described.items()}
    return files


def _cpuinfo(core: Core, index: int) -> str:
    return "\n".join(
        (
            f"processor\t: {index}",
            "BogoMIPS\t: 50.00",
            f"Features\t: {core.features}",
            f"CPU implementer\t: {core.midr >> 24:#04x}",
            "CPU architecture: 8",
            f"CPU variant\t: {core.midr >> 20 & 0xF:#x}",
            f"CPU part\t: {core.midr >> 4 & 0xFFF:#05x}",
            f"CPU revision\t: {core.midr & 0xF}",
        )
    )


def _topology(online: str) -> dict[str, str]:
    return {
        "topology/physical_package_id": "0",
        "topology/cluster_cpus_list": online,
        "topology/core_siblings_list": online,
        "cpufreq/cpuinfo_min_freq": "500000",
        "cpufreq/cpuinfo_max_freq": "2000000",
    }


def _identity(core: Core) -> dict[str, str]:
    return {"regs/identification/midr_el1": f"{core.midr:#018x}"}


def _caches(cpu: int, online: str) -> dict[str, str]:
    """Cache sizes only steer how kernels are tiled over threads; one middling phone's serve every core."""
    levels = (
        ("1", "Data", 64, str(cpu), 4),
        ("1", "Instruction", 64, str(cpu), 4),
        ("2", "Unified", 256, str(cpu), 8),
        ("3", "Unified", 2048, online, 16),
    )
    files: dict[str, str] = {}
    for index, (level, kind, size_kib, shared, ways) in enumerate(levels):
        values = {
            "level": level,
            "type": kind,
            "size": f"{size_kib}K",
            "shared_cpu_list": shared,
            "coherency_line_size": str(_LINE_BYTES),
            "ways_of_associativity": str(ways),
            "number_of_sets": str(size_kib * 1024 // _LINE_BYTES // ways),
        }
        files |= {f"cache/index{index}/{name}": text for name, text in values.items()}
    return files
