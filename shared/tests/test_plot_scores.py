"""Curves of scores: what is drawn is what was recorded, through functions and the command line."""

from __future__ import annotations

import json
import math
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import pytest
import torch

from retable import cli
from retable.errors import UserError
from retable.files import write_record
from retable.plots import drawing
from retable.plots.recorded import name_runs, read_scores
from retable.plots.scores import STATISTICS, TRANSFORMED, ScoreCurves, draw_scores
from retable.train.metrics import MetricsLog
from retable.train.traces import TraceLog

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

pytest.importorskip("matplotlib")

RAW = ("positive_mean", "negative_mean", "negative_variance")
PANELS = dict(zip(RAW, ("Mean(pos)", "Mean(neg)", "Var(neg)"), strict=True))


def curves(count: int = 40, seed: int = 0, transformed: bool = True, **facts: Any) -> ScoreCurves:
    random = numpy.random.default_rng(seed)
    names = [*RAW, *(TRANSFORMED + name for name in RAW if transformed)]
    values = {name: random.uniform(0.3, 0.8, count) for name in names}
    return ScoreCurves(numpy.arange(1, count + 1), values, **facts)


def panel(figure: Figure, name: str) -> Axes:
    (found,) = (axes for axes in figure.axes if axes.get_title() == PANELS[name])
    return found


def data(line: Line2D) -> tuple[list[float], list[float]]:
    x, y = (numpy.asarray(a, dtype=float) for a in (line.get_xdata(), line.get_ydata()))
    return x.tolist(), y.tolist()


def drawn(axes: Axes) -> list[Line2D]:
    """The curves of a panel, without the lines that mark a place."""
    return [
        line
        for line in axes.lines
        if line.get_linestyle() in ("-", "--") and len(data(line)[0]) > 2
    ]


def marked(axes: Axes) -> list[tuple[float, Any]]:
    return [(data(x)[0][0], x.get_color()) for x in axes.lines if x.get_marker() == "v"]


def band(axes: Axes, number: int) -> tuple[float, float]:
    vertices = numpy.asarray(axes.collections[number].get_paths()[0].vertices)
    return float(vertices[:, 1].min()), float(vertices[:, 1].max())


def texts(figure: Figure) -> set[str]:
    figure.canvas.draw()
    return {artist.get_text() for artist in figure.findobj() if hasattr(artist, "get_text")}


def mean_around(values: numpy.ndarray, window: int) -> list[float]:
    before, after = (window - 1) // 2, window // 2
    return [
        float(numpy.mean(values[max(0, i - before) : i + after + 1])) for i in range(len(values))
    ]


@pytest.mark.parametrize("name", RAW)
@pytest.mark.parametrize("smooth", [1, 2, 7])
def test_each_run_has_a_solid_raw_and_a_dashed_transformed_line_of_running_means(
    name: str, smooth: int
) -> None:
    runs = {"a": curves(seed=1), "b": curves(seed=2, transformed=False), "c": curves(seed=3)}
    lines = drawn(panel(draw_scores(runs, smooth=smooth), name))
    solid = {line.get_color(): data(line) for line in lines if line.get_linestyle() == "-"}
    dashed = {line.get_color(): data(line) for line in lines if line.get_linestyle() == "--"}
    assert len(solid) == 3
    assert len(dashed) == 2
    for found, run in zip(solid.values(), runs.values(), strict=True):
        assert found[0] == list(range(1, 41))
        assert found[1] == pytest.approx(mean_around(run.values[name], smooth))
    for colour, key in zip(dashed, ("a", "c"), strict=True):
        assert colour == list(solid)["abc".index(key)]
        expected = mean_around(runs[key].values[TRANSFORMED + name], smooth)
        assert dashed[colour][1] == pytest.approx(expected)


def test_one_extreme_step_of_fifty_thousand_is_drawn_among_few_points() -> None:
    run = curves(50_000, transformed=False)
    run.values["negative_mean"][31_234] = -5.0
    (line,) = drawn(panel(draw_scores({"a": run}, smooth=1), "negative_mean"))
    x, y = data(line)
    assert (31_235.0, -5.0) in zip(x, y, strict=True)
    assert max(y) == run.values["negative_mean"].max()
    assert len(x) <= 2_000


