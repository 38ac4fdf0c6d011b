"""The top of the report: what a team asks first, then every variant beside float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from edgeq.metrics import LOWER_IS_BETTER
from edgeq.report.charts import bar
from edgeq.report.markup import Child, Html, Section, el, join, table
from edgeq.report.words import (
    CPU,
    megabytes,
    metric_title,
    metric_value,
    placement_summary,
    provider_name,
    runtime_title,
)
from edgeq.tasks import head_in

if TYPE_CHECKING:
    from edgeq.bundle.manifest import Manifest, Metric, Variant

AGREEMENT = {
    "top1_agreement": "of {n} {rows} get the same first answer as from the original",
    "decision_agreement": "of {n} {rows} get the same decisions as from the original",
    "span_agreement": "of {n} {rows} get the same answer as from the original",
    "rank_correlation": "order of {n} {rows} against the original's; 1 is the same order",
    "cosine_mean": "closeness of its vectors to the original's, mean of {n} {rows}; 1 is the same",
}
"""The first of these that a model has says in one number what its answers are worth."""

TAIL = {
    "cosine_min": "the least close of them",
    "probability_error_p99": "error of probabilities that 99 % of them stay below",
    "score_error_p99": "error of scores that 99 % of them stay below, in spreads of the scores",
}
"""What the headline hides, in one more number."""

SUMMARY_METRICS = (
    "top1_agreement",
    "cosine_mean",
    "cosine_p01",
    "cosine_min",
    "kl_p99",
    "perplexity",
    "perplexity_original",
    "score_error_mean",
    "score_error_p99",
    "rank_correlation",
    "probability_error_mean",
    "probability_error_p99",
    "decision_agreement",
    "span_agreement",
    "batch_invariance_min",
)
"""Rows of the summary, where any variant has them."""


def tiles(manifest: Manifest, fp32_bytes: int | None) -> Html:
    """The preferred variant at a glance: size, agreement, memory, and whether the accelerator takes the model."""
    first = manifest.variants[0]
    found = [
        (megabytes(first.size_bytes), _shipped(first, fp32_bytes)),
        *_agreement(manifest, first),
        *_memory(first),
        *(tile for variant in manifest.variants for tile in _accelerator(variant)),
    ]
    boxes = (el("div", el("b", value), el("span", what), class_="tile") for value, what in found)
    return el("div", *boxes, class_="tiles")


def _shipped(variant: Variant, fp32_bytes: int | None) -> str:
    of = f", {100 * variant.size_bytes / fp32_bytes:.0f} % of float32" if fp32_bytes else ""
    return f"to ship {variant.id}, the preferred variant{of}"


def _agreement(manifest: Manifest, variant: Variant) -> list[tuple[str, str]]:
    rows = head_in(manifest).entry.rows
    headline = next((name for name in AGREEMENT if worst_metric(manifest, variant.id, name)), None)
    if headline is None:
        return []
    found = []
    for name, words in (headline, AGREEMENT[headline]), *_tail_of(headline):
        metric = worst_metric(manifest, variant.id, name)
        if metric is not None:
            found.append(
                (metric_value(name, metric.value), words.format(n=metric.n, rows=f"held-out {rows}"))
            )
    return found


def _tail_of(headline: str) -> list[tuple[str, str]]:
    """Of vectors their own; a choice has no least close vector."""
    is_vector = headline == "cosine_mean"
    return [(name, words) for name, words in TAIL.items() if name.startswith("cosine") == is_vector]


def _memory(variant: Variant) -> list[tuple[str, str]]:
    needed = variant.requirements.get("min_ram_mb")
    return [] if needed is None else [(f"{needed} MB", "memory to load and run, measured where it was made")]


def _accelerator(variant: Variant) -> list[tuple[str, str]]:
    """How much of the model an accelerator takes; it says nothing of speed."""
    nodes, pieces = variant.placement.get("nodes"), variant.placement.get("partitions")
    name = variant.execution_provider
    if name == CPU or not isinstance(nodes, Mapping) or not isinstance(pieces, int):
        return []
    taken, total = nodes.get(name, 0), sum(nodes.values())
    way = "in one go" if pieces == 1 else f"in {pieces} pieces"
    rest = "" if taken == total else "; the CPU computes the rest"
    how = ", predicted and not run" if variant.placement.get("level") == "predicted" else ""
    share = "All" if taken == total else f"{100 * taken // max(total, 1)} %"
    words = f"of the {total} operations of {variant.id}, which {provider_name(name)} takes {way}{rest}{how}"
    return [(share, words)]


def worst_metric(manifest: Manifest, variant: str, name: str) -> Metric | None:
    """A metric over all outputs, the worst."""
    found = [metric for metric in manifest.metrics if (metric.variant, metric.metric) == (variant, name)]
    worst = max if name in LOWER_IS_BETTER else min
    return worst(found, key=lambda metric: metric.value, default=None)


def summary_section(manifest: Manifest, fp32_bytes: int | None) -> Section:
    """Facts down, variants across: there are few variants, and many facts."""
    variants = manifest.variants
    full = max(fp32_bytes or 0, *(variant.size_bytes for variant in variants))
    facts: list[tuple[str, list[Child], Child]] = [
        ("runs on", [runtime_title(variant) for variant in variants], "for comparison"),
        (
            "size",
            [_sized(variant.size_bytes, full, chosen=True) for variant in variants],
            _sized(fp32_bytes, full, chosen=False) if fp32_bytes else "",
        ),
        *_ratio(variants, fp32_bytes),
        *_metric_rows(manifest),
        ("where it runs", [placement_summary(variant) for variant in variants], ""),
        ("how it was verified", [_levels(manifest, variant) for variant in variants], ""),
    ]
    compared = fp32_bytes is not None
    columns = ["", *(variant.id for variant in variants), *(["float32"] if compared else [])]
    rows = [[title, *cells, *([last] if compared else [])] for title, cells, last in facts]
    note = "Variants are in order of preference: an app takes the first one whose requirements it meets."
    return "summary", "Summary", join([el("p", note, class_="muted"), table(columns, rows, "facts")])


def _sized(size_bytes: int, full: int, *, chosen: bool) -> Html:
    return el("div", megabytes(size_bytes), bar(size_bytes, full, chosen=chosen))


def _ratio(variants: Sequence[Variant], fp32_bytes: int | None) -> list[tuple[str, list[Child], Child]]:
    if not fp32_bytes:
        return []
    return [("size, of float32", [f"{variant.size_bytes / fp32_bytes:.2f}" for variant in variants], "1.00")]


def _metric_rows(manifest: Manifest) -> list[tuple[str, list[Child], Child]]:
    present = {metric.metric for metric in manifest.metrics}
    return [
        (metric_title(name), [_value(manifest, variant, name) for variant in manifest.variants], "")
        for name in SUMMARY_METRICS
        if name in present
    ]


def _value(manifest: Manifest, variant: Variant, name: str) -> str:
    metric = worst_metric(manifest, variant.id, name)
    return "" if metric is None else metric_value(name, metric.value)


def _levels(manifest: Manifest, variant: Variant) -> str:
    levels = (metric.verification for metric in manifest.metrics if metric.variant == variant.id)
    return ", ".join(dict.fromkeys(levels))
