"""The settings of a language model's bundle, wherever an engine reads them, as values that can be compared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from edgeq.errors import IntegrityError
from edgeq.exporters.gguf.reader import open_gguf
from edgeq.files import contained_path
from edgeq.runtime.generation.settings import GENERATION_FILE

BESIDE_THE_MODEL = ("genai_config.json", "tokenizer_config.json")
"""What ONNX Runtime GenAI reads."""
GGUF_SUFFIX = ".gguf"
LONGEST = 120
"""Characters of JSON that are kept; of more, such as a chat template, only the hash."""

Values = Mapping[str, Mapping[str, Any]]
"""By file, then by key."""


def settings_files(folder: Path, model: str) -> list[str]:
    """Files of a bundle that have settings, a GGUF model file among them.

    Args:
        folder: of the bundle.
        model: the variant's file, relative.
    """
    beside = [str(PurePosixPath(model).parent / name) for name in BESIDE_THE_MODEL]
    there = [name for name in (GENERATION_FILE, *beside) if contained_path(folder, name).is_file()]
    return [*there, *([model] if model.endswith(GGUF_SUFFIX) else [])]


def read_settings(folder: Path, name: str) -> Mapping[str, Any]:
    """The settings of one file, by key with dots.

    Raises:
        IntegrityError: it is not JSON.
        ModelError: a GGUF file is damaged.
        MissingExtraError: the `gguf` package, which reads those, is not installed.
    """
    path = contained_path(folder, name)
    if name.endswith(GGUF_SUFFIX):
        return {key: _short(value) for key, value in open_gguf(path).metadata.items()}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise IntegrityError(f"`{name}` cannot be read: {type(error).__name__}: {error}") from error
    return {key: _short(value) for key, value in _leaves(document, "")}


def _leaves(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Everything but objects, under its path; lists are compared whole."""
    if not isinstance(value, dict) or not value:
        yield prefix, value
        return
    for key, item in value.items():
        yield from _leaves(item, f"{prefix}.{key}" if prefix else str(key))


def _short(value: Any) -> Any:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    if len(text) <= LONGEST:
        # As JSON has it: what is read back later compares equal.
        return json.loads(text)
    return f"sha256:{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"
