"""The road through ONNX Runtime GenAI's model builder: its graph is what the Android and iOS packages run fastest.

GroupQueryAttention with rotary positions inside, fused norms, past and present that share one buffer. The builder
writes float32 here; recipes of edgeq quantize afterwards.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeq.errors import ModelError
from edgeq.exporters.checkpoint import quiet_transformers

if TYPE_CHECKING:
    import onnx_ir as ir


def is_installed() -> bool:
    """Whether the builder can be imported."""
    return find_spec("onnxruntime_genai") is not None


def build_decoder(folder: Path) -> tuple[ir.Model, dict[str, Any]]:
    """The float32 graph of a folder, and its `genai_config.json`.

    Raises:
        ModelError: the builder fails on this model.
    """
    import numpy as np
    import onnx_ir as ir

    with tempfile.TemporaryDirectory(prefix="edgeq-builder-") as scratch:
        out = Path(scratch) / "model"
        _run_builder(folder, out, Path(scratch) / "cache")
        model = ir.load(out / "model.onnx")
        config = json.loads((out / "genai_config.json").read_text(encoding="utf-8"))
        for value in model.graph.initializers.values():
            if value.const_value is not None:
                # Out of the folder that is about to go.
                value.const_value = ir.tensor(np.array(value.const_value.numpy()), name=value.name)
    return model, config


def _run_builder(folder: Path, out: Path, cache: Path) -> None:
    place = ("", str(folder), str(out), "fp32", "cpu", str(cache))
    try:
        with _quiet(), quiet_transformers():
            from onnxruntime_genai.models import builder

            # Code from model repositories is never run.
            options = builder.parse_extra_options(*place, ["hf_remote=false", "fuse_qkv=false"])
            builder.create_model(*place, **options)
    except Exception as error:  # whatever the builder trips over, the user can only take another model
        raise ModelError(
            f"the model builder of ONNX Runtime GenAI fails: {type(error).__name__}: {error}"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The builder prints as it works; the terminal belongs to edgeq."""
    root = logging.root
    previous, level, handlers = root.manager.disable, root.level, list(root.handlers)
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
        # The builder configures logging for its own command line.
        root.setLevel(level)
        root.handlers[:] = handlers
