"""What `--precision` may say: the name of a built-in recipe, or of a file type that one target has."""

from __future__ import annotations

import difflib

from edgeq.errors import UsageError
from edgeq.quantize.recipes import BUILT_IN, Recipe, load_recipe
from edgeq.quantize.recipes.schema import file_type_recipe
from edgeq.targets import TARGETS, get_target


def recipe_named(text: str) -> Recipe:
    """A built-in recipe by name, or the recipe that stands for a file type.

    Raises:
        UsageError: there is none of that name.
    """
    if text in BUILT_IN:
        return load_recipe(text)
    if text.endswith((".yaml", ".yml")):
        raise UsageError(f"--precision takes a name, got the file `{text}`", hint=f"--recipe {text}")
    file_types = {
        name: summary for target in TARGETS for name, summary in get_target(target).own_precisions.items()
    }
    if text in file_types:
        return file_type_recipe(text, file_types[text])
    known = list(dict.fromkeys([*BUILT_IN, *file_types]))
    near = difflib.get_close_matches(text, known, n=1)
    hint = f"did you mean `{near[0]}`?" if near else f"--precision takes {', '.join(known)}"
    raise UsageError(f"unknown precision `{text}`", hint=hint)
