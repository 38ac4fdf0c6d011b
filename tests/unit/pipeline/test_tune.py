"""Parts of a search that need no model; tests/e2e/test_tune.py has the rest."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeq.errors import UsageError
from edgeq.metrics import kl_divergences
from edgeq.pipeline.tune import metrics as judges
from edgeq.pipeline.tune import run as tune
from edgeq.pipeline.tune.budget import parse_budget
from edgeq.pipeline.tune.metrics import FidelityJudge, PerplexityJudge, judges_of, metric_of
from edgeq.runtime.perplexity import negative_log_likelihood
from edgeq.tasks import TASKS, Head, Kind
from edgeq.types import Role, TensorSpec


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
    monkeypatch.setattr(tune, "VariantSession", open_it)
    tuner: Any = SimpleNamespace(
        original=SimpleNamespace(canonical=None, preprocessor=SimpleNamespace(pad_id=0)),
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
    monkeypatch.setattr(judges, "SpearmanJudge", lambda canonical, preprocessor, reference, part: part)
    original: Any = SimpleNamespace(canonical=None, preprocessor=None, run=None)
    data: Any = None
    parts: Any = judges_of("spearman_drop", original, data, path, 1)
    assert sorted(score for part in parts for score in part.scores) == list(range(200))


def head(kind: Kind, width: int = 3) -> Head:
    role = Role.SENTENCE_EMBEDDING if kind is Kind.EMBEDDING else Role.LOGITS
    return Head(TASKS[kind], (TensorSpec("y", "float32", ("batch", width), role),))


@pytest.mark.parametrize(
    ("kind", "width", "metric"),
    [
        (Kind.SINGLE_LABEL, 3, "kl_mean"),
        (Kind.EMBEDDING, 3, "cosine_mean"),
        (Kind.MULTI_LABEL, 3, "relative_error_mean"),
        (Kind.SCORE, 3, "relative_error_mean"),
        (Kind.SCORE, 1, "relative_error_mean"),
        (Kind.NEXT_TOKEN, 288, "kl_mean"),
    ],
)
def test_within_a_size_the_best_is_by_what_the_head_means(kind: Kind, width: int, metric: str) -> None:
    assert metric_of(parse_budget("size=12MB"), head(kind, width)) == metric


@pytest.mark.parametrize(
    ("budget", "kind", "hint"),
    [
        ("kl=0.01", Kind.MULTI_LABEL, "relative_error_mean=0.05"),
        ("top1_agreement=0.9", Kind.SCORE, "relative_error_mean=0.05"),
        ("kl=0.01", Kind.EMBEDDING, "cosine=0.995"),
        ("cosine=0.995", Kind.SCORE, "relative_error_mean=0.05"),
        ("cosine_p01=0.99", Kind.MULTI_LABEL, "relative_error_mean=0.05"),
        ("perplexity_ratio=1.02", Kind.EMBEDDING, "cosine=0.995"),
        ("perplexity_ratio=1.02", Kind.SCORE, "relative_error_mean=0.05"),
    ],
)
def test_a_budget_that_would_judge_nothing_is_refused_with_one_that_judges(
    budget: str, kind: Kind, hint: str
) -> None:
    with pytest.raises(UsageError, match=str(kind)) as caught:
        metric_of(parse_budget(budget), head(kind))
    assert hint in str(caught.value.hint)
    assert metric_of(parse_budget(hint), head(kind)) == parse_budget(hint).metric


def test_candidates_of_several_labels_are_judged_label_by_label() -> None:
    """Moved all alike, a softmax over the labels would be as it was."""
    reference = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    judge = FidelityJudge("relative_error_mean", head(Kind.MULTI_LABEL), lambda _: {"y": reference}, ({},))
    assert judge.rows(lambda _: {"y": reference}).tolist() == [0.0] * 4
    assert (judge.rows(lambda _: {"y": reference + 1}) > 0.1).all()


@pytest.mark.parametrize("budget", ["cosine_p01=0.99", "spearman_drop=0.2"])
def test_budgets_that_mean_nothing_to_a_language_model_are_refused(budget: str) -> None:
    with pytest.raises(UsageError, match="this model's kind is next token") as caught:
        metric_of(parse_budget(budget), head(Kind.NEXT_TOKEN))
    assert caught.value.hint == "use kl=0.05 or perplexity_ratio=1.02"


def _windows(count: int) -> tuple[Any, ...]:
    ids = np.random.default_rng(3).integers(0, 5, (count, 1, 8))
    return tuple({"input_ids": row, "attention_mask": np.ones_like(row)} for row in ids)


def _logits(scale: float) -> Any:
    def run(feeds: Any) -> Any:
        rng = np.random.default_rng(int(feeds["input_ids"].sum()))
        return {"logits": (scale * rng.standard_normal((1, 8, 5))).astype(np.float32)}

    return run


def test_a_window_of_a_language_model_is_one_row() -> None:
    spec = TensorSpec("logits", "float32", ("batch", "sequence", 5), Role.LOGITS)
    judge = FidelityJudge("kl_mean", Head(TASKS[Kind.NEXT_TOKEN], (spec,)), _logits(1.0), _windows(6))
    rows = judge.rows(_logits(1.1))
    assert rows.shape == (6,)
    by_hand = [
        kl_divergences(_logits(1.0)(feeds)["logits"][0], _logits(1.1)(feeds)["logits"][0]).mean()
        for feeds in _windows(6)
    ]
    np.testing.assert_allclose(rows, by_hand)


def test_the_ratio_of_perplexities() -> None:
    judge = PerplexityJudge(_logits(1.0), _windows(6))
    found = judge.estimate(judge.rows(_logits(2.0)), 0)

    def perplexity(scale: float) -> float:
        surprises = [
            negative_log_likelihood(_logits(scale)(feeds)["logits"][0, :-1], feeds["input_ids"][0, 1:])
            for feeds in _windows(6)
        ]
        return float(np.exp(np.mean(surprises)))

    assert found.value == pytest.approx(perplexity(2.0) / perplexity(1.0))
    assert found.low < found.value < found.high and found.n == 6
