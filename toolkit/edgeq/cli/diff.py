"""`edgeq diff`: what changed between two bundles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeq.bundle.codec import encode
from edgeq.cli.output import Out

if TYPE_CHECKING:
    from edgeq.bundle.compare import BundleDiff, Change

_SECTIONS = (
    ("manifest", "Manifest"),
    ("variants", "Variants"),
    ("metrics", "Metrics"),
    ("gates", "Gates"),
    ("files", "Files (bytes)"),
)

_SHOWN = 4
"""Changes of one kind in the short view."""
_MINOR = ("created_by.", "source.files", "format.")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("diff")(diff)


def diff(
    a: Annotated[
        Path, typer.Argument(metavar="A", help="A bundle folder or .edgeq archive.", show_default=False)
    ],
    b: Annotated[Path, typer.Argument(metavar="B", help="The bundle to compare with.", show_default=False)],
    full: Annotated[bool, typer.Option("--full", help="Every change, not the first of each kind.")] = False,
    json_mode: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Also open bundles that failed their gate.")] = False,
) -> None:
    """Show what changed between two bundles: versions, variants, metrics, gates, files.

    The exit code is 0 whether they differ or not.
    """
    from edgeq.bundle.compare import compare
    from edgeq.bundle.reader import open_bundle

    out = Out(json_mode=json_mode)
    with open_bundle(a, force=force) as left, open_bundle(b, force=force) as right:
        changes = compare(left.manifest, right.manifest)
    document = {"same": changes.is_empty, **{name: _section(changes, name) for name, _ in _SECTIONS}}
    out.result(encode(document), "the bundles are the same" if changes.is_empty else None)
    if full:
        _print_full(out, changes)
    elif not changes.is_empty:
        _print_short(out, changes)


def _print_full(out: Out, changes: BundleDiff) -> None:
    for name, title in _SECTIONS:
        rows = [_row(change) for change in getattr(changes, name)]
        if rows:
            out.table(title, ["what", "A", "B", "change"], rows)


def _print_short(out: Out, changes: BundleDiff) -> None:
    """The first changes of each kind, those of a failed gate before all others, and how many more there are."""
    rows, hidden = [], []
    for name, title in _SECTIONS:
        found = sorted(getattr(changes, name), key=_weight)
        rows += [[name if index == 0 else "", *_row(change)] for index, change in enumerate(found[:_SHOWN])]
        if found[_SHOWN:]:
            hidden.append(f"{len(found) - _SHOWN} more of {title.lower()}")
    out.table(None, ["", "what", "A", "B", "change"], rows)
    if hidden:
        out.notice(f"{', '.join(hidden)}: --full")


def _weight(change: Change) -> int:
    """What a reader has to see comes first; hashes and tool versions come last."""
    if any("failed" in str(side) for side in (change.a, change.b)):
        return 0
    return 2 if change.what.startswith(_MINOR) or ".placement." in change.what else 1


def _section(changes: BundleDiff, name: str) -> list[dict[str, object]]:
    # Written out, because a side that has nothing is null here, not a missing key.
    return [{"what": change.what, "a": change.a, "b": change.b} for change in getattr(changes, name)]


def _row(change: Change) -> list[str]:
    return [change.what, _cell(change.a), _cell(change.b), _difference(change)]


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _difference(change: Change) -> str:
    if change.a is None or change.b is None:
        return "added" if change.a is None else "removed"
    if not isinstance(change.a, int | float) or not isinstance(change.b, int | float):
        return "changed"
    return f"{change.b - change.a:+.6g}" if change.b != change.a else "contents"
