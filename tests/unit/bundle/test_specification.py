"""docs/bundle.md says what the schema says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgeq.bundle.schema import load_schema

SPECIFICATION = (Path(__file__).parents[3] / "docs" / "bundle.md").read_text(encoding="utf-8")
SCHEMA = load_schema()
OPEN_VOCABULARY = {
    **{f"manifest.{key}": key for key in SCHEMA["properties"]},
    **{f"variant.{key}": key for key in SCHEMA["$defs"]["variant"]["properties"]},
    **{f"gate.{key}": key for key in SCHEMA["$defs"]["gate"]["properties"]},
    **{f"metric.{key}": key for key in SCHEMA["properties"]["metrics"]["items"]["properties"]},
    **{f"source.{key}": key for key in SCHEMA["properties"]["source"]["properties"]},
    **{f"quantization.{key}": key for key in SCHEMA["properties"]["quantization"]["properties"]},
    **{f"role.{word}": word for word in SCHEMA["$defs"]["tensor"]["properties"]["role"]["enum"]},
    **{
        f"{kind}.{word}": word
        for kind in ("preprocess", "postprocess")
        for word in SCHEMA["properties"][kind]["items"]["properties"]["step"]["enum"]
    },
    **{
        f"verification.{word}": word
        for word in SCHEMA["properties"]["metrics"]["items"]["properties"]["verification"]["enum"]
    },
}


def _is_specified(word: str) -> bool:
    prose = re.sub(r"^```.*?^```$", "", SPECIFICATION, flags=re.MULTILINE | re.DOTALL)
    in_code = re.findall(r"`[^`]+`", prose)
    return any(re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", code) for code in in_code)


@pytest.mark.parametrize("name", OPEN_VOCABULARY)
def test_every_word_of_the_schema_is_specified(name: str) -> None:
    assert _is_specified(OPEN_VOCABULARY[name])


def test_a_word_that_is_not_there_is_missed() -> None:
    assert not _is_specified("executed-on-the-moon")
