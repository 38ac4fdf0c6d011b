"""Markdown from untrusted words: names and labels of models cannot break out of a cell or become markup."""

from __future__ import annotations

import re
from collections.abc import Sequence

# An underscore inside a word means nothing; at the start of a line these characters open lists and headings.
_SPECIAL = re.compile(
    r"[\\`*{}\[\]<>|~&$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|^[#+=>-]|(?<=^\d)[.)]|(?<=^\d\d)[.)]"
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
# Lone surrogates cannot be written as UTF-8; direction overrides make text read as another one.
_UNPRINTABLE = re.compile("[\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


def one_line(text: object) -> str:
    """Control characters and line breaks become a space, what cannot be printed a replacement character."""
    return _UNPRINTABLE.sub("\ufffd", _CONTROL.sub(" ", str(text)))


def prose(text: object) -> str:
    """Text that renders as itself, every character with a meaning escaped."""
    return _SPECIAL.sub(lambda found: f"\\{found.group()}", one_line(text).strip())


def code(text: object) -> str:
    """A code span, also around backticks and inside table cells."""
    content = one_line(text).strip().replace("|", "\\|")
    longest = max((len(run) for run in re.findall(r"`+", content)), default=0)
    fence = "`" * (longest + 1)
    padding = " " if "`" in content or not content else ""
    return f"{fence}{padding}{content}{padding}{fence}"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table; cells are Markdown already. Columns named with a trailing `>` align right."""
    names = [column.removesuffix(">") for column in columns]
    rules = ["---:" if column.endswith(">") else "---" for column in columns]
    return [_row(names), _row(rules), *(_row(row) for row in rows), ""]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def block(language: str, lines: Sequence[str]) -> list[str]:
    """A fenced code block no line of which can close it."""
    longest = max((len(run) for line in lines for run in re.findall(r"`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}{language}", *(one_line(line) for line in lines), fence, ""]
