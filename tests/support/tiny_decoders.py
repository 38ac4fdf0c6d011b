"""Random causal language models of a hundred kilobytes for every family, with a byte-level tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

VOCABULARY = 288
"""256 bytes, special tokens, and some tokens that stand for nothing: models round their tables up."""
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 258,
}
WINDOWED = {"sliding_window": 16}
"""Shorter than the probes, so that a lost window shows."""
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", COMMON),
    "mistral": ("MistralConfig", COMMON | WINDOWED),
    "qwen2": ("Qwen2Config", COMMON),
    "qwen3": ("Qwen3Config", COMMON | {"head_dim": 32}),
    "gemma2": ("Gemma2Config", COMMON | WINDOWED | {"head_dim": 16, "query_pre_attn_scalar": 16}),
    "gemma3_text": ("Gemma3TextConfig", COMMON | WINDOWED | {"head_dim": 16, "query_pre_attn_scalar": 16}),
    "phi3": ("Phi3Config", COMMON | {"original_max_position_embeddings": 128}),
    "gpt2": (
        "GPT2Config",
        {
            "vocab_size": VOCABULARY,
            "n_embd": 64,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 128,
            "bos_token_id": 256,
            "eos_token_id": 257,
        },
    ),
}
SPECIAL = {"<s>": 256, "</s>": 257, "<pad>": 258, "<|im_end|>": 259, "<|im_start|>": 260}
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tiny_decoder(
    folder: Path, family: str = "llama", *, chat_template: str | None = None, **config: Any
) -> Path:
    """Write a random model with two layers and its tokenizer.

    Args:
        folder: created.
        family: a key of `FAMILIES`.
        chat_template: Jinja source for tokenizer_config.json.
        config: overrides of the tiny config.
    """
    import torch
    import transformers

    from edgeq.exporters.checkpoint import quiet_transformers

    name, settings = FAMILIES[family]
    torch.manual_seed(0)
    built = getattr(transformers, name)(**(settings | config))
    model = transformers.AutoModelForCausalLM.from_config(built)
    _spread(model)
    with quiet_transformers():
        model.save_pretrained(folder)
    write_byte_tokenizer(folder, chat_template)
    return folder


def _spread(model: Any) -> None:
    """Wider weights than a fresh model's, so that predictions differ from token to token, and random norms."""
    import torch

    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            elif "embed" not in name and "wte" not in name and "wpe" not in name:
                parameter.mul_(5.0)
            else:
                parameter.mul_(10.0)


def write_byte_tokenizer(folder: Path, chat_template: str | None = None) -> None:
    """A tokenizer of single bytes that starts every text with `<s>`."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: index for index, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", SPECIAL["<s>"])]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
    } | ({"chat_template": chat_template} if chat_template else {})
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


MERGES = [("h", "e"), ("Ġ", "t"), ("Ġt", "he"), ("i", "n"), ("l", "l"), ("o", "r"), ("e", "r"), ("Ġ", "a")]
"""Of the byte-level tokenizer with merges; llama.cpp takes none without."""


def write_bpe_tokenizer(folder: Path, chat_template: str | None = None) -> None:
    """Byte-level BPE that splits words as GPT-2 does, with a few merges behind the special tokens."""
    from tokenizers.pre_tokenizers import ByteLevel

    write_byte_tokenizer(folder, chat_template)
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text())
    document["pre_tokenizer"] = json.loads(ByteLevel(add_prefix_space=False).__getstate__())
    first = 256 + len(SPECIAL)
    vocabulary = document["model"]["vocab"]
    # Special tokens in the vocabulary too: their numbers must not move behind the merged ones.
    vocabulary |= SPECIAL | {left + right: first + rank for rank, (left, right) in enumerate(MERGES)}
    document["model"]["merges"] = [list(pair) for pair in MERGES]
    path.write_text(json.dumps(document))


def sentence_piece_document() -> dict[str, Any]:
    """A tokenizer.json as converters write it for the older Llamas: BPE over characters, bytes for the rest."""
    special = ["<unk>", "<s>", "</s>"]
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    words = ["▁t", "he", "▁the", "▁a", "in", "▁the▁", "er", "ing"]
    characters = list("▁abcdefghijklmnopqrstuvwxyz")
    vocabulary = {token: index for index, token in enumerate([*special, *pieces, *words, *characters])}
    merges = [
        [word[:cut], word[cut:]]
        for word in words
        for cut in range(1, len(word))
        if word[:cut] in vocabulary and word[cut:] in vocabulary
    ]
    added = [
        {"id": index, "content": token, "special": True, "normalized": False}
        | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
        for index, token in enumerate(special)
    ]
    steps = [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    ]
    model = {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": model | {"vocab": vocabulary, "merges": merges},
    }
