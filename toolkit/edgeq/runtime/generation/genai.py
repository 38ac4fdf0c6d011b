"""The same tokens through ONNX Runtime GenAI, the library that Android and iOS apps load."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.errors import MissingExtraError, ModelError, UnsupportedError
from edgeq.runtime.generation.sampling import Sampling

CONFIG_FILE = "genai_config.json"


class GenaiTokens:
    """Tokens from ONNX Runtime GenAI.

    Args:
        folder: holds `genai_config.json` beside the model.

    Raises:
        UnsupportedError: there is none: GenAI does not run the family.
        MissingExtraError: it is not installed.
        ModelError: it cannot load the model.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / CONFIG_FILE).is_file():
            raise UnsupportedError(
                f"`{folder}` has no {CONFIG_FILE}: ONNX Runtime GenAI does not run this family",
                hint="--engine onnxruntime",
            )
        self._og = _import_genai()
        try:
            self._model = self._og.Model(str(folder))
        except Exception as error:  # its exceptions share no base class
            raise ModelError(f"ONNX Runtime GenAI cannot load `{folder}`: {error}") from error

    def __call__(self, prompt_ids: Sequence[int], sampling: Sampling, capacity: int) -> Iterator[int]:
        """Tokens after a prompt; `capacity` tokens in all fit."""
        parameters = self._og.GeneratorParams(self._model)
        parameters.set_search_options(**_options(sampling, capacity))
        generator = self._og.Generator(self._model, parameters)
        generator.append_tokens(np.asarray(prompt_ids, np.int32))
        while not generator.is_done():
            generator.generate_next_token()
            yield int(generator.get_next_tokens()[0])


def _options(sampling: Sampling, capacity: int) -> dict[str, Any]:
    options: dict[str, Any] = {
        "max_length": capacity,
        "do_sample": not sampling.is_greedy,
        "repetition_penalty": sampling.repetition_penalty,
    }
    if sampling.is_greedy:
        return options
    return options | {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "random_seed": sampling.seed,
    }


def _import_genai() -> Any:
    try:
        import onnxruntime_genai
    except ImportError as error:
        raise MissingExtraError("the GenAI engine", "llm") from error
    return onnxruntime_genai
