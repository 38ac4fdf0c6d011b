"""What exporting needs beyond the light install."""

from __future__ import annotations

import importlib.util

from edgeq.errors import MissingExtraError

TORCH_EXPORT = ("torch", "transformers", "onnx_ir", "onnxscript")
"""For models of transformers."""
GRAPHS = ("onnx", "onnx_ir")
"""For graphs that are there already."""


def require_modules(names: tuple[str, ...]) -> None:
    """Refuse to export where one of these modules is missing.

    Raises:
        MissingExtraError: the `export` extra is not installed.
    """
    if any(importlib.util.find_spec(name) is None for name in names):
        raise MissingExtraError("exporting a model", "export")
