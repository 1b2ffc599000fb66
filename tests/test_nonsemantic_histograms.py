"""The picture of Figures 12 and 13 shows the histograms that runs have stored."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nonsemantic_negatives.cosines import HISTOGRAMS
from nonsemantic_negatives.histograms import histogram
from reproductions.nonsemantic_negatives import histogram_curves
from reproductions.nonsemantic_negatives.figure12 import TABLE
from retable.files import write_record
from retable.reproduce import FinishedRun
from retable.reproduce.run import evaluation_owner
from retable.settings import to_plain
from retable.tables import compare, load_reference

pytest.importorskip("matplotlib")


def run_with(folder: Path, means: dict[str, float]) -> FinishedRun:
    evaluation = folder / "evaluations" / "cosines-0"
    found = {
        kind: to_plain(histogram(torch.linspace(mean - 0.1, mean + 0.1, 50)))
        for kind, mean in means.items()
    }
    write_record(evaluation / HISTOGRAMS, evaluation_owner(evaluation), found)
    return FinishedRun(folder)


def test_each_training_has_a_panel_and_each_kind_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    monkeypatch.setattr(histogram_curves, "save", lambda figure, path: drawn.append(figure))
    without = run_with(tmp_path / "a", {"positive": 0.8, "standard": 0.0, "patch": 0.4})
    textures = {"positive": 0.7, "standard": 0.1, "patch": 0.3, "texture": 0.2}
    runs = {"moco_v2": {1: without}, "texture_a2": {2: run_with(tmp_path / "b", textures)}}
    comparison = compare(load_reference(TABLE.reference), {}, scale="smoke")
    histogram_curves.draw_histograms(comparison, runs, tmp_path)
    (figure,) = drawn
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in panels] == ["without", "with texture-based"]
    assert [len(axes.patches) for axes in panels] == [3, 4]
    means = [line.get_xdata()[0] for line in panels[1].lines]
    assert means == pytest.approx(list(textures.values()), abs=1e-6)


def test_runs_without_histograms_draw_nothing(tmp_path: Path) -> None:
    comparison = compare(load_reference(TABLE.reference), {}, scale="smoke")
    runs = {"moco_v2": {1: FinishedRun(tmp_path / "none")}}
    histogram_curves.draw_histograms(comparison, runs, tmp_path)
    assert not list(tmp_path.iterdir())
