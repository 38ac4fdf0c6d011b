"""Tiny decoders of every family with a tokenizer that llama.cpp takes, and what the GGUF target gets of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.exporters.causal_lm import open_original
from edgeq.exporters.causal_lm.original import OriginalLanguageModel
from edgeq.targets.target import CheckpointInput


@dataclass(frozen=True)
class Opened:
    """A model and what a target gets of it."""

    original: OriginalLanguageModel
    source: CheckpointInput

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tensor.shape for name, tensor in self.original.tensors.items()}


@pytest.fixture(scope="session")
def gguf_decoder(
    tiny_decoder: Callable[..., Path], tiny_decoders: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """`gguf_decoder("llama")`: the folder of a tiny model with byte-level BPE. Read it, never write to it."""

    @cache
    def build(family: str, **config: Any) -> Path:
        folder = tmp_path_factory.mktemp(f"gguf-{family}")
        shutil.copytree(tiny_decoder(family, **config), folder, dirs_exist_ok=True)
        tiny_decoders.write_bpe_tokenizer(folder, tiny_decoders.CHAT_TEMPLATE)
        return folder

    return build


@pytest.fixture(scope="session")
def opened(gguf_decoder: Callable[..., Path]) -> Callable[..., Opened]:
    """`opened("llama")`: a tiny model, read from disk as it runs."""

    def build(family: str, **config: Any) -> Opened:
        windows = np.random.default_rng(0).integers(0, 256, (48, 32))
        original = open_original(gguf_decoder(family, **config))
        source = CheckpointInput(
            name=f"tiny-{family}",
            config=original.config,
            tensors=original.tensors,
            tokenizer_json=original.preprocessor.tokenizer_json,
            special_ids=original.preprocessor.special_token_ids,
            settings=original.settings,
            about=original.source,
            observe=lambda names, gram: original.observe(names, windows, gram=gram),
        )
        return Opened(original, source)

    return build
