"""The command line as a process whose streams are closed, full, cut off, or of another encoding."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgeq.bundle.codec import finite
from edgeq.cli.output import Out, printable

COMMAND = f"{sys.executable} -m edgeq"


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "NO_COLOR": "1", **environment},
        check=False,
    )


@pytest.mark.parametrize("arguments", ["inspect {}", "inspect {} --json"])
def test_a_reader_that_had_enough_is_no_failure(tiny_bundle: Path, arguments: str) -> None:
    result = shell(f"{COMMAND} {arguments.format(tiny_bundle)} | head -1")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count("\n") == 1


def test_work_goes_on_when_nobody_reads_stderr(tiny_bundle: Path, tmp_path: Path) -> None:
    """`true` reads nothing: the first notice meets a closed pipe."""
    json_file = tmp_path / "out.json"
    result = shell(f"({COMMAND} validate {tiny_bundle} --json > {json_file}) 2>&1 | true")
    assert result.returncode == 0
    assert json.loads(json_file.read_text())["passed"] is True


@pytest.mark.parametrize("closed", [">&-", "2>&-", "2>/dev/full"])
def test_closed_streams_are_no_failure(tiny_bundle: Path, closed: str) -> None:
    result = shell(f"{COMMAND} inspect {tiny_bundle} {closed}")
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("arguments", ["inspect {}", "inspect {} --json"])
def test_lost_data_are_a_failure(tiny_bundle: Path, arguments: str) -> None:
    result = shell(f"{COMMAND} {arguments.format(tiny_bundle)} > /dev/full")
    assert result.returncode == 1
    assert result.stderr.startswith("error: no space left on device")
    assert "Traceback" not in result.stderr and "Exception ignored" not in result.stderr


def test_characters_that_the_terminal_lacks_do_not_stop_the_output(tiny_bundle: Path) -> None:
    result = shell(f"{COMMAND} inspect {tiny_bundle}", PYTHONIOENCODING="ascii:strict")
    assert result.returncode == 0
    assert result.stdout.isascii() and "tiny for android" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("inspect none", 1, "there is no bundle at `none`"),
        ("inspect --none", 2, "No such option: --none"),
        ("validate none --gate x", 2, "`x` is not a gate"),
    ],
)
def test_errors_are_one_json_document_too(arguments: str, code: int, message: str) -> None:
    result = shell(f"{COMMAND} {arguments} --json")
    assert result.returncode == code
    error = json.loads(result.stdout)["error"]
    assert error["exit_code"] == code and error["message"].startswith(message)
    # People read stderr in any case.
    assert message in result.stderr
    assert shell(f"{COMMAND} {arguments}").stdout == ""


def test_a_document_that_is_out_stays_the_only_one(tiny: Any, tmp_path: Path) -> None:
    tiny.build_failed(tmp_path / "bundle")
    result = shell(f"{COMMAND} inspect {tmp_path / 'bundle'} --json")
    assert result.returncode == 3
    assert json.loads(result.stdout)["status"] == "failed"


def test_what_terminals_obey_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "a\x1b[31mb\x9b0m\x07c\n\td"
    out = Out()
    out.result({}, evil)
    out.table(evil, [evil], [[evil], ["[/x]"]])
    out.report(evil, [evil], [[evil]])
    out.notice(evil)
    out.warn(evil)
    shown = "".join(capsys.readouterr())
    assert not set(shown) & {"\x1b", "\x9b", "\x07"}
    assert "[/x]" in shown and printable(evil) == "a\ufffd[31mb\ufffd0m\ufffdc\n\td"


def test_json_has_null_for_what_is_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    Out(json_mode=True).result({"a": [float("nan"), 1.5], "b": {"c": float("inf")}, "d": (2,)})
    assert json.loads(capsys.readouterr().out) == {"a": [None, 1.5], "b": {"c": None}, "d": [2]}
    assert finite("nan") == "nan"


def test_termination_is_an_orderly_end(tmp_path: Path) -> None:
    """SIGTERM while temporary files exist: they go."""
    program = (
        "import sys, tempfile, time\n"
        "from edgeq.cli.streams import exit_on_termination\n"
        "exit_on_termination()\n"
        f"with tempfile.TemporaryDirectory(dir={str(tmp_path)!r}):\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        assert len(list(tmp_path.iterdir())) == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


TRACED = """
import sys
import edgeq.cli as cli


def interrupted(argv):
    try:
        exec("raise KeyboardInterrupt")
    except KeyboardInterrupt:  # as Typer does
        return cli.INTERRUPTED


cli._run = interrupted
sys.exit(cli.run_command_line([]))
"""


def test_an_interrupt_inside_exec_is_an_exit_status_like_any_other(tmp_path: Path) -> None:
    """Not a death by SIGINT, which `python -m` makes of it: torch's trace runs code that way."""
    (tmp_path / "traced.py").write_text(TRACED)
    done = subprocess.run([sys.executable, "-m", "traced"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 130 and "interrupted" in done.stderr
