"""Pictures of MoCHi's figures carry the numbers of the comparison and say what is missing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy
import pytest

from reproductions.mochi import pictures
from retable.tables import Comparison, compare
from retable.tables.reading import parse_reference

if TYPE_CHECKING:
    from matplotlib.figure import Figure

pytest.importorskip("matplotlib")

PAPER = """
[table]
id = "figure9"
title = "Gains of a grid"
paper = "A paper"
source = "A source"
dataset = "ImageNet-100"

[[columns]]
key = "gain"
label = "Gain"
unit = "points"
higher_is_better = true

[[columns]]
key = "top1"
label = "Top-1"
unit = "%"
higher_is_better = true

[[rows]]
key = "a"
label = "A"
origin = "run"
values = { gain = { value = 0.5, std = 0.3 } }

[[rows]]
key = "b"
label = "B"
origin = "run"
values = { gain = { value = 0.7 } }

[[rows]]
key = "off"
label = "Off"
origin = "run"
recipe = { expected = "collapse" }
values = {}
"""


def made(measured: dict[str, dict[str, dict[int, float]]], *collapsed: str) -> Comparison:
    gone = {row: {"gain": {0: "the loss is not finite"}} for row in collapsed}
    paper = parse_reference(PAPER, Path("figure9.toml"))
    return compare(paper, measured, scale="paper", collapsed=gone)


def grid(comparison: Comparison, *rows: str) -> Figure:
    labels = [str(place) for place in range(len(rows))]
    return pictures.draw_gains(comparison, "gain", [rows], row_labels=["0"], column_labels=labels)


def texts(figure: Figure) -> list[str]:
    figure.canvas.draw()
    return [artist.get_text() for artist in figure.findobj() if hasattr(artist, "get_text")]


def test_a_grid_shows_every_value_and_what_is_missing() -> None:
    figure = grid(made({"a": {"gain": {0: 0.4, 1: 0.6}}}), "a", "b")
    shown = texts(figure)
    assert "+0.5\n± 0.3" in shown  # the paper's
    assert "+0.7" in shown
    assert "+0.5\n± 0.1" in shown  # ours
    assert shown.count("not run") == 1
    maps = [axes.images[0] for axes in figure.axes]
    assert maps[0].get_clim() == maps[1].get_clim()  # one colour means one gain in both


def test_a_grid_says_what_is_not_finite() -> None:
    assert "not finite" in texts(grid(made({"a": {"gain": {0: math.nan}}}), "a", "b"))


def test_a_grid_says_what_collapsed() -> None:
    assert texts(grid(made({}, "off"), "a", "off")).count("collapse") == 2  # the paper's and ours


def test_a_scatter_has_a_point_for_each_row() -> None:
    measured = {
        "a": {"gain": {0: 0.4, 1: 0.8}, "top1": {0: 50.0, 1: 51.0}},
        "b": {"gain": {0: 5.0, 1: 5.2}, "top1": {0: 60.0, 1: 61.0}},
    }
    figure = pictures.draw_scatter(made(measured), "gain", "top1", "top1")
    lines = [numpy.asarray(line.get_xydata(), dtype=float) for line in figure.axes[0].lines]
    points = [tuple(line[0]) for line in lines if len(line) == 1]
    assert points == [pytest.approx((0.6, 50.5)), pytest.approx((5.1, 60.5))]


def test_rows_that_were_not_measured_are_left_out_of_a_scatter() -> None:
    one = made({"a": {"gain": {0: 1.0}, "top1": {0: 2.0}}})
    assert len(pictures.draw_scatter(one, "gain", "top1", "top1").axes[0].lines) == 1
    assert not pictures.draw_scatter(made({}), "gain", "top1", "top1").axes[0].lines


def test_curves_are_means_over_the_seeds_that_have_the_point() -> None:
    curves = {"run": {0: [(0.0, 1.0), (1.0, 3.0)], 1: [(0.0, 3.0)]}}
    figure = pictures.draw_curves(curves, title="t", y_label="%")
    drawn = numpy.asarray(figure.axes[0].lines[0].get_ydata(), dtype=float)
    assert drawn.tolist() == [2.0, 3.0]
    assert "run (2)" in texts(figure)
