"""How byte-level tokenizers split text into words, by the name that llama.cpp knows each way under.

llama.cpp has the regular expressions built in (src/llama-vocab.cpp) and takes a name, `tokenizer.ggml.pre`. A wrong
name gives other tokens without a message, so a tokenizer whose expression is not in the table is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeq.errors import UnsupportedError

_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SLASHED = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _cased(ending: str) -> str:
    """Words split where lower case turns to upper case."""
    upper, lower = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    first = r"[^\r\n\p{L}\p{N}]?"
    return f"{first}{upper}*{lower}+{ending}|{first}{upper}+{lower}*{ending}"


GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
THREE_DIGITS = rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}{_REST}"
ONE_DIGIT = rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{_REST}"
TEKKEN = _cased("") + r"|\p{N}" + _SLASHED
GPT_4O = _cased(_ENDINGS + "?") + r"|\p{N}{1,3}" + _SLASHED

NAMES: Mapping[tuple[str, bool], str] = {
    (GPT2, False): "gpt-2",
    (THREE_DIGITS, True): "llama-bpe",
    (THREE_DIGITS, False): "dbrx",
    (ONE_DIGIT, False): "qwen2",
    (TEKKEN, True): "tekken",
    (GPT_4O, False): "gpt-4o",
}
"""By the expression, and whether a word that is a token is taken before merging (`ignore_merges`)."""

DIGITS = "smollm"
"""Digits apart, then as GPT-2: SmolLM."""


def pre_tokenizer_name(tokenizer: Mapping[str, Any]) -> str:
    """The name of a byte-level tokenizer's way to split.

    Args:
        tokenizer: the contents of tokenizer.json.

    Raises:
        UnsupportedError: llama.cpp has no name for it, as far as edgeq knows.
    """
    steps = _steps(tokenizer.get("pre_tokenizer"))
    if any(step.get("add_prefix_space") for step in steps):
        raise UnsupportedError(
            "the tokenizer puts a space before every text, which llama.cpp does not for byte-level BPE"
        )
    kinds = [str(step.get("type")) for step in steps]
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits") and steps[1].get("use_regex"):
        return DIGITS
    expression = _expression(steps, kinds)
    name = NAMES.get((expression or "", bool(tokenizer["model"].get("ignore_merges"))))
    if name is None:
        raise UnsupportedError(
            f"llama.cpp has no name that edgeq knows for how this tokenizer splits words: {expression or kinds}"
        )
    return name


def _steps(pre_tokenizer: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if pre_tokenizer is None:
        return []
    return (
        list(pre_tokenizer["pretokenizers"]) if pre_tokenizer.get("type") == "Sequence" else [pre_tokenizer]
    )


def _expression(steps: list[Mapping[str, Any]], kinds: list[str]) -> str | None:
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
        return GPT2
    split = steps[0] if kinds == ["Split", "ByteLevel"] and not steps[1].get("use_regex", True) else None
    if split is None or split.get("behavior") != "Isolated" or split.get("invert"):
        return None
    pattern = split.get("pattern", {})
    return pattern.get("Regex") if isinstance(pattern, Mapping) else None
