"""The original of a text encoder's bundle, from raw text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgeq.exporters.library import TextReference, of_reference, open_library
from edgeq.exporters.loading import inspect_model, load_model
from edgeq.exporters.source import fetch, is_onnx_file, local_folder
from edgeq.types import Task


def open_original(model: str | Path, task: Task, limit: int) -> TextReference:
    """The original of a bundle.

    Args:
        model: a folder, a Hub id or an `.onnx` file.
        task: that the bundle was made for.
        limit: tokens of the bundle; longer texts are cut to it, or to the original's own limit where that is shorter.

    Raises:
        ModelError: it cannot be loaded, or is not supported.
    """
    facts = inspect_model(model, task=str(task)).require_supported()
    if is_onnx_file(model) or is_onnx_file(facts.model):
        exported = load_model(model, task=str(task))
        return of_reference(
            exported.preprocessor, exported.reference, limit, f"`{Path(model).name}` in ONNX Runtime", ()
        )
    if local_folder(model) is None:
        facts = replace(facts, folder=fetch(str(model), None, config_only=False))
    found, why = open_library(facts, limit)
    if found is not None:
        return found
    exported = load_model(model, task=str(task))
    return of_reference(
        exported.preprocessor, exported.reference, limit, "the forward of transformers", (why,)
    )
