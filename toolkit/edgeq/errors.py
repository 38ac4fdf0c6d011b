"""The exceptions of edgeq, and the exit code each one ends the command line with.

EdgeqError                  1   anything a user can act on
├── ModelError              1   the model cannot be read, is not supported, or does not match its original
├── DataError               1   calibration or evaluation data cannot be used
├── ConfigError             1   a recipe, a config file or a combination of options is wrong
├── UnsupportedError        1   an operator, precision or platform that a target does not offer
├── MissingExtraError       1   an optional dependency is not installed
├── OutputError             1   the output cannot be written (exists, not writable, disk full)
├── UsageError              2   the command line itself is wrong
├── PassError              70   a pass over a graph failed in a way that nobody foresaw
├── GateError               3   the bundle's quality is below its gate
└── IntegrityError          4   hashes, missing or unlisted files, path escapes, a newer major format
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit status of every command."""

    OK = 0
    USER = 1
    USAGE = 2
    GATE = 3
    INTEGRITY = 4
    INTERNAL = 70


class EdgeqError(Exception):
    """A failure the user can act on.

    Args:
        message: what happened, what was found and what was expected.
        hint: the next thing to do, usually a command.
    """

    exit_code = ExitCode.USER

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ModelError(EdgeqError):
    """The model cannot be read, is not supported, or its export does not match the original."""


class PassError(EdgeqError):
    """A pass over a graph failed in a way that nobody foresaw; the message names it and those before it."""

    exit_code = ExitCode.INTERNAL


class DataError(EdgeqError):
    """Calibration or evaluation data cannot be used."""


class ConfigError(EdgeqError):
    """A recipe, a config file or a combination of options is wrong."""


class UnsupportedError(EdgeqError):
    """A target does not offer this operator, precision or platform."""


class MissingExtraError(EdgeqError):
    """An optional dependency is not installed."""

    def __init__(self, purpose: str, extra: str) -> None:
        super().__init__(
            f"{purpose} needs the `{extra}` extra, which is not installed",
            hint=f"pip install 'edgeq[{extra}]'",
        )


EXTRA_OF = {
    "torch": "export",
    "transformers": "export",
    "onnx": "export",
    "onnx_ir": "export",
    "onnxscript": "export",
    "scipy": "export",
    "safetensors": "export",
    "coremltools": "coreml",
    "gguf": "llm",
    "pyarrow": "data",
    "datasets": "data",
    "matplotlib": "plot",
}
"""The extra that brings a module which the light install does not have."""


class OutputError(EdgeqError):
    """The output cannot be written."""


class UsageError(EdgeqError):
    """The command line itself is wrong."""

    exit_code = ExitCode.USAGE


class GateError(EdgeqError):
    """The bundle's quality is below its gate."""

    exit_code = ExitCode.GATE


class IntegrityError(EdgeqError):
    """A bundle's files are not those its manifest lists."""

    exit_code = ExitCode.INTEGRITY
