"""Plots as image files (.svg or .png), by matplotlib from the `plot` extra."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.errors import MissingExtraError, UsageError
from edgeq.files import check_output_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".svg", ".png")


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a trade-off plot: megabytes against a metric, with its interval where known."""

    label: str
    size_mb: float
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """Points that belong together; `connected` draws the line through them."""

    label: str
    points: Sequence[Point]
    connected: bool = False


def check_plot_path(path: Path) -> None:
    """Refuse a file name no plot can be written to, before the work.

    Raises:
        UsageError: not .svg or .png.
        MissingExtraError: matplotlib is not installed.
        OutputError: its folder is not there or cannot be written.
    """
    from importlib.util import find_spec

    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"a plot goes to a .svg or .png file, got `{path}`")
    if find_spec("matplotlib") is None:
        raise MissingExtraError("plotting", "plot")
    check_output_file(path, "--plot")


def bar_plot(path: Path, names: Sequence[str], values: Sequence[float], title: str, axis: str) -> None:
    """Horizontal bars, first on top."""
    figure, axes = _figure(height=1.2 + 0.22 * len(names))
    places = range(len(names))
    axes.barh(places, values, color="#3465a4")
    axes.set_yticks(places, names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel(axis)
    axes.set_title(title, fontsize=10)
    _save(figure, path)


def trade_off_plot(path: Path, series: Sequence[Series], title: str, axis: str) -> None:
    """Size in MB against a metric."""
    figure, axes = _figure(height=5)
    for item in series:
        sizes, values = [p.size_mb for p in item.points], [p.value for p in item.points]
        style = "o-" if item.connected else "s"
        [line] = axes.plot(sizes, values, style, label=item.label, markersize=4)
        for point in item.points:
            if point.low is not None and point.high is not None:
                axes.vlines(point.size_mb, point.low, point.high, color=line.get_color(), alpha=0.4)
            if point.label:
                axes.annotate(
                    point.label,
                    (point.size_mb, point.value),
                    fontsize=6,
                    xytext=(3, 3),
                    textcoords="offset points",
                )
    axes.set_xlabel("size, MB")
    axes.set_ylabel(axis)
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    _save(figure, path)


def _figure(height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, height), layout="constrained")
    return figure, figure.add_subplot()


def _save(figure: Figure, path: Path) -> None:
    """The same plot gives the same bytes: no date, fixed ids."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "edgeq", "svg.fonttype": "none"}):
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"Date": None} if path.suffix.lower() == ".svg" else {}
        figure.savefig(path, dpi=150, metadata=metadata)
