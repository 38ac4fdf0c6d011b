"""Engines to compare, each in a process of its own: none shares threads, memory or libraries with another."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from edgeq.errors import ModelError, UnsupportedError
from edgeq.onnx_runtime import DEFAULT_LEVEL, OptimizationLevel
from edgeq.runtime.generation.settings import CacheShape

SCRIPT = Path(__file__).with_name("engine_script.py")
ONNX_RUNTIME, GENAI, LLAMA_CPP = "onnxruntime", "genai", "llama.cpp"
_SHOWN = 400


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """A model and what runs it.

    Attributes:
        engine: `onnxruntime`, `genai` or `llama.cpp`.
        model: the graph, GenAI's folder, or the `.gguf` file.
        threads: None lets the engine choose.
        cache: for `onnxruntime`.
        context: for `onnxruntime`, most tokens of a sequence.
        vocabulary: for `onnxruntime`, size of a row of logits.
        python: interpreter; this one when left out.
        level: graph optimizations, for `onnxruntime` and `genai`.
    """

    engine: str
    model: Path
    threads: int | None = None
    cache: CacheShape | None = None
    context: int = 0
    vocabulary: int = 0
    python: Path | None = None
    level: OptimizationLevel = DEFAULT_LEVEL

    def to_json(self) -> dict[str, Any]:
        """The script's argument."""
        cache = None if self.cache is None else asdict(self.cache)
        return asdict(self) | {"model": str(self.model), "cache": cache, "python": None}


@dataclass(frozen=True, slots=True)
class Answer:
    """One prompt read and some tokens written.

    Attributes:
        first_s: seconds to the first token.
        rest_s: seconds for the others.
        rest_cpu_s: processor time for the others, all threads together.
        tokens: written, the first included.
        peak_bytes: growth of peak RSS since before the model was loaded.
        kv_bytes_per_token: growth of the cache.
    """

    first_s: float
    rest_s: float
    rest_cpu_s: float
    tokens: tuple[int, ...]
    peak_bytes: int = 0
    kv_bytes_per_token: int = 0


class EngineProcess:
    """A running engine; call it with a prompt.

    Args:
        spec: which.

    Attributes:
        load_s: seconds to load the model.
        context: most tokens.
        vocabulary: token ids below this.
        version: of the engine's library.

    Raises:
        UnsupportedError: llama-cpp-python is not installed.
        ModelError: it cannot be started or cannot load the model.
    """

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec
        self._log: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 (closed by close)
        python = str(spec.python or sys.executable)
        try:
            self._process = subprocess.Popen(
                [python, str(SCRIPT), json.dumps(spec.to_json())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
                env=_environment(spec),
            )
        except OSError as error:
            self._log.close()
            raise ModelError(f"`{python}` cannot be started: {error.strerror or error}") from error
        try:
            facts = self._read()
        except BaseException:
            self.close()
            raise
        self.load_s: float = facts["load_s"]
        self.context: int = facts["context"]
        self.vocabulary: int = facts["vocabulary"]
        self.version: str = facts["version"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __call__(self, prompt: Sequence[int], new_tokens: int) -> Answer:
        """Read a prompt and write greedily, stop tokens or not.

        Args:
            prompt: token ids.
            new_tokens: after the first one.

        Raises:
            ModelError: the engine fails.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"prompt": list(prompt), "new_tokens": new_tokens}) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._failed(self._end()) from error
        found = self._read()
        return Answer(**found | {"tokens": tuple(found["tokens"])})

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        found: dict[str, Any] = json.loads(line) if line else {"error": self._end()}
        if "error" in found:
            raise self._failed(found["error"])
        return found

    def _end(self) -> str:
        """How the process ended, which gave no answer."""
        status = self._process.wait()
        name = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return f"its process ended with {name}"

    def _failed(self, what: str) -> ModelError | UnsupportedError:
        spec = self.spec
        if spec.engine == LLAMA_CPP and what.startswith("MissingExtraError"):
            return UnsupportedError(
                f"`{spec.python or sys.executable}` has no llama-cpp-python, which runs `{spec.model.name}`",
                hint="pip install 'edgeq[llama]', or name an interpreter that has it with --llama-python",
            )
        self._log.seek(0)
        log = self._log.read().strip()[-_SHOWN:]
        return ModelError(f"`{spec.model}` on {spec.engine}: {what}{f' ({log})' if log else ''}")


def _environment(spec: EngineSpec) -> dict[str, str]:
    """Another interpreter does not get this one's module path."""
    if spec.python is None:
        return dict(os.environ)
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
