"""Everything of a GGUF file but its tensors: what the model is, and its tokenizer."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from edgeq.processors.prompts import PromptTokenizer
from edgeq.targets.gguf.file_types import FileType
from edgeq.targets.gguf.vocabulary import Vocabulary

if TYPE_CHECKING:
    from edgeq.targets.target import CheckpointInput

QUANTIZATION_VERSION = 2
"""Of ggml's block layouts."""
SPECIAL = {
    "bos_token": "bos",
    "eos_token": "eos",
    "unk_token": "unknown",
    "sep_token": "seperator",  # ggml's spelling
    "pad_token": "padding",
    "cls_token": "cls",
    "mask_token": "mask",
}
"""Role of a special token: its name in `tokenizer.ggml.<name>_token_id`."""


def add_metadata(
    writer: Any,
    source: CheckpointInput,
    file_type: FileType,
    model: Mapping[str, Any],
    tokens: Collection[str],
) -> None:
    """Add the model's own keys, general ones first.

    Args:
        writer: a `gguf.GGUFWriter`.
        source: the model.
        file_type: of the file.
        model: keys after `<architecture>.`.
        tokens: of the vocabulary.
    """
    writer.add_type("model")
    writer.add_name(_harmless(source.name, tokens))
    if source.about.license:
        writer.add_license(source.about.license)
    for key, value in model.items():
        _add(writer, f"{writer.arch}.{key}", value)
    writer.add_file_type(file_type.number)
    writer.add_quantization_version(QUANTIZATION_VERSION)


def _harmless(name: str, tokens: Collection[str]) -> str:
    """The name of a model; llama.cpp takes `phi-3` in it to mean four tokens of Phi-3, and fails without them."""
    if {"</s>", "<unk>", "<s>", "<|endoftext|>"} <= set(tokens):
        return name
    return re.sub(r"(?i)(phi)-?3", r"\1 3", name)


def add_tokenizer(writer: Any, source: CheckpointInput, vocabulary: Vocabulary) -> None:
    """Add tokens, special tokens and the chat template."""
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(list(vocabulary.tokens))
    if vocabulary.scores is not None:
        writer.add_token_scores(list(vocabulary.scores))
    writer.add_token_types(list(vocabulary.types))
    if vocabulary.merges:
        writer.add_token_merges(list(vocabulary.merges))
    if vocabulary.adds_space is not None:
        writer.add_add_space_prefix(vocabulary.adds_space)
    _add_special(writer, source)
    if source.settings.chat_template is not None:
        writer.add_chat_template(source.settings.chat_template)


def _add_special(writer: Any, source: CheckpointInput) -> None:
    ids = source.special_ids
    for role, name in SPECIAL.items():
        if role in ids:
            writer.add_uint32(f"tokenizer.ggml.{name}_token_id", ids[role])
    turn_ends = [token for token in source.settings.stop_ids if token != ids.get("eos_token")]
    if turn_ends:
        writer.add_eot_token_id(turn_ends[0])
    starts, ends = _added_around(source)
    writer.add_add_bos_token(starts)
    writer.add_add_eos_token(ends)


def _added_around(source: CheckpointInput) -> tuple[bool, bool]:
    """Whether the tokenizer puts a start token before a text, and an end token behind it."""
    tokenizer = PromptTokenizer(source.tokenizer_json)
    ids = tokenizer.encode("a")
    starts = bool(ids) and ids[0] == source.special_ids.get("bos_token")
    ends = len(ids) > 1 and ids[-1] == source.special_ids.get("eos_token")
    return starts, ends


def _add(writer: Any, key: str, value: Any) -> None:
    """A key with the type that llama.cpp expects for it."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
