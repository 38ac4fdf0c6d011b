"""The transformers model of a folder without its matrices: structure from the config, values where they are small.

Matrices are on torch's meta device, which has shapes and no memory. Vectors (norms, biases) and buffers (rotary
frequencies) are real: exporters look at their values, and all of them together take less than one matrix.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeq.errors import ModelError
from edgeq.exporters.causal_lm.weights import DecoderWeights, open_weights
from edgeq.exporters.checkpoint import quiet_transformers
from edgeq.exporters.modules import replaced
from edgeq.quantize.streaming.stacked_rows import values_of

MATRIX_AXES = 2


def decoder_without_matrices(
    folder: Path, weights: DecoderWeights | None = None
) -> tuple[Any, DecoderWeights]:
    """The model in float32 with plain matrix products for attention, and where its weights are.

    Args:
        folder: of the checkpoint.
        weights: of the same folder, where they are known from another call.

    Raises:
        ModelError: a file cannot be read, or weights are missing or of the wrong shape.
    """
    model = _from_config(folder)
    weights = weights or open_weights(folder, model)
    if weights.is_torn:
        model = _from_config(folder, is_tied=False)
    _fill_small(model, weights)
    return model.eval(), weights


def _from_config(folder: Path, *, is_tied: bool | None = None) -> Any:
    """The model of a config; `is_tied` overrules what it says about the head and the table."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    register = torch.nn.Module.register_parameter

    def without_matrices(self: Any, name: str, parameter: Any) -> None:
        if parameter is not None and parameter.ndim >= MATRIX_AXES:
            # Memory that nobody has touched costs nothing, and is given back here.
            parameter = torch.nn.Parameter(parameter.to("meta"), requires_grad=False)
        register(self, name, parameter)

    with quiet_transformers():
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            if is_tied is not None:
                config.tie_word_embeddings = is_tied
            with no_init_weights(), replaced(torch.nn.Module, register_parameter=without_matrices):
                model = AutoModelForCausalLM.from_config(
                    config, dtype=torch.float32, attn_implementation="eager", trust_remote_code=False
                )
            model.tie_weights()
        except Exception as error:  # transformers raises many kinds; each one is a bad folder here
            raise ModelError(f"transformers cannot load `{folder}`: {error}") from error
    return model.requires_grad_(False)


def _fill_small(model: Any, weights: DecoderWeights) -> None:
    """Give vectors and stored buffers their values."""
    import torch

    with torch.no_grad():
        for name, tensor in model.state_dict(keep_vars=True).items():
            if not tensor.is_meta:
                tensor.copy_(torch.from_numpy(values_of(weights[name])))
