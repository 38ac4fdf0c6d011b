"""The report's sections on quantization: what was tried, what calibrated, what was decided per layer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from edgeq.report.charts import bar, interval
from edgeq.report.markup import Child, Html, Section, bullets, el, join, table
from edgeq.report.words import calibration_title, float_parts, plain
from edgeq.saturation import PAIR_LIMIT

if TYPE_CHECKING:
    from edgeq.bundle.manifest import Manifest
    from edgeq.quantize.coverage import Coverage
    from edgeq.quantize.plan import Equalization, LinearDecision, QuantizationPlan, WeightDecision
    from edgeq.quantize.static_int8 import Trial

WORST_CLIPPED = 12
SETTING_TITLES = {
    "method": "method",
    "alpha": "equalization strength alpha",
    "range_method": "range method",
    "rounding": "rounding of weights",
    "bias_correction": "bias correction",
}


def search_section(plan: QuantizationPlan | None, trials: Sequence[Trial]) -> Section | None:
    """Settings that were chosen, and the held-out error of everything tried."""
    if plan is None and not trials:
        return None
    parts: list[Child] = []
    if plan is not None and plan.settings:
        rows = [[SETTING_TITLES.get(key, key), el("b", plain(value))] for key, value in plan.settings.items()]
        parts.append(table(["chosen", "value"], rows))
    if trials:
        intro = (
            "Error of each setting on search samples that neither calibrated nor judge the result: relative output "
            "error, mean plus 95th percentile. Choices are made one after the other; the lowest of each group wins."
        )
        parts += [el("p", intro, class_="muted"), _trials(trials)]
    return "search", "Search" if trials else "Settings", join(parts)


def _trials(trials: Sequence[Trial]) -> Html:
    full = max(trial.error for trial in trials)
    rows: list[list[Child]] = []
    for title, group in groupby(trials, lambda trial: _choice(trial.setting)):
        members = list(group)
        best = min(members, key=lambda trial: trial.error)
        for index, trial in enumerate(members):
            chosen = trial is best
            name = el("b", trial.setting) if chosen else trial.setting
            verdict = "chosen" if chosen else ""
            rows.append(
                [
                    title if index == 0 else "",
                    name,
                    f"{trial.error:.4f}",
                    bar(trial.error, full, chosen=chosen),
                    verdict,
                ]
            )
    return table(["choice", "setting", "held-out error>", "", ""], rows)


def _choice(setting: str) -> str:
    """What a trial decides, from its words."""
    if setting.startswith("alpha"):
        return "equalization"
    if setting.endswith("ranges"):
        return "ranges"
    if setting.startswith("rounding"):
        return "rounding of weights"
    return "bias correction" if setting.endswith("bias correction") else "other"


def calibration_section(manifest: Manifest, coverage: Coverage | None) -> Section | None:
    """Where activation ranges come from, and how well that data covers what they stand for."""
    quantization = manifest.quantization
    data = quantization.calibration if quantization else None
    if data is None and coverage is None:
        return None
    parts: list[Child] = []
    if data is not None:
        facts = f"{data.samples} samples of {calibration_title(data.source)}, seed {data.seed}. SHA-256 of the data: "
        parts.append(el("p", facts, el("code", data.sha256)))
    if coverage is not None:
        parts += [_lengths(coverage), _clipping(coverage)]
    return "calibration", "Calibration", join(parts)


def _lengths(coverage: Coverage) -> Html:
    full = max(coverage.tokens_max, coverage.max_length)
    lengths = [
        ("shortest", coverage.tokens_min),
        ("median", coverage.tokens_median),
        ("95th percentile", coverage.tokens_p95),
        ("longest", coverage.tokens_max),
        ("the model takes", coverage.max_length),
    ]
    rows = [[name, tokens, bar(tokens, full, chosen=name != "the model takes")] for name, tokens in lengths]
    tone, share = "good", f"None of the {coverage.samples} samples is longer than the model takes."
    if coverage.truncated_share > 0:
        tone = "warn"
        share = (
            f"{100 * coverage.truncated_share:.1f} % of {coverage.samples} samples are longer and were cut."
        )
    return join([el("h3", "Length in tokens"), table(["", "tokens>", ""], rows), el("p", share, class_=tone)])


def _clipping(coverage: Coverage) -> Html | None:
    if not coverage.clipping:
        return None
    worst = sorted(coverage.clipping.items(), key=lambda item: (-item[1], item[0]))
    clipped = [item for item in worst if item[1] > 0]
    heading = el("h3", "Clipping")
    if not clipped:
        words = (
            f"No value of the calibration data lies outside the ranges of the {len(worst)} quantized tensors."
        )
        return join([heading, el("p", words, class_="good")])
    rows = [
        [el("code", name), _percent(share), bar(share, clipped[0][1], chosen=True)]
        for name, share in clipped[:WORST_CLIPPED]
    ]
    words = f"{len(clipped)} of {len(worst)} tensors lose values at the ends of their range; the worst:"
    return join([heading, el("p", words), table(["tensor", "values clipped>", ""], rows)])


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def layers_section(manifest: Manifest, plan: QuantizationPlan | None) -> Section | None:
    """What stays in float and why, ranges per layer, and equalization."""
    quantization = manifest.quantization
    if quantization is None:
        return None
    excluded = [join([el("code", item.node), f": {item.reason}"]) for item in quantization.excluded]
    by_design = float_parts(manifest)
    parts: list[Child] = [
        el("h3", "Left in floating point"),
        bullets(excluded) if excluded else el("p", "No layer or embedding table was excluded."),
        el("p", by_design, class_="muted") if by_design else None,
    ]
    if plan is not None:
        parts += [_weights(plan.weights), _half(plan.fp16), _ranges(plan), _equalizations(plan.equalizations)]
    return "layers", "Layers", join(parts)


def _weights(items: Sequence[WeightDecision]) -> Html | None:
    if not items:
        return None
    full = max(item.weight_error for item in items)
    rows = [_weight_row(item, full) for item in items]
    note = (
        "Layers whose weights alone are quantized. Weight error is |Q - W| / |W|; output error is that of the layer's "
        "output on the calibration inputs, where they were looked at: it is the one that counts."
    )
    columns = [
        "layer",
        "bits>",
        "block>",
        "method",
        "bits per weight>",
        "weight error>",
        "",
        "output error>",
        "notes",
    ]
    body = el(
        "details",
        el("summary", f"{len(rows)} layers and tables, in graph order"),
        table(columns, rows),
    )
    return join([el("h3", "Quantized weights"), el("p", note, class_="muted"), body])


def _weight_row(item: WeightDecision, full: float) -> list[Child]:
    block = "channel" if item.block_size == -1 else item.block_size
    output = "" if item.output_error is None else f"{item.output_error:.4f}"
    name = el("code", item.name)
    error = [f"{item.weight_error:.4f}", bar(item.weight_error, full, chosen=True), output]
    return [name, item.bits, block, item.method, f"{item.bits_per_weight:.2f}", *error, "; ".join(item.notes)]


def _half(names: Sequence[str]) -> Html | None:
    if not names:
        return None
    body = el("details", el("summary", f"{len(names)} tensors"), bullets(el("code", name) for name in names))
    return join([el("h3", "Stored in float16"), body])


def _ranges(plan: QuantizationPlan) -> Html | None:
    quantized = [item for item in plan.linears if item.quantized]
    if not quantized:
        return None
    extent = max(max(abs(bound) for bound in item.input_range) for item in quantized)
    note = (
        f"Input ranges on one axis from {-extent:.4g} to {extent:.4g}; the step is one of 255. A wide range beside "
        "narrow ones is where 8 bits are scarce."
    )
    columns = [
        "layer",
        "input low>",
        "input high>",
        "",
        "step>",
        "output low>",
        "output high>",
        "bias shift>",
        "rounding",
        "largest pair>",
        "scales>",
    ]
    body = table(columns, [_range_row(item, extent) for item in quantized])
    summary = el("summary", f"{len(quantized)} quantized layers, in graph order")
    return join(
        [
            el("h3", "Ranges"),
            el("p", note, class_="muted"),
            el("details", summary, body),
            _exactness(quantized),
        ]
    )


def _range_row(item: LinearDecision, extent: float) -> list[Child]:
    low, high = item.input_range
    shift = "" if item.bias_shift is None else f"{float(np.abs(item.bias_shift).max(initial=0)):.3g}"
    return [
        el("code", item.name),
        f"{low:.4g}",
        f"{high:.4g}",
        interval(low, high, extent),
        f"{(high - low) / 255:.3g}",
        f"{float(item.output_low.min(initial=np.inf)):.4g}",
        f"{float(item.output_high.max(initial=-np.inf)):.4g}",
        shift,
        item.rounding,
        "" if item.largest_pair is None else item.largest_pair,
        f"{item.widening:.2f}x",
    ]


def _exactness(quantized: Sequence[LinearDecision]) -> Html:
    pairs = [item.largest_pair for item in quantized if item.largest_pair is not None]
    heading = el("h3", "Integer sums")
    if len(pairs) < len(quantized) or max(pairs) > PAIR_LIMIT:
        words = (
            f"{len(quantized) - sum(pair <= PAIR_LIMIT for pair in pairs)} of {len(quantized)} layers may saturate in "
            "16 bits on x86-64 processors without VNNI."
        )
        return join([heading, el("p", words, class_="warn")])
    widening = float(np.exp(np.mean([np.log(item.widening) for item in quantized])))
    words = (
        f"Exact on every CPU: no two neighbouring codes of one sign add up to more than {max(pairs)}, and {PAIR_LIMIT} "
        f"products of 255 still fit into 16 bits. The scales are {widening:.2f} times as wide for it."
    )
    return join([heading, el("p", words, class_="good")])


def _equalizations(items: Sequence[Equalization]) -> Html | None:
    if not items:
        return None
    ratios = [float(item.scale.max() / item.scale.min()) for item in items]
    full = float(np.log2(max(*ratios, 2.0)))
    rows = [
        [
            el("code", item.tensor),
            el("code", ", ".join(item.linears)),
            el("code", item.folded_into) if item.folded_into else "a Mul",
            len(item.scale),
            f"{ratio:.3g}",
            bar(float(np.log2(ratio)), full, chosen=True),
        ]
        for item, ratio in zip(items, ratios, strict=True)
    ]
    note = (
        "Scale moved per channel from activations into the weights that read them, exact in float. The spread is the "
        "largest over the smallest factor of a tensor, bars on a log scale: the outlier channels it tames."
    )
    columns = ["activation", "read by", "divided in", "channels>", "spread>", ""]
    body = el("details", el("summary", f"{len(rows)} equalized tensors"), table(columns, rows))
    return join([el("h3", "Equalization"), el("p", note, class_="muted"), body])
