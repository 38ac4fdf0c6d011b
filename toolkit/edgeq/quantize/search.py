"""One format per unit within a budget: a multiple-choice knapsack, relaxed by a Lagrange multiplier on bytes.

For a price per byte every unit picks the option with the least `loss + price * bytes`; sweeping the price gives the
whole front (Everett, 1963). The picks only ever lie on each unit's lower convex hull, so the sweep is a merge of the
hulls' steps by falling gain per byte. Losses are taken as additive; the caller measures the combinations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Option:
    """One way to store a unit."""

    format: str
    size_bytes: int
    loss: float


@dataclass(frozen=True, slots=True)
class Unit:
    """Weights that share one format."""

    name: str
    options: tuple[Option, ...]

    def option(self, format_name: str) -> Option:
        """The option of that format."""
        return next(option for option in self.options if option.format == format_name)


@dataclass(frozen=True, slots=True)
class Point:
    """A choice for every unit: format by unit name, with the summed size and loss."""

    formats: Mapping[str, str]
    size_bytes: int
    loss: float


def point_of(units: Sequence[Unit], formats: Mapping[str, str]) -> Point:
    """Size and loss of a choice."""
    chosen = [unit.option(formats[unit.name]) for unit in units]
    return Point(dict(formats), sum(item.size_bytes for item in chosen), sum(item.loss for item in chosen))


def hull(options: Sequence[Option]) -> list[Option]:
    """Options no mix of two others beats, smallest first: each step gains less per byte than the one before."""
    kept: list[Option] = []
    for option in sorted(options, key=lambda item: (item.size_bytes, item.loss, item.format)):
        if kept and option.loss >= kept[-1].loss:
            continue
        while len(kept) > 1 and _gain(kept[-2], kept[-1]) <= _gain(kept[-2], option):
            kept.pop()
        kept.append(option)
    return kept


def _gain(small: Option, large: Option) -> float:
    """Loss saved per byte."""
    extra = large.size_bytes - small.size_bytes
    return (small.loss - large.loss) / extra if extra > 0 else float("inf")


def front(units: Sequence[Unit]) -> list[Point]:
    """Every Lagrangian optimum, smallest first; losses fall and sizes rise strictly."""
    hulls = {unit.name: hull(unit.options) for unit in units}
    steps = [
        (-_gain(small, large), order, small, large, name)
        for order, (name, options) in enumerate(hulls.items())
        for small, large in pairwise(options)
    ]
    formats = {name: options[0].format for name, options in hulls.items()}
    points = [point_of(units, formats)]
    for _, _, _, large, name in sorted(steps, key=lambda step: (step[0], step[1], step[2].size_bytes)):
        formats[name] = large.format
        points.append(point_of(units, formats))
    return points


def best_within(units: Sequence[Unit], points: Sequence[Point], limit_bytes: int) -> Point | None:
    """The best front point of at most that size, with what is left spent on single upgrades; None if none fits."""
    fitting = [point for point in points if point.size_bytes <= limit_bytes]
    return None if not fitting else fill(units, fitting[-1], limit_bytes)


def fill(units: Sequence[Unit], point: Point, limit_bytes: int) -> Point:
    """Spend leftover bytes: the single change that saves most loss, until none fits."""
    while True:
        left = limit_bytes - point.size_bytes
        changes = [
            replace(point, formats={**point.formats, unit.name: option.format})
            for unit in units
            for option in unit.options
            if option.loss < unit.option(point.formats[unit.name]).loss
            and option.size_bytes - unit.option(point.formats[unit.name]).size_bytes <= left
        ]
        if not changes:
            return point
        point = min(
            (point_of(units, change.formats) for change in changes), key=lambda p: (p.loss, p.size_bytes)
        )


def demotions(units: Sequence[Unit], point: Point) -> list[Point]:
    """The point with one unit made smaller, most bytes per loss first."""
    found = []
    for unit in units:
        now = unit.option(point.formats[unit.name])
        for option in unit.options:
            if option.size_bytes < now.size_bytes:
                saved, cost = now.size_bytes - option.size_bytes, max(option.loss - now.loss, 0.0)
                moved = point_of(units, {**point.formats, unit.name: option.format})
                found.append((-(saved / (cost + 1e-12)), unit.name, option.format, moved))
    return [item[3] for item in sorted(found, key=lambda item: item[:3])]


def first_accepted(points: Sequence[Point], accept: Callable[[Point], bool]) -> int | None:
    """Index of the smallest point that is accepted, by bisection; None where the last is not.

    Acceptance is taken as monotone along the front; the point returned was itself accepted.
    """
    low, high = 0, len(points) - 1
    if not accept(points[high]):
        return None
    while low < high:
        middle = (low + high) // 2
        if accept(points[middle]):
            high = middle
        else:
            low = middle + 1
    return high
