"""Special tokens of a GGUF file: which id has which role, and which ones end a text."""

from __future__ import annotations

from collections.abc import Mapping

from edgeq.errors import ModelError
from edgeq.families.gguf_file import GgufFile

ROLES = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
"""Keys `tokenizer.ggml.*_token_id`, by the name transformers has for them."""
SENTENCEPIECE_IDS = {"bos_token": 1, "eos_token": 2, "unk_token": 0}
"""What llama.cpp takes where a SentencePiece file does not say."""
CONTROL, USER_DEFINED = 3, 4
"""Of `tokenizer.ggml.token_type`."""
ENDS = frozenset(
    (
        *("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>"),
        *("<|end_of_text|>", "<EOT>", "_<EOT>", "<eos>", "<\uff5cend▁of▁sentence\uff5c>"),
    )
)
"""Tokens that end a turn whatever the metadata say: files name one of several, older ones the wrong one."""


def tokens_of(file: GgufFile) -> list[str]:
    """The vocabulary.

    Raises:
        ModelError: there is none, or two tokens are spelled alike.
    """
    found = file.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(found, list) or not found or not all(isinstance(token, str) for token in found):
        raise ModelError(
            f"`{file.path}` has no tokenizer (tokenizer.ggml.tokens)",
            hint="convert the model again, with its vocabulary",
        )
    tokens = [token or f"[EMPTY_{number}]" for number, token in enumerate(found)]
    if len(set(tokens)) < len(tokens):
        raise ModelError(
            f"`{file.path}` has {len(tokens) - len(set(tokens))} tokens spelled like another one"
        )
    return tokens


def types_of(file: GgufFile, tokens: list[str]) -> list[int]:
    """Type of each token.

    Raises:
        ModelError: there are fewer than tokens.
    """
    found = file.metadata.get("tokenizer.ggml.token_type")
    if found is None:
        return [1] * len(tokens)
    if not isinstance(found, list) or len(found) != len(tokens):
        size = len(found) if isinstance(found, list) else found
        raise ModelError(f"`{file.path}` has {size} token types, expected {len(tokens)}, one for each token")
    return [int(kind) for kind in found]


def special_ids(file: GgufFile) -> Mapping[str, int]:
    """Ids by role; roles the file has no token for are left out.

    Raises:
        ModelError: an id beyond the vocabulary.
    """
    found = dict(SENTENCEPIECE_IDS) if file.metadata.get("tokenizer.ggml.model") == "llama" else {}
    for role, key in ROLES.items():
        number = _id(file, key)
        if number is not None:
            found[role] = number
    return found


def stop_ids(file: GgufFile) -> list[int]:
    """Ids that end a text: those the metadata name first, then those known by their spelling."""
    tokens = tokens_of(file)
    types = types_of(file, tokens)
    named = [special_ids(file).get("eos_token"), _id(file, "eot"), _id(file, "eom")]
    spelled = [
        number
        for number, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if token in ENDS and kind in (CONTROL, USER_DEFINED)
    ]
    return list(dict.fromkeys(number for number in (*named, *spelled) if number is not None))


def _id(file: GgufFile, key: str) -> int | None:
    full = f"tokenizer.ggml.{key}_token_id"
    number = file.metadata.get(full)
    if number is None:
        return None
    size = len(tokens_of(file))
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < size:
        raise ModelError(f"`{file.path}`: `{full}` is {number!r}, expected an id below {size}")
    return number
