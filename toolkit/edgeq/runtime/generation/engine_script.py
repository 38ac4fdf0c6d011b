"""One engine in a process of its own: loads a language model and times prompts, which come as lines of JSON.

Run by its path, also under an interpreter (3.11 or later) that has llama-cpp-python and not edgeq: edgeq is then found
beside this file, after the interpreter's own packages. So edgeq is imported in functions alone, and by each engine no
more of it than that engine needs.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO


def main() -> None:
    """Answer requests on stdin until it ends; argument: the engine as JSON."""
    # Not this folder, whose modules are no one's top-level modules, but the one that holds edgeq.
    sys.path[:] = [*sys.path[1:], str(Path(__file__).parents[3])]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries may print what they like, but not between the answers
    try:
        engine = _ENGINES[json.loads(sys.argv[1])["engine"]](json.loads(sys.argv[1]))
        _serve(engine, answers)
    except Exception as error:  # the other side tells the user
        _say(answers, {"error": f"{type(error).__name__}: {error}"})
        sys.exit(1)


def _serve(engine: _Engine, answers: TextIO) -> None:
    floor = peak_bytes()
    started = time.perf_counter()
    engine.load()
    load_s = time.perf_counter() - started
    _say(answers, {"load_s": load_s, "version": engine.version, **engine.facts()})
    for line in sys.stdin:
        request = json.loads(line)
        found = _timed(engine, request["prompt"], request["new_tokens"])
        facts = {"peak_bytes": peak_bytes() - floor, "kv_bytes_per_token": engine.kv_bytes_per_token()}
        _say(answers, found | facts)


def _say(answers: TextIO, document: dict[str, Any]) -> None:
    answers.write(json.dumps(document) + "\n")
    answers.flush()


def _timed(engine: _Engine, prompt: list[int], new_tokens: int) -> dict[str, Any]:
    """Stop tokens do not stop; the processor's time counts all threads."""
    stream = engine.stream(prompt, new_tokens + 1)
    started = time.perf_counter()
    tokens = [next(stream)]
    first, first_cpu = time.perf_counter(), time.process_time()
    tokens += stream
    ended, ended_cpu = time.perf_counter(), time.process_time()
    return {
        "first_s": first - started,
        "rest_s": ended - first,
        "rest_cpu_s": ended_cpu - first_cpu,
        "tokens": tokens,
    }


def peak_bytes() -> int:
    """Peak RSS of this process; on Linux `ru_maxrss` would start at the parent's own."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class _Engine:
    """What every engine does; the library is imported when it is made, so that memory before `load` includes it."""

    version = ""

    def load(self) -> None:
        """Open the model."""
        raise NotImplementedError

    def facts(self) -> dict[str, int]:
        """Of the model: `context` and `vocabulary`."""
        raise NotImplementedError

    def stream(self, prompt: list[int], count: int) -> Iterator[int]:
        """`count` greedy tokens."""
        raise NotImplementedError

    def kv_bytes_per_token(self) -> int:
        """Growth of the cache."""
        raise NotImplementedError


class _OnnxRuntime(_Engine):
    def __init__(self, request: dict[str, Any]) -> None:
        import onnxruntime

        from edgeq.runtime.generation.settings import CacheShape

        self.version = onnxruntime.__version__
        self._request = request
        self._cache = CacheShape(**request["cache"])

    def load(self) -> None:
        from edgeq.onnx_runtime import session_options
        from edgeq.runtime.generation.generator import OnnxTokens
        from edgeq.runtime.generation.session import DecoderSession

        request = self._request
        # What an app runs is timed: the kernels that it gets, at the level that the variant orders.
        options = session_options(exact=False, level=request["level"], threads=request["threads"])
        session = DecoderSession(Path(request["model"]), self._cache, request["context"], options=options)
        self._tokens = OnnxTokens(session)

    def facts(self) -> dict[str, int]:
        return {"context": self._request["context"], "vocabulary": self._request["vocabulary"]}

    def stream(self, prompt: list[int], count: int) -> Iterator[int]:
        from edgeq.runtime.generation.sampling import Sampling

        return self._tokens(prompt, Sampling(), len(prompt) + count)

    def kv_bytes_per_token(self) -> int:
        return self._cache.bytes_per_token


class _Genai(_Engine):
    def __init__(self, request: dict[str, Any]) -> None:
        import onnxruntime_genai

        self.version = onnxruntime_genai.__version__
        self._request = request
        self._config = json.loads((Path(request["model"]) / "genai_config.json").read_text("utf-8"))["model"]

    def load(self) -> None:
        from edgeq.runtime.generation.genai import GenaiTokens

        request = self._request
        self._tokens = GenaiTokens(Path(request["model"]), threads=request["threads"], level=request["level"])

    def facts(self) -> dict[str, int]:
        return {"context": self._config["context_length"], "vocabulary": self._config["vocab_size"]}

    def stream(self, prompt: list[int], count: int) -> Iterator[int]:
        from edgeq.runtime.generation.sampling import Sampling

        tokens = self._tokens(prompt, Sampling(), len(prompt) + count, may_stop=False)
        return (token for token, _ in zip(tokens, range(count), strict=False))

    def kv_bytes_per_token(self) -> int:
        decoder = self._config["decoder"]
        sizes = (decoder[key] for key in ("num_hidden_layers", "num_key_value_heads", "head_size"))
        layers, heads, size = sizes
        return int(2 * 4 * layers * heads * size)


class _LlamaCpp(_Engine):
    def __init__(self, request: dict[str, Any]) -> None:
        from edgeq.runtime.generation.llama_cpp import LlamaCppTokens, load_library, package_version

        load_library()
        self.version = package_version()
        self._request, self._kind = request, LlamaCppTokens
        self._kv_bytes = 0

    def load(self) -> None:
        self._tokens = self._kind(Path(self._request["model"]), threads=self._request["threads"])

    def facts(self) -> dict[str, int]:
        model = self._tokens.model
        return {"context": model.context_length, "vocabulary": model.vocabulary}

    def stream(self, prompt: list[int], count: int) -> Iterator[int]:
        from edgeq.runtime.generation.sampling import Sampling

        tokens = self._tokens(prompt, Sampling(), len(prompt) + count)
        yield next(tokens)
        before = self._tokens.model.state_bytes()
        yield from tokens
        self._kv_bytes = (self._tokens.model.state_bytes() - before) // max(count - 1, 1)

    def kv_bytes_per_token(self) -> int:
        return self._kv_bytes


_ENGINES: dict[str, Callable[[dict[str, Any]], _Engine]] = {
    "onnxruntime": _OnnxRuntime,
    "genai": _Genai,
    "llama.cpp": _LlamaCpp,
}


if __name__ == "__main__":
    main()