def test_the_band_behind_a_running_mean_reaches_to_the_extreme_steps() -> None:
    run = curves(5_000, transformed=False)
    run.values["negative_mean"][[1_234, 4_000]] = -5.0, 3.0
    axes = panel(draw_scores({"a": run}), "negative_mean")
    assert band(axes, 0) == (-5.0, 3.0)
    (line,) = drawn(axes)
    assert min(data(line)[1]) > -1.0


def test_transformed_scores_have_a_band_only_where_one_run_is_drawn() -> None:
    alone = draw_scores({"a": curves()}, smooth=3)
    assert len(panel(alone, "positive_mean").collections) == 2
    several = draw_scores({"a": curves(), "b": curves()}, smooth=3)
    assert len(panel(several, "positive_mean").collections) == 2
    assert "range of single steps (raw)" in texts(several)


def test_means_are_over_a_hundredth_of_the_steps_that_are_shown_unless_said() -> None:
    run = curves(5_000, transformed=False)
    assert "raw scores, mean over 50 steps" in texts(draw_scores({"a": run}))
    part = draw_scores({"a": run}, steps=(1, 1_000))
    assert "raw scores, mean over 10 steps" in texts(part)
    (line,) = drawn(panel(part, "positive_mean"))
    # The mean at the border of the part still is of the steps on both its sides.
    assert data(line)[1][-1] == pytest.approx(mean_around(run.values["positive_mean"], 10)[999])
    assert "raw scores" in texts(draw_scores({"a": run}, smooth=1))


def test_epochs_are_the_axis_where_all_runs_know_theirs() -> None:
    slow, fast = curves(40, steps_per_epoch=10), curves(40, steps_per_epoch=20)
    figure = draw_scores({"slow": slow, "fast": fast}, smooth=1)
    ends = {data(line)[0][-1] for line in drawn(panel(figure, "positive_mean"))}
    assert ends == {4.0, 2.0}
    assert "epoch" in texts(figure)
    assert "step" not in texts(figure)  # one step is not one place
    assert {"epoch", "step"} <= texts(draw_scores({"slow": slow}))
    unknown = draw_scores({"slow": slow, "other": curves(40)}, smooth=1)
    assert {data(line)[0][-1] for line in drawn(panel(unknown, "positive_mean"))} == {40.0}


def test_a_part_is_the_epochs_or_steps_from_first_to_last() -> None:
    run = curves(40, transformed=False, steps_per_epoch=10)
    (line,) = drawn(panel(draw_scores({"a": run}, smooth=1, epochs=(1, 3)), "positive_mean"))
    assert data(line)[0] == [step / 10 for step in range(10, 31)]
    (line,) = drawn(panel(draw_scores({"a": run}, smooth=1, steps=(5, 9)), "positive_mean"))
    assert data(line) == ([5, 6, 7, 8, 9], run.values["positive_mean"][4:9].tolist())


def test_the_start_of_a_transformation_is_marked_in_the_colour_of_its_run() -> None:
    runs = {
        "never": curves(transformed=False, start_epoch=0.0, steps_per_epoch=10),
        "at once": curves(start_epoch=0.0, steps_per_epoch=10),
        "later": curves(start_epoch=2.0, steps_per_epoch=10),
        "after the end": curves(start_epoch=90.0, steps_per_epoch=10),
    }
    axes = panel(draw_scores(runs), "positive_mean")
    colour = drawing.CYCLE
    assert marked(axes) == [(0.0, colour[1]), (2.0, colour[2])]
    axes = panel(draw_scores(runs, steps=(10, 30)), "positive_mean")
    assert marked(axes) == [(21.0, colour[2])]  # the first step that is transformed


def test_the_variance_of_the_uniform_sphere_is_a_line_where_the_dimension_is_known() -> None:
    figure = draw_scores({"a": curves(dim=128), "b": curves(dim=64), "c": curves(dim=128)})
    places = [data(x)[1] for x in panel(figure, "negative_variance").lines if len(data(x)[0]) == 2]
    assert places == [[1 / 64] * 2, [1 / 128] * 2]
    assert "uniform on the sphere, 1/64, 1/128" in texts(figure)
    off = draw_scores({"a": curves()})
    assert len(panel(off, "negative_variance").lines) == 2
    assert not any("sphere" in text for text in texts(off))


