"""Checkpoints that are quantized already: taken over as they are, or quantized again when that is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from edgeq.errors import ConfigError, UnsupportedError
from edgeq.pipeline.weight_jobs import WeightJob
from edgeq.quantize.formats import Blocks, Float16, Float32, Stored
from edgeq.quantize.layers import ModelLayers, layer_weight
from edgeq.quantize.recipes import LayerSpec, Recipe, load_recipe
from edgeq.quantize.weight_errors import energy_of
from edgeq.targets import get_target

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.exporters.exported_model import ModelFacts
    from edgeq.pipeline.plan import ExportPlan
    from edgeq.pipeline.weight_only import QuantizedLayer
    from edgeq.progress import Progress
    from edgeq.quantize.checkpoint_codes import PackedWeights
    from edgeq.targets.target import CheckpointTarget

REQUANTIZED = LayerSpec(Blocks.name, 8, 32, True, "rtn")
"""With --requantize, a tensor whose type ONNX cannot hold: the error of 8 bits is small beside its own."""
SHOWN = 4


def is_stored(recipe: Recipe) -> bool:
    """Whether a recipe takes any weight over as the checkpoint has it."""
    return any(isinstance(spec.storage, Stored) for spec in recipe.possible_specs())


def stored_recipe(recipe: Recipe, facts: ModelFacts, *, is_chosen: bool, requantize: bool) -> Recipe:
    """The recipe for a checkpoint, before any work.

    Args:
        recipe: of the request.
        facts: of the model.
        is_chosen: the user named it; otherwise a quantized checkpoint is taken over as it is.
        requantize: quantizing again is allowed.

    Raises:
        ConfigError: the recipe asks for stored weights and there are none, or would quantize a second time.
        UnsupportedError: some weights have a type that ONNX cannot hold.
    """
    if facts.quantized is None:
        if is_stored(recipe):
            raise ConfigError(
                f"recipe `{recipe.name}` takes over quantized weights, and `{facts.model}` has none",
                hint="--precision int4, int8, q4_k_m ...",
            )
        return recipe
    if is_chosen and not is_stored(recipe):
        if not requantize:
            raise ConfigError(
                f"`{facts.model}` is quantized already ({facts.quantized}); {recipe.name} would be a second time",
                hint="leave --precision out to take the weights over as they are, or add --requantize",
            )
        return recipe
    if facts.lost and not requantize:
        name, reason = next(iter(facts.lost.items()))
        raise UnsupportedError(
            f"{len(facts.lost)} weights of `{facts.model}` cannot be held by ONNX, first `{name}` ({reason})",
            hint="add --requantize: they are rounded to 8 bits, and the error is printed",
        )
    if not is_chosen:
        recipe = load_recipe(Stored.name)
    return replace(recipe, name=facts.quantized) if recipe.name == Stored.name else recipe


def compared_with(facts: ModelFacts) -> str:
    """What a bundle's figures are against: of a quantized checkpoint its own weights; what they lost is not known."""
    if facts.quantized is None:
        return "the original"
    return f"the {facts.quantized} checkpoint itself (what that lost of its original is not known)"


def say_growth(facts: ModelFacts, recipe: Recipe, size: int, progress: Progress) -> None:
    """Say that a bundle is larger than the quantized checkpoint it was made from, where it is.

    Args:
        facts: of the checkpoint.
        recipe: what became of its weights.
        size: bytes of the bundle's model.
        progress: takes the notice.
    """
    if facts.quantized is None:
        return
    before = checkpoint_bytes(facts.folder)
    if size > before:
        # Only types that are taken over have no other way.
        why = (
            ": ONNX Runtime computes in 4 and 8 bits, and types in between are held in 8 (docs/import.md)"
            if is_stored(recipe)
            else ""
        )
        progress.notice(f"the model takes {size / 1e6:.1f} MB, the checkpoint {before / 1e6:.1f} MB{why}")


