"""A revision that nothing has is not ignored in silence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeq.cli import run_command_line as run
from edgeq.errors import ExitCode
from edgeq.exporters.source import ignored_revision


def test_only_models_of_the_hub_have_revisions(tmp_path: Path) -> None:
    assert ignored_revision("someone/some-model", "main") is None
    assert ignored_revision(None, None) is None and ignored_revision(tmp_path, None) is None
    assert ignored_revision(None, "v2") == "--revision v2 is ignored: the sample model has one version"
    for model in (tmp_path, str(tmp_path)):
        assert "is on this machine" in str(ignored_revision(model, "main"))


@pytest.mark.parametrize("command", ["export", "advise"])
def test_commands_say_so(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = {"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 32, "vocab_size": 100}
    config |= {"intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config |= {"max_position_embeddings": 64}
    (tmp_path / "config.json").write_text(json.dumps(config))
    options = ["--ram", "1GB"] if command == "advise" else ["--dry-run", "--output", str(tmp_path / "b")]
    status = run([command, str(tmp_path), "--revision", "main", *options])
    assert status == (ExitCode.OK if command == "advise" else ExitCode.USER)  # there are no weights
    assert "--revision main is ignored" in capsys.readouterr().err
