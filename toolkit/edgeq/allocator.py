"""Memory that is freed goes back to the system at once, where the C library offers that."""

from __future__ import annotations

import ctypes
import sys

M_MMAP_THRESHOLD = -3
M_ARENA_MAX = -8
LARGE_BYTES = 4 << 20
"""Allocations above this are mapped by themselves and unmapped when they are freed."""
ARENAS = 2


def return_freed_memory() -> None:
    """Keep glibc from holding on to large freed arrays for the rest of this process; nothing elsewhere.

    By itself it raises the size from which allocations are mapped to 32 MB as they are freed, and keeps what lies
    between arrays that live.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return
    mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
    mallopt(M_ARENA_MAX, ARENAS)
