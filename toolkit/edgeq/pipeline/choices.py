"""What of a request each target makes: its variants, its sequence lengths, its own options."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from edgeq.errors import ConfigError, UnsupportedError, UsageError
from edgeq.progress import Progress
from edgeq.quantize.formats import FileType
from edgeq.quantize.recipes import Recipe
from edgeq.targets import TARGETS, get_target
from edgeq.targets.target import LoweringOptions, Target, VariantSpec
from edgeq.types import ONNX_RUNTIME

if TYPE_CHECKING:
    from edgeq.exporters.exported_model import ExportedModel, ModelFacts
    from edgeq.pipeline.plan import ExportPlan
    from edgeq.pipeline.request import ExportRequest

DEFAULT_SEQ_LEN = 128


def chosen_variants(target: Target, request: ExportRequest, progress: Progress) -> tuple[VariantSpec, ...]:
    """Those to build; a refused one is an error if it was asked for by name, else a notice."""
    check_file_type(target, request.recipe)
    specs = target.variants(request.recipe)
    _check_variant_names(target, request, specs)
    wanted = [spec for spec in specs if not request.variants or spec.engine in request.variants]
    kept = tuple(spec for spec in wanted if spec.refusal is None)
    refused = [spec for spec in wanted if spec.refusal is not None]
    if refused and (request.variants or not kept):
        raise UnsupportedError(
            f"target `{target.name}` cannot make variant `{refused[0].engine}`: {refused[0].refusal}",
            hint="--precision int8 or fp32, or another --target",
        )
    for spec in refused:
        progress.notice(f"no {spec.engine} variant for {target.name}: {spec.refusal}")
    return kept


def check_file_type(target: Target, recipe: Recipe) -> None:
    """Refuse the name of a file type that another target has.

    Raises:
        UnsupportedError: this target has no such file type.
    """
    is_file_type = any(isinstance(spec.storage, FileType) for spec in recipe.possible_specs())
    if is_file_type and recipe.name not in target.own_precisions:
        owners = [name for name in TARGETS if recipe.name in get_target(name).own_precisions]
        raise UnsupportedError(
            f"target `{target.name}` has no precision `{recipe.name}`",
            hint=f"it is a file type of --target {' or '.join(owners)}" if owners else "edgeq recipes",
        )


def require_language_model(targets: Mapping[str, Target], facts: ModelFacts) -> None:
    """Refuse targets that take checkpoints of language models alone.

    Raises:
        UnsupportedError: the model is none, and there is such a target.
    """
    for name, target in targets.items():
        if target.made_from == "checkpoint":
            raise UnsupportedError(
                f"target `{name}` takes language models, `{facts.model}` is a {facts.task} model",
                hint=target_hint(name for name in TARGETS if get_target(name).made_from == "graph"),
            )


def target_hint(names: Iterable[str]) -> str:
    """`--target android, cpu or gguf`."""
    *others, last = names
    return f"--target {', '.join(others)} or {last}" if others else f"--target {last}"


def _check_variant_names(target: Target, request: ExportRequest, specs: Sequence[VariantSpec]) -> None:
    engines = {spec.engine for spec in specs}
    unknown = [name for name in request.variants if name not in engines]
    if unknown:
        raise UsageError(
            f"target `{target.name}` has no variant `{unknown[0]}`",
            hint=f"--variants takes {', '.join(sorted(engines))}",
        )


def static_length(request: ExportRequest, exported: ExportedModel) -> int:
    """Tokens of variants with one static shape.

    Raises:
        ConfigError: the model takes fewer.
    """
    limit = exported.canonical.max_length
    if request.seq_len is not None and request.seq_len > limit:
        raise ConfigError(
            f"--seq-len {request.seq_len} is longer than the {limit} tokens this model takes",
            hint=f"--seq-len {limit}",
        )
    return request.seq_len or min(DEFAULT_SEQ_LEN, limit)


def all_lengths(request: ExportRequest, exported: ExportedModel) -> tuple[int, ...]:
    """Every length asked for; the longest was checked against the model."""
    return request.seq_lens or (static_length(request, exported),)


def check_target_options(request: ExportRequest, targets: Mapping[str, Target]) -> None:
    """Before any work: options that no target reads, and those a target cannot honour with this recipe."""
    if request.ios is not None and not any("ios" in target.option_names for target in targets.values()):
        takers = [name for name in TARGETS if "ios" in get_target(name).option_names]
        raise UsageError(
            f"--ios means nothing to target {', '.join(targets)}", hint=f"--target {' or '.join(takers)}"
        )
    options = LoweringOptions(request.seq_len or DEFAULT_SEQ_LEN, request.seq_lens, request.ios)
    for target in targets.values():
        target.check(request.recipe, options)


def judged_length(plan: ExportPlan, seq_len: int, exported: ExportedModel) -> int:
    """Variants with a static shape set the length that all are compared at."""
    static = any(
        spec.one_partition or spec.runtime != ONNX_RUNTIME
        for specs in plan.variants.values()
        for spec in specs
    )
    return seq_len if static else exported.canonical.max_length
