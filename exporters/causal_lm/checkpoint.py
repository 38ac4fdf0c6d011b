"""The transformers model of a folder, as a causal language model in float32."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeq.errors import ModelError
from edgeq.exporters.causal_lm.base import Logits
from edgeq.exporters.checkpoint import check_weights, quiet_transformers
from edgeq.types import Array, FloatArray

if TYPE_CHECKING:
    from edgeq.exporters.causal_lm.weights import DecoderWeights


def load_decoder(folder: Path) -> Any:
    """The model, with plain matrix products for attention.

    Raises:
        ModelError: a file cannot be read, weights are missing, of the wrong shape, or not finite.
    """
    import torch
    from transformers import AutoModelForCausalLM

    check_weights(folder)
    with quiet_transformers():
        try:
            model, info = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=torch.float32,
                attn_implementation="eager",
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                weights_only=True,
            )
        except Exception as error:  # transformers and torch raise many kinds; each one is a bad folder here
            raise ModelError(f"transformers cannot load `{folder}`: {error}") from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(f"`{folder}` has no weights for {len(missing)} tensors, first {missing[0]}")
    _check_finite(model, folder)
    return model.eval()


def _check_finite(model: Any, folder: Path) -> None:
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            bad = int((~tensor.isfinite()).sum())
            raise ModelError(
                f"tensor {name} of `{folder}` holds NaN or Inf in {bad} of {tensor.numel()} values",
                hint="the checkpoint is damaged; download it again or export an earlier one",
            )


def original_logits(model: Any) -> Logits:
    """The original as a function of token ids."""

    def run(token_ids: Array) -> FloatArray:
        import torch

        ids = torch.from_numpy(np.ascontiguousarray(token_ids, np.int64))
        with torch.no_grad(), quiet_transformers():
            logits: FloatArray = model(input_ids=ids, use_cache=False).logits.float().numpy()
        return logits

    return run


def load_original(model: str | Path, *, revision: str | None = None) -> Logits:
    """The original model, to compare with; its weights are read as it runs.

    Raises:
        ModelError: it cannot be loaded, or is no supported language model.
    """
    from edgeq.exporters.causal_lm.facts import inspect_language_model
    from edgeq.exporters.causal_lm.hollow import hollow_decoder
    from edgeq.exporters.causal_lm.scratch import ScratchFolder
    from edgeq.exporters.causal_lm.streamed_forward import streamed_logits
    from edgeq.exporters.gguf import inspect_gguf, unpack
    from edgeq.exporters.packed.folder import unpack as unpack_folder
    from edgeq.exporters.source import fetch, is_gguf_file, local_folder

    def run(folder: Path) -> tuple[Logits, DecoderWeights]:
        original, weights = hollow_decoder(folder)
        weights.check_finite()
        return streamed_logits(original, weights), weights

    if is_gguf_file(model):
        path = Path(model).expanduser()
        inspect_gguf(path).require_supported()
        with ScratchFolder("edgeq-gguf-") as scratch:
            logits, weights = run(unpack(path, scratch.path).folder)
            scratch.keep_for(weights)
        return logits

    facts = inspect_language_model(model, revision=revision).require_supported()
    is_local = local_folder(model) is not None
    folder = facts.folder if is_local else fetch(str(model), revision, config_only=False)
    if facts.quantized is not None:
        with ScratchFolder("edgeq-packed-") as scratch:
            logits, weights = run(unpack_folder(folder, scratch.path).folder)
            scratch.keep_for(weights)
        return logits
    return run(folder)[0]
