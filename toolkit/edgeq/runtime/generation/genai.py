"""The same tokens through ONNX Runtime GenAI, the library that Android and iOS apps load."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.errors import MissingExtraError, ModelError, UnsupportedError
from edgeq.onnx_runtime import DEFAULT_LEVEL, OptimizationLevel, ordered_options
from edgeq.runtime.generation.sampling import Sampling

CONFIG_FILE = "genai_config.json"


class GenaiTokens:
    """Tokens from ONNX Runtime GenAI.

    Args:
        folder: holds `genai_config.json` beside the model.
        threads: intra-op threads; None leaves what the folder says.
        level: graph optimizations; the usual one leaves what the folder says.

    Raises:
        UnsupportedError: there is none: GenAI does not run the family.
        MissingExtraError: it is not installed.
        ModelError: it cannot load the model.
    """

    def __init__(
        self, folder: Path, *, threads: int | None = None, level: OptimizationLevel = DEFAULT_LEVEL
    ) -> None:
        if not (folder / CONFIG_FILE).is_file():
            raise UnsupportedError(
                f"`{folder}` has no {CONFIG_FILE}: ONNX Runtime GenAI does not run this family",
                hint="--engine onnxruntime",
            )
        self._og = _import_genai()
        try:
            config = self._og.Config(str(folder))
            config.overlay(_session_options(threads, level))
            self._model = self._og.Model(config)
        except Exception as error:  # its exceptions share no base class
            raise ModelError(f"ONNX Runtime GenAI cannot load `{folder}`: {error}") from error

    def __call__(
        self, prompt_ids: Sequence[int], sampling: Sampling, capacity: int, *, may_stop: bool = True
    ) -> Iterator[int]:
        """Tokens after a prompt; `capacity` tokens in all fit.

        Args:
            prompt_ids: the prompt.
            sampling: how to choose.
            capacity: tokens of prompt and answer.
            may_stop: whether stop tokens end it; where not, they are never chosen.
        """
        parameters = self._og.GeneratorParams(self._model)
        parameters.set_search_options(**_options(sampling, capacity, may_stop))
        generator = self._og.Generator(self._model, parameters)
        generator.append_tokens(np.asarray(prompt_ids, np.int32))
        while not generator.is_done():
            generator.generate_next_token()
            yield int(generator.get_next_tokens()[0])


def _session_options(threads: int | None, level: OptimizationLevel) -> str:
    options: dict[str, int | str] = {} if threads is None else {"intra_op_num_threads": threads}
    if level != DEFAULT_LEVEL:
        options |= ordered_options(level)
    return json.dumps({"model": {"decoder": {"session_options": options}}})


def _options(sampling: Sampling, capacity: int, may_stop: bool) -> dict[str, Any]:
    options: dict[str, Any] = {
        # GenAI masks the stop tokens until then.
        **({} if may_stop else {"min_length": capacity}),
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
