"""Prompts by role, and the limits that other readers see in tokenizer.json."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from edgeq.errors import ConfigError, IntegrityError, UsageError
from edgeq.processors.bounded_tokenizer import BoundedTokenizer
from edgeq.processors.text import TextPreprocessor, TextSettings
from edgeq.runtime.runtime import load
from edgeq.samples import Text, TextPair, as_samples

PROMPTS = {"query": "the ", "document": "a "}
LONG = "the cat sat the dog ran the cats a dog the cat sat a dog ran"


def test_a_prompt_goes_before_a_text_and_before_the_first_of_a_pair(tiny: Any) -> None:
    plain = tiny.preprocessor()
    prompted = plain.with_prompts(PROMPTS, "query")
    assert prompted.tokens(Text("cat")) == plain.tokens(Text("the cat"))
    assert prompted.tokens(TextPair("cat", "dog")) == plain.tokens(TextPair("the cat", "dog"))
    assert prompted.costs([Text("cat")]) == [4]
    assert prompted.with_role("document").tokens(Text("cat")) == plain.tokens(Text("a cat"))
    assert prompted.fit(4).tokens(Text("cat sat")) == ["[CLS]", "the", "cat", "[SEP]"]
    # The negative twin.
    assert plain.tokens(Text("cat")) != plain.tokens(Text("the cat"))


def test_roles_that_a_model_has_no_prompt_for(tiny: Any) -> None:
    plain = tiny.preprocessor()
    assert plain.with_role("query").tokens(Text("cat")) == plain.tokens(Text("cat"))
    asymmetric = plain.with_prompts({"query": "the "}, "query")
    assert asymmetric.with_role("document").tokens(Text("cat")) == plain.tokens(Text("cat"))
    with pytest.raises(UsageError, match=r"no prompt `charm`, expected one of query, document"):
        plain.with_role("charm")
    # Under another name the author meant one, and the library takes none.
    with pytest.raises(UsageError, match=r"no prompt `document`, expected one of query, passage"):
        plain.with_prompts({"query": "the ", "passage": "a "}, None).with_role("document")


def test_every_role_has_the_same_tokenizers(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = tiny.preprocessor(8).with_prompts(PROMPTS, None)
    assert not plain.is_longer(Text("cat"))
    parsed: list[str] = []
    parse = BoundedTokenizer.__init__
    monkeypatch.setattr(
        BoundedTokenizer, "__init__", lambda self, text: (parsed.append(text), parse(self, text))[0]
    )
    for role in (*PROMPTS, "query"):
        prompted = plain.with_role(role)
        prompted([Text("cat " * 5000)])
        assert prompted.is_longer(Text("cat " * 5000)) and not prompted.is_longer(Text("cat"))
    assert len(parsed) == 1, "the one that cuts nothing, for the first long text"


def test_settings_that_are_wrong() -> None:
    for prompts, default in (({}, "query"), ([], None), ({"query": 3}, None)):
        with pytest.raises(ConfigError):
            TextSettings(8, "[PAD]", 0, prompts=prompts, default_prompt=default)  # type: ignore[arg-type]


def test_they_are_saved_and_read(tiny: Any, tmp_path: Path) -> None:
    prompted = tiny.preprocessor().with_prompts(PROMPTS, "query")
    prompted.save(tmp_path)
    assert TextPreprocessor.load(tmp_path).settings == prompted.settings


def test_limits_in_the_file_are_those_of_the_preprocessor(tiny: Any, tmp_path: Path) -> None:
    preprocessor = tiny.preprocessor(8)
    preprocessor.save(tmp_path / "with", limits=True)
    preprocessor.save(tmp_path / "without")
    texts = [LONG, "cat", ("cat", LONG)]
    other = Tokenizer.from_file(str(tmp_path / "with" / "tokenizer.json"))
    encodings = other.encode_batch(texts)
    feeds = preprocessor(as_samples(texts))
    np.testing.assert_array_equal([found.ids for found in encodings], feeds["input_ids"])
    np.testing.assert_array_equal([found.attention_mask for found in encodings], feeds["attention_mask"])
    # The negative twin, and the same preprocessor either way.
    whole = Tokenizer.from_file(str(tmp_path / "without" / "tokenizer.json"))
    assert len(whole.encode(LONG)) > 8
    again = TextPreprocessor.load(tmp_path / "with")
    np.testing.assert_array_equal(again(as_samples(texts))["input_ids"], feeds["input_ids"])
    assert again.costs([Text(LONG)])[0] > 8


@pytest.fixture
def prompted_bundle(tiny_bundle: Path, mutate_bundle: ModuleType) -> Callable[..., Path]:
    def build(in_manifest: dict[str, Any]) -> Path:
        path = tiny_bundle / "tokenizer/preprocess.json"
        path.write_text(
            json.dumps(json.loads(path.read_text()) | {"prompts": PROMPTS, "default_prompt": "query"})
        )
        mutate_bundle.change_json(
            "edgeq.json", lambda document: document["processor"]["text"].update(in_manifest)
        )(tiny_bundle)
        mutate_bundle.sign(tiny_bundle)
        return tiny_bundle

    return build


def test_the_runtime_encodes_by_role(prompted_bundle: Callable[..., Path]) -> None:
    with load(prompted_bundle({"prompts": PROMPTS, "default_prompt": "query"})) as runtime:
        assert runtime.prompts == PROMPTS
        plain = runtime.encode(["cat"])
        np.testing.assert_array_equal(plain, runtime.encode(["cat"], role="query"))
        assert np.abs(plain - runtime.encode(["cat"], role="document")).max() > 1e-3
        with pytest.raises(UsageError, match="no prompt `charm`"):
            runtime.encode(["cat"], role="charm")


@pytest.mark.parametrize(
    "in_manifest", [{}, {"prompts": PROMPTS}, {"prompts": {"query": "x"}, "default_prompt": "query"}]
)
def test_a_manifest_that_says_otherwise(
    prompted_bundle: Callable[..., Path], in_manifest: dict[str, Any]
) -> None:
    with pytest.raises(IntegrityError, match="the manifest says"):
        load(prompted_bundle(in_manifest))


def test_a_default_that_is_no_prompt(prompted_bundle: Callable[..., Path]) -> None:
    with pytest.raises(IntegrityError, match="there is no prompt `charm`"):
        load(prompted_bundle({"prompts": PROMPTS, "default_prompt": "charm"}))


def test_another_process_can_be_sent_one(tiny: Any) -> None:
    """Large models are exported in a process of their own, which sends what it made."""
    plain = tiny.preprocessor()
    prompted = plain.with_prompts(PROMPTS, "query")
    for _ in range(2):  # before and after the tokenizer without limits was parsed
        sent = pickle.loads(pickle.dumps(prompted))
        assert sent.tokens(Text("cat")) == prompted.tokens(Text("cat")) != plain.tokens(Text("cat"))
        assert sent.costs([Text("a cat")]) == prompted.costs([Text("a cat")])
