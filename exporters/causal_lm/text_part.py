"""Checkpoints of images and text: the language model inside, as an ordinary folder of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from edgeq.errors import ModelError
from edgeq.exporters.checkpoint import describe, quiet_transformers
from edgeq.exporters.dense_file import DenseFile
from edgeq.exporters.gptq_awq.folder import UnpackedFolder, copy_the_rest, kind_of
from edgeq.families import FAMILIES
from edgeq.quantize.streaming import Checkpoint


class TextPart(NamedTuple):
    """The language model inside a kind of checkpoint: the class of the whole, and its `model_type` where unsaid."""

    whole: str
    usual: str


TEXT_PARTS: Mapping[str, TextPart] = {
    "gemma3": TextPart("Gemma3ForConditionalGeneration", "gemma3_text"),
    "internvl": TextPart("InternVLForConditionalGeneration", "qwen2"),
    "llava": TextPart("LlavaForConditionalGeneration", "llama"),
    "llava_next": TextPart("LlavaNextForConditionalGeneration", "llama"),
    "mistral3": TextPart("Mistral3ForConditionalGeneration", "mistral"),
}
"""By the `model_type` of checkpoints whose language model reads text alone as a model of text would. PaliGemma is not
among them: its tokens see those that follow them in the prompt."""
PREFIXES: Mapping[str, str] = {
    "language_model.model.": "model.",
    "language_model.lm_head.": "lm_head.",
    "model.language_model.": "model.",
    "lm_head.": "lm_head.",
}
"""Of the names of a text part's tensors, as versions of transformers wrote them, and what they are in a text model."""


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The config of the language model inside; None where edgeq takes no part of such a checkpoint."""
    part, inner = TEXT_PARTS.get(config["model_type"]), config.get("text_config")
    if part is None or not isinstance(inner, Mapping):
        return None
    kind = str(inner.get("model_type") or part.usual)
    head = FAMILIES[kind].head if kind in FAMILIES else None
    return {**inner, "model_type": kind, "architectures": [head]}


def text_name(name: str) -> str | None:
    """A tensor's name in the model of text; None for those of the rest."""
    prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), None)
    return None if prefix is None else PREFIXES[prefix] + name.removeprefix(prefix)


def part_notice(config: Mapping[str, Any], kind: str) -> str:
    """What the user is told."""
    return (
        f"of the {config['model_type']} checkpoint the language model alone is taken ({kind}): texts in, texts out; "
        "its tensors for images are not used"
    )


def unpack_text_part(source: Path, folder: Path) -> UnpackedFolder:
    """Write the language model of a checkpoint as a folder of its own.

    Args:
        source: the checkpoint, in safetensors.
        folder: exists and is empty.

    Raises:
        ModelError: files are damaged, or it has no language model.
        OutputError: no room for the weights.
    """
    copy_the_rest(source, folder, {})
    (folder / "config.json").write_text(json.dumps(_filled_config(source), indent=1), encoding="utf-8")
    tensors = Checkpoint.open(source).tensors
    renamed = {text_name(name): tensor for name, tensor in tensors.items()}
    plain = {name: tensor for name, tensor in renamed.items() if name is not None}
    if not plain:
        raise ModelError(f"`{source}` has no tensors of a language model ({', '.join(PREFIXES)})")
    plan = {name: (kind_of(tensor), tensor.shape) for name, tensor in plain.items()}
    with DenseFile(folder / "model.safetensors", plan) as file:
        for name, tensor in plain.items():
            file.copy(name, tensor)
    return UnpackedFolder(folder, None, is_torn=False)


def _filled_config(source: Path) -> dict[str, Any]:
    """The text part's config with the defaults of its class, which the checkpoint's leaves out."""
    from transformers import AutoConfig

    with quiet_transformers():
        try:
            whole = AutoConfig.from_pretrained(source, local_files_only=True, trust_remote_code=False)
            inner = whole.get_text_config()
        except Exception as error:  # transformers raises many kinds; each one is a bad config here
            raise ModelError(
                f"transformers cannot read the config of `{source}`: {describe(error)}"
            ) from error
    found: dict[str, Any] = json.loads(inner.to_json_string(use_diff=False))
    # The head belongs to the whole, and so does the question whether it is tied.
    found["tie_word_embeddings"] = bool(getattr(whole, "tie_word_embeddings", False))
    found["architectures"] = [FAMILIES[found["model_type"]].head]
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if found.get(name) is None and getattr(whole, name, None) is not None:
            found[name] = getattr(whole, name)
    return found
