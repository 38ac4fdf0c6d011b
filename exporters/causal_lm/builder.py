"""The road through ONNX Runtime GenAI's model builder: its graph is what the Android and iOS packages run fastest.

GroupQueryAttention with rotary positions inside, fused norms, past and present that share one buffer. The builder
writes float32 here; recipes of edgeq quantize afterwards.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeq.errors import ModelError
from edgeq.exporters.causal_lm.recording import Recording
from edgeq.exporters.causal_lm.weights import DecoderWeights
from edgeq.exporters.checkpoint import quiet_transformers
from edgeq.exporters.modules import replaced
from edgeq.scratch import scratch_folder

if TYPE_CHECKING:
    import onnx_ir as ir


def is_installed() -> bool:
    """Whether the builder can be imported."""
    return find_spec("onnxruntime_genai") is not None


def build_decoder(folder: Path, model: Any, weights: DecoderWeights) -> tuple[ir.Model, dict[str, Any]]:
    """The float32 graph of a folder, matrices by reference, and its `genai_config.json`.

    The builder loads and saves models by itself. It is given a model without matrices instead, and its graph is taken
    before it is saved.

    Args:
        folder: of the checkpoint.
        model: from `decoder_without_matrices`.
        weights: of the same.

    Raises:
        ModelError: the builder fails on this model.
    """
    recording = Recording(model, weights)
    with scratch_folder("builder") as scratch:
        out = scratch / "model"
        with recording.stacking():
            graph = _run_builder(folder, model, out, scratch / "cache", is_torn=weights.is_torn)
        config = json.loads((out / "genai_config.json").read_text(encoding="utf-8"))
    for value in graph.graph.initializers.values():
        if value.const_value is not None:
            value.const_value = _tensor(value, recording)
    return graph, config


def _run_builder(folder: Path, model: Any, out: Path, cache: Path, *, is_torn: bool) -> ir.Model:
    place = ("", str(folder), str(out), "fp32", "cpu", str(cache))
    built: list[ir.Model] = []
    try:
        with _quiet(), quiet_transformers():
            from onnxruntime_genai.models import builder

            # Code from model repositories is never run.
            wanted = ["hf_remote=false", "fuse_qkv=false"]
            if is_torn:
                # The builder believes the config, which ties what the checkpoint has apart.
                wanted.append("shared_embeddings=false")
            options = builder.parse_extra_options(*place, wanted)
            with replaced(
                builder.Model,
                load_weights=lambda *_: model,
                save_model=lambda self, _: built.append(self.model),
            ):
                builder.create_model(*place, **options)
    except Exception as error:  # whatever the builder trips over, the user can only take another model
        raise ModelError(
            f"the model builder of ONNX Runtime GenAI fails: {type(error).__name__}: {error}"
        ) from error
    if len(built) != 1:
        raise ModelError(f"the model builder of ONNX Runtime GenAI made {len(built)} graphs, expected 1")
    built[0].graph.sort()
    for node in built[0].graph:
        _trim_inputs(node)
    return built[0]


def _trim_inputs(node: ir.Node) -> None:
    """Drop what saving and loading a graph drops: the builder's values without a name, and those at the end."""
    for index, value in enumerate(node.inputs):
        if value is not None and not value.name:
            node.replace_input_with(index, None)
    used = [index for index, value in enumerate(node.inputs) if value is not None]
    node.resize_inputs(used[-1] + 1 if used else 0)


def _tensor(value: ir.Value, recording: Recording) -> ir.TensorProtocol:
    """An initializer's tensor: streamed for a matrix of the model, a copy in memory for everything else."""
    import numpy as np
    import onnx_ir as ir

    tensor = value.const_value
    assert tensor is not None
    # What the builder casts it evaluates when it saves; casts of float32 to float32 keep the tensor.
    made = tensor.raw() if isinstance(tensor, ir.LazyTensor) else tensor
    raw = getattr(made, "raw", None)
    if getattr(raw, "is_meta", False):
        rows = recording.rows_of(raw)
        rows.name = value.name
        return rows
    return ir.tensor(np.array(made.numpy()), name=value.name)


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
