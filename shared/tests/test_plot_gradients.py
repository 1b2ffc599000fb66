"""Landscapes: modules by epochs as recorded, convolutions above norms, one scale for all runs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import pytest
import torch
from torch import nn

from retable import cli
from retable.encoders import ResNetRecipe
from retable.errors import UserError
from retable.plots import drawing
from retable.plots.gradients import draw_gradients
from retable.train.gradients import GradientLandscape, Landscape
from retable.train.metrics import MetricsLog

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

pytest.importorskip("matplotlib")

MODULES = ["conv1", "bn1", "layer1.0.conv1", "layer1.0.bn1", "layer1.0.downsample.0",
           "layer1.0.downsample.1", "layer2.0.conv1", "layer2.0.bn1"]  # fmt: skip
ROWS = [0, 2, 4, 6, None, 1, 3, 5, 7]
"""Convolutions in the order of the network, an empty row, batch norms in the same order."""


def landscape(
    epochs: list[int] | None = None, modules: list[str] | None = None, scale: float = 1.0
) -> Landscape:
    epochs, modules = epochs or [1, 2, 3], modules or MODULES
    norms = scale * torch.arange(1.0, len(epochs) * len(modules) + 1).double()
    mean = norms.view(len(epochs), len(modules))
    return Landscape(epochs, modules, mean, mean / 10, mean * 2)


def maps(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.images and axes.get_label() != "<colorbar>"]


def surfaces(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.name == "3d"]


def pixels(axes: Axes) -> numpy.ndarray[Any, Any]:
    return numpy.ma.filled(numpy.ma.asarray(axes.images[0].get_array(), dtype=float), math.nan)


def texts(figure: Figure) -> list[str]:
    figure.canvas.draw()
    return [artist.get_text() for artist in figure.findobj() if hasattr(artist, "get_text")]


@pytest.mark.parametrize(("statistic", "factor"), [("mean", 1), ("std", 0.1), ("max", 2)])
def test_a_pixel_is_the_statistic_of_a_module_in_an_epoch(statistic: Any, factor: float) -> None:
    shown = landscape()
    (axes,) = maps(draw_gradients({"a": shown}, kind="heat", statistic=statistic))
    found = pixels(axes)
    assert found.shape == (len(ROWS), 3)
    for row, module in enumerate(ROWS):
        if module is None:
            assert numpy.isnan(found[row]).all()
        else:
            assert found[row] == pytest.approx(factor * shown.mean[:, module].numpy())


def test_an_epoch_stands_at_its_number_and_one_that_is_missing_is_empty() -> None:
    (axes,) = maps(draw_gradients({"a": landscape([3, 4, 6])}, kind="heat"))
    assert list(axes.images[0].get_extent()) == [2.5, 6.5, 8.5, -0.5]
    assert numpy.isnan(pixels(axes)[0]).tolist() == [False, False, True, False]


def test_all_runs_have_one_logarithmic_scale() -> None:
    from matplotlib.colors import LogNorm

    figure = draw_gradients({"a": landscape(), "b": landscape(scale=100.0)}, kind="both")
    scales = [axes.images[0].norm for axes in maps(figure)]
    assert len(scales) == 2
    assert all(isinstance(s, LogNorm) and (s.vmin, s.vmax) == (1.0, 2400.0) for s in scales)
    heights = [axes.get_zlim() for axes in surfaces(figure)]  # type: ignore[attr-defined]
    assert heights == [pytest.approx((0.0, math.log10(2400.0)))] * 2


@pytest.mark.parametrize("span", [1.3, 4.0, 60.0, 1e4, 1e9])
def test_the_scale_says_at_least_three_numbers_of_its_own(span: float) -> None:
    shown = landscape([1], ["conv1", "conv2"])
    shown.mean[0, :] = torch.tensor([0.03, 0.03 * span])
    figure = draw_gradients({"a": shown})
    (bar,) = (axes for axes in figure.axes if axes.get_label() == "<colorbar>")
    (surface,) = surfaces(figure)
    ticks = [float(label.get_text()) for label in bar.get_yticklabels()]
    assert len(ticks) >= 3
    assert all(0.029999 <= tick <= 0.030001 * span for tick in ticks)
    assert bar.get_yticks().tolist() == pytest.approx(ticks, rel=5e-3)
    heights = surface.get_zticks()  # type: ignore[attr-defined]
    assert [10**z for z in heights] == pytest.approx(ticks, rel=5e-3)


def test_blocks_of_a_large_network_are_named_once_in_each_part() -> None:
    network = ResNetRecipe("resnet18").build(rng_key=0)
    modules = GradientLandscape(network).modules
    assert len(modules) == 40
    runs = {"a": landscape(modules=modules), "b": landscape(modules=modules)}
    first, second = maps(draw_gradients(runs, kind="heat"))
    blocks = ["stem", "layer1", "layer2", "layer3", "layer4"]
    assert [label.get_text() for label in first.get_yticklabels()] == blocks * 2
    assert {"convolutions", "normalisation"} <= {text.get_text() for text in first.texts}
    assert pixels(first).shape == (20 + 1 + 20, 3)
    assert not second.get_yticklabels()  # its neighbour's stand for it


def test_modules_of_a_small_network_have_their_names_without_what_all_begin_with() -> None:
    modules = [f"encoder.{name}" for name in MODULES]
    (axes,) = maps(draw_gradients({"a": landscape(modules=modules)}, kind="heat"))
    names = [MODULES[module] for module in ROWS if module is not None]
    assert [label.get_text() for label in axes.get_yticklabels()] == names


def test_runs_of_different_networks_are_both_named() -> None:
    runs = {"a": landscape(), "b": landscape(modules=["fc1", "fc2"])}
    _, second = maps(draw_gradients(runs, kind="heat"))
    assert [label.get_text() for label in second.get_yticklabels()] == ["fc1", "fc2"]
    assert [text.get_text() for text in second.texts] == ["other modules"]


def test_a_norm_of_zero_or_none_is_left_out_of_maps_surfaces_and_scale() -> None:
    shown = landscape()
    shown.mean[0, 0], shown.mean[1, 2] = 0.0, math.nan
    figure = draw_gradients({"a": shown})
    figure.canvas.draw()
    assert numpy.isnan(pixels(maps(figure)[0])).sum() == 3 + 2
    assert maps(figure)[0].images[0].norm.vmin == 2.0


@pytest.mark.parametrize(
    "shown",
    [landscape([1]), landscape([7], ["conv1"]), landscape(modules=["bn1"])],
)
def test_a_single_epoch_or_module_is_a_picture_too(shown: Landscape, tmp_path: Path) -> None:
    figure = draw_gradients({"a": shown})
    drawing.save(figure, tmp_path / "x.png")
    (axes,) = surfaces(figure)
    assert all(len(part.get_facecolor()) for part in axes.collections)


def test_a_surface_of_many_epochs_keeps_its_highest_peak() -> None:
    shown = landscape(list(range(1, 1001)))
    shown.mean[:] = 1.0
    shown.mean[537, 2] = 100.0
    (axes,) = surfaces(draw_gradients({"a": shown}, kind="surface"))
    assert axes.zz_dataLim.intervalx.tolist() == pytest.approx([0.0, 2.0])  # type: ignore[attr-defined]
    assert sum(len(part.get_facecolor()) for part in axes.collections) < 1_000


@pytest.mark.parametrize(("count", "lines"), [(1, 1), (5, 1), (6, 2), (10, 2), (11, 3)])
def test_five_runs_stand_in_a_line(count: int, lines: int) -> None:
    figure = draw_gradients({f"run {i}": landscape() for i in range(count)}, kind="heat")
    figure.canvas.draw()
    tops = {round(axes.get_position().y1, 3) for axes in maps(figure)}
    assert len(tops) == lines
    assert {f"run {i}" for i in range(count)} <= set(texts(figure))


def test_nothing_to_draw_is_said() -> None:
    with pytest.raises(UserError, match="nothing to draw"):
        draw_gradients({})
    with pytest.raises(UserError, match="No run has an epoch with gradients above zero"):
        draw_gradients({"a": landscape(scale=0.0)})


# From here on through files and the command line.


def record(folder: Path) -> Path:
    """Record two epochs of a network as the training loop does."""
    network = nn.Sequential()
    network.add_module("conv1", nn.Conv2d(3, 4, 3))
    network.add_module("bn1", nn.BatchNorm2d(4))
    folder.mkdir()
    measured = GradientLandscape(network)
    for epoch in (1, 2):
        for value in (1.0, 3.0):
            for parameter in network.parameters():
                parameter.grad = torch.full_like(parameter, value * epoch)
            measured.measure()
        measured.write(folder, 2 * epoch, epoch)
    return folder


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_the_command_writes_what_the_ending_says_twice_the_same(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, outs = record(tmp_path / "run"), [tmp_path / f"{name}.{kind}" for name in "ab"]
    for out in outs:
        assert cli.main(["plot", "gradients", str(run), "--out", str(out)]) == 0
        assert capsys.readouterr().out == f"{out}: the gradients of run\n"
    first, second = (out.read_bytes() for out in outs)
    assert first == second


def test_what_was_measured_is_what_is_drawn(tmp_path: Path) -> None:
    from retable.plots.recorded import read_gradients

    found = read_gradients(record(tmp_path / "run") / "metrics.jsonl")
    (axes,) = maps(draw_gradients({"a": found}, kind="heat"))
    convolution, norm = math.sqrt(3 * 4 * 9 + 4), math.sqrt(4 + 4)
    expected = [[2 * convolution, 4 * convolution], [math.nan] * 2, [2 * norm, 4 * norm]]
    assert pixels(axes) == pytest.approx(numpy.array(expected), rel=1e-5, nan_ok=True)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ({"kind": "steps", "step": 1}, "has no line of kind gradients. Pass the folder of a run"),
        (
            {"kind": "gradients", "step": 1, "epoch": 1, "modules": {"conv1": [0.1, 0.2]}},
            "is damage",
        ),
        (
            {"kind": "gradients", "step": 1, "epoch": 1, "modules": {"conv1": ["x", 0, 0]}},
            "is damag",
        ),
        ({"kind": "gradients", "step": 1, "epoch": 1, "modules": {}}, "is damaged"),
        ({"kind": "gradients", "step": 1, "epoch": 1}, "metrics.jsonl is damaged"),
        (["gradients"], "metrics.jsonl is damaged"),
    ],
)
def test_mistakes_end_with_one_sentence_and_status_2(
    line: Any, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if isinstance(line, dict):
        kind, step, values = line.pop("kind"), line.pop("step"), line
        MetricsLog(tmp_path / "metrics.jsonl").write(kind, step, values)
    else:
        (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    out = tmp_path / "x.png"
    assert cli.main(["plot", "gradients", str(tmp_path), "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("retable: ")
    assert sentence in said
    assert said.count("\n") == 1
    assert not out.exists()
