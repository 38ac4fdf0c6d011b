"""HTML from untrusted words: everything that is not `Html` already is escaped, in text and in attributes."""

from __future__ import annotations

import html
from collections.abc import Iterable

from edgeq.report.markdown import one_line

VOID = frozenset({"meta", "rect", "line", "circle", "path", "br"})
"""Elements without content; written as `<x/>`, which HTML and SVG both read."""


class Html(str):
    """Text that is markup already. Only this module makes it from other text."""

    __slots__ = ()


Child = object
"""What an element holds: `Html` as it is, None as nothing, anything else as escaped text."""
Section = tuple[str, str, Child]
"""Anchor, title, content."""


def el(tag: str, *children: Child, **attributes: object) -> Html:
    """An element; `class_` gives `class`, `stroke_width` gives `stroke-width`, None leaves an attribute out."""
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{text(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in VOID and not children:
        return Html(f"<{tag}{written}/>")
    return Html(f"<{tag}{written}>{join(children)}</{tag}>")


def join(children: Iterable[Child]) -> Html:
    """Children one after the other."""
    return Html(
        "".join(child if isinstance(child, Html) else text(child) for child in children if child is not None)
    )


def text(value: object) -> Html:
    """Any value as text that means itself."""
    return Html(html.escape(one_line(value), quote=True))


def table(columns: Iterable[str], rows: Iterable[Iterable[Child]], class_: str | None = None) -> Html:
    """A table; columns named with a trailing `>` align right.

    A narrow screen shows each row as a block of lines, a cell behind the name of its column: no number hides behind
    sideways scroll.
    """
    names = list(columns)
    right = [name.endswith(">") for name in names]
    titles = [name.removesuffix(">") for name in names]
    head = [
        el("th", title, class_="num" if numeric else None, scope="col")
        for title, numeric in zip(titles, right, strict=True)
    ]
    body = [
        el(
            "tr",
            *(
                el("td", cell, class_="num" if numeric else None, data_label=title or None)
                for cell, numeric, title in zip(row, right, titles, strict=True)
            ),
        )
        for row in rows
    ]
    return el("table", el("thead", el("tr", *head)), el("tbody", *body), class_=class_)


def bullets(items: Iterable[Child]) -> Html:
    """A list."""
    return el("ul", *(el("li", item) for item in items))


def section(anchor: str, title: str, *children: Child) -> Html:
    """A part of the page."""
    return el("section", el("h2", title), *children, id=anchor)


def page(title: str, style: str, *children: Child) -> str:
    """A whole document that loads nothing and runs nothing: the policy says so to the browser, too."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", title),
        el("style", Html(style)),
    )
    return f"<!DOCTYPE html>\n{el('html', head, el('body', el('main', *children)), lang='en')}\n"
