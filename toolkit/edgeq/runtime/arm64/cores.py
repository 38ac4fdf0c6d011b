"""The cores the lane emulates, as data.

Source of the identification values: Arm's technical reference manuals (MIDR_EL1 of each core), and the Linux
kernel's `Documentation/arch/arm64/elf_hwcaps.rst` for the feature names of /proc/cpuinfo.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from edgeq.errors import UnsupportedError

_ARMV8_0 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
_ARMV8_2 = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
)


@dataclass(frozen=True, slots=True)
class Core:
    """One emulated core.

    Attributes:
        name: what `--cpu` takes.
        midr: MIDR_EL1, from which ONNX Runtime chooses kernels for in-order cores.
        features: as /proc/cpuinfo prints them.
        emulators: QEMU models with this instruction set, best first. QEMU before 8.0 has no cortex-a55; the
            cortex-a76 has the same instructions (v8.2 with dot product), and `midr` still says cortex-a55.
        phones: where one meets this core.
    """

    name: str
    midr: int
    features: str
    emulators: tuple[str, ...]
    phones: str


# Never QEMU's `max`: under QEMU 7.2 it offers extensions whose results were wrong for int8 kernels.
_CORES = (
    Core("cortex-a76", 0x414FD0B1, _ARMV8_2, ("cortex-a76",), "big cores since 2018; int8 dot product"),
    Core(
        "cortex-a55",
        0x412FD050,
        _ARMV8_2,
        ("cortex-a55", "cortex-a76"),
        "little cores since 2017; dot product",
    ),
    Core("cortex-a53", 0x410FD034, _ARMV8_0, ("cortex-a53",), "low-end phones; no dot product"),
)
CORES = MappingProxyType({core.name: core for core in _CORES})
DEFAULT_CORE = "cortex-a76"


def find_core(name: str) -> Core:
    """The core called `name`.

    Raises:
        UnsupportedError: the lane does not offer it.
    """
    if name not in CORES:
        raise UnsupportedError(
            f"unknown ARM64 core: got `{name}`, expected one of {', '.join(f'`{known}`' for known in CORES)}",
            hint=f"--cpu {DEFAULT_CORE}",
        )
    return CORES[name]


def emulator_model(core: Core, known: frozenset[str]) -> str:
    """The QEMU model to emulate `core` with, out of those the emulator knows.

    Raises:
        UnsupportedError: the emulator knows none that fits.
    """
    for model in core.emulators:
        if model in known:
            return model
    raise UnsupportedError(
        f"the emulator cannot be a `{core.name}`: it knows {', '.join(sorted(known))}",
        hint=f"--cpu {DEFAULT_CORE}, or a newer QEMU on PATH followed by edgeq doctor --setup arm64",
    )
