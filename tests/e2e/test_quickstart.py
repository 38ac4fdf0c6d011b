"""samples/quickstart does what it says, on a tiny random model."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from tests.support.tiny_models import build_tiny_model

from edgeq.types import Task

SCRIPT = Path(__file__).parents[2] / "samples" / "quickstart" / "quickstart.py"
CORPUS = ("a cat sat", "the dog ran", "rain in the night", "two green apples", "a train to the coast")


@pytest.fixture(scope="module")
def quickstart() -> ModuleType:
    spec = importlib.util.spec_from_file_location("quickstart", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_exports_once_and_finds_a_text_by_itself(quickstart, tmp_path, monkeypatch, capsys) -> None:
    model = build_tiny_model(tmp_path / "tiny", "bert", Task.SENTENCE_EMBEDDING)
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n\n".join(CORPUS), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    arguments = ["--model", str(model), "--corpus", str(corpus), "--query", CORPUS[2], "--top", "1"]
    assert quickstart.main(arguments) == 0
    first = capsys.readouterr().out
    assert "exporting to" in first
    assert f"indexed {len(CORPUS)} texts" in first
    assert re.search(rf"1\.000  {CORPUS[2]}", first)
    report = (tmp_path / "out/quickstart/report.html").read_text(encoding="utf-8")
    for evidence in (
        "Distribution over the held-out rows",
        "alpha 0.5",
        "Clipping",
        "Length in tokens",
        "float32",
    ):
        assert evidence in report
    assert quickstart.main(arguments) == 0
    assert "using the bundle in" in capsys.readouterr().out


def test_a_bundle_that_is_not_there(quickstart, tmp_path, capsys) -> None:
    assert quickstart.main(["--bundle", str(tmp_path / "nothing")]) == 1
    assert "error: " in capsys.readouterr().err


def test_unit_length(quickstart) -> None:
    rows = quickstart.unit(np.array([[3.0, 4.0], [0.0, 0.0]], np.float32))
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)


def test_built_in_texts(quickstart) -> None:
    texts = quickstart.read_corpus(None)
    assert len(texts) == len(set(texts)) > 200
