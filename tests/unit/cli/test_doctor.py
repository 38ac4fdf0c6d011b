"""`edgeq doctor`: the report, its JSON, and the set-up's command line."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from edgeq.cli import run_command_line as run
from edgeq.runtime import diagnosis
from edgeq.runtime.arm64.lane import SETUP_COMMAND, Journal, lane_folder


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEQ_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setenv("PATH", str(tmp_path))


def doctor_json(capsys, *options: str) -> dict:
    assert run(["doctor", "--json", *options]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_report_names_versions_extras_and_the_next_command(capsys, tmp_path):
    assert run(["doctor"]) == 0
    text = capsys.readouterr().out
    for expected in (
        "onnxruntime",
        "extra export",
        "ARM64 lane",
        SETUP_COMMAND,
        "adb",
        str(tmp_path / "cache"),
    ):
        assert expected in text


def test_json_has_everything_and_creates_nothing(capsys, tmp_path):
    found = doctor_json(capsys)
    assert found["arm64"]["state"] == "not set up"
    assert found["adb"] is None
    assert found["cache"] == str(tmp_path / "cache")
    assert found["cache_bytes"] == 0
    assert not (tmp_path / "cache").exists()
    packages = {(package["name"], package["extra"]): package for package in found["packages"]}
    assert packages["onnxruntime", ""]["satisfied"]
    assert ("torch", "export") in packages
    assert not any(package["extra"] in ("dev", "all") for package in found["packages"])


def test_a_missing_and_an_old_package_make_an_extra_incomplete(capsys, monkeypatch):
    real = diagnosis.metadata.version

    def version(name: str) -> str:
        if name == "torch":
            raise diagnosis.metadata.PackageNotFoundError(name)
        return "0.1" if name == "coremltools" else real(name)

    monkeypatch.setattr(diagnosis.metadata, "version", version)
    found = doctor_json(capsys)
    assert found["extras"]["export"] is False
    assert found["extras"]["coreml"] is False
    run(["doctor"])
    text = capsys.readouterr().out
    assert "0.1 (does not fit)" in text
    assert "missing" in text
    assert "pip install 'edgeq[export]'" in text


def test_an_interrupted_set_up_is_shown_with_what_is_done(capsys):
    lane_folder().mkdir(parents=True)
    Journal(lane_folder()).record("packages", {"files": {}})
    assert doctor_json(capsys)["arm64"]["state"] == "not completely set up (done: packages)"


@pytest.mark.parametrize(
    ("system", "machine", "state"),
    [("darwin", "arm64", "native"), ("linux", "aarch64", "native"), ("win32", "AMD64", "unsupported")],
)
def test_where_no_set_up_is_needed_or_possible(capsys, monkeypatch, system, machine, state):
    monkeypatch.setattr("sys.platform", system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(diagnosis, "cpu_name", lambda: "a cpu")
    monkeypatch.setattr(diagnosis, "cpu_features", dict)
    assert doctor_json(capsys)["arm64"]["state"] == state


def test_set_up_on_an_arm64_machine_does_nothing(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert run(["doctor", "--setup", "arm64", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"state": "native"}
    assert not (tmp_path / "cache").exists()


def test_set_up_errors_reach_the_terminal(capsys, monkeypatch):
    monkeypatch.setattr("edgeq.runtime.arm64.clients._own_pip", lambda: None)
    assert run(["doctor", "--setup", "arm64"]) == 1
    assert "error: the ARM64 lane's set-up needs `apt-get`, `dpkg-deb`, `pip`" in capsys.readouterr().err
    assert run(["doctor", "--setup", "moon"]) == 2
    assert "got `moon`, expected arm64" in capsys.readouterr().err


def test_apt_sources_without_setup_is_a_usage_error(capsys, tmp_path):
    (tmp_path / "sources.list").touch()
    assert run(["doctor", "--apt-sources", str(tmp_path / "sources.list")]) == 2


def test_no_framework_is_imported():
    code = (
        "import sys; from edgeq.runtime.diagnosis import diagnose; diagnose();"
        "heavy = {'torch', 'transformers', 'onnx', 'coremltools'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
