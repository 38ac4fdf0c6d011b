"""Recipes as frozen data: formats, rules, and what they resolve to for the layers of one model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from edgeq.errors import ConfigError
from edgeq.quantize.recipes.layers import selects
from edgeq.quantize.recipes.roles import KNOWN_ROLES, layer_index_of, role_of

if TYPE_CHECKING:
    from edgeq.quantize.static_int8 import StaticInt8Settings
    from edgeq.quantize.weight_only.base import WeightSpec

FORMATS = ("fp32", "fp16", "int8-static", "weight-only", "palette", "stored", "file-type")
"""What a layer can be: float; int8 weights and static int8 inputs; quantized weights and float inputs; weights as
indices into a table of floats; quantized weights as the checkpoint has them; as the file type of the recipe's name
says, which one target alone has."""
METHODS = ("rtn", "scale_search", "hqq", "gptq", "awq", "kmeans")
"""How weights are chosen; `METHODS_OF` says by which format."""
METHODS_OF = {"weight-only": METHODS[:-1], "palette": ("kmeans", "gptq")}
BITS = {"weight-only": (4, 8), "palette": (4, 6, 8)}


@dataclass(frozen=True, slots=True)
class LayerRef:
    """A layer of a model, as recipes see it.

    Attributes:
        name: module path or node name.
        role: one of `roles.KNOWN_ROLES`.
        layer_index: number of its transformer layer, None outside of any.
        layer_count: transformer layers in the model.
        shape: `(in_features, out_features)`; for a table `(columns, rows)`.
        tied: an embedding table that is also the output head; it has both roles.
    """

    name: str
    role: str
    layer_index: int | None
    layer_count: int
    shape: tuple[int, int]
    tied: bool = False

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles rules are matched against."""
        return (self.role, "head") if self.tied else (self.role,)


def layer_refs(
    shapes: Sequence[tuple[str, tuple[int, int]]], tied: Sequence[str] = ()
) -> tuple[LayerRef, ...]:
    """Layers with the roles and numbers their names tell.

    Args:
        shapes: `(name, (in_features, out_features))` in model order.
        tied: names of tables that are also the head.
    """
    indices = {name: layer_index_of(name) for name, _ in shapes}
    count = max((index + 1 for index in indices.values() if index is not None), default=0)
    return tuple(
        LayerRef(name, role_of(name), indices[name], count, shape, name in tied) for name, shape in shapes
    )


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """What a recipe decides for one layer.

    Attributes:
        format: one of `FORMATS`.
        bits: 4 or 8 for weight-only (int8-static has 8); 4, 6 or 8 for a palette.
        block_size: members per scale along the input axis, -1 per output channel. Of a palette: output channels
            per lookup table, -1 one for the whole weight (embedding tables always have one).
        symmetric: no zero points.
        method: one of `METHODS_OF` the format. A palette's table always comes from k-means; `gptq` chooses the
            entries so that later inputs make up for the error of earlier ones.

    Raises:
        ConfigError: bits or a method that the format does not have.
    """

    format: str = "weight-only"
    bits: int = 4
    block_size: int = 32
    symmetric: bool = True
    method: str = "gptq"

    def __post_init__(self) -> None:
        allowed = BITS.get(self.format)
        if allowed is None:
            return
        if self.bits not in allowed:
            raise ConfigError(f"{self.bits} bits for format {self.format}; expected one of {allowed}")
        methods = METHODS_OF[self.format]
        if self.method not in methods:
            raise ConfigError(
                f"method {self.method} for format {self.format}; expected one of {', '.join(methods)}",
                hint="set `format` and `method` together",
            )

    def weight_spec(self) -> WeightSpec:
        """The storage of a weight-only layer.

        Raises:
            ConfigError: the layer is not weight-only, or there is no kernel for its bits or block size.
        """
        from edgeq.quantize.weight_only.base import WeightSpec

        if self.format != "weight-only":
            raise ConfigError(f"a layer of format {self.format} has no weight-only storage")
        return WeightSpec(self.bits, self.block_size, self.symmetric)

    def bits_per_weight(self, in_features: int) -> float:
        """Stored bits per weight, scales and zero points included.

        Raises:
            ConfigError: the format is `stored` or `file-type`: only the checkpoint or the target knows.
        """
        if self.format == "file-type":
            raise ConfigError("how many bits a weight of a file type takes is known to its target only")
        if self.format == "stored":
            raise ConfigError("how many bits a stored weight takes is known from its checkpoint only")
        if self.format == "weight-only":
            return self.weight_spec().bits_per_weight(in_features)
        if self.format == "palette":
            # A table for the whole weight is too small to count, and its share is not known from the width alone.
            table = 0.0 if self.block_size == -1 else 16 * 2**self.bits / (self.block_size * in_features)
            return self.bits + table
        return {"fp32": 32.0, "fp16": 16.0, "int8-static": 8.0 + 32 / in_features}[self.format]


