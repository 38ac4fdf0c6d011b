"""Recipes as frozen data: specs, rules, and what they resolve to for the layers of one model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from edgeq.errors import ConfigError
from edgeq.quantize.formats import Blocks, FileType, StaticInt8, WeightFormat, format_class
from edgeq.quantize.methods import methods_for
from edgeq.quantize.recipes.layers import selects
from edgeq.quantize.recipes.roles import KNOWN_ROLES, layer_index_of, role_of
from edgeq.quantize.static_int8 import StaticInt8Settings


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
        format: a name of `formats.FORMATS`.
        bits: of a format that has several.
        block_size: members per scale along the input axis, -1 per output channel. Of a palette: output channels
            per lookup table, -1 one for the whole weight (embedding tables always have one).
        symmetric: no zero points.
        method: a name of `methods.METHODS` that makes the format. A palette's table always comes from k-means;
            `gptq` chooses the entries so that later inputs make up for the error of earlier ones.

    Raises:
        ConfigError: there is no such format, or it does not have the bits or the method.
    """

    format: str = Blocks.name
    bits: int = 4
    block_size: int = 32
    symmetric: bool = True
    method: str = "gptq"

    def __post_init__(self) -> None:
        kind = format_class(self.format)
        if kind.widths and self.bits not in kind.widths:
            raise ConfigError(f"{self.bits} bits for format {self.format}; expected one of {kind.widths}")
        methods = methods_for(kind)
        if methods and self.method not in methods:
            raise ConfigError(
                f"method {self.method} for format {self.format}; expected one of {', '.join(methods)}",
                hint="set `format` and `method` together",
            )

    @property
    def storage(self) -> WeightFormat:
        """The format with what this says of it.

        Raises:
            ConfigError: there is no kernel for its block size.
        """
        return format_class(self.format).of(self.bits, self.block_size, self.symmetric)

    def blocks(self) -> Blocks:
        """The storage of a weight-only layer.

        Raises:
            ConfigError: the layer is not weight-only, or there is no kernel for its bits or block size.
        """
        storage = self.storage
        if not isinstance(storage, Blocks):
            raise ConfigError(f"a layer of format {self.format} has no weight-only storage")
        return storage

    def bits_per_weight(self, in_features: int) -> float:
        """Stored bits per weight, scales and zero points included.

        Raises:
            ConfigError: the format is `stored` or `file-type`: only the checkpoint or the target knows.
        """
        return self.storage.bits_per_weight(in_features)


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
class RecipeExport:
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
    export: RecipeExport = RecipeExport()

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
        """YAML that loads as an equal recipe; every default is written out."""
        import yaml

        document: dict[str, Any] = {"name": self.name, "summary": self.summary}
        if self.gguf:
            document["gguf"] = self.gguf
        document["default"] = asdict(self.default)
        document["rules"] = [_rule_document(rule) for rule in self.rules]
        if isinstance(self.default.storage, StaticInt8) or self.static_int8 != StaticOptions():
            document["static_int8"] = asdict(self.static_int8)
        if self.export != RecipeExport():
            document["export"] = asdict(self.export)
        return yaml.safe_dump(
            document, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None
        )

    def static_settings(self, specs: dict[str, LayerSpec], layers: Sequence[LayerRef]) -> StaticInt8Settings:
        """The settings of `quantize.static_int8` that these specs amount to: other layers are excluded."""
        tables = {layer.name for layer in layers if layer.role.startswith("embedding")}
        linears = [name for name in specs if name not in tables]
        return StaticInt8Settings(
            **asdict(self.static_int8),
            exclude=tuple(name for name in linears if not isinstance(specs[name].storage, StaticInt8)),
            embeddings=any(specs[name].bits == 8 and specs[name].storage.is_quantized for name in tables),
        )


def file_type_recipe(name: str, summary: str) -> Recipe:
    """The recipe that stands for a file type that one target has."""
    return Recipe(name, summary, LayerSpec(FileType.name))


def mean_bits_per_weight(specs: dict[str, LayerSpec], layers: Sequence[LayerRef]) -> float:
    """Stored bits per weight over all layers."""
    sizes = {layer.name: layer.shape[0] * layer.shape[1] for layer in layers}
    bits = sum(specs[layer.name].bits_per_weight(layer.shape[0]) * sizes[layer.name] for layer in layers)
    return bits / sum(sizes.values())


def _rule_document(rule: Rule) -> dict[str, Any]:
    match: dict[str, Any] = {}
    if rule.match.role:
        match["role"] = list(rule.match.role)
    if rule.match.layers != "all":
        layers = rule.match.layers
        match["layers"] = layers if isinstance(layers, str) else list(layers)
    if rule.match.name:
        match["name"] = list(rule.match.name)
    document: dict[str, Any] = {"match": match, "set": dict(rule.set)}
    return document | {"optional": True} if rule.optional else document


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
