"""Small charts as inline SVG. Numbers beside them are text: a chart never carries a value alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgeq.report.markup import Html, el

WIDTH = 960
LABEL_WIDTH = 190
BINS = 40


def bar(value: float, full: float, *, chosen: bool = False) -> Html:
    """A horizontal bar, `value` of `full`."""
    share = min(max(value / full, 0.0), 1.0) if full > 0 else 0.0
    return _strip(
        el("rect", x=0, y=1, width=_number(100 * share), height=8, class_="chosen" if chosen else "fill")
    )


def interval(low: float, high: float, extent: float) -> Html:
    """An interval on an axis from `-extent` to `extent`, zero in the middle."""
    scale = 50 / extent if extent > 0 else 0.0
    left, right = 50 + scale * low, 50 + scale * high
    return _strip(
        el("rect", x=_number(left), y=1, width=_number(max(right - left, 0.4)), height=8, class_="chosen"),
        el("line", x1=50, x2=50, y1=0, y2=10, class_="axis", stroke_width=0.4),
    )


def _strip(*marks: Html) -> Html:
    track = el("rect", x=0, y=1, width=100, height=8, class_="track")
    return el(
        "svg",
        track,
        *marks,
        viewBox="0 0 100 10",
        preserveAspectRatio="none",
        class_="bar",
        aria_hidden="true",
    )


@dataclass(frozen=True, slots=True)
class Spread:
    """One row of a spread chart.

    Attributes:
        label: in front of it.
        low: the lowest value, a thin tick.
        inner: a percentile, a tick.
        mean: a dot.
        gates: bounds it must stay above.
    """

    label: str
    low: float
    inner: float
    mean: float
    gates: tuple[float, ...] = ()


def spreads(rows: Sequence[Spread], top: float, title: str) -> Html:
    """From lowest to mean on one axis that ends at `top`, with gates as dashed lines."""
    bottom = min(min(row.low, *row.gates) if row.gates else row.low for row in rows)
    bottom -= 0.06 * max(top - bottom, 1e-9)
    height = 34 * len(rows) + 26

    def x(value: float) -> float:
        return LABEL_WIDTH + (WIDTH - LABEL_WIDTH - 30) * (value - bottom) / (top - bottom)

    marks = [
        mark for index, row in enumerate(rows) for mark in _spread_marks(row, 34 * index + 20, x(row.low), x)
    ]
    labels = [
        el("text", _tick(value, top - bottom), x=_number(x(value)), y=height - 4, text_anchor="middle")
        for value in _ticks(bottom, top)
    ]
    return el("svg", *marks, *labels, viewBox=f"0 0 {WIDTH} {height}", role="img", aria_label=title)


def _spread_marks(row: Spread, y: float, start: float, x: Callable[[float], float]) -> list[Html]:
    line = [el("line", x1=_number(start), x2=_number(x(row.mean)), y1=y, y2=y, class_="range")]
    ticks = [
        el("line", x1=_number(x(value)), x2=_number(x(value)), y1=y - 7, y2=y + 7, class_="tick")
        for value in (row.low, row.inner)
    ]
    gates = [
        el("line", x1=_number(x(gate)), x2=_number(x(gate)), y1=y - 13, y2=y + 13, class_="gate")
        for gate in row.gates
    ]
    dot = el("circle", cx=_number(x(row.mean)), cy=y, r=6, class_="mark")
    return [el("text", _short(row.label), x=0, y=y + 4, class_="strong"), *line, *ticks, *gates, dot]


def histogram(values: Sequence[float], low: float, high: float, title: str) -> Html:
    """Counts of values in `BINS` equal bins from `low` to `high`."""
    counts, _ = np.histogram(np.asarray(values, np.float64), bins=BINS, range=(low, high))
    full = max(int(counts.max()), 1)
    step = WIDTH / BINS
    bars = [
        el(
            "rect",
            el("title", f"{count} samples"),
            x=_number(index * step + 1),
            y=_number(80 - 78 * count / full),
            width=_number(step - 2),
            height=_number(78 * count / full),
            class_="chosen",
        )
        for index, count in enumerate(counts.tolist())
        if count
    ]
    axis = el("line", x1=0, x2=WIDTH, y1=80, y2=80, class_="axis")
    ends = [
        el("text", _tick(low, high - low), x=0, y=96),
        el("text", _tick(high, high - low), x=WIDTH, y=96, text_anchor="end"),
        el("text", f"highest bin: {full}", x=WIDTH // 2, y=96, text_anchor="middle"),
    ]
    return el("svg", *bars, axis, *ends, viewBox=f"0 0 {WIDTH} 100", role="img", aria_label=title)


def _number(value: float) -> str:
    """Positions with two digits: the same on every machine, and short."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers: steps of 1, 2 or 5 times a power of ten, at most six of them."""
    rough = (high - low) / 5
    power = 10.0 ** np.floor(np.log10(rough))
    step = float(next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough))
    first, last = int(np.ceil(low / step - 1e-9)), int(np.floor(high / step + 1e-9))
    return [index * step for index in range(first, last + 1)]


def _tick(value: float, extent: float) -> str:
    """As many digits as tell neighbouring ticks apart."""
    digits = int(np.clip(1 - np.floor(np.log10(max(extent, 1e-12))), 0, 9))
    return f"{value:.{digits}f}"


def _short(label: str) -> str:
    return label if len(label) <= 28 else f"{label[:27]}…"
