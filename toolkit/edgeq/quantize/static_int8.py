"""Static int8: from calibration statistics to a plan. Decides only; a target's lowering edits graphs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from edgeq.errors import ConfigError
from edgeq.graph.static_weight import NEAREST, StaticWeight, nearest_codes
from edgeq.quantize.equalize import SiteGroup, equalize_groups, group_sites
from edgeq.quantize.error_feedback import FEEDBACK, feedback_codes
from edgeq.quantize.gram_parts import in_parts
from edgeq.quantize.observers import ranges
from edgeq.quantize.observers.histogram import Histogram
from edgeq.quantize.plan import EmbeddingDecision, Equalization, LinearDecision, QuantizationPlan
from edgeq.quantize.sites import LinearSite, Sites, find_sites, weight_of
from edgeq.quantize.weight_only.quantized_weight import LayerStats
from edgeq.types import FloatArray

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.quantize.statistics import Statistics

Choice = TypeVar("Choice")
RangeMethod = Callable[[Histogram], tuple[float, float]]

RANGE_METHODS: Mapping[str, RangeMethod] = {
    "min-max": ranges.min_max,
    "percentile": lambda histogram: ranges.percentile(histogram, 99.999),
    "mse": lambda histogram: ranges.mse(histogram, bits=8, symmetric=False),
    "entropy": lambda histogram: ranges.entropy(histogram, bits=8),
}
"""Range method by name, as recipes spell it."""

ROUNDINGS = (NEAREST, FEEDBACK)
"""How int8 codes are chosen, as recipes spell it."""

ALPHAS = (0.5, 0.6, 0.65, 0.7, 0.75, 0.8)
"""SmoothQuant strengths tried by the search; below 0.5 a post-LN encoder collapses (docs/quantization.md)."""


@dataclass(frozen=True, slots=True)
class StaticInt8Settings:
    """What a recipe says about static int8; `None` means: choose by the error on held-out calibration text.

    Attributes:
        alpha: equalization strength in [0, 1]; 0 means none.
        range_method: a key of `RANGE_METHODS`.
        rounding: one of `ROUNDINGS`.
        bias_correction: add the mean quantization error back to the biases.
        exclude: layer names that stay in float.
        embeddings: quantize embedding tables to int8.
    """

    alpha: float | None = None
    range_method: str | None = None
    rounding: str | None = None
    bias_correction: bool | None = None
    exclude: tuple[str, ...] = ()
    embeddings: bool = True

    def __post_init__(self) -> None:
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            raise ConfigError(f"alpha must be between 0 and 1, got {self.alpha}")
        if self.range_method is not None and self.range_method not in RANGE_METHODS:
            raise ConfigError(
                f"unknown range method `{self.range_method}`; known: {', '.join(RANGE_METHODS)}"
            )
        if self.rounding is not None and self.rounding not in ROUNDINGS:
            raise ConfigError(f"unknown rounding `{self.rounding}`; known: {', '.join(ROUNDINGS)}")


class Observe(Protocol):
    """Runs calibration over a graph and returns statistics of the named tensors, with X^T X if `gram` says so."""

    def __call__(self, model: ir.Model, tensors: Sequence[str], *, gram: bool = False) -> Statistics: ...  # noqa: D102


class Evaluate(Protocol):
    """The error of a plan on held-out calibration samples; smaller is better."""

    def __call__(  # noqa: D102
        self, equalized: ir.Model, plan: QuantizationPlan, weights: Mapping[str, StaticWeight]
    ) -> float: ...


@dataclass(frozen=True, slots=True)
class Trial:
    """One tried setting and its held-out error."""

    setting: str
    error: float


@dataclass(frozen=True, slots=True, eq=False)
class StaticInt8Result:
    """A plan, the equalized graph it refers to, and what was tried on the way.

    Attributes:
        weights: codes of the quantized layers, by initializer of `equalized`.
        clipping: share of the calibration values outside the range chosen for each quantized input, by tensor.
    """

    plan: QuantizationPlan
    equalized: ir.Model
    trials: tuple[Trial, ...]
    weights: Mapping[str, StaticWeight]
    clipping: Mapping[str, float] = field(default_factory=dict)


class StaticInt8Quantizer:
    """Chooses equalization, ranges, rounding and bias correction, one after the other, by held-out error.

    Args:
        model: the canonical graph.
        settings: fixed choices; what is None is searched.
        observe: runs calibration.
        evaluate: scores a plan; called only where there is something to choose.
        on_trial: told of every trial.
    """

    def __init__(
        self,
        model: ir.Model,
        settings: StaticInt8Settings,
        observe: Observe,
        evaluate: Evaluate,
        on_trial: Callable[[Trial], None] = lambda _: None,
    ) -> None:
        self.model = model
        self.settings = settings
        self.observe = observe
        self.evaluate = evaluate
        self.on_trial = on_trial
        self.sites = find_sites(model)
        self.trials: list[Trial] = []
        _check_exclusions(settings.exclude, self.sites)

    def run(self) -> StaticInt8Result:
        """The best plan found."""
        statistics = self.observe(self.model, self._observed_inputs())
        groups = group_sites(self._quantized())
        alpha = self._choose_alpha(statistics, groups)
        equalized, equalizations = self._equalized(statistics, groups, alpha)
        sites = find_sites(equalized)
        after = self.observe(equalized, (*self._inputs_of(sites), *self._outputs_of(sites)))
        plan = self._choose_ranges(equalized, equalizations, sites, after, alpha)
        plan, weights = self._choose_rounding(equalized, sites, plan)
        plan = self._choose_bias_correction(equalized, sites, plan, weights, after)
        return StaticInt8Result(plan, equalized, tuple(self.trials), weights, _clipping(sites, plan, after))

    def _quantized(self) -> list[LinearSite]:
        return [site for site in self.sites.linears if site.name not in self.settings.exclude]

    def _observed_inputs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(site.input for site in self._quantized()))

    def _inputs_of(self, sites: Sites) -> tuple[str, ...]:
        names = {site.name for site in self._quantized()}
        return tuple(dict.fromkeys(site.input for site in sites.linears if site.name in names))

    def _outputs_of(self, sites: Sites) -> tuple[str, ...]:
        names = {site.name for site in self._quantized()}
        return tuple(dict.fromkeys(site.output for site in sites.linears if site.name in names))

    def _choose_alpha(self, statistics: Statistics, groups: Sequence[SiteGroup]) -> float:
        if self.settings.alpha is not None:
            return self.settings.alpha
        return self._best(
            (0.0, *ALPHAS),
            lambda alpha: f"alpha {alpha:g}",
            lambda alpha: self._alpha_error(statistics, groups, alpha),
        )

    def _alpha_error(self, statistics: Statistics, groups: Sequence[SiteGroup], alpha: float) -> float:
        """Min-max ranges of an equalized tensor follow from the channel extremes: no second calibration."""
        equalized, equalizations = self._equalized(statistics, groups, alpha)
        scales = {item.tensor: item.scale for item in equalizations}
        decisions = []
        for site in self._quantized():
            found = statistics[site.input]
            scale = scales.get(site.input, np.ones(1, np.float32))
            low = float(min(0.0, (found.channel_min / scale).min()))
            high = float(max(0.0, (found.channel_max / scale).max()))
            decisions.append(_decision(site, (low, high), "trial"))
        return self.evaluate(equalized, QuantizationPlan(equalizations, tuple(decisions), ()), {})

    def _equalized(
        self, statistics: Statistics, groups: Sequence[SiteGroup], alpha: float
    ) -> tuple[ir.Model, tuple[Equalization, ...]]:
        from edgeq.graph.passes.equalize import equalize
        from edgeq.graph.passes.sequence import edited

        if alpha == 0:
            return self.model, ()
        activation = {name: found.channel_absmax.astype(np.float32) for name, found in statistics.items()}
        weights = {site.weight: np.abs(weight_of(self.model, site)).max(axis=1) for site in self._quantized()}
        equalizations = equalize_groups(groups, activation, weights, alpha)
        return edited(self.model, equalize(equalizations)), equalizations

    def _choose_ranges(
        self,
        equalized: ir.Model,
        equalizations: tuple[Equalization, ...],
        sites: Sites,
        statistics: Statistics,
        alpha: float,
    ) -> QuantizationPlan:
        def plan_for(method: str) -> QuantizationPlan:
            settings = {
                "method": "static-int8",
                "alpha": alpha,
                "range_method": method,
                "bias_correction": False,
            }
            decisions = self._decisions(sites, statistics, RANGE_METHODS[method])
            return QuantizationPlan(equalizations, decisions, self._embeddings(sites), settings)

        if self.settings.range_method is not None:
            return plan_for(self.settings.range_method)
        method = self._best(
            ("min-max", "percentile", "mse"),
            lambda name: f"{name} ranges",
            lambda name: self.evaluate(equalized, plan_for(name), {}),
        )
        return plan_for(method)

    def _decisions(
        self, sites: Sites, statistics: Statistics, method: RangeMethod
    ) -> tuple[LinearDecision, ...]:
        quantized = {site.name for site in self._quantized()}
        by_input = {name: method(statistics[name].histogram) for name in self._inputs_of(sites)}
        decisions = []
        for site in sites.linears:
            if site.name not in quantized:
                decisions.append(_float_decision(site, "excluded by the recipe"))
                continue
            output = statistics[site.output]
            decision = _decision(site, by_input[site.input], "quantized")
            decisions.append(
                replace(
                    decision,
                    output_low=output.channel_min.astype(np.float32),
                    output_high=output.channel_max.astype(np.float32),
                )
            )
        return tuple(decisions)

    def _embeddings(self, sites: Sites) -> tuple[EmbeddingDecision, ...]:
        reason = "quantized" if self.settings.embeddings else "excluded by the recipe"
        return tuple(
            EmbeddingDecision(site.name, self.settings.embeddings, reason) for site in sites.embeddings
        )

    def _choose_rounding(
        self, equalized: ir.Model, sites: Sites, plan: QuantizationPlan
    ) -> tuple[QuantizationPlan, dict[str, StaticWeight]]:
        quantized = _by_weight(sites, {decision.name for decision in plan.linears if decision.quantized})
        found: dict[str, dict[str, StaticWeight]] = {}
        if self.settings.rounding != FEEDBACK:
            found[NEAREST] = {
                name: nearest_codes(weight_of(equalized, group[0])) for name, group in quantized.items()
            }
        if self.settings.rounding != NEAREST:
            found[FEEDBACK] = self._round_in_turn(equalized, quantized)
        chosen = self.settings.rounding or self._best(
            tuple(found),
            lambda name: f"rounding: {name}",
            lambda name: self.evaluate(equalized, plan, found[name]),
        )
        return _with_weights(equalized, sites, plan, found[chosen], chosen), found[chosen]

    def _round_in_turn(
        self, equalized: ir.Model, quantized: Mapping[str, Sequence[LinearSite]]
    ) -> dict[str, StaticWeight]:
        """Codes by error feedback; layers that read the same inputs share their X^T X and its factor."""
        groups: dict[tuple[str, ...], list[str]] = {}
        for name, readers in quantized.items():
            groups.setdefault(tuple(dict.fromkeys(site.input for site in readers)), []).append(name)
        found: dict[str, StaticWeight] = {}
        for part in in_parts(groups, lambda inputs: _gram_bytes(quantized[groups[inputs][0]][0], inputs)):
            wanted = tuple(dict.fromkeys(tensor for inputs in part for tensor in inputs))
            statistics = self.observe(equalized, wanted, gram=True)
            for inputs in part:
                stats = _layer_stats(statistics, inputs)
                for name in groups[inputs]:
                    found[name] = feedback_codes(weight_of(equalized, quantized[name][0]), stats)
        return found

    def _choose_bias_correction(
        self,
        equalized: ir.Model,
        sites: Sites,
        plan: QuantizationPlan,
        weights: Mapping[str, StaticWeight],
        statistics: Statistics,
    ) -> QuantizationPlan:
        """Add the mean error that a layer's own rounded weight makes to its bias (Nagel et al., 2019, section 4.2)."""
        if self.settings.bias_correction is False:
            return plan
        by_name = {site.name: site for site in sites.linears}
        corrected = tuple(
            decision
            if not decision.quantized
            else replace(
                decision, bias_shift=_mean_error(equalized, by_name[decision.name], weights, statistics)
            )
            for decision in plan.linears
        )
        settings: dict[str, Any] = {**plan.settings, "bias_correction": True}
        candidate = QuantizationPlan(plan.equalizations, corrected, plan.embeddings, settings)
        if self.settings.bias_correction:
            return candidate
        plans = {"no bias correction": plan, "bias correction": candidate}
        return plans[
            self._best(tuple(plans), str, lambda name: self.evaluate(equalized, plans[name], weights))
        ]

    def _best(
        self,
        choices: Iterable[Choice],
        describe: Callable[[Choice], str],
        error_of: Callable[[Choice], float],
    ) -> Choice:
        scored: list[tuple[float, int, Choice]] = []
        for choice in choices:
            trial = Trial(describe(choice), error_of(choice))
            self.trials.append(trial)
            self.on_trial(trial)
            # A setting that gives NaN is the worst there is, not one that compares with nothing.
            scored.append((np.nan_to_num(trial.error, nan=np.inf), len(scored), choice))
        return min(scored)[2]