def test_sizes_that_hide_one_another_have_a_logarithmic_axis() -> None:
    sphere, off = curves(seed=1), curves(seed=2)
    for name in off.values:
        off.values[name][:] *= 1e4
    scales = {n: panel(draw_scores({"a": sphere}), n).get_yscale() for n in RAW}
    assert set(scales.values()) == {"linear"}
    both = draw_scores({"a": sphere, "b": off})
    scales = {name: panel(both, name).get_yscale() for name in RAW}
    assert scales == {
        "positive_mean": "symlog",
        "negative_mean": "symlog",
        "negative_variance": "log",
    }


def test_a_statistic_that_no_run_has_has_no_panel() -> None:
    run = curves(transformed=False)
    figure = draw_scores({"a": ScoreCurves(run.steps, {"positive_mean": run.values[RAW[0]]})})
    assert [axes.get_title() for axes in figure.axes] == ["Mean(pos)"]


def test_what_is_not_finite_interrupts_a_line() -> None:
    run = curves(transformed=False)
    run.values["positive_mean"][10:20] = math.nan
    figure = draw_scores({"a": run}, smooth=1)
    figure.canvas.draw()
    (line,) = drawn(panel(figure, "positive_mean"))
    assert [math.isnan(y) for y in data(line)[1]] == [10 <= i < 20 for i in range(40)]


@pytest.mark.parametrize("scores", ["raw", "transformed"])
def test_one_kind_of_scores_can_be_drawn_alone(scores: Any) -> None:
    lines = drawn(panel(draw_scores({"a": curves()}, scores=scores), "negative_mean"))
    assert [line.get_linestyle() for line in lines] == ["-" if scores == "raw" else "--"]


def test_twenty_runs_have_distinct_lines() -> None:
    figure = draw_scores({f"run {i}": curves(seed=i, transformed=False) for i in range(20)})
    lines = drawn(panel(figure, "positive_mean"))
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 20
    assert {f"run {i}" for i in range(20)} <= texts(figure)


def test_legends_and_panels_do_not_cover_each_other() -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    labels = [f"MoCoFT, alpha_ex=0.2, start_epoch={i}" for i in range(8)]
    runs = {label: curves(steps_per_epoch=10, start_epoch=1.0, dim=128) for label in labels}
    figure = draw_scores(runs)
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    figure.draw(renderer)
    found = [part.get_tightbbox(renderer) for part in (*figure.axes, *figure.legends)]
    boxes = [box for box in found if box is not None]
    assert len(boxes) == 3 + 2
    canvas = figure.bbox.padded(1)
    assert all(canvas.contains(*corner) for box in boxes for corner in (box.p0, box.p1))
    shrunk = [box.padded(-1) for box in boxes]
    assert not any(a.overlaps(b) for i, a in enumerate(shrunk) for b in shrunk[:i])


def test_eight_runs_of_fifty_thousand_steps_make_a_small_file(tmp_path: Path) -> None:
    figure = draw_scores({str(i): curves(50_000, seed=i) for i in range(8)})
    drawing.save(figure, tmp_path / "scores.svg")
    assert (tmp_path / "scores.svg").stat().st_size < 3e6