def checkpoint_bytes(path: Path) -> int:
    """Bytes of a GGUF file, or of the safetensors files of a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.glob("*.safetensors"))


def is_calibrated(plan: ExportPlan) -> bool:
    """Whether any variant of an export looks at calibration texts: those of floats and of stored codes do not."""
    specs = plan.request.recipe.possible_specs()
    rounds = any(spec.storage.is_rounded_here for spec in specs)
    for name, variants in plan.variants.items():
        target = get_target(name)
        if target.made_from == "graph":
            if rounds:
                return True
        elif any(cast("CheckpointTarget", target).is_calibrated(spec) for spec in variants):
            return True
    return False


@dataclass(frozen=True, slots=True, eq=False)
class TakenOver:
    """What `stored` came to.

    Attributes:
        layers: the weights that stay quantized.
        specs: the others as float layers, by name: in float16 where that is exact.
    """

    layers: tuple[QuantizedLayer, ...]
    specs: Mapping[str, LayerSpec]


def take_over(
    graph: ir.Model,
    layers: ModelLayers,
    specs: Mapping[str, LayerSpec],
    jobs: Sequence[WeightJob],
    packed: PackedWeights,
    is_lossy: bool,
    progress: Progress,
) -> TakenOver:
    """Find the codes of every weight that the recipe wants as stored.

    Args:
        graph: with the dequantized weights.
        layers: of it.
        specs: of all layers.
        jobs: the weights whose format is `stored`.
        packed: the checkpoint's codes.
        is_lossy: some tensors of it have types ONNX cannot hold; they are requantized.
        progress: one stage; what was requantized becomes a notice.

    Raises:
        UnsupportedError: a quantized weight of the checkpoint is not in the graph as it is.
    """
    from edgeq.pipeline.weight_only import QuantizedLayer, decision_of, quantize_layer
    from edgeq.quantize.streaming.weight_store import HeldCodes

    found: list[QuantizedLayer] = []
    floats: dict[str, LayerSpec] = {}
    again: list[QuantizedLayer] = []
    with progress.stage("taking over quantized weights", len(jobs)) as stage:
        for job in jobs:
            weight = layer_weight(graph, job.site)
            codes = packed.find(weight)
            if codes is not None:
                cost = energy_of(weight, codes.dequantize(), None)
                found.append(QuantizedLayer(decision_of(job, codes, cost), HeldCodes(codes)))
            elif is_lossy and not _is_half(weight):
                again.append(quantize_layer(replace(job, spec=REQUANTIZED), weight, None))
            else:
                floats |= {job.initializer: LayerSpec(Float16.name if _is_half(weight) else Float32.name)}
            stage.advance()
        _require_all(packed, specs)
        stage.note = f"{len(found)} of {len(jobs)} weights as they are ({packed.label})"
    _say_what_was_lost(again, progress)
    by_layer = {
        name: floats.get(layers.initializers[name], spec) if isinstance(spec.storage, Stored) else spec
        for name, spec in specs.items()
    }
    return TakenOver((*found, *again), by_layer)


def _require_all(packed: PackedWeights, specs: Mapping[str, LayerSpec]) -> None:
    """No quantized weight may become a float one unsaid: each is found again, where the recipe wants all of them.

    Raises:
        UnsupportedError: the graph holds one in another form than the checkpoint.
    """
    lost = packed.unread()
    if lost and all(isinstance(spec.storage, Stored) for spec in specs.values()):
        raise UnsupportedError(
            f"{len(lost)} quantized weights of the checkpoint are not in the graph as they are, first `{lost[0]}`",
            hint="quantize it again: --requantize --precision int4",
        )


def _is_half(weight: np.ndarray) -> bool:
    with np.errstate(over="ignore"):
        return bool((weight.astype(np.float16).astype(np.float32) == weight).all())


def _say_what_was_lost(again: Sequence[QuantizedLayer], progress: Progress) -> None:
    if not again:
        return
    shown = ", ".join(f"{layer.decision.name} {layer.decision.weight_error:.2%}" for layer in again[:SHOWN])
    more = f" and {len(again) - SHOWN} more" if len(again) > SHOWN else ""
    mean = np.sqrt(np.mean([layer.decision.weight_error**2 for layer in again]))
    progress.notice(
        f"{len(again)} weights were rounded to 8 bits, relative error {mean:.2%} in the mean square: {shown}{more}"
    )
