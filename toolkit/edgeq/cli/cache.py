"""`edgeq cache`: what edgeq keeps to save time, how large it is, and how to be rid of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from edgeq.caches import CacheEntry, cache_entries, cache_folder
from edgeq.caches import clear as remove
from edgeq.cli.options import Json, Quiet
from edgeq.cli.output import Out
from edgeq.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence


EXAMPLES = """
Examples:

- `edgeq cache`
- `edgeq cache --clear calibration`
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("cache", epilog=EXAMPLES)(cache)


def cache(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Only these entries.", show_default=False)
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove the entries: all, or those named.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what is in the cache folder, and how large it is; --clear removes it.

    Everything there can be computed or downloaded again. What edgeq did not put there is never touched.
    """
    out = Out(json_mode=json, quiet=quiet)
    folder = cache_folder()
    entries = _named(cache_entries(folder), names or [])
    if clear:
        remove(entries)
    total = sum(entry.size_bytes for entry in entries)
    rows = [(entry.name, str(entry.files), _size(entry.size_bytes), entry.purpose) for entry in entries]
    if rows:
        out.table(None, ("entry", "files", "size", "what"), rows)
    verb = "removed from" if clear else "in"
    out.notice(f"{_size(total)} {verb} {folder}" if rows else f"nothing in {folder}")
    listed = [
        {"name": item.name, "files": item.files, "size_bytes": item.size_bytes, "purpose": item.purpose}
        for item in entries
    ]
    out.result({"folder": str(folder), "size_bytes": total, "cleared": clear, "entries": listed})


def _named(entries: Sequence[CacheEntry], names: Sequence[str]) -> list[CacheEntry]:
    known = [entry.name for entry in entries]
    for name in names:
        if name not in known:
            raise UsageError(
                f"the cache has no entry `{name}`",
                hint=f"it has {', '.join(known)}" if known else "it is empty",
            )
    return [entry for entry in entries if not names or entry.name in names]


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB"
