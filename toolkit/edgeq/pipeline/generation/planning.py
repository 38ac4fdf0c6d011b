"""What of a request becomes of a language model: its recipe, and the variants that carry a KV cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from edgeq.errors import UnsupportedError, UsageError
from edgeq.pipeline.choices import check_file_type, target_hint
from edgeq.pipeline.generation.recipe import INT8_NOTICE, for_language_models, is_plain_int8
from edgeq.pipeline.stored import is_stored
from edgeq.quantize.recipes import Recipe, load_recipe
from edgeq.targets import TARGETS, get_target
from edgeq.targets.target import VariantSpec

if TYPE_CHECKING:
    from edgeq.exporters.exported_model import ModelFacts
    from edgeq.pipeline.request import ExportRequest
    from edgeq.progress import Progress
    from edgeq.targets.target import Target

ENGINE = "cpu"


def language_recipe(recipe: Recipe, progress: Progress) -> Recipe:
    """The recipe as language models are quantized: `int8` means 8-bit weights, and activations without fixed ranges.

    Raises:
        UnsupportedError: the recipe wants static int8 activations.
    """
    if is_plain_int8(recipe):
        progress.notice(INT8_NOTICE)
    return for_language_models(recipe)


def plan_language_model(
    request: ExportRequest,
    _facts: ModelFacts,
    targets: Mapping[str, Target],
    _variants: Mapping[str, tuple[VariantSpec, ...]],
    progress: Progress,
) -> tuple[Recipe, dict[str, tuple[VariantSpec, ...]]]:
    """The recipe of the targets that take a graph, and the variants of all targets, which have a cache.

    Targets that take the checkpoint read the recipe's name as their own file type.

    Raises:
        UsageError: options that mean nothing to a language model.
        UnsupportedError: a target, a variant or a recipe that cannot be made.
    """
    recipe = request.recipe
    graphs = {name: target for name, target in targets.items() if target.made_from == "graph"}
    _check_options(request)
    for target in targets.values():
        check_file_type(target, recipe)
    lowered = language_recipe(recipe, progress) if graphs else recipe
    found = language_variants(graphs, lowered, request.variants, progress) if graphs else {}
    for name in targets:
        if name not in graphs:
            found[name] = _file_variants(targets[name], recipe)
    return lowered, {name: found[name] for name in targets}


def _check_options(request: ExportRequest) -> None:
    if len(request.seq_lens) > 1:
        raise UsageError(
            f"--seq-len has {len(request.seq_lens)} lengths, expected one: the context of a language model",
            hint=f"--seq-len {max(request.seq_lens)}",
        )


def _file_variants(target: Target, recipe: Recipe) -> tuple[VariantSpec, ...]:
    specs = target.variants(recipe)
    if specs[0].refusal is not None:
        names = "--precision q4_k_m, q8, fp16 ... or one of its own (edgeq targets)"
        raise UnsupportedError(
            f"target `{target.name}` cannot make this variant: {specs[0].refusal}",
            hint=f"--requantize and {names}" if is_stored(recipe) else names,
        )
    return specs


def language_variants(
    targets: Mapping[str, Target], recipe: Recipe, wanted: Sequence[str], progress: Progress
) -> dict[str, tuple[VariantSpec, ...]]:
    """The CPU variant of each target.

    Raises:
        UnsupportedError: a target or a variant that runs no decoder with a KV cache.
    """
    refused = [engine for engine in wanted if engine != ENGINE]
    if refused:
        raise UnsupportedError(
            f"variant `{refused[0]}` runs no language model: its graphs have static shapes and no KV cache",
            hint="--variants cpu",
        )
    found = {}
    for name, target in targets.items():
        specs = [spec for spec in target.variants(recipe) if spec.engine == ENGINE]
        if not specs:
            raise UnsupportedError(
                f"target `{name}` does not take language models: edgeq has no stateful KV cache for it",
                hint=target_hint(filter(takes_language_models, TARGETS)),
            )
        if specs[0].refusal is not None:
            raise UnsupportedError(f"target `{name}` cannot make this variant: {specs[0].refusal}")
        # What the target itself refuses was said when variants were chosen.
        others = [spec for spec in target.variants(recipe) if spec.engine != ENGINE and spec.refusal is None]
        for engine in dict.fromkeys(spec.engine for spec in others):
            progress.notice(f"no {engine} variant for {name}: it has static shapes and no KV cache")
        found[name] = tuple(specs)
    return found


def takes_language_models(name: str) -> bool:
    """Whether a target makes something of language models, with some recipe."""
    target = get_target(name)
    return target.made_from == "checkpoint" or any(
        spec.engine == ENGINE for spec in target.variants(load_recipe("int8"))
    )
