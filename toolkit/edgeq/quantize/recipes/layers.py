"""Which transformer layers a selector means, llama.cpp's mixing rule included."""

from __future__ import annotations

import re

from edgeq.errors import ConfigError

SELECTORS = ("all", "first", "last", "first N", "last N", "first_eighth", "more_bits")
_COUNTED = re.compile(r"(first|last) (\d+)")


def is_selector(text: str) -> bool:
    """Whether a text is a selector."""
    return text in SELECTORS or _COUNTED.fullmatch(text) is not None


def use_more_bits(index: int, count: int) -> bool:
    """The layers that llama.cpp's `_M` mixes give more bits: first and last eighth, every third between.

    Integer division, as in `use_more_bits` of llama.cpp's src/llama-quant.cpp.
    """
    eighth = count // 8
    return index < eighth or index >= 7 * count // 8 or (index - eighth) % 3 == 2


def selects(selector: str | tuple[int, ...], index: int | None, count: int) -> bool:
    """Whether layer `index` of `count` is selected; what is in no layer only by `all`.

    Raises:
        ConfigError: the selector is not one of `SELECTORS`.
    """
    if selector == "all":
        return True
    if index is None:
        return False
    if not isinstance(selector, str):
        return any(number % count == index for number in selector if -count <= number < count)
    if selector == "more_bits":
        return use_more_bits(index, count)
    if selector == "first_eighth":
        return index < count // 8
    side, number = _side_and_number(selector)
    return index < number if side == "first" else index >= count - number


def _side_and_number(selector: str) -> tuple[str, int]:
    if selector in ("first", "last"):
        return selector, 1
    match = _COUNTED.fullmatch(selector)
    if match is None:
        raise ConfigError(f"unknown layers `{selector}`; expected numbers or one of {', '.join(SELECTORS)}")
    return match[1], int(match[2])
