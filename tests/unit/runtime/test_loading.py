"""One `edgeq.load` for every task; `tests/e2e/test_causal_lm.py` loads language models."""

from __future__ import annotations

from pathlib import Path

import pytest

import edgeq
from edgeq.errors import UnsupportedError
from edgeq.runtime.runtime import Runtime


def test_a_text_encoder_is_run(tiny_bundle: Path) -> None:
    with edgeq.load(tiny_bundle, threads=1) as model:
        assert isinstance(model, Runtime)
        assert model.encode(["the cat"]).shape[0] == 1
        assert model.manifest is model.bundle.manifest and model.variant in model.variants


def test_a_text_encoder_generates_nothing(tiny_bundle: Path) -> None:
    with edgeq.load(tiny_bundle, threads=1) as model:
        with pytest.raises(
            UnsupportedError, match="is a sentence-embedding model, it does not generate"
        ) as caught:
            model.generate("the cat")
        assert caught.value.hint == "edgeq run BUNDLE --text ..."
        with pytest.raises(UnsupportedError, match="does not generate"):
            model.chat_prompt([{"role": "user", "content": "the cat"}])


def test_an_engine_is_for_language_models(tiny_bundle: Path) -> None:
    with pytest.raises(UnsupportedError, match="does not generate"):
        edgeq.load(tiny_bundle, engine="genai")
