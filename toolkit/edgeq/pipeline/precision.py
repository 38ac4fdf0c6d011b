"""What `--precision` may say: the name of a built-in recipe."""

from __future__ import annotations

import difflib

from edgeq.errors import UsageError
from edgeq.quantize.recipes import BUILT_IN, Recipe, load_recipe


def recipe_named(text: str) -> Recipe:
    """A built-in recipe by name.

    Raises:
        UsageError: there is none of that name.
    """
    if text in BUILT_IN:
        return load_recipe(text)
    if text.endswith((".yaml", ".yml")):
        raise UsageError(f"--precision takes a name, got the file `{text}`", hint=f"--recipe {text}")
    near = difflib.get_close_matches(text, BUILT_IN, n=1)
    hint = f"did you mean `{near[0]}`?" if near else f"--precision takes {', '.join(BUILT_IN)}"
    raise UsageError(f"unknown precision `{text}`", hint=hint)
