"""Decoder graphs made from models that are wholly in memory: what graphs by reference must equal, byte for byte."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeq.exporters.causal_lm import builder as road
from edgeq.exporters.causal_lm import trace
from edgeq.exporters.causal_lm.families import layer_windows
from edgeq.exporters.causal_lm.graph_io import (
    ATTENTION_MASK,
    INPUT_IDS,
    LOGITS,
    past_names,
    present_names,
)
from edgeq.exporters.causal_lm.normalize import normalize_built, normalize_traced
from edgeq.exporters.checkpoint import quiet_transformers
from edgeq.exporters.torch_onnx import quiet
from edgeq.graph.component import CANONICAL_OPSET
from edgeq.runtime.generation.settings import CacheShape


def load_decoder(folder: Path) -> Any:
    """The model in float32, with plain matrix products for attention."""
    import torch
    from transformers import AutoModelForCausalLM

    with quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True
        )
    return model.eval()


def logits_of(model: Any, token_ids: np.ndarray) -> np.ndarray:
    """Logits `[batch, sequence, vocabulary]` of token ids `[batch, sequence]`."""
    import torch

    with torch.no_grad(), quiet_transformers():
        return model(input_ids=torch.from_numpy(token_ids), use_cache=False).logits.numpy()


def built_whole(folder: Path, cache: CacheShape) -> ir.Model:
    """The builder loads the weights, writes the graph, and the graph is read back."""
    model = load_decoder(folder)
    with TemporaryDirectory() as scratch:
        out = Path(scratch) / "model"
        place = ("", str(folder), str(out), "fp32", "cpu", str(Path(scratch) / "cache"))
        with road._quiet(), quiet_transformers():
            from onnxruntime_genai.models import builder

            options = builder.parse_extra_options(*place, ["hf_remote=false", "fuse_qkv=false"])
            builder.create_model(*place, **options)
        graph = ir.load(out / "model.onnx")
        for value in graph.graph.initializers.values():
            value.const_value = ir.tensor(np.array(value.const_value.numpy()), name=value.name)
    normalize_built(graph, layer_windows(model.config, cache.layers))
    return graph


def traced_whole(folder: Path, cache: CacheShape, context: int) -> ir.Model:
    """Torch traces the weights as parameters in memory."""
    import torch

    model = load_decoder(folder)
    layers = cache.layers
    arguments = (
        torch.ones(2, 7, dtype=torch.int64),
        torch.ones(2, 12, dtype=torch.int64),
        tuple(torch.rand(2, cache.heads, 5, cache.size) for _ in range(2 * layers)),
    )
    with quiet(), torch.no_grad():
        exported = torch.export.export(
            trace._decoder(model, layers),
            arguments,
            dynamic_shapes=trace._dynamic_shapes(layers, context),
            strict=False,
        )
        program: Any = torch.onnx.export(
            exported,
            dynamo=True,
            opset_version=CANONICAL_OPSET,
            input_names=[INPUT_IDS, ATTENTION_MASK, *past_names(layers)],
            output_names=[LOGITS, *present_names(layers)],
            verbose=False,
        )
    normalize_traced(program.model, (f"model.{model.base_model_prefix}", "model"))
    return program.model
