"""What this machine is, as far as numbers and speed depend on it. Starts no framework."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

_ARCHITECTURES = {"x86_64": "x86-64", "amd64": "x86-64", "aarch64": "arm64", "arm64": "arm64"}

CPU_FEATURES = {
    "x86-64": {
        "avx2": "fast fp32 and int8",
        "avx512f": "faster fp32",
        "avx512_vnni": "int8 dot product; exact u8 x s8 sums",
        "avx_vnni": "int8 dot product; exact u8 x s8 sums",
    },
    "arm64": {
        "asimddp": "int8 dot product",
        "i8mm": "int8 matrix multiply",
        "asimdhp": "fp16 arithmetic",
    },
}
"""Features that decide which int8 kernels run, by architecture, as /proc/cpuinfo names them."""

# macOS names the same features differently.
_SYSCTL_FEATURES = {
    "asimddp": "hw.optional.arm.FEAT_DotProd",
    "i8mm": "hw.optional.arm.FEAT_I8MM",
    "asimdhp": "hw.optional.arm.FEAT_FP16",
    "avx2": "hw.optional.avx2_0",
    "avx512f": "hw.optional.avx512f",
}


def host_architecture() -> str:
    """`x86-64`, `arm64`, or what the system calls itself."""
    machine = platform.machine()
    return _ARCHITECTURES.get(machine.lower(), machine)


def cpu_name() -> str:
    """The processor's own name, or its architecture where the system does not tell."""
    if sys.platform == "darwin":
        return _sysctl("machdep.cpu.brand_string") or platform.machine()
    names = [value for key, value in _cpuinfo() if key in ("model name", "Model")]
    return names[0] if names else platform.processor() or platform.machine()


def cpu_features() -> dict[str, bool | None]:
    """Whether the CPU has each feature of `CPU_FEATURES`; None where the system does not tell."""
    wanted = CPU_FEATURES.get(host_architecture(), {})
    if sys.platform == "darwin":
        return {name: _sysctl(_SYSCTL_FEATURES.get(name, "")) == "1" for name in wanted}
    flags = [set(value.split()) for key, value in _cpuinfo() if key in ("flags", "Features")]
    return {name: name in flags[0] if flags else None for name in wanted}


def _cpuinfo() -> list[tuple[str, str]]:
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return []
    pairs = (line.partition(":") for line in path.read_text(errors="replace").splitlines())
    return [(key.strip(), value.strip()) for key, _, value in pairs]


def _sysctl(name: str) -> str | None:
    if not name:
        return None
    done = subprocess.run(["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None