def _decision(site: LinearSite, input_range: tuple[float, float], reason: str) -> LinearDecision:
    empty = np.zeros(site.shape[1], np.float32)
    return LinearDecision(site.name, True, reason, input_range, empty, empty)


def _float_decision(site: LinearSite, reason: str) -> LinearDecision:
    empty = np.zeros(site.shape[1], np.float32)
    return LinearDecision(site.name, False, reason, (0.0, 0.0), empty, empty)


def _clipping(sites: Sites, plan: QuantizationPlan, statistics: Statistics) -> dict[str, float]:
    inputs = {site.name: site.input for site in sites.linears}
    return {
        inputs[item.name]: ranges.clipped_share(statistics[inputs[item.name]].histogram, *item.input_range)
        for item in plan.linears
        if item.quantized
    }


def _by_weight(sites: Sites, quantized: Collection[str]) -> dict[str, list[LinearSite]]:
    """Quantized layers by the initializer they read, in graph order."""
    found: dict[str, list[LinearSite]] = {}
    for site in sites.linears:
        if site.name in quantized:
            found.setdefault(site.weight, []).append(site)
    return found


def _gram_bytes(site: LinearSite, inputs: Sequence[str]) -> int:
    return 8 * site.shape[0] ** 2 * len(inputs)


def _layer_stats(statistics: Statistics, inputs: Sequence[str]) -> LayerStats:
    """What calibration saw of all inputs that one weight is multiplied with."""
    found = statistics[inputs[0]]
    for name in inputs[1:]:
        found = found.merge(statistics[name])
    return LayerStats(found.channel_mean_square.astype(np.float32), found.rows, found.gram)


