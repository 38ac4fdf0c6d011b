"""The original as transformers itself loads and runs it: what edgeq compares with must be that, not its own reading.

edgeq's reference runs transformers' modules over weights that edgeq found in the file. Whatever edgeq does not read
would be missing on both sides of every comparison. So the reference is compared too, once per export: with
`from_pretrained` and `generate` from raw text where the model is small, else row by row with the file as the
safetensors library reads it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgeq.errors import ModelError
from edgeq.exporters.causal_lm.exported_language_model import Logits
from edgeq.exporters.causal_lm.weights import SAFETENSORS, DecoderWeights
from edgeq.exporters.checkpoint import describe, key_mapping_of, quiet_transformers, weight_files
from edgeq.exporters.stored_names import plain_names
from edgeq.types import FloatArray

PROMPT = "The report was finished on a Tuesday, 12 pages long."
NEW_TOKENS = 4
TOLERANCE = 1e-3
"""Of the largest logit: the same modules in float32, with sums in other orders."""


def check_reference(folder: Path, weights: DecoderWeights, reference: Logits, *, is_small: bool) -> None:
    """Compare the reference with transformers' own loading and generating, or its weights with the file.

    Args:
        folder: of the checkpoint.
        weights: that the reference reads.
        reference: of edgeq.
        is_small: the model may be held as a whole.

    Raises:
        ModelError: they differ.
    """
    if is_small:
        _check_generation(folder, reference)
    elif weight_files(folder)[0].name in SAFETENSORS:
        _check_rows(folder, weights)


def _check_generation(folder: Path, reference: Logits) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    with quiet_transformers(), torch.no_grad():
        try:
            model = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=torch.float32,
                local_files_only=True,
                trust_remote_code=False,
                weights_only=True,
                key_mapping=key_mapping_of(folder),
            ).eval()
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            ids = _prompt_ids(tokenizer, model)
            # In place of the folder's own, which may sample, penalize or stop.
            model.generation_config = GenerationConfig(
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
                eos_token_id=None,
                pad_token_id=0,
            )
            found = model.generate(ids, attention_mask=torch.ones_like(ids))
        except Exception as error:  # transformers raises many kinds; each one is a bad folder here
            raise ModelError(
                f"transformers cannot load and run `{folder.name}`: {describe(error)}"
            ) from error
    expected = np.stack([row[0].float().numpy() for row in found.logits])
    got = reference(found.sequences.numpy())[0][ids.shape[1] - 1 : -1]
    _require_close(expected, got, "the logits of `generate` in transformers")


def _prompt_ids(tokenizer: Any, model: Any) -> Any:
    """The prompt's tokens, inside the context and the table."""
    import torch

    config = model.config
    limits = (getattr(config, name, None) for name in ("max_position_embeddings", "n_positions"))
    context = next((limit for limit in limits if isinstance(limit, int)), 64)
    rows = model.get_input_embeddings().weight.shape[0]
    ids = [token for token in tokenizer(PROMPT)["input_ids"] if token < rows][: max(1, context - NEW_TOKENS)]
    return torch.tensor([ids or [0]])


def _check_rows(folder: Path, weights: DecoderWeights) -> None:
    """First, middle and last rows of every tensor, as the safetensors library reads them under the parameter's name."""
    import torch
    from safetensors import safe_open

    places: dict[str, Path] = {}
    for path in weight_files(folder):
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                places |= dict.fromkeys(file.keys(), path)
    stored = plain_names(places, folder).by_plain
    for name, tensor in weights.tensors.items():
        # Under the parameter's own name: where the file has it, nothing else may stand for it.
        in_file = stored.get(name, tensor.name)
        count = tensor.shape[0] if tensor.shape else 0
        rows = sorted({0, count // 2, count - 1}) if count else []
        with safe_open(places[in_file], framework="pt") as file:
            view = file.get_slice(in_file)
            expected = [view[row : row + 1].to(torch.float32).numpy()[0] for row in rows]
        if rows:
            _require_close(np.stack(expected), tensor.take(rows), f"`{in_file}` in the file")


def _require_close(expected: FloatArray, got: FloatArray, what: str) -> None:
    error = float(np.abs(expected - got).max() / max(float(np.abs(expected).max()), 1e-6))
    if not error <= TOLERANCE:
        raise ModelError(
            f"edgeq's reference does not compute what the original does: {what} differ by {error:.2g} of the largest, "
            f"expected at most {TOLERANCE:g}",
            hint="this may be a bug of edgeq: please report the model's name",
        )
