"""Memory to load a decoder, read a prompt and write some tokens, measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgeq.errors import ModelError
from edgeq.onnx_runtime import DEFAULT_LEVEL, OptimizationLevel
from edgeq.runtime.generation.engine_script import peak_bytes
from edgeq.runtime.generation.llama_cpp import LlamaCppModel
from edgeq.runtime.generation.session import DecoderSession
from edgeq.runtime.generation.settings import CacheShape

PROBE_TIMEOUT_S = 600
PROBE_PROMPT = 128
PROBE_ANSWER = 8


def measure_generation_bytes(
    model: Path, cache: CacheShape, context_length: int, level: OptimizationLevel = DEFAULT_LEVEL
) -> int:
    """Growth of peak RSS over an empty interpreter with ONNX Runtime: loading, 128 tokens read, 8 written.

    The cache of those tokens is included; a longer text adds `cache.bytes_per_token` each.

    Raises:
        ModelError: the process failed.
    """
    return _in_a_process(model, {"cache": asdict(cache), "context": context_length, "level": level})


def measure_gguf_bytes(model: Path, context_length: int) -> int:
    """The same for a GGUF file and llama.cpp, over an empty interpreter with its library.

    Raises:
        ModelError: the process failed.
    """
    return _in_a_process(model, {"cache": None, "context": context_length})


def _in_a_process(model: Path, settings: dict[str, object]) -> int:
    request = json.dumps({"model": str(model), **settings})
    done = subprocess.run(
        [sys.executable, "-m", "edgeq.runtime.generation.footprint", request],
        capture_output=True,
        text=True,
        timeout=PROBE_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise ModelError(
            f"`{model.name}` cannot be run in a process of its own: {done.stderr.strip()[-300:]}"
        )
    return int(done.stdout)


def _probe(request: dict[str, Any]) -> int:
    """Growth of peak memory, by what the request describes."""
    return _probe_gguf(request) if request["cache"] is None else _probe_onnx(request)


def _probe_gguf(request: dict[str, object]) -> int:
    import llama_cpp  # noqa: F401  (part of the floor that is subtracted)

    before = peak_bytes()
    context = int(str(request["context"]))
    model = LlamaCppModel(Path(str(request["model"])))
    tokens = min(PROBE_PROMPT, context - 1)
    capacity = min(context, tokens + PROBE_ANSWER)
    model.start(capacity)
    model.feed([1] * tokens, 0, every=False)
    for at in range(tokens, capacity):
        model.feed([1], at)
    return peak_bytes() - before


def _probe_onnx(request: dict[str, Any]) -> int:
    import onnxruntime  # noqa: F401  (part of the floor that is subtracted)

    before = peak_bytes()
    context, cache = int(request["context"]), CacheShape(**request["cache"])
    session = DecoderSession(Path(request["model"]), cache, context, level=request["level"])
    tokens = min(PROBE_PROMPT, context - 1)
    state = session.start(min(context, tokens + PROBE_ANSWER))
    session.prefill(state, [1] * tokens)
    while state.length < state.capacity:
        session.feed(state, [1])
    return peak_bytes() - before


if __name__ == "__main__":
    print(_probe(json.loads(sys.argv[1])))
