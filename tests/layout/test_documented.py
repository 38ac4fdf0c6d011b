"""What the tables hold is in the docs: an entry that no page names is one that nobody finds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from edgeq.exporters import ARCHITECTURES
from edgeq.families import FAMILIES
from edgeq.quantize.formats import Blocks
from edgeq.quantize.methods import methods_for
from edgeq.quantize.recipes import BUILT_IN

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [
    ("models.md", ARCHITECTURES),
    ("causal-lm.md", FAMILIES),
    ("gguf.md", FAMILIES),
    ("weight-only.md", methods_for(Blocks)),
    ("recipes.md", BUILT_IN),
]


def unnamed(page: str, names: Iterable[str]) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return [name for name in names if f"`{name}`" not in text]


@pytest.mark.parametrize(("page", "names"), PAGES, ids=[page for page, _ in PAGES])
def test_every_entry_has_its_place_in_the_docs(page: str, names: Iterable[str]) -> None:
    assert unnamed(page, names) == []


def test_a_lost_entry_is_noticed() -> None:
    assert unnamed("recipes.md", ["int4", "int3"]) == ["int3"]
