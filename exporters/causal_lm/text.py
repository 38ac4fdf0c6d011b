"""What a folder says about talking to its model: stop tokens, sampling defaults, chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeq.exporters.json_files import read_json
from edgeq.runtime.generation.settings import SamplingDefaults

CHAT_END_TOKENS = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>")
"""Tokens that end an answer in families whose generation config may name the end of text alone."""


def generation_config(folder: Path) -> dict[str, Any]:
    """`generation_config.json`, empty where there is none."""
    path = folder / "generation_config.json"
    found = read_json(path) if path.is_file() else {}
    return found if isinstance(found, dict) else {}


def stop_ids(
    config: Mapping[str, Any], generation: Mapping[str, Any], tokenizer: Any, template: str | None
) -> tuple[int, ...]:
    """Tokens that end an answer: of the generation config, of the config, and the chat template's end of turn."""
    found: list[int] = []
    for source in (generation.get("eos_token_id"), config.get("eos_token_id"), tokenizer.eos_token_id):
        found += source if isinstance(source, list) else [source] if source is not None else []
    for token in CHAT_END_TOKENS:
        token_id = tokenizer.convert_tokens_to_ids(token)
        known = token_id is not None and token_id != tokenizer.unk_token_id
        if template is not None and token in template and known:
            found.append(int(token_id))
    return tuple(dict.fromkeys(int(token) for token in found))


def sampling_defaults(generation: Mapping[str, Any]) -> SamplingDefaults:
    """The sampling a model's authors recommend; neutral values where they say nothing."""
    neutral = SamplingDefaults()
    values = {
        name: generation[name]
        for name in ("do_sample", "temperature", "top_p", "top_k", "repetition_penalty")
        if generation.get(name) is not None
    }
    kinds = {"do_sample": bool, "top_k": int}
    return SamplingDefaults(
        **{
            name: kinds.get(name, float)(values.get(name, getattr(neutral, name)))
            for name in ("do_sample", "temperature", "top_p", "top_k", "repetition_penalty")
        }
    )


def chat_template(tokenizer: Any) -> str | None:
    """The default chat template; of several named ones, `default`."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    return template if isinstance(template, str) and template else None


def tokenizer_config(folder: Path, tokenizer: Any, template: str | None) -> dict[str, Any]:
    """`tokenizer_config.json` as ONNX Runtime GenAI reads it: special tokens, class, chat template."""
    path = folder / "tokenizer_config.json"
    config = read_json(path) if path.is_file() else {}
    kept = {
        name: config[name]
        for name in (
            "add_bos_token",
            "add_eos_token",
            "add_prefix_space",
            "clean_up_tokenization_spaces",
            "tokenizer_class",
        )
        if name in config
    }
    special = {
        role: str(token) for role, token in tokenizer.special_tokens_map.items() if isinstance(token, str)
    }
    document = {**kept, **special} | ({"chat_template": template} if template else {})
    # Through JSON, so that nothing but plain values stays.
    plain: dict[str, Any] = json.loads(json.dumps(document, sort_keys=True))
    return plain


def tokens_beyond(vocabulary: Mapping[str, int], rows: object) -> tuple[str, ...]:
    """A notice about tokens that the embedding table has no row for; none where every token has one."""
    if not isinstance(rows, int):
        return ()
    beyond = sorted((number, token) for token, number in vocabulary.items() if number >= rows)
    if not beyond:
        return ()
    number, token = beyond[0]
    return (
        f"the tokenizer has {len(beyond)} tokens that the model has no embedding for, first {token!r} ({number}; the "
        f"table has {rows} rows): texts with them are refused when the model is run",
    )
