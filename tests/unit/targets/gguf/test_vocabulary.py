"""tokenizer.json to GGUF: types, scores that merge as the tokenizer does, and names for how words are split."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest

from edgeq.errors import UnsupportedError
from edgeq.targets.gguf.pre_tokenizers import (
    DIGITS,
    GPT_4O,
    NAMES,
    ONE_DIGIT,
    TEKKEN,
    THREE_DIGITS,
    pre_tokenizer_name,
)
from edgeq.targets.gguf.vocabulary import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    read_vocabulary,
)

TEXTS = (
    "the theater in the end",
    " in  the\nmorning",
    "theringer",
    "a",
    "tthhee  the the",
    "\u00e9t\u00e9 \u65e5\u672c in",
)


@pytest.fixture
def sentence_piece(tiny_decoders: Any) -> dict[str, Any]:
    return dict(tiny_decoders.sentence_piece_document())


def merged(text: str, tokens: tuple[str, ...], scores: tuple[float, ...]) -> list[str]:
    """As llama.cpp's SentencePiece tokenizer merges: neighbours whose token scores highest, leftmost first."""
    best = dict(zip(tokens, scores, strict=True))
    pieces = list("\u2581" + text.replace(" ", "\u2581"))
    while True:
        pairs = [(-best[a + b], at) for at, (a, b) in enumerate(pairwise(pieces)) if a + b in best]
        if not pairs:
            break
        at = min(pairs)[1]
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
    return [
        piece if piece in best else byte
        for piece in pieces
        for byte in ([piece] if piece in best else [f"<0x{value:02X}>" for value in piece.encode()])
    ]


def test_scores_merge_as_the_tokenizer_does(sentence_piece: dict[str, Any]) -> None:
    from tokenizers import Tokenizer

    text = json.dumps(sentence_piece)
    found = read_vocabulary(text, 300)
    tokenizer = Tokenizer.from_str(text)
    assert found.scores is not None
    for sample in TEXTS:
        assert merged(sample, found.tokens, found.scores) == tokenizer.encode(sample).tokens
    worse = tuple(-score for score in found.scores)
    assert any(merged(sample, found.tokens, worse) != tokenizer.encode(sample).tokens for sample in TEXTS)


def test_sentence_piece_types(sentence_piece: dict[str, Any]) -> None:
    user = {"id": 299, "content": "\u2581x", "special": False} | dict.fromkeys(
        ("normalized", "single_word", "lstrip", "rstrip"), False
    )
    sentence_piece["added_tokens"].append(user)
    found = read_vocabulary(json.dumps(sentence_piece), 301)
    assert (found.model, found.pre, found.adds_space, found.merges) == ("llama", "default", True, None)
    assert found.types[:4] == (UNKNOWN, CONTROL, CONTROL, BYTE) and found.types[259] == NORMAL
    assert (found.tokens[299], found.types[299]) == (" x", USER_DEFINED)
    assert (found.tokens[300], found.types[300]) == ("[PAD300]", UNUSED)


def test_spaces_before_texts(sentence_piece: dict[str, Any]) -> None:
    sentence_piece["normalizer"] = None
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False}
    sentence_piece["pre_tokenizer"] = metaspace
    first = read_vocabulary(json.dumps(sentence_piece), 300)
    assert first.adds_space is True and "after every special token" in first.notes[-1]
    for scheme, adds in (("always", True), ("never", False)):
        metaspace["prepend_scheme"] = scheme
        found = read_vocabulary(json.dumps(sentence_piece), 300)
        # llama.cpp always adds one, Metaspace not before one that is there.
        assert (found.adds_space, len(found.notes)) == (adds, int(adds))
        assert all("begins with one" in note for note in found.notes)


def test_a_normalizer_that_prepends_is_what_llama_cpp_does(sentence_piece: dict[str, Any]) -> None:
    assert read_vocabulary(json.dumps(sentence_piece), 300).notes == ()