def _with_weights(
    equalized: ir.Model,
    sites: Sites,
    plan: QuantizationPlan,
    weights: Mapping[str, StaticWeight],
    rounding: str,
) -> QuantizationPlan:
    """The plan with what was found about its weights."""
    by_name = {site.name: site for site in sites.linears}

    def described(decision: LinearDecision) -> LinearDecision:
        if not decision.quantized:
            return decision
        site = by_name[decision.name]
        codes = weights[site.weight]
        # Seven digits: the plan's bytes must not hang on the last bits of a sum.
        widening = float(f"{codes.widening(weight_of(equalized, site)):.7g}")
        return replace(decision, rounding=codes.rounding, largest_pair=codes.largest_pair, widening=widening)

    return replace(
        plan,
        linears=tuple(described(decision) for decision in plan.linears),
        settings={**plan.settings, "rounding": rounding},
    )


def _mean_error(
    equalized: ir.Model, site: LinearSite, weights: Mapping[str, StaticWeight], statistics: Statistics
) -> FloatArray:
    """`E[x] (W - Q)`, `[out]`: errors of the layers before are theirs to correct."""
    error = weight_of(equalized, site) - weights[site.weight].dequantize()
    shift: FloatArray = (statistics[site.input].channel_mean @ error).astype(np.float32)
    return shift


def _check_exclusions(exclude: Sequence[str], sites: Sites) -> None:
    import difflib

    known = [site.name for site in sites.linears]
    for name in exclude:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise ConfigError(
                f"`{name}` is excluded, but the model has no such layer",
                hint=f"did you mean `{near[0]}`?" if near else None,
            )
