"""Static int8: from calibration statistics to a plan. Decides only; a target's lowering edits graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from edgeq.errors import ConfigError
from edgeq.quantize.equalize import SiteGroup, equalize_groups, group_sites
from edgeq.quantize.observers import ranges
from edgeq.quantize.observers.histogram import Histogram
from edgeq.quantize.plan import EmbeddingDecision, Equalization, LinearDecision, QuantizationPlan
from edgeq.quantize.sites import LinearSite, Sites, find_sites, weight_of
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

ALPHAS = (0.5, 0.6, 0.65, 0.7, 0.75, 0.8)
"""SmoothQuant strengths tried by the search; below 0.5 a post-LN encoder collapses (docs/quantization.md)."""


@dataclass(frozen=True, slots=True)
class StaticInt8Settings:
    """What a recipe says about static int8; `None` means: choose by the error on held-out calibration text.

    Attributes:
        alpha: equalization strength in [0, 1]; 0 means none.
        range_method: a key of `RANGE_METHODS`.
        bias_correction: add the mean quantization error back to the biases.
        exclude: layer names that stay in float.
        embeddings: quantize embedding tables to int8.
    """

    alpha: float | None = None
    range_method: str | None = None
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


class Observe(Protocol):
    """Runs calibration over a graph and returns statistics of the named tensors."""

    def __call__(self, model: ir.Model, tensors: Sequence[str]) -> Statistics: ...  # noqa: D102


class Evaluate(Protocol):
    """The error of a plan on held-out calibration samples; smaller is better."""

    def __call__(self, equalized: ir.Model, plan: QuantizationPlan) -> float: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Trial:
    """One tried setting and its held-out error."""

    setting: str
    error: float


@dataclass(frozen=True, slots=True, eq=False)
class StaticInt8Result:
    """A plan, the equalized graph it refers to, and what was tried on the way.

    Attributes:
        clipping: share of the calibration values outside the range chosen for each quantized input, by tensor.
    """

    plan: QuantizationPlan
    equalized: ir.Model
    trials: tuple[Trial, ...]
    clipping: Mapping[str, float] = field(default_factory=dict)


class StaticInt8Quantizer:
    """Chooses equalization, ranges and bias correction, one after the other, by held-out error.

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
        plan = self._choose_bias_correction(equalized, sites, plan, after)
        return StaticInt8Result(plan, equalized, tuple(self.trials), _clipping(sites, plan, after))

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
        return self.evaluate(equalized, QuantizationPlan(equalizations, tuple(decisions), ()))

    def _equalized(
        self, statistics: Statistics, groups: Sequence[SiteGroup], alpha: float
    ) -> tuple[ir.Model, tuple[Equalization, ...]]:
        from edgeq.graph.passes.equalize import equalize

        if alpha == 0:
            return self.model, ()
        activation = {name: found.channel_absmax.astype(np.float32) for name, found in statistics.items()}
        weights = {site.weight: np.abs(weight_of(self.model, site)).max(axis=1) for site in self._quantized()}
        equalizations = equalize_groups(groups, activation, weights, alpha)
        return equalize(self.model, equalizations), equalizations

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
            lambda name: self.evaluate(equalized, plan_for(name)),
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

    def _choose_bias_correction(
        self, equalized: ir.Model, sites: Sites, plan: QuantizationPlan, statistics: Statistics
    ) -> QuantizationPlan:
        """Add `E[float output] - E[quantized output]` per channel to the bias (Nagel et al., 2019, section 4.2)."""
        if self.settings.bias_correction is False:
            return plan
        from edgeq.quantize.simulate import simulate

        observed = self.observe(simulate(equalized, plan), self._outputs_of(sites))
        outputs = {site.name: site.output for site in sites.linears}
        corrected = tuple(
            decision
            if not decision.quantized
            else replace(decision, bias_shift=_mean_error(statistics, observed, outputs[decision.name]))
            for decision in plan.linears
        )
        settings: dict[str, Any] = {**plan.settings, "bias_correction": True}
        candidate = QuantizationPlan(plan.equalizations, corrected, plan.embeddings, settings)
        if self.settings.bias_correction:
            return candidate
        plans = {"no bias correction": plan, "bias correction": candidate}
        return plans[self._best(tuple(plans), str, lambda name: self.evaluate(equalized, plans[name]))]

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
            scored.append((trial.error, len(scored), choice))
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


def _mean_error(exact: Statistics, quantized: Statistics, tensor: str) -> FloatArray:
    shift: FloatArray = (exact[tensor].channel_mean - quantized[tensor].channel_mean).astype(np.float32)
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
