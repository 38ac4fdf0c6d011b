"""What an export tells to type next works where it was made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeq.bundle.reader import open_bundle
from edgeq.pipeline.plan import TargetResult
from edgeq.pipeline.summary import next_commands


def _result(tiny: Any, folder: Path) -> TargetResult:
    def edit(manifest: Any) -> Any:
        source = replace(manifest.source, task="text-generation")
        variants = tuple(replace(item, runtime="llama.cpp") for item in manifest.variants[:1])
        gates = tuple(gate for gate in manifest.gates if gate.variant == variants[0].id)
        return replace(manifest, source=source, variants=variants, gates=gates)

    tiny.build(folder, edit)
    return TargetResult("gguf", open_bundle(folder), {}, 0)


@pytest.mark.parametrize("installed", [False, True])
def test_what_follows_a_gguf_file(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    found = object() if installed else None
    monkeypatch.setattr("edgeq.pipeline.summary.find_spec", lambda _: found)
    bundle = tmp_path / "my bundle"
    commands = next_commands([_result(tiny, bundle)], "my model")
    if installed:
        assert commands == [
            f"edgeq run '{bundle}' --prompt \"Once upon a time\"",
            f"edgeq validate '{bundle}'",
        ]
    else:
        first, second = commands
        assert first.startswith("llama-cli -m ")
        assert second == f"edgeq validate '{bundle}' --against 'my model'"


def test_nothing_is_validated_without_golden_cases(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeq.pipeline.summary.find_spec", lambda _: None)
    result = _result(tiny, tmp_path / "bundle")
    result.bundle.manifest = replace(result.bundle.manifest, golden=())
    assert len(next_commands([result], "model")) == 1
