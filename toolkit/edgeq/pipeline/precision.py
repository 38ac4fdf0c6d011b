"""What `--precision` may say."""

from __future__ import annotations

import difflib

from edgeq.errors import UsageError
from edgeq.types import Precision


def parse_precision(text: str) -> Precision:
    """A `Precision` by name.

    Raises:
        UsageError: there is none of that name.
    """
    try:
        return Precision(text)
    except ValueError:
        near = difflib.get_close_matches(text, list(Precision), n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"--precision takes {', '.join(Precision)}"
        raise UsageError(f"unknown precision `{text}`", hint=hint) from None
