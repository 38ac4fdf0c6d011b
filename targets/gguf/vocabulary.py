"""A tokenizer.json as GGUF metadata: byte-level BPE (`gpt2`), and SentencePiece BPE (`llama`) with scores and types."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeq.errors import UnsupportedError
from edgeq.targets.gguf.pre_tokenizers import pre_tokenizer_name

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""`tokenizer.ggml.token_type`."""
SPACE = "\u2581"
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
_UNUSED_SCORE, _ADDED_SCORE = -10000.0, -1000.0


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What the file says about tokens.

    Attributes:
        model: `gpt2` or `llama`.
        pre: how words are split.
        tokens: texts by id, one for each row of the embedding table.
        types: kinds by id.
        scores: of SentencePiece tokens; higher ones are merged first. None for byte-level BPE.
        merges: of byte-level BPE, first to last. None for SentencePiece.
        adds_space: a space goes before every text; None for byte-level BPE.
        notes: where llama.cpp will not do quite the same.
    """

    model: str
    pre: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    scores: tuple[float, ...] | None = None
    merges: tuple[str, ...] | None = None
    adds_space: bool | None = None
    notes: tuple[str, ...] = ()


def read_vocabulary(tokenizer_json: str, rows: int) -> Vocabulary:
    """The vocabulary of a tokenizer.

    Args:
        tokenizer_json: the contents of tokenizer.json.
        rows: of the embedding table.

    Raises:
        UnsupportedError: llama.cpp has no such tokenizer.
    """
    document = json.loads(tokenizer_json)
    model = document["model"]
    if model.get("type") != "BPE":
        raise UnsupportedError(
            f"the tokenizer is of type {model.get('type')}; GGUF files of decoders have byte-level or SentencePiece BPE"
        )
    if not model.get("merges"):
        raise UnsupportedError("the tokenizer has no merges, which llama.cpp needs")
    if model.get("byte_fallback"):
        return _sentence_piece(document, rows)
    return _byte_level(document, rows)


def _byte_level(document: Mapping[str, Any], rows: int) -> Vocabulary:
    tokens, types = _table(document, rows)
    normalizer = (document.get("normalizer") or {}).get("type")
    if normalizer not in (None, "NFC"):
        raise UnsupportedError(f"the tokenizer normalizes text ({normalizer}), which llama.cpp does not")
    notes = ("llama.cpp does not bring text to Unicode form NFC first, as the tokenizer does",)
    return Vocabulary(
        "gpt2",
        pre_tokenizer_name(document),
        tuple(tokens),
        tuple(types),
        merges=tuple(" ".join(pair) for pair in _merges(document, rows)),
        notes=notes if normalizer else (),
    )


def _sentence_piece(document: Mapping[str, Any], rows: int) -> Vocabulary:
    tokens, types = _table(document, rows)
    ranks = merge_ranks(_merges(document, rows))
    scores = [
        {NORMAL: -float(ranks.get(token, len(ranks))), UNUSED: _UNUSED_SCORE}.get(kind, 0.0)
        if kind not in (CONTROL, USER_DEFINED)
        else _ADDED_SCORE
        for token, kind in zip(tokens, types, strict=True)
    ]
    adds_space, notes = _adds_space(document)
    return Vocabulary(
        "llama", "default", tuple(tokens), tuple(types), tuple(scores), adds_space=adds_space, notes=notes
    )


def merge_ranks(merges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """The rank of each token: of the first merge that makes it.

    SentencePiece merges the pair whose token has the highest score, tokenizer.json the pair that comes first in its
    list; the two agree where all merges that make a token stand together, as converters write them.
    """
    ranks: dict[str, int] = {}
    for left, right in merges:
        ranks.setdefault(left + right, len(ranks))
    return ranks


def _merges(document: Mapping[str, Any], rows: int) -> list[tuple[str, str]]:
    """Pairs in order, without those of tokens that the embedding table has no row for: the file has none of these."""
    pairs = document["model"].get("merges") or []
    split = [pair.split(" ", 1) if isinstance(pair, str) else pair for pair in pairs]
    beyond = {token for token, index in document["model"]["vocab"].items() if index >= rows}
    return [(str(left), str(right)) for left, right in split if not beyond & {left, right, f"{left}{right}"}]


def _table(document: Mapping[str, Any], rows: int) -> tuple[list[str], list[int]]:
    """Texts and kinds by id; rows without a token are named and marked unused, tokens without a row left out."""
    tokens = [f"[PAD{index}]" for index in range(rows)]
    types = [UNUSED] * rows
    model = document["model"]
    added = document.get("added_tokens") or []
    is_bytes = bool(model.get("byte_fallback"))
    for text, index in model["vocab"].items():
        if index >= rows:
            continue
        tokens[index] = text
        is_byte = is_bytes and _BYTE_TOKEN.fullmatch(text)
        types[index] = BYTE if is_byte else UNKNOWN if text == model.get("unk_token") else NORMAL
    for token in added:
        text, index = token["content"], token["id"]
        if index >= rows:
            continue
        if token.get("special"):
            types[index] = UNKNOWN if text == model.get("unk_token") else CONTROL
        else:
            types[index] = USER_DEFINED
            text = text.replace(SPACE, " ") if is_bytes else text
        tokens[index] = text
    return tokens, types


FIRST_ALONE = (
    "llama.cpp puts a space before the text after every special token, the tokenizer before a text's first word alone: "
    "prompts with special tokens in them, as chat templates write them, differ by that space unless given as ids"
)

ONE_MORE = (
    "llama.cpp puts one more space before a text that begins with one, which the tokenizer (Metaspace) does not: trim "
    "prompts, or give them as ids"
)


def _adds_space(document: Mapping[str, Any]) -> tuple[bool, tuple[str, ...]]:
    """Whether a space goes before every text, and where llama.cpp will not do quite the same.

    llama.cpp has one switch, `add_space_prefix`: a space before the first piece of raw text and before every piece that
    follows a special token (llama_vocab::impl::tokenize, SPM). That is `prepend_scheme: always`, but for texts that
    begin with a space, which Metaspace leaves alone; of `first` it gets plain prompts right, and with the switch off it
    would get none of those right. Tried with llama.cpp's own vocabulary (docs/gguf.md).

    Raises:
        UnsupportedError: the tokenizer changes text in another way than SentencePiece.
    """
    found, scheme, notes = False, "always", []
    for step in (*_parts(document, "normalizer"), *_parts(document, "pre_tokenizer")):
        kind = step.get("type")
        if kind == "Prepend" and step.get("prepend") == SPACE:
            found = True
        elif kind == "Metaspace" and step.get("replacement") == SPACE:
            scheme = step.get("prepend_scheme", "always")
            found = scheme != "never"
            notes = [ONE_MORE] if found else []
        elif not _only_spaces(step):
            raise UnsupportedError(
                f"the tokenizer has a step that llama.cpp's SentencePiece lacks: {json.dumps(step)}"
            )
    return found, (*notes, FIRST_ALONE) if scheme == "first" else tuple(notes)


def _only_spaces(step: Mapping[str, Any]) -> bool:
    """Steps that turn spaces into their mark, or split where no space is left."""
    pattern = step.get("pattern", {})
    spaces = isinstance(pattern, Mapping) and pattern.get("String") == " "
    return spaces and step.get("type") in ("Replace", "Split")


def _parts(document: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    step = document.get(name)
    if step is None:
        return []
    inner = step.get("normalizers") or step.get("pretokenizers")
    return list(inner) if step.get("type") == "Sequence" else [step]
