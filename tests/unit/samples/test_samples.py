"""Samples: the bytes that are drawn and hashed, their JSON, and plain values at the edge."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeq.calibration.sampling import rank
from edgeq.errors import DataError
from edgeq.samples import KINDS, Sample, Text, TextPair, as_sample, as_samples, kinds_in_words

# The first text of a run waits for tables of all characters.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
SAMPLES = st.one_of(st.builds(Text, st.text()), st.builds(TextPair, st.text(), st.text()))

# Golden: other bytes would silently change every user's draw, and the hash of the data.
CONTENTS = [
    (Text(""), b'""', "6de5a751914993b7815b637952a3369e"),
    (Text('say "hi"\n'), b'"say \\"hi\\"\\n"', "78b98f15d186d26cc55a9892d5898a5d"),
    (Text("ü😀"), b'"\xc3\xbc\xf0\x9f\x98\x80"', "29631556737f2aa5d8cf4fe772e435bc"),
    (Text("\ud800"), b'"\xed\xa0\x80"', "856e105a6c13022d81ab36e1c526c854"),
    (TextPair("a", "b"), b'["a", "b"]', "a968aebd320ca01b24f474521e17dc25"),
    (TextPair("", "é\\"), b'["", "\xc3\xa9\\\\"]', "9c197b3ff5eed37d8820373168771feb"),
]


@pytest.mark.parametrize(("sample", "content", "ranked"), CONTENTS)
def test_the_bytes_that_are_ranked_and_hashed(sample: Sample, content: bytes, ranked: str) -> None:
    assert sample.content() == content
    assert f"{rank(content, 0):032x}" == ranked


@UNHURRIED
@given(SAMPLES, SAMPLES)
def test_samples_of_other_content_are_others(one: Sample, other: Sample) -> None:
    assert (one == other) is (one.content() == other.content())
    assert one != other or hash(one) == hash(other)


def test_a_pair_is_no_text_that_looks_like_it() -> None:
    assert Text('["a", "b"]').content() != TextPair("a", "b").content()
    assert TextPair("a", "b") != TextPair("b", "a")


@UNHURRIED
@given(SAMPLES)
def test_json_gives_a_sample_back(sample: Sample) -> None:
    assert as_sample(json.loads(json.dumps(sample.to_json()))) == sample
    assert as_sample(sample.to_json()) == sample
    assert as_sample(sample) is sample


def test_json_is_a_text_or_a_list_of_two() -> None:
    written = json.dumps([Text("a").to_json(), TextPair("b", "c").to_json()])
    assert written == '["a", ["b", "c"]]'


@pytest.mark.parametrize("value", [None, 3, b"a", ["a"], ("a", "b", "c"), ["a", 3], {"a": "b"}, {"a", "b"}])
def test_what_is_no_sample(value: Any) -> None:
    assert as_sample(value) is None
    with pytest.raises(DataError, match="sample 1 must be a text or a pair of texts, got "):
        as_samples(["a", value])


def test_plain_values_become_samples_at_the_edge() -> None:
    assert as_samples(["a", ("b", "c"), ["d", "e"], Text("f")]) == [
        Text("a"),
        TextPair("b", "c"),
        TextPair("d", "e"),
        Text("f"),
    ]
    assert as_samples([]) == []
    with pytest.raises(DataError, match="must be a list of texts, got one text: 'a text'"):
        as_samples("a text")


def test_texts_are_read_in_their_order() -> None:
    assert Text("a").texts == ("a",) and TextPair("a", "b").texts == ("a", "b")


def test_every_kind_says_what_it_is() -> None:
    assert kinds_in_words(KINDS) == "a text or a pair of texts"
    assert [kind.of("a") for kind in KINDS] == [Text("a"), None]
