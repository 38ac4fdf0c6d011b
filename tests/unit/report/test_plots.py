"""Plots are files whose names are checked before the work, and whose bytes repeat."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeq.errors import UsageError
from edgeq.report.plots import Point, Series, bar_plot, check_plot_path, trade_off_plot


def test_only_image_files(tmp_path):
    check_plot_path(tmp_path / "a.svg")
    check_plot_path(tmp_path / "a.PNG")
    with pytest.raises(UsageError, match=r"\.svg or \.png"):
        check_plot_path(Path("a.pdf"))


def test_the_same_bars_give_the_same_bytes(tmp_path):
    for name, values in (("a", [1.0, 0.5]), ("b", [1.0, 0.5]), ("c", [1.0, 0.25])):
        bar_plot(tmp_path / f"{name}.svg", ["one", "two"], values, "title", "loss")
    first = (tmp_path / "a.svg").read_bytes()
    assert first == (tmp_path / "b.svg").read_bytes()
    assert first != (tmp_path / "c.svg").read_bytes()


def test_trade_off(tmp_path):
    points = [Point("", 12.0, 0.99, 0.98, 0.995), Point("chosen", 13.0, 0.995)]
    trade_off_plot(tmp_path / "a.svg", [Series("searched", points, connected=True)], "title", "cosine")
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert "chosen" in text
    assert "searched" in text
