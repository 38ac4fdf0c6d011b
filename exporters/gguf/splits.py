"""How byte-level vocabularies split a text before merging: `tokenizer.ggml.pre` in the words of `tokenizers`.

The kinds are llama.cpp's (llama-vocab.cpp). A kind that is not here is refused: merges applied to other pieces give
other tokens than the model was trained on, without any sign of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeq.errors import UnsupportedError

DIGIT = r"\p{N}"


@dataclass(frozen=True, slots=True)
class Split:
    """One way of splitting.

    Attributes:
        patterns: regular expressions, each cutting what the ones before left.
        is_gpt2: GPT-2's own expression follows them.
        takes_whole: a piece that is a token is taken as it is, whatever the merges would make of it.
        begins: texts begin with the BOS token where the file does not say.
    """

    patterns: tuple[str, ...] = ()
    is_gpt2: bool = False
    takes_whole: bool = False
    begins: bool = False

    def pre_tokenizer(self) -> Any:
        """As `tokenizers` has it."""
        from tokenizers import Regex, pre_tokenizers

        cuts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in self.patterns]
        last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=self.is_gpt2)
        return pre_tokenizers.Sequence([*cuts, last]) if cuts else last


_GPT2 = Split(is_gpt2=True)
_DIGITS = Split((DIGIT,), is_gpt2=True)
OWN: Mapping[str, Split] = {
    **dict.fromkeys(("gpt-2", "phi-2", "olmo", "jais", "mpt", "exaone4"), _GPT2),
    **dict.fromkeys(
        ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), _DIGITS
    ),
    "deepseek-coder": Split(("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", DIGIT)),
}
"""What transformers has no expression for, and would read as GPT-2's."""
THEIRS = (
    *("llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "dbrx", "smaug-bpe"),
    *("tekken", "qwen2", "deepseek-r1-qwen", "megrez", "gpt-4o", "llama4"),
)
"""Kinds whose expression transformers has."""
WHOLE = frozenset(("llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "tekken"))
"""Kinds that take whole pieces, and begin with BOS."""


def check_kind(kind: object, source: object) -> str:
    """`tokenizer.ggml.pre`, if it is known.

    Args:
        kind: `tokenizer.ggml.pre`.
        source: the file, for messages.

    Raises:
        UnsupportedError: it is missing or not known.
    """
    if isinstance(kind, str) and (kind in OWN or kind in THEIRS):
        return kind
    known = ", ".join(sorted((*OWN, *THEIRS)))
    shown = "does not say" if kind is None else f"names `{kind}` for"
    raise UnsupportedError(
        f"`{source}` {shown} how its tokenizer splits text (tokenizer.ggml.pre), expected one of {known}",
        hint="export the Hugging Face checkpoint it was made from, or convert that again with a current llama.cpp",
    )


def split_of(kind: str) -> Split:
    """The split of a known kind."""
    if kind in OWN:
        return OWN[kind]
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    return Split((GGUF_PRE_TOKENIZER_SPLITS[kind],), takes_whole=kind in WHOLE, begins=kind in WHOLE)
