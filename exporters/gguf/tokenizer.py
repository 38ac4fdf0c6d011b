"""The tokenizer that a GGUF file's metadata describe, built by transformers and saved as tokenizer.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeq.errors import ModelError
from edgeq.exporters.gguf.reader import GgufFile

ROLES = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def save_tokenizer(file: GgufFile, folder: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`.

    Raises:
        ModelError: the file has no tokenizer, or one of a kind that transformers does not build.
    """
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens:
        raise ModelError(
            f"`{file.path}` has no tokenizer (tokenizer.ggml.tokens)",
            hint="convert the model again, with its vocabulary",
        )
    from edgeq.exporters.checkpoint import quiet_transformers

    with quiet_transformers():
        try:
            tokenizer = _build(file, tokens)
            tokenizer.save_pretrained(folder)
        except Exception as error:  # transformers and tokenizers raise whatever they trip over
            kind = file.metadata.get("tokenizer.ggml.model")
            raise ModelError(
                f"no tokenizer can be built from the `{kind}` vocabulary of `{file.path}`: {error}"
            ) from error


def _prefix_every_text(backend: Any) -> None:
    """A space before every text, also before one that starts with a space.

    So do llama.cpp and the tokenizer.json of the older Llamas; transformers' own class leaves the second one out.
    """
    from tokenizers import normalizers

    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    backend.pre_tokenizer = None


def _build(file: GgufFile, tokens: list[str]) -> Any:
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast
    from transformers.integrations.gguf import convert_gguf_tokenizer, get_gguf_tokenizer

    architecture, described, config = get_gguf_tokenizer(str(file.path))
    if described.get("tokenizer_type") == "gpt2":
        described.setdefault("merges", [])  # a vocabulary of bytes has none, and then the key is missing
    backend, _ = convert_gguf_tokenizer(architecture, described)
    if described.get("tokenizer_type") == "llama" and described.get("add_prefix_space", True):
        _prefix_every_text(backend)
    special = {
        name: tokens[int(file.metadata[f"tokenizer.ggml.{key}_token_id"])]
        for name, key in ROLES.items()
        if f"tokenizer.ggml.{key}_token_id" in file.metadata
    }
    begins, ends = (
        special.get(name) if config.get(f"add_{name}", False) else None for name in ("bos_token", "eos_token")
    )
    around = [*([begins] if begins else []), "$A", *([ends] if ends else [])]
    pair = [*around, *([f"{begins}:1"] if begins else []), "$B:1", *([f"{ends}:1"] if ends else [])]
    backend.post_processor = TemplateProcessing(
        single=around,
        pair=pair,
        special_tokens=[(token, tokens.index(token)) for token in {begins, ends} if token],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, add_bos_token=begins is not None, add_eos_token=ends is not None, **special
    )
    template = file.metadata.get("tokenizer.chat_template")
    if isinstance(template, str) and template:
        tokenizer.chat_template = template
    return tokenizer
