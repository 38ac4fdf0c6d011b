"""Tokenizers of GGUF files: every kind of split, ids and spelling as the file has them, stop tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeq.errors import ModelError, UnsupportedError
from edgeq.exporters.gguf import inspect_gguf
from edgeq.exporters.gguf.reader import open_gguf
from edgeq.exporters.gguf.splits import OWN, THEIRS, split_of
from edgeq.exporters.gguf.tokenizer import save_tokenizer

pytest.importorskip("gguf")

MARK = "<\uff5cend▁of▁sentence\uff5c>"


def bytes_and(*more: str) -> list[str]:
    """The 256 spellings of single bytes, then more tokens."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return [*bytes_to_unicode().values(), *more]


@pytest.fixture
def build(tiny_decoder: Callable[..., Path], gguf_files: Any, tmp_path: Path) -> Callable[..., Any]:
    """`build(tokens, types, pre="smollm")`: the tokenizer as it is saved, through the file."""

    def make(tokens: list[str], types: dict[str, int] | None = None, **changes: Any) -> Any:
        from transformers import AutoTokenizer

        settings = {"pre": "gpt-2", "merges": None, "bos_token_id": None, "eos_token_id": None} | changes
        path = gguf_files.write_gguf(
            tmp_path / "m.gguf",
            tiny_decoder("llama"),
            tokenizer__ggml__tokens=tokens,
            tokenizer__ggml__token_type=[(types or {}).get(token, 1) for token in tokens],
            tokenizer__ggml__padding_token_id=None,
            tokenizer__ggml__add_bos_token=settings.pop("add_bos_token", None),
            **{f"tokenizer__ggml__{key}": value for key, value in settings.items()},
        )
        (tmp_path / "out").mkdir(exist_ok=True)
        save_tokenizer(open_gguf(path), tmp_path / "out")
        return AutoTokenizer.from_pretrained(tmp_path / "out")

    return make


