"""What `--dry-run` says of an export is what the export does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from edgeq.calibration import load_samples
from edgeq.pipeline.forward.data import _parts, wanted_samples
from edgeq.pipeline.generation import data as language_data
from edgeq.pipeline.generation.data import divide_language
from edgeq.pipeline.ways import sample_counts
from edgeq.types import Task


def plan(count: int, calib_samples: int, task: Task) -> Any:
    data = load_samples(None, count=count)
    return SimpleNamespace(
        facts=SimpleNamespace(task=task), data=data, request=SimpleNamespace(calib_samples=calib_samples)
    )


@pytest.mark.parametrize("calib_samples", [8, 100, 256, 1024])
@pytest.mark.parametrize("few", [0, 8, 20, 100])
def test_counts_are_those_of_the_parts(calib_samples: int, few: int) -> None:
    made = plan(few or wanted_samples(calib_samples), calib_samples, Task.SENTENCE_EMBEDDING)
    held_out, _, rest = _parts(made.data.samples, calib_samples)
    assert sample_counts(made) == (len(held_out), len(rest))


@pytest.mark.parametrize("calib_samples", [8, 256])
def test_counts_of_texts_for_a_language_model(calib_samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = plan(wanted_samples(calib_samples), calib_samples, Task.TEXT_GENERATION)
    tokenizer = SimpleNamespace(encode=lambda text: list(text.encode()), require_embeddings=lambda *_: None)
    monkeypatch.setattr(language_data, "PromptTokenizer", lambda _: tokenizer)
    monkeypatch.setattr(language_data, "window_feeds", lambda *_: ())
    model: Any = SimpleNamespace(
        preprocessor=SimpleNamespace(tokenizer_json=""),
        settings=SimpleNamespace(context_length=64, vocabulary=256, cache=None),
    )
    found = divide_language(made.data, model, calib_samples)
    assert sample_counts(made) == (len(found.prompts), found.sets.calibration_samples)
