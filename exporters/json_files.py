"""JSON files of a model folder, with what is wrong with them as a `ModelError`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgeq.errors import ModelError


def read_json(path: Path) -> Any:
    """Parse a JSON file of a model folder.

    Raises:
        ModelError: the file is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"cannot read `{path}`: {error}", hint="download the model again") from error


def read_object(path: Path) -> dict[str, Any]:
    """Parse a JSON file that holds one object.

    Raises:
        ModelError: it holds something else, or the file is not JSON.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        raise ModelError(f"`{path}` holds a {type(found).__name__}, expected a JSON object")
    return found
