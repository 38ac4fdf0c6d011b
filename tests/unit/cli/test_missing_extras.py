"""A module of an extra that is not there is named with its extra; any other is a bug."""

from __future__ import annotations

import pytest

from edgeq import cli
from edgeq.errors import ExitCode


@pytest.mark.parametrize(
    ("module", "code", "said"),
    [
        ("onnx_ir", ExitCode.USER, "pip install 'edgeq[export]'"),
        ("coremltools", ExitCode.USER, "pip install 'edgeq[coreml]'"),
        ("edgeq.nowhere", ExitCode.INTERNAL, "internal error"),
    ],
)
def test_missing_modules(
    module: str, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(argv: object) -> int:
        raise ModuleNotFoundError(f"No module named '{module}'", name=module)

    monkeypatch.setattr(cli, "_run", run)
    assert cli.run_command_line(["export"]) == code
    assert said in capsys.readouterr().err
