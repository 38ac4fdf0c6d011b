"""Commands in help and docs work in a shell as they stand: nobody quotes what an example does not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "toolkit/edgeq/cli").glob("*.py")),
]
QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'")
REDIRECTION = re.compile(r"[a-z0-9_]\s*[<>]=?\s*[-+0-9.]")
"""`metric>=0.99` outside quotes: to a shell, a file to write."""


def commands(text: str) -> list[str]:
    """What a page tells to type: lines of code blocks and code spans that begin with `edgeq`."""
    spans = re.findall(r"`(edgeq [^`\n]+)`", text)
    lines = [line.strip().removeprefix("$ ") for line in text.splitlines()]
    return spans + [line for line in lines if line.startswith("edgeq ") and "`" not in line]


def bare(command: str) -> bool:
    return REDIRECTION.search(QUOTED.sub("", command)) is not None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_example_redirects_by_accident(page: Path) -> None:
    assert [command for command in commands(page.read_text("utf-8")) if bare(command)] == []


def test_bare_and_quoted_bounds_are_told_apart() -> None:
    found = commands('- `edgeq export M --gate cosine_mean>=0.99`\n$ edgeq tune M --budget "size<=12MB"\n')
    assert [bare(command) for command in found] == [True, False]
