"""Amounts of memory as people write them."""

from __future__ import annotations

import re

from edgeq.errors import UsageError

UNITS = {
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", re.ASCII)


def parse_size(text: str, option: str = "--ram") -> int:
    """`4GB`, `512MB`, `3.5GiB` as bytes; GB is 10^9, GiB 2^30.

    Raises:
        UsageError: no number with a unit, or nothing left of it.
    """
    match = _SIZE.fullmatch(text)
    unit = match[2].upper() if match else ""
    if match is None or unit not in UNITS:
        raise UsageError(
            f"{option} got `{text}`, expected a number and a unit (KB, MB, GB, KiB, MiB, GiB)",
            hint=f"{option} {text.strip()}GB"
            if re.fullmatch(r"\s*\d+(\.\d+)?\s*", text)
            else f"{option} 4GB",
        )
    size = int(float(match[1]) * UNITS[unit])
    if size < 1:
        raise UsageError(f"{option} got `{text}`, expected more than nothing")
    return size


def megabytes(size: float) -> str:
    """`90 MB`, `4.1 GB`: three digits are enough for an estimate."""
    if size >= 999.5e6:
        return f"{size / 1e9:.3g} GB"
    return f"{size / 1e6:.3g} MB" if size < 99.5e6 else f"{size / 1e6:.0f} MB"