def spell(tokenizer: Any, text: str) -> list[str]:
    return list(tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"]))


def test_digits_are_split_off_where_the_model_does(build: Callable[..., Any]) -> None:
    """What SmolLM's files say; read as GPT-2's kind, the merge of two digits would be taken."""
    tokens, merges = bytes_and("12", "ab"), ["1 2", "a b"]
    assert spell(build(tokens, pre="smollm", merges=merges), "ab12") == ["ab", "1", "2"]
    assert spell(build(tokens, pre="gpt-2", merges=merges), "ab12") == ["ab", "12"]


def test_a_piece_that_is_a_token_needs_no_merges(build: Callable[..., Any]) -> None:
    """Llama 3 takes `abc`, which no merges make, GPT-2 does not."""
    tokens = bytes_and("bc", "abc")
    assert spell(build(tokens, pre="llama-bpe", merges=["b c"]), "abc") == ["abc"]
    assert spell(build(tokens, pre="gpt-2", merges=["b c"]), "abc") == ["a", "bc"]


def test_special_tokens_keep_their_ids(build: Callable[..., Any]) -> None:
    """DeepSeek's are spelled outside the alphabet of bytes; respelled, they got an id beyond the embeddings."""
    tokenizer = build(bytes_and(MARK, "  "), {MARK: 3, "  ": 4}, pre="deepseek-r1-qwen", bos_token_id=256)
    assert len(tokenizer) == 258
    assert tokenizer.bos_token_id == 256
    assert tokenizer(f"a{MARK}b")["input_ids"][1] == 256
    assert spell(tokenizer, "a  b") == ["a", "  ", "b"]
    assert tokenizer.decode(tokenizer(f"a{MARK}  b")["input_ids"]) == f"a{MARK}  b"


def test_texts_begin_as_the_kind_says_unless_the_file_does(build: Callable[..., Any]) -> None:
    tokens, types = bytes_and("<|begin_of_text|>"), {"<|begin_of_text|>": 3}
    for pre, given, begins in (
        ("llama-bpe", None, True),
        ("llama-bpe", False, False),
        ("qwen2", None, False),
    ):
        tokenizer = build(tokens, types, pre=pre, bos_token_id=256, add_bos_token=given)
        assert (tokenizer("a")["input_ids"][0] == 256) is begins, (pre, given)


def test_phi3s_turn_tokens_take_the_space_after_them(
    tiny_decoder: Callable[..., Path], gguf_files: Any, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "<|end|>", "▁", "a", "▁a"]
    kinds = [2, 3, 3, *[6] * 256, 3, 1, 1, 1]
    found = []
    for family in ("phi3", "llama"):
        path = gguf_files.write_gguf(
            tmp_path / f"{family}.gguf",
            tiny_decoder(family),
            tokenizer__ggml__model="llama",
            tokenizer__ggml__tokens=tokens,
            tokenizer__ggml__scores=[-float(number) for number in range(len(tokens))],
            tokenizer__ggml__token_type=kinds,
            tokenizer__ggml__merges=None,
            tokenizer__ggml__bos_token_id=None,
            tokenizer__ggml__eos_token_id=None,
            tokenizer__ggml__padding_token_id=None,
        )
        (tmp_path / family).mkdir()
        save_tokenizer(open_gguf(path), tmp_path / family)
        found.append(spell(AutoTokenizer.from_pretrained(tmp_path / family), "<|end|>\na"))
    # No ids are named in these files: BOS is 1 all the same, as llama.cpp has it.
    assert found == [["<s>", "<|end|>", "▁a"], ["<s>", "<|end|>", "▁", "<0x0A>", "a"]]


@pytest.mark.parametrize("kind", [*OWN, *THEIRS])
def test_every_kind_keeps_every_character(kind: str) -> None:
    text = "It's 1234\n\n  naïve 日本語\t(x)"
    cut = split_of(kind).pre_tokenizer().pre_tokenize_str(text)
    assert next(place for _, place in cut)[0] == 0
    assert "".join(text[start:end] for _, (start, end) in cut) == text


@pytest.mark.parametrize("pre", ["default", "falcon", "brand-new", None])
def test_a_split_that_is_not_known_is_refused_before_the_work(
    pre: str | None, tiny_decoder: Callable[..., Path], gguf_files: Any, tmp_path: Path
) -> None:
    path = gguf_files.write_gguf(tmp_path / "m.gguf", tiny_decoder("llama"), tokenizer__ggml__pre=pre)
    with pytest.raises(UnsupportedError, match="how its tokenizer splits text") as caught:
        inspect_gguf(path)
    assert str(pre or "does not say") in caught.value.message and "llama-bpe" in caught.value.message


def test_stop_tokens_are_known_by_their_spelling_too(
    tiny_decoder: Callable[..., Path], gguf_files: Any, tmp_path: Path
) -> None:
    tokens = bytes_and("<|im_end|>", "<|endoftext|>", "<|im_start|>")

    def ends(kind: int) -> Any:
        path = gguf_files.write_gguf(
            tmp_path / "m.gguf",
            tiny_decoder("llama"),
            tokenizer__ggml__tokens=tokens,
            tokenizer__ggml__token_type=[*[1] * 256, kind, kind, kind],
            tokenizer__ggml__eos_token_id=257,
        )
        return inspect_gguf(path).config["eos_token_id"]

    assert ends(3) == [257, 256]
    assert ends(1) == 257  # ordinary text that is spelled so ends nothing


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer__ggml__eos_token_id": 4000}, r"eos_token_id` is 4000, expected an id below 261"),
        ({"tokenizer__ggml__token_type": [1, 1]}, "has 2 token types, expected 261"),
        ({"tokenizer__ggml__tokens": ["a"] * 259}, "258 tokens spelled like another one"),
        (
            {
                "tokenizer__ggml__tokens": [f"t{n}" for n in range(5000)],
                "tokenizer__ggml__token_type": None,
            },
            "has 5000 tokens and 288 token embeddings",
        ),
    ],
)
def test_vocabularies_that_do_not_fit(
    changes: dict[str, Any],
    message: str,
    tiny_decoder: Callable[..., Path],
    gguf_files: Any,
    tmp_path: Path,
) -> None:
    path = gguf_files.write_gguf(tmp_path / "m.gguf", tiny_decoder("llama"), **changes)
    with pytest.raises(ModelError, match=message):
        inspect_gguf(path)
