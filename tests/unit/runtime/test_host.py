"""CPU facts from /proc/cpuinfo of x86 and ARM, and from macOS."""

from __future__ import annotations

import pytest

from edgeq.runtime import host

X86 = "model name\t: Some CPU\nflags\t\t: fpu avx2 avx512f avx512_vnni\n\nprocessor\t: 1\nflags\t\t: fpu\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU part\t: 0xd0b\n"


def on(monkeypatch, system: str, machine: str, cpuinfo: str = "") -> None:
    monkeypatch.setattr("sys.platform", system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("platform.processor", lambda: "")
    pairs = [line.partition(":") for line in cpuinfo.splitlines()]
    monkeypatch.setattr(host, "_cpuinfo", lambda: [(key.strip(), value.strip()) for key, _, value in pairs])


def test_x86_features_are_those_of_the_first_processor(monkeypatch):
    on(monkeypatch, "linux", "x86_64", X86)
    assert host.cpu_name() == "Some CPU"
    assert host.cpu_features() == {"avx2": True, "avx512f": True, "avx512_vnni": True, "avx_vnni": False}


def test_arm_features(monkeypatch):
    on(monkeypatch, "linux", "aarch64", ARM)
    assert host.cpu_name() == "aarch64"
    assert host.cpu_features() == {"asimddp": True, "i8mm": False, "asimdhp": False}


def test_what_a_system_does_not_tell_is_unknown_not_absent(monkeypatch):
    on(monkeypatch, "win32", "AMD64")
    assert set(host.cpu_features().values()) == {None}


def test_macos_is_asked_by_its_own_names(monkeypatch):
    on(monkeypatch, "darwin", "arm64")
    told = {"machdep.cpu.brand_string": "Apple M9", "hw.optional.arm.FEAT_DotProd": "1"}
    monkeypatch.setattr(host, "_sysctl", told.get)
    assert host.cpu_name() == "Apple M9"
    assert host.cpu_features() == {"asimddp": True, "i8mm": False, "asimdhp": False}


@pytest.mark.parametrize(
    ("machine", "name"), [("AMD64", "x86-64"), ("arm64", "arm64"), ("riscv64", "riscv64")]
)
def test_architecture_names(monkeypatch, machine, name):
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert host.host_architecture() == name
