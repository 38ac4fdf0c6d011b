"""Small charts as inline SVG. Numbers beside them are text: a chart never carries a value alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgeq.report.markup import Html, el

ROW = 50
"""Pixels that one row of a spread chart is high."""
INSET = 9
"""Percent of a chart's width left free on both sides, so that the first and last number of an axis fit on a phone."""
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
    height = ROW * len(rows) + 22

    def x(value: float) -> float:
        return INSET + (100 - 2 * INSET) * (value - bottom) / (top - bottom)

    marks = [mark for index, row in enumerate(rows) for mark in _spread_marks(row, ROW * index, x)]
    labels = [
        el("text", _tick(value, top - bottom), x=_percent(x(value)), y=height - 4, text_anchor="middle")
        for value in _ticks(bottom, top)
    ]
    return el("svg", *marks, *labels, height=height, role="img", aria_label=title)


def _spread_marks(row: Spread, y: int, x: Callable[[float], float]) -> list[Html]:
    """The label on a line of its own: beside the marks it would leave them no room on a phone."""
    middle = y + 32
    line = _line(row.low, row.mean, middle, middle, x, "range")
    ticks = [_line(value, value, middle - 7, middle + 7, x, "tick") for value in (row.low, row.inner)]
    gates = [_line(gate, gate, middle - 12, middle + 12, x, "gate") for gate in row.gates]
    dot = el("circle", cx=_percent(x(row.mean)), cy=middle, r=6, class_="mark")
    return [el("text", _short(row.label), x=0, y=y + 14, class_="strong"), line, *ticks, *gates, dot]


def _line(start: float, end: float, top: int, bottom: int, x: Callable[[float], float], kind: str) -> Html:
    return el("line", x1=_percent(x(start)), x2=_percent(x(end)), y1=top, y2=bottom, class_=kind)


def histogram(values: Sequence[float], low: float, high: float, title: str) -> Html:
    """Counts of values in `BINS` equal bins from `low` to `high`."""
    counts, _ = np.histogram(np.asarray(values, np.float64), bins=BINS, range=(low, high))
    full = max(int(counts.max()), 1)
    step = 100 / BINS
    bars = [
        el(
            "rect",
            el("title", f"{count} samples"),
            x=_percent(index * step + 0.1),
            y=_number(80 - 78 * count / full),
            width=_percent(step - 0.2),
            height=_number(78 * count / full),
            class_="chosen",
        )
        for index, count in enumerate(counts.tolist())
        if count
    ]
    axis = el("line", x1=0, x2="100%", y1=80, y2=80, class_="axis")
    ends = [
        el("text", _tick(low, high - low), x=0, y=96),
        el("text", _tick(high, high - low), x="100%", y=96, text_anchor="end"),
        el("text", f"highest bin: {full}", x="50%", y=96, text_anchor="middle"),
    ]
    return el("svg", *bars, axis, *ends, height=100, role="img", aria_label=title)


def _percent(value: float) -> str:
    """A position across the chart: it stretches with the screen, and its text does not shrink."""
    return f"{_number(value)}%"


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
