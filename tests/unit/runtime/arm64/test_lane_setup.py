"""The set-up with fake package clients: complete, reused, interrupted, damaged, and without what it needs."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from edgeq.errors import EdgeqError, UnsupportedError
from edgeq.runtime.arm64.lane import describe_progress, lane_folder, load_lane, setup_lock
from edgeq.runtime.arm64.lane_setup import set_up_lane


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_lane_is_built_from_packages_and_wheels(clients):
    lane = set_up_lane()
    assert lane.python == "3.11"
    assert lane.emulator_version == "7.2.22"
    assert lane.emulator_models == ("cortex-a35", "cortex-a76")
    assert lane.emulator == lane.folder / "emulator/usr/bin/qemu-aarch64-static"
    assert (lane.folder / "root/lib/libc.so.6").read_text() == "libc"
    assert (lane.folder / "root/usr/lib/libc.so.6").read_text() == "libc"
    assert not (lane.folder / "root/usr/share").exists()
    assert not (lane.folder / "emulator/usr/bin/qemu-arm-static").exists()
    assert (lane.core_root("cortex-a76") / "usr/bin/python3.11").is_file()
    assert len(lane.downloads) == 4
    assert load_lane() == lane


def test_nothing_is_written_outside_the_cache_folder(clients, tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    before = set(tmp_path.iterdir())
    lane = set_up_lane()
    assert set(tmp_path.iterdir()) - before == {tmp_path / "cache"}
    assert not list(home.iterdir())
    # The downloads themselves are not needed any more.
    assert not (lane.folder / "apt").exists()
    assert not (lane.folder / "wheels").exists()


def test_a_second_set_up_calls_no_client_and_is_quick(clients):
    first = set_up_lane()
    calls = {name: clients.calls(name) for name in ("apt-get", "pip3", "dpkg-deb")}
    started = time.perf_counter()
    assert set_up_lane() == first
    assert time.perf_counter() - started < 2
    assert {name: clients.calls(name) for name in calls} == calls


def test_the_emulator_on_path_is_used(clients):
    (clients.folder / "emulator").rename(clients.folder / "qemu-aarch64-static")
    clients.add("emulator", "")
    lane = set_up_lane()
    assert lane.emulator == clients.folder / "qemu-aarch64-static"
    assert not any("qemu" in call for call in clients.calls("apt-get"))
    clients.remove("qemu-aarch64-static")
    with pytest.raises(EdgeqError, match=r"emulator .* is gone"):
        load_lane()


@pytest.mark.parametrize("missing", ["apt-get", "dpkg-deb", "pip3"])
def test_a_missing_client_is_named(clients, missing):
    clients.remove(missing)
    with pytest.raises(EdgeqError, match=f"needs `{missing.rstrip('3')}`: not found on PATH"):
        set_up_lane()


def test_all_missing_clients_are_named_at_once(clients):
    for name in ("apt-get", "dpkg-deb", "pip3"):
        clients.remove(name)
    with pytest.raises(EdgeqError, match="`apt-get`, `dpkg-deb`, `pip`"):
        set_up_lane()


@pytest.mark.parametrize(
    ("step", "message", "done"),
    [
        ("find-root", "do not offer the ARM64 packages", ()),
        ("download-root", "downloading ARM64 packages failed: `apt-get` ended with status 100", ()),
        ("find-qemu-user-static", "no package with the ARM64 emulator", ("packages",)),
        ("pip", "ARM64 wheels of onnxruntime .* for Python 3.11 failed", ("packages", "emulator")),
        ("unpack", "cannot unpack", ("packages",)),
    ],
)
def test_a_failing_client_is_reported_and_the_next_set_up_continues(clients, step, message, done):
    clients.tell(f"fail-{step}")
    with pytest.raises(EdgeqError, match=message) as caught:
        set_up_lane()
    assert "says the fake" in caught.value.message or step == "unpack"
    progress = describe_progress(lane_folder())
    assert progress == (f"not completely set up (done: {', '.join(done)})" if done else "not set up")
    with pytest.raises(EdgeqError, match=r"not .*set up") as not_ready:
        load_lane()
    assert not_ready.value.hint == "edgeq doctor --setup arm64"
    clients.tell(f"fail-{step}", present=False)
    downloads = [call for call in clients.calls("apt-get") if "python3-minimal" in call]
    set_up_lane()
    again = [call for call in clients.calls("apt-get") if "python3-minimal" in call]
    # Steps that were recorded are not repeated.
    assert (again == downloads) == ("packages" in done)


_SET_UP = """
from edgeq.runtime.arm64 import clients, lane_setup
clients._own_pip = lambda: None
lane_setup.set_up_lane()
"""


def wait_until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_killed_set_up_leaves_no_lock_and_continues_where_it_was(clients):
    clients.tell("hang-pip")
    process = subprocess.Popen([sys.executable, "-c", _SET_UP])
    wait_until(lambda: clients.calls("pip3"))
    process.send_signal(signal.SIGKILL)
    process.wait()
    clients.tell("hang-pip", present=False)
    assert describe_progress(lane_folder()) == "not completely set up (done: packages, emulator)"
    before = clients.calls("apt-get")
    set_up_lane()
    assert clients.calls("apt-get") == before


def test_a_failing_list_update_alone_is_no_failure(clients):
    clients.tell("fail-update")
    assert set_up_lane().python == "3.11"


def test_what_the_update_said_explains_missing_packages(clients):
    clients.tell("fail-update")
    clients.tell("fail-find-root")
    with pytest.raises(UnsupportedError, match="update: no such thing"):
        set_up_lane()


def test_a_corrupted_download_is_refused_and_fetched_again(clients):
    clients.tell("corrupt")
    with pytest.raises(
        EdgeqError, match=r"download `\S+\.deb` is damaged: got sha256 .*, expected"
    ) as caught:
        set_up_lane()
    assert "again" in str(caught.value.hint)
    clients.tell("corrupt", present=False)
    set_up_lane()


@pytest.mark.parametrize("pattern", ["apt/cache/archives/libc6*.deb", "wheels/*.whl"])
def test_a_download_damaged_between_two_attempts_is_fetched_again(clients, pattern):
    clients.tell("fail-crash")
    with pytest.raises(EdgeqError, match="SIGSEGV"):
        set_up_lane()
    clients.tell("fail-crash", present=False)
    (damaged,) = lane_folder().glob(pattern)
    good = damaged.read_bytes()
    damaged.write_bytes(good[:-3] + b"xyz")
    lane = set_up_lane()
    record = json.loads((lane.folder / "lane.json").read_text())
    assert record["downloads"][damaged.name] == hashlib.sha256(good).hexdigest()
    clean = snapshot(lane.folder / "site")
    assert all(b"xyz" not in data for data in clean.values())


def test_a_damaged_lane_is_set_up_again(clients):
    lane = set_up_lane()
    library = lane.folder / "root/lib/libc.so.6"
    library.write_text("something else")
    stages: list[str] = []
    set_up_lane(stage=lambda name: stages.append(name) or nullcontext())
    assert library.read_text() == "libc"
    assert any("damaged" in stage for stage in stages)


def test_a_lane_that_computes_wrongly_is_not_accepted(clients):
    clients.tell("wrong")
    with pytest.raises(EdgeqError, match="integer arithmetic is wrong on cortex-a76"):
        set_up_lane()
    with pytest.raises(EdgeqError, match="not completely set up"):
        load_lane()


def test_two_set_ups_at_once_are_refused(clients):
    with setup_lock(lane_folder()), pytest.raises(EdgeqError, match="another set-up"):
        set_up_lane()
    set_up_lane()


@pytest.mark.parametrize(
    ("system", "machine"), [("darwin", "x86_64"), ("linux", "riscv64"), ("win32", "AMD64")]
)
def test_only_x86_64_linux_can_emulate(clients, monkeypatch, system, machine):
    monkeypatch.setattr("sys.platform", system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    with pytest.raises(UnsupportedError, match=f"got {system} on {machine}"):
        set_up_lane()


def test_apt_keeps_its_state_in_the_lane_and_takes_other_sources(clients, tmp_path):
    sources = tmp_path / "sources.list"
    sources.write_text("")
    clients.tell("fail-pip")
    with pytest.raises(EdgeqError):
        set_up_lane(apt_sources=sources)
    text = (lane_folder() / "apt/apt.conf").read_text()
    assert f'Dir::State "{lane_folder()}/apt/state";' in text
    assert 'Dir::State::status "/dev/null";' in text
    assert f'Dir::Etc::sourcelist "{sources}";' in text