@dataclass(frozen=True, slots=True)
class Match:
    """Which layers a rule is for: every condition that is given must hold.

    Attributes:
        role: role patterns (`attention.*`); none means every role.
        layers: which transformer layers: all, first, last, `first N`, `last N`, first_eighth, more_bits, or a
            list of numbers (negative ones from the end).
        name: module path patterns; none means every name.
    """

    role: tuple[str, ...] = ()
    layers: str | tuple[int, ...] = "all"
    name: tuple[str, ...] = ()

    def holds(self, layer: LayerRef) -> bool:
        """Whether this layer is meant."""
        return (
            (not self.role or any(fnmatchcase(role, want) for role in layer.roles for want in self.role))
            and (not self.name or any(fnmatchcase(layer.name, want) for want in self.name))
            and selects(self.layers, layer.layer_index, layer.layer_count)
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """Changes to the layers a match selects; later rules override earlier ones.

    Attributes:
        match: the layers.
        set: the changed fields of `LayerSpec`, by name.
        optional: the rule may match nothing (a head, in a model without one).
    """

    match: Match
    set: tuple[tuple[str, Any], ...]
    optional: bool = False


@dataclass(frozen=True, slots=True)
class StaticOptions:
    """How the int8-static layers are decided; None lets held-out calibration text choose.

    Attributes:
        alpha: equalization strength, 0 for none.
        range_method: min-max, percentile, mse or entropy.
        rounding: nearest or error-feedback.
        bias_correction: add the mean error of quantization back to the biases.
    """

    alpha: float | None = None
    range_method: str | None = None
    rounding: str | None = None
    bias_correction: bool | None = None


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """Options of the export a recipe was written by, so that running it repeats that export; None leaves them open.

    Attributes:
        seq_len: tokens of variants with a static shape; several for targets that take several.
        calib_samples: samples to calibrate with.
        seed: of every random choice.
        ios: oldest iOS to run on.
    """

    seq_len: int | tuple[int, ...] | None = None
    calib_samples: int | None = None
    seed: int | None = None
    ios: int | None = None


@dataclass(frozen=True, slots=True)
class Recipe:
    """A named way to quantize a model.

    Attributes:
        name: what `--precision` takes.
        summary: one line for `edgeq recipes`.
        gguf: how it relates to the GGUF type of that name; empty where there is none.
        default: every layer that no rule changes.
        rules: applied in order.
        static_int8: options of the int8-static layers.
        export: options of the export that wrote it.
    """

    name: str
    summary: str
    default: LayerSpec
    rules: tuple[Rule, ...] = ()
    gguf: str = ""
    static_int8: StaticOptions = StaticOptions()
    export: ExportOptions = ExportOptions()

    def possible_specs(self) -> tuple[LayerSpec, ...]:
        """What layers can become, known without a model: the default, and the default changed by each rule."""
        changed = (replace(self.default, **dict(rule.set)) for rule in self.rules)
        return tuple(dict.fromkeys((self.default, *changed)))

    def resolve(self, layers: Sequence[LayerRef]) -> dict[str, LayerSpec]:
        """What each layer becomes, by name, in the order given.

        Raises:
            ConfigError: a rule that is not optional matches no layer.
        """
        specs = {layer.name: self.default for layer in layers}
        for number, rule in enumerate(self.rules, start=1):
            matched = [layer.name for layer in layers if rule.match.holds(layer)]
            if not matched and not rule.optional:
                raise _matches_nothing(self, number, rule, layers)
            for name in matched:
                specs[name] = replace(specs[name], **dict(rule.set))
        return specs

    def to_yaml(self) -> str:
        """YAML that loads as an equal recipe."""
        from edgeq.quantize.recipes.load import dump_recipe

        return dump_recipe(self)

    def static_settings(self, specs: dict[str, LayerSpec], layers: Sequence[LayerRef]) -> StaticInt8Settings:
        """The settings of `quantize.static_int8` that these specs amount to: other layers are excluded."""
        from edgeq.quantize.static_int8 import StaticInt8Settings

        tables = {layer.name for layer in layers if layer.role.startswith("embedding")}
        linears = [name for name in specs if name not in tables]
        return StaticInt8Settings(
            **asdict(self.static_int8),
            exclude=tuple(name for name in linears if specs[name].format != "int8-static"),
            embeddings=any(specs[name].bits == 8 and is_quantized(specs[name]) for name in tables),
        )


def file_type_recipe(name: str, summary: str) -> Recipe:
    """The recipe that stands for a file type that one target has."""
    return Recipe(name, summary, LayerSpec("file-type"))


def is_quantized(spec: LayerSpec) -> bool:
    """Whether a layer leaves floating point."""
    return spec.format in ("int8-static", "weight-only", "palette", "stored")


def is_row_int8(spec: LayerSpec) -> bool:
    """Whether a table's spec amounts to int8 with one symmetric scale per row."""
    per_row = spec.bits == 8 and spec.block_size == -1 and spec.symmetric
    return spec.format == "int8-static" or (spec.format == "weight-only" and per_row)


def mean_bits_per_weight(specs: dict[str, LayerSpec], layers: Sequence[LayerRef]) -> float:
    """Stored bits per weight over all layers."""
    sizes = {layer.name: layer.shape[0] * layer.shape[1] for layer in layers}
    bits = sum(specs[layer.name].bits_per_weight(layer.shape[0]) * sizes[layer.name] for layer in layers)
    return bits / sum(sizes.values())


def _matches_nothing(recipe: Recipe, number: int, rule: Rule, layers: Sequence[LayerRef]) -> ConfigError:
    """Says which condition of the rule nothing meets, and what comes close."""
    wanted = rule.match.name or rule.match.role
    known = [layer.name for layer in layers] if rule.match.name else list(KNOWN_ROLES)
    close = get_close_matches(wanted[0], known, n=1, cutoff=0.5) if wanted else []
    present = ", ".join(dict.fromkeys(layer.role for layer in layers))
    shown = {field.name: getattr(rule.match, field.name) for field in fields(rule.match)}
    given = {key: value for key, value in shown.items() if value not in ((), "all")}
    condition = "; ".join(f"{key}: {_listed(value)}" for key, value in given.items())
    return ConfigError(
        f"rule {number} of recipe `{recipe.name}` matches no layer ({condition}); roles in this model: {present}",
        hint=f"did you mean `{close[0]}`? Or say `optional: true`"
        if close
        else "say `optional: true` if it may",
    )


def _listed(value: Any) -> str:
    return value if isinstance(value, str) else ", ".join(map(str, value))