def test_tokens_without_a_row_are_left_out_with_their_merges(sentence_piece: dict[str, Any]) -> None:
    whole = read_vocabulary(json.dumps(sentence_piece), 300)
    at = whole.tokens.index("\u2581the")
    cut = read_vocabulary(json.dumps(sentence_piece), at)
    assert cut.tokens == whole.tokens[:at] and "\u2581the" not in cut.tokens
    document = byte_level(None)
    document["model"]["vocab"]["abb"], document["model"]["merges"] = 3, ["a b", "ab b"]
    assert read_vocabulary(json.dumps(document), 4).merges == ("a b", "ab b")
    assert read_vocabulary(json.dumps(document), 3).merges == ("a b",)


def test_what_llama_cpp_would_tokenize_otherwise_is_refused(sentence_piece: dict[str, Any]) -> None:
    sentence_piece["normalizer"] = {"type": "NFKC"}
    with pytest.raises(UnsupportedError, match="NFKC"):
        read_vocabulary(json.dumps(sentence_piece), 300)
    sentence_piece["model"]["merges"] = []
    with pytest.raises(UnsupportedError, match="no merges"):
        read_vocabulary(json.dumps(sentence_piece), 300)
    sentence_piece["model"]["type"] = "Unigram"
    with pytest.raises(UnsupportedError, match="type Unigram"):
        read_vocabulary(json.dumps(sentence_piece), 300)


def byte_level(expression: str | None, *, ignore_merges: bool = False, **more: Any) -> dict[str, Any]:
    steps: list[dict[str, Any]] = []
    if expression is not None:
        steps.append(
            {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
        )
    steps.append({"type": "ByteLevel", "add_prefix_space": False, "use_regex": expression is None})
    pre = steps[0] if len(steps) == 1 else {"type": "Sequence", "pretokenizers": steps}
    model = {
        "type": "BPE",
        "vocab": {"a": 0, "b": 1, "ab": 2},
        "merges": ["a b"],
        "ignore_merges": ignore_merges,
    }
    return {"model": model, "pre_tokenizer": pre} | more


@pytest.mark.parametrize(
    ("expression", "ignore_merges", "name"),
    [
        (None, False, "gpt-2"),
        (THREE_DIGITS, True, "llama-bpe"),
        (THREE_DIGITS, False, "dbrx"),
        (ONE_DIGIT, False, "qwen2"),
        (TEKKEN, True, "tekken"),
        (GPT_4O, False, "gpt-4o"),
    ],
)
def test_names_of_ways_to_split(expression: str | None, ignore_merges: bool, name: str) -> None:
    assert pre_tokenizer_name(byte_level(expression, ignore_merges=ignore_merges)) == name


def test_the_published_expressions() -> None:
    """As in the tokenizer.json of Llama 3 and Qwen 2."""
    llama3 = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
        r"\s+(?!\S)|\s+"
    )
    assert NAMES[llama3, True] == "llama-bpe"
    assert NAMES[llama3.replace("{1,3}", ""), False] == "qwen2"


def test_digits_apart() -> None:
    document = byte_level(None)
    digits = {"type": "Digits", "individual_digits": True}
    document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, document["pre_tokenizer"]]}
    assert pre_tokenizer_name(document) == DIGITS
    digits["individual_digits"] = False
    with pytest.raises(UnsupportedError, match="no name"):
        pre_tokenizer_name(document)


def test_an_unknown_way_to_split_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="no name that edgeq knows"):
        pre_tokenizer_name(byte_level(r"\w+"))
    document = byte_level(None)
    document["pre_tokenizer"]["add_prefix_space"] = True
    with pytest.raises(UnsupportedError, match="puts a space before"):
        pre_tokenizer_name(document)


def test_byte_level_tokens_and_merges() -> None:
    found = read_vocabulary(json.dumps(byte_level(None)), 4)
    assert (found.model, found.pre, found.merges, found.scores) == ("gpt2", "gpt-2", ("a b",), None)
    assert found.tokens == ("a", "b", "ab", "[PAD3]") and found.types == (NORMAL, NORMAL, NORMAL, UNUSED)
    assert not found.notes
    normalized = read_vocabulary(json.dumps(byte_level(None, normalizer={"type": "NFC"})), 4)
    assert "NFC" in normalized.notes[0]
    with pytest.raises(UnsupportedError, match="Lowercase"):
        read_vocabulary(json.dumps(byte_level(None, normalizer={"type": "Lowercase"})), 4)
