"""What `edgeq bench` is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class BenchRequest:
    """What to time.

    Attributes:
        bundle: path.
        against: the baseline of ratios: another bundle or an `.onnx` file with the same inputs; for a language model
            another bundle, a folder of ONNX Runtime GenAI or a `.gguf` file.
        threads: intra-op threads; None leaves the choice to the engines.
        prompt_tokens: of a language model's prompt.
        new_tokens: that it writes.
        llama_python: interpreter that has llama-cpp-python; this one when left out.
    """

    bundle: Path
    against: Path | None = None
    threads: int | None = None
    force: bool = False
    prompt_tokens: int | None = None
    new_tokens: int | None = None
    llama_python: Path | None = None
