"""Parts of a search that need no model; tests/e2e/test_tune.py has the rest."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeq.pipeline import tune
from edgeq.runtime import session


def test_candidates_are_opened_at_the_level_of_their_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def open_it(path: Path, signature: Any, **options: Any) -> Any:
        opened.append(options["level"])
        return SimpleNamespace(run=None)

    def lower(spec: Any, source: Any, options: Any, folder: Path) -> Any:
        path = folder / "model.onnx"
        path.write_bytes(b"1234")
        return SimpleNamespace(model=path, inputs=(), outputs=())

    monkeypatch.setattr(tune, "quantize_model", lambda *_: SimpleNamespace(lowering_input=lambda _: None))
    monkeypatch.setattr(session, "VariantSession", open_it)
    tuner: Any = SimpleNamespace(
        exported=SimpleNamespace(canonical=None, preprocessor=SimpleNamespace(pad_id=0)),
        data=SimpleNamespace(sets=None),
        target=SimpleNamespace(lower=lower),
        spec=SimpleNamespace(level="ORT_ENABLE_BASIC"),
        _recipe=lambda specs, summary: None,
    )
    judge: Any = SimpleNamespace(rows=lambda run: [1.0])
    assert tune._Tuner._run(tuner, judge, {})[0] == 4
    assert opened == ["ORT_ENABLE_BASIC"]


def test_labelled_pairs_decide_and_report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"{i}\ta {i}\tb {i}\n" for i in range(200)))
    monkeypatch.setattr(tune, "SpearmanJudge", lambda canonical, preprocessor, reference, part: part)
    request: Any = SimpleNamespace(data=path, seed=1)
    exported: Any = SimpleNamespace(canonical=None, preprocessor=None, reference=None)
    data: Any = None
    parts: Any = tune._judges(request, exported, data, "spearman_drop")
    assert sorted(score for part in parts for score in part.scores) == list(range(200))
