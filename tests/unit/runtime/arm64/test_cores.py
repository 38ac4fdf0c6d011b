"""The emulated cores and what the emulated program sees of them."""

from __future__ import annotations

import re

import pytest

from edgeq.errors import UnsupportedError
from edgeq.runtime.arm64.cores import CORES, DEFAULT_CORE, emulator_model, find_core
from edgeq.runtime.arm64.lane_root import core_files, write_core_root

CPU0 = "sys/devices/system/cpu/cpu0"


def test_cpuinfo_identifies_the_core_as_linux_prints_it():
    text = core_files(find_core("cortex-a76"))["proc/cpuinfo"]
    assert text.count("processor\t: ") == 2
    assert "CPU implementer\t: 0x41\n" in text
    assert "CPU variant\t: 0x4\n" in text
    assert "CPU part\t: 0xd0b\n" in text
    assert "CPU revision\t: 1" in text
    assert "asimddp" in text


@pytest.mark.parametrize(
    ("name", "part", "dot_product"),
    [("cortex-a76", "0xd0b", True), ("cortex-a55", "0xd05", True), ("cortex-a53", "0xd03", False)],
)
def test_part_number_and_dot_product_of_each_core(name, part, dot_product):
    files = core_files(find_core(name))
    assert f"CPU part\t: {part}" in files["proc/cpuinfo"]
    assert ("asimddp" in files["proc/cpuinfo"]) == dot_product
    assert files[f"{CPU0}/regs/identification/midr_el1"][-4:-1] == part[2:]


@pytest.mark.parametrize("name", CORES)
def test_cache_geometry_multiplies_to_its_size(name):
    files = core_files(find_core(name))
    for index in range(4):
        values = {
            key: files[f"{CPU0}/cache/index{index}/{key}"]
            for key in ("size", "coherency_line_size", "ways_of_associativity", "number_of_sets")
        }
        assert re.fullmatch(r"\d+K", values["size"])
        product = 1
        for key in ("coherency_line_size", "ways_of_associativity", "number_of_sets"):
            product *= int(values[key])
        assert product == int(values["size"][:-1]) * 1024


def test_a_core_root_shares_libraries_by_link_and_has_its_own_proc(tmp_path):
    shared = tmp_path / "root"
    (shared / "usr/lib").mkdir(parents=True)
    (shared / "usr/lib/libc.so.6").write_text("libc")
    (shared / "lib").symlink_to("usr/lib")
    root = tmp_path / "cores/cortex-a53"
    for _ in range(2):
        write_core_root(root, shared, find_core("cortex-a53"))
    assert (root / "lib/libc.so.6").read_text() == "libc"
    assert (root / "usr").is_symlink()
    assert "0xd03" in (root / "proc/cpuinfo").read_text()
    # The cache folder may be moved: no link is absolute.
    moved = tmp_path.rename(tmp_path.with_name(f"{tmp_path.name}-moved"))
    assert (moved / "cores/cortex-a53/lib/libc.so.6").read_text() == "libc"


def test_an_old_emulator_gives_a55_the_instructions_of_a76():
    core = find_core("cortex-a55")
    assert emulator_model(core, frozenset({"cortex-a53", "cortex-a76"})) == "cortex-a76"
    assert emulator_model(core, frozenset({"cortex-a55", "cortex-a76"})) == "cortex-a55"
    assert core.features == find_core("cortex-a76").features
    with pytest.raises(UnsupportedError, match="cannot be a `cortex-a55`: it knows cortex-a53"):
        emulator_model(core, frozenset({"cortex-a53"}))


def test_max_is_never_offered():
    assert DEFAULT_CORE in CORES
    assert all("max" not in core.emulators for core in CORES.values())
    with pytest.raises(UnsupportedError, match="unknown ARM64 core: got `max`, expected one of `cortex-a76`"):
        find_core("max")
