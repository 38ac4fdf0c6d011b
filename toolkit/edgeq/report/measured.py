"""The report's sections that are filled where something was measured: latency, and accuracy on labelled texts.

A bundle's bytes are reproducible, and times are not: the bundle's own page says how to get them, and
`edgeq bench BUNDLE --report FILE` writes a copy of the page with the times of one machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeq.report.charts import bar
from edgeq.report.markup import Child, Html, Section, el, join, section, table
from edgeq.tasks import head_in

if TYPE_CHECKING:
    from edgeq.bundle.manifest import Manifest

LATENCY, ACCURACY = "latency", "accuracy"


@dataclass(frozen=True, slots=True)
class Times:
    """What one machine took.

    Attributes:
        machine: its processor, and how many threads ran.
        note: what was timed, and what ratios refer to.
        columns: as of `edgeq.report.markup.table`.
        rows: cells; the first is the contender.
        headline: of the preferred variant, `12.3 ms` and what it is of; None where nothing stands for all.
    """

    machine: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Child]]
    headline: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class EncoderTime:
    """One contender at one batch size and length; `ratio` is to the baseline, in the same rounds.

    Of a baseline that is known by ratios alone there is no percentile.
    """

    contender: str
    texts: int
    tokens: int
    p50_ms: float
    p95_ms: float | None
    ratio: float


def encoder_times(machine: str, baseline: str, found: Sequence[EncoderTime], preferred: str) -> Times:
    """Latency of models that read a whole text at once."""
    slowest = max((item.p50_ms for item in found), default=0.0)
    rows = [
        [
            item.contender,
            f"{item.texts} of {item.tokens} tokens",
            f"{item.p50_ms:.1f}",
            bar(item.p50_ms, slowest, chosen=item.contender == preferred),
            "" if item.p95_ms is None else f"{item.p95_ms:.1f}",
            f"{item.ratio:.2f}x",
        ]
        for item in found
    ]
    columns = ["variant", "texts", "median, ms>", "", "95th percentile, ms>", f"time, of {baseline}>"]
    note = f"Below 1x is faster than {baseline}; both ran in turn, so that the machine's drift falls on both."
    first = next((item for item in found if item.contender == preferred), None)
    return Times(machine, note, columns, rows, None if first is None else _headline(first))


def _headline(time: EncoderTime) -> tuple[str, str]:
    texts = "a text" if time.texts == 1 else f"{time.texts} texts"
    return f"{time.p50_ms:.1f} ms", f"for {texts} of {time.tokens} tokens"


def latency_section() -> Section:
    """Of a bundle's own page: times would make its bytes differ from run to run."""
    words = (
        "A bundle made again has the same bytes, and no two timings are the same: times are not in it. ",
        el("code", "edgeq bench BUNDLE --report report.html"),
        " measures here and writes this page with them; ",
        el("code", "edgeq export ... --report report.html"),
        " does so while the bundle is made, beside float32. A phone's times only the phone can tell.",
    )
    return LATENCY, "Latency", el("p", *words)


def accuracy_section(manifest: Manifest) -> Section | None:
    """What labelled texts would say of a bundle, and how to ask them; None for kinds that have no such metric."""
    labelled = head_in(manifest).entry.labelled
    if labelled is None:
        return None
    words = (
        "No labelled texts came with this bundle: its numbers say how close it is to the original, not how often "
        f"either is right. With lines of {labelled.form}, ",
        el("code", "edgeq validate BUNDLE --labels FILE.tsv --against ORIGINAL --report report.html"),
        f" measures the {labelled.name} of both and writes this page with it.",
    )
    return ACCURACY, "Accuracy", el("p", *words)


def with_times(page: str, times: Times) -> str:
    """A bundle's page with what one machine took."""
    machine = el("p", "Measured on ", el("b", times.machine), ". ", times.note)
    body = join([machine, table(times.columns, times.rows)])
    if times.headline is not None:
        value, what = times.headline
        page = _with_tile(page, value, f"{what}, median, on {times.machine}; see Latency")
    return _with_section(page, LATENCY, "Latency", body)


@dataclass(frozen=True, slots=True)
class Accuracy:
    """One variant on labelled texts: by name what `LabelledResult.metrics` has, and how many texts there were."""

    variant: str
    name: str
    texts: int
    metrics: Mapping[str, float]
    verdict: str | None


def with_accuracy(page: str, found: Sequence[Accuracy]) -> str:
    """A bundle's page with what labelled texts say."""
    rows = [[item.variant, *_accuracy_cells(item), item.texts, item.verdict or ""] for item in found]
    title = found[0].name
    columns = ["variant", f"{title}>", "original>", "lost, points>", "texts>", "verdict"]
    note = "In brackets what chance leaves open (95 %, bootstrap); lost is measured text by text."
    body = join([el("p", note, class_="muted"), table(columns, rows)])
    first = found[0]
    page = _with_tile(
        page, f"{first.metrics[title]:.4g}", f"{title} of {first.variant} on {first.texts} labelled texts"
    )
    return _with_section(page, ACCURACY, "Accuracy", body)


def _accuracy_cells(item: Accuracy) -> list[str]:
    def shown(name: str) -> str:
        values = item.metrics
        if name not in values:
            return ""
        bounds = (values.get(f"{name}_low"), values.get(f"{name}_high"))
        inside = "" if None in bounds else f" ({bounds[0]:.4g} to {bounds[1]:.4g})"
        return f"{values[name]:.4g}{inside}"

    return [shown(item.name), shown(f"{item.name}_original"), shown(f"{item.name}_drop")]


def _with_tile(page: str, value: str, words: str) -> str:
    tile = el("div", el("b", value), el("span", words), class_="tile")
    tiles = '<div class="tiles">'
    return page.replace(tiles, f"{tiles}{tile}", 1)


def _with_section(page: str, anchor: str, title: str, body: Html) -> str:
    """In the place of the section of that name; at the end of pages that older versions wrote."""
    written = section(anchor, title, body)
    pattern = re.compile(rf'<section id="{anchor}">.*?</section>', re.DOTALL)
    if pattern.search(page):
        return pattern.sub(lambda _: written, page, count=1)
    return page.replace("</main>", f"{written}</main>", 1)