@pytest.mark.parametrize(
    ("runs", "choices", "sentence"),
    [
        ({}, {}, "there is nothing to draw"),
        ({"a": curves()}, {"epochs": (0, 1)}, "epochs of a run are unknown"),
        (
            {"a": curves()},
            {"steps": (50, 90)},
            "No step lies in steps 50 to 90. Choose a part of",
        ),
        ({"a": curves(transformed=False)}, {"scores": "transformed"}, "no transformed scores"),
    ],
)
def test_what_cannot_be_drawn_is_said(
    runs: dict[str, ScoreCurves], choices: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        draw_scores(runs, **choices)


# From here on through files and the command line.

RECIPE = {"pretrain": {"method": {"kind": "MoCoRecipe", "dim": 16, "momentum": 0.99}}, "seed": 0}


def write_run(
    folder: Path, run: ScoreCurves, recipe: Mapping[str, Any] | None = None, every: int = 8
) -> Path:
    """Record a run as the training loop does: many steps a line."""
    with TraceLog(folder) as trace:
        for row, step in enumerate(run.steps.tolist()):
            trace.add(step, {name: torch.tensor(v[row]) for name, v in run.values.items()})
            if step % every == 0:
                trace.write()
            if run.steps_per_epoch and step % run.steps_per_epoch == 0:
                trace.write()
                MetricsLog.of(folder).write("epoch", step, {"epoch": step // run.steps_per_epoch})
    if recipe is not None:
        write_recipe(folder, recipe)
    return folder


def write_recipe(folder: Path, recipe: Mapping[str, Any]) -> None:
    write_record(folder / "recipe.json", folder.name, {"recipe": recipe})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "runs" / "moco-0"
    path.mkdir(parents=True)
    return write_run(path, curves(steps_per_epoch=10), RECIPE)


def test_a_run_is_read_back_with_its_epochs_and_its_recipe(folder: Path, tmp_path: Path) -> None:
    found, written = read_scores(folder), curves()
    assert found.steps.tolist() == written.steps.tolist()
    assert found.values.keys() == written.values.keys()
    for name, values in written.values.items():
        assert found.values[name] == pytest.approx(values, rel=1e-5)
    assert (found.steps_per_epoch, found.dim, found.start_epoch) == (10, 16, None)
    other = read_scores(folder / "metrics.jsonl")
    assert other.steps.tolist() == found.steps.tolist()


@pytest.mark.parametrize(
    ("fields", "dim", "start"),
    [
        ({"dim": 64, "transform": {"start_epoch": 2.5}}, 64, 2.5),
        ({"dim": 64, "unit_sphere": False, "transform": {"start_epoch": 0.0}}, None, 0.0),
        ({}, None, None),
    ],
)
def test_facts_of_a_recipe_are_read_whatever_its_class(
    fields: dict[str, Any], dim: int | None, start: float | None, folder: Path
) -> None:
    recipe = {"pretrain": {"method": {"kind": "AnyoneRecipe", **fields}}}
    write_recipe(folder, recipe)
    found = read_scores(folder)
    assert (found.dim, found.start_epoch) == (dim, start)


def test_a_step_that_lacks_a_statistic_is_a_gap(tmp_path: Path) -> None:
    with TraceLog(tmp_path) as trace:
        trace.add(1, {"positive_mean": 0.5})
        trace.add(2, {"positive_mean": 0.6, "negative_mean": 0.1})
    found = read_scores(tmp_path)
    assert found.values["positive_mean"].tolist() == [0.5, 0.6]
    assert found.values["negative_mean"].tolist() == pytest.approx([math.nan, 0.1], nan_ok=True)


def test_a_log_that_is_being_written_is_drawn_up_to_its_last_complete_line(folder: Path) -> None:
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "trace", "step": 48, "fir')
    assert len(read_scores(folder).steps) == 40


def plot(*words: object) -> int:
    return cli.main(["plot", "scores", *map(str, words)])


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_the_command_writes_what_the_ending_says_twice_the_same(
    kind: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outs = [tmp_path / f"{name}.{kind}" for name in "ab"]
    for out in outs:
        assert plot(folder, "--out", out) == 0
        assert capsys.readouterr().out == f"{out}: the scores of MoCo\n"
    first, second = (out.read_bytes() for out in outs)
    assert first == second
    begins = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    assert first.startswith(begins[kind])
    if kind == "svg":
        ElementTree.fromstring(first)


def test_without_out_the_picture_is_put_in_the_current_folder(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert plot(folder / "metrics.jsonl", "--epochs", "1:", "--smooth", 3) == 0
    assert capsys.readouterr().out == "scores.png: the scores of MoCo\n"
    assert (tmp_path / "scores.png").exists()


def test_runs_are_named_by_what_differs_or_as_asked(folder: Path) -> None:
    recipe = json.loads(json.dumps(RECIPE).replace("0.99", "0.5"))
    other = write_run(folder.parent / "moco-1", curves(), recipe)
    assert name_runs([folder, other]) == ["MoCo, momentum=0.99", "MoCo, momentum=0.5"]
    assert name_runs([folder, other], ["x", "y"]) == ["x", "y"]
    (folder / "recipe.json").unlink()
    assert name_runs([folder / "metrics.jsonl", other]) == ["moco-0", "MoCo"]


def test_folders_of_one_name_are_named_by_their_paths(folder: Path, tmp_path: Path) -> None:
    (folder / "recipe.json").unlink()
    twin = write_run(tmp_path / "others" / "moco-0", curves())
    assert name_runs([folder, twin]) == [str(folder), str(twin)]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere"], "nowhere is no run. Give the folder of a run, which holds metrics.jsonl"),
        (["EMPTY"], "is no run. Give the folder of a run"),
        (["RUN", "--out", "scores.gif"], "must end with .png, .svg or .pdf, got scores.gif"),
        (["RUN", "--out", "RUN.png/x.png"], "`--out` must be a file in a folder, got"),
        (["RUN", "--smooth", "0"], "Argument --smooth: must be an integer of at least 1, got 0"),
        (["RUN", "--epochs", "3"], "Invalid --epochs '3': use FIRST:LAST, for example 0:10"),
        (["RUN", "--steps", "a:b"], "Invalid --steps 'a:b'"),
        (["RUN", "--epochs", "9:2"], "Invalid --epochs '9:2'"),
        (["RUN", "--epochs", "7:9"], "No step lies in epochs 7 to 9. Choose a part of 0 to 4"),
        (["RUN", "RUN"], "A run is given twice"),
        (
            ["RUN", "--labels", "a", "b"],
            "`labels` must be a distinct label for each of 1 runs, got a, b",
        ),
        (["SILENT"], "has no line of kind trace. Use the log of a method that records"),
        (["STRANGE"], "The trace has none of positive_mean, negative_mean, negative_variance"),
        (["BROKEN"], "metrics.jsonl is damaged, or lines before it are missing"),
        (["LACKING"], "metrics.jsonl is damaged"),
        (["BINARY"], "metrics.jsonl is damaged, or lines before it are missing"),
        (["RECIPE"], "recipe.json is damaged"),
    ],
)
def test_mistakes_end_with_one_sentence_and_status_2(
    words: list[str],
    sentence: str,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    contents: dict[str, bytes | tuple[str, int, dict[str, Any]]] = {
        "SILENT": ("steps", 8, {"loss": 1.0}),
        "STRANGE": ("trace", 1, {"first": 1, "margin": [0.5]}),
        "BROKEN": b'{"kind": "trace", "st\n{"kind": "steps", "step": 8}\n',
        "LACKING": ("trace", 1, {"positive_mean": 3}),
        "BINARY": b"\x89PNG\r\n\xff\xfe\n",
    }
    places = {"RUN": folder, "EMPTY": tmp_path, "RUN.png/x.png": folder / "metrics.jsonl" / "x.png"}
    for name, content in contents.items():
        places[name] = tmp_path / name
        places[name].mkdir()
        if isinstance(content, bytes):
            (places[name] / "metrics.jsonl").write_bytes(content)
        else:
            MetricsLog(places[name] / "metrics.jsonl").write(*content)
    places["RECIPE"] = write_run(tmp_path / "RECIPE", curves())
    (places["RECIPE"] / "recipe.json").write_text('{"half": ')
    words = [str(places.get(word, word)) for word in words]
    if "--out" not in words:
        words += ["--out", str(tmp_path / "scores.png")]
    assert plot(*words) == 2
    said = capsys.readouterr().err
    assert said.startswith("retable: ")
    assert sentence in said
    assert said.count("\n") == 1
    assert "Traceback" not in said


def test_without_matplotlib_the_extra_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert plot(folder) == 2
    said = capsys.readouterr().err
    assert said.startswith("retable: Drawing needs matplotlib, which is not installed. Run `")
    assert "(the extra `plots` of retable)" in said


def test_the_names_of_the_statistics_are_those_that_methods_record() -> None:
    from retable.nn.scores import ScoreStatistics

    assert tuple(STATISTICS) == ScoreStatistics._fields
