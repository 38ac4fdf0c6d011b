"""A searched choice of formats as a recipe: readable, editable, and run by `edgeq export --recipe`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from edgeq.quantize.formats import Blocks, Float32
from edgeq.quantize.recipes import LayerSpec, Recipe
from edgeq.quantize.recipes.schema import Match, RecipeExport, Rule

TUNED = "tuned"


def recipe_of(
    specs: Mapping[str, LayerSpec], others: Sequence[str], summary: str, export: RecipeExport
) -> Recipe:
    """A recipe that resolves to these specs.

    Args:
        specs: by layer name, in graph order.
        others: layers that stay in float32.
        summary: one line on how it was found.
        export: options to repeat.
    """
    counts = Counter(specs.values())
    default = max(counts, key=lambda spec: counts[spec])
    groups: dict[LayerSpec, list[str]] = {}
    for name, spec in specs.items():
        if spec != default:
            groups.setdefault(spec, []).append(name)
    rules = [Rule(Match(name=tuple(names)), _changes(default, spec)) for spec, names in groups.items()]
    if others:
        rules.append(Rule(Match(name=tuple(others)), (("format", Float32.name),)))
    return Recipe(TUNED, summary, default, tuple(rules), export=export)


def _changes(default: LayerSpec, spec: LayerSpec) -> tuple[tuple[str, object], ...]:
    before = asdict(default)
    if not isinstance(spec.storage, Blocks):
        return (("format", spec.format),)
    return tuple((key, value) for key, value in asdict(spec).items() if value != before[key])
