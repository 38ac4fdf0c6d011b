"""A written GGUF file as a session: llama.cpp on this machine's CPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from edgeq.numerics import FP16_STEP
from edgeq.runtime.generation.llama_cpp import PACKAGE, LlamaCppModel, package_version
from edgeq.runtime.host import cpu_name, host_architecture
from edgeq.targets.target import Twin
from edgeq.text_inputs import INPUT_IDS
from edgeq.types import Feeds, Outputs, Verification


class GgufSession:
    """Runs sequences one at a time from an empty cache.

    Args:
        model: the `.gguf` file.

    Raises:
        MissingExtraError: llama-cpp-python is not installed.
        ModelError: llama.cpp refuses the file.
    """

    static_length: int | None = None
    also: tuple[GgufSession, ...] = ()

    def __init__(self, model: Path) -> None:
        self._model = LlamaCppModel(model)

    @property
    def verification(self) -> Verification:
        """The real runtime; a GGUF file is made for whatever machine it is run on."""
        return Verification.EXECUTED

    @property
    def environment(self) -> Mapping[str, str]:
        """Version, architecture, CPU and provider."""
        return {
            PACKAGE: package_version(),
            "architecture": host_architecture(),
            "cpu": cpu_name(),
            "provider": "CPU",
        }

    def twins(self, seeds: int) -> Iterator[Twin]:
        """None: llama.cpp cannot be made to round otherwise, and says nothing of what it does."""
        return iter(())

    def louder_twins(self, seeds: int, last_bits: int) -> Iterator[Twin]:
        """None, for the same reason."""
        return iter(())

    @property
    def rounding_noise(self) -> float:
        """Relative step of float16, in which llama.cpp keeps keys and values."""
        return FP16_STEP

    def run(self, feeds: Feeds) -> Outputs:
        """Logits `[batch, sequence, vocabulary]` of token ids `[batch, sequence]`."""
        return {"logits": np.stack([self._model.logits(ids) for ids in feeds[INPUT_IDS]])}
