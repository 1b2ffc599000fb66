"""Analyses of the grids of Revisiting SSL: the paper's tables, what is read, written and drawn."""

from __future__ import annotations

import doctest
import json
import math
import random
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from reproductions.revisiting_ssl import (
    grid_curves,
    grid_order,
    grid_ranks,
    grid_readings,
    grid_report,
    probe_curves,
    tap_curves,
)
from retable.files import write_record
from retable.reproduce import FinishedRun
from retable.reproduce.run import evaluation_owner
from retable.tables import Comparison, Reference, compare, load_reference
from revisiting_ssl.analysis.agreement import mean_agreement, task_agreement
from revisiting_ssl.analysis.correlations import kendall_tau, ranks, spearman
from revisiting_ssl.analysis.grids import (
    Cell,
    Grid,
    best_of,
    count_improving,
    reversals,
    width_steps,
)
from studies.revisiting_ssl import factor_pictures

FOLDER = Path(__file__).parents[1] / "reproductions" / "revisiting_ssl"
SUB_GRID = ("revnet50", "resnet50_v1", "vgg19_bn")


def reference(table: str) -> Reference:
    return load_reference(FOLDER / f"{table}.toml")


def printed(table: str) -> Grid:
    return grid_readings.reference_grid(reference(table))


@pytest.mark.parametrize("module", [grid_report, tap_curves, probe_curves, factor_pictures])
def test_doctests_pass(module: ModuleType) -> None:
    found = doctest.testmod(module)
    assert found.failed == 0
    assert found.attempted > 0


# The paper's own numbers, against what its text and its reference's notes state.


@pytest.mark.parametrize(("table", "improving"), [("table2", 37), ("table3", 41), ("table4", 29)])
def test_width_steps_match_paper_table(table: str, improving: int) -> None:
    steps = width_steps(printed(table))
    assert len(steps) == 42
    assert count_improving(steps) == improving


def test_steps_of_table2_that_do_not_improve_match_its_notes() -> None:
    worse = {
        (step.encoder, step.task, step.narrow, step.wide)
        for step in width_steps(printed("table2"))
        if step.gain <= 0
    }
    assert worse == {
        ("revnet50", "jigsaw", 4, 8),
        ("resnet50_v2_minus", "rotation", 8, 12),
        ("resnet50_v2_minus", "exemplar", 8, 12),
        ("resnet50_v2_minus", "jigsaw", 4, 8),
        ("vgg19_bn", "rotation", 4, 8),
    }


@pytest.mark.parametrize("table", ["table2", "table3", "table4"])
def test_best_encoders_match_paper_table(
    table: str,
) -> None:
    best = {task: best_of(printed(table), task) for task in grid_readings.TASKS}
    exemplar = ["revnet50", "resnet50_v1"] if table == "table3" else ["resnet50_v1"]
    assert best["rotation"][:2] == (["revnet50"], 16)
    assert best["exemplar"][:2] == (exemplar, 12)  # a tie in table 3
    assert best["relpatchloc"][:2] == (["resnet50_v1"], 8)
    assert best["jigsaw"][:2] == (["resnet50_v1"], 8)


def test_vgg_is_last_in_every_column_of_table2() -> None:
    for found in printed("table2").values():
        assert ranks(found)["vgg19_bn"] == 6


def test_paper_tables_correlate_less_with_few_labels() -> None:
    def flat(table: str) -> dict[str, float]:
        return {f"{c} {n}": v for c, found in printed(table).items() for n, v in found.items()}

    for one, other, expected in (
        ("table2", "table3", 0.92),
        ("table2", "table4", 0.88),
        ("table3", "table4", 0.79),
    ):
        found = spearman(flat(one), flat(other))
        assert found.points == 66
        assert found.value == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize(
    ("table", "rotation", "relpatchloc"), [("table2", 10.6, 5.4), ("table3", 5.9, 4.3)]
)
def test_order_of_revnet_and_resnet_v1_depends_on_the_task(
    table: str, rotation: float, relpatchloc: float
) -> None:
    widest = {
        cell: found
        for cell, found in printed(table).items()
        if cell in {("rotation", 16), ("relpatchloc", 8)}
    }
    by_task = reversals(widest)["revnet50", "resnet50_v1"]
    assert by_task == pytest.approx({"rotation": rotation, "relpatchloc": -relpatchloc})


@pytest.mark.parametrize("table", ["table2", "table3", "table4"])
def test_rankings_differ_more_between_tasks_than_between_the_widths_of_a_task(table: str) -> None:
    agreement = task_agreement(printed(table))
    across = mean_agreement(agreement, same=False)
    within = mean_agreement(agreement, same=True)
    assert across.value is not None
    assert within.value is not None
    assert across.value < within.value - 0.15
    assert (across.points, across.rankings, within.rankings) == (6, 6, 4)


# Readings.


def history(folder: Path = Path(), /, **figures: float) -> FinishedRun:
    metrics = {name.replace("__", "."): v for name, v in figures.items()}
    return FinishedRun(folder, metrics=metrics)


def compared(
    table: str, measured: dict[str, dict[str, dict[int, float]]], scale: Any = "proxy"
) -> Comparison:
    return compare(reference(table), measured, reference(table), scale)


def sub_grid(table: str, seeds: tuple[int, ...] = (0, 1)) -> tuple[Comparison, dict[str, Any]]:
    """Make numbers near the paper's for three encoders at two widths, and their histories."""
    draw = random.Random(0)
    stored = reference(table)
    measured: dict[str, dict[str, dict[int, float]]] = {name: {} for name in SUB_GRID}
    histories: dict[str, Any] = {}
    few, every = ("imagenet_10", "imagenet") if table == "table2" else ("places_5", "places")
    for name in SUB_GRID:
        for column in stored.columns:
            if not column.key.endswith(("_4x", "_8x")):
                continue
            value = stored.value(name, column.key)
            assert value is not None
            own = {seed: value.value + draw.gauss(0, 0.3) for seed in seeds}
            measured[name][column.key] = own
            histories[f"{name}/{column.key}"] = {
                seed: history(**{f"{few}__top1": accuracy, f"{every}__top1": accuracy + 5})
                for seed, accuracy in own.items()
            }
    return compared(table, measured), histories


def test_our_grid_has_finite_means_only() -> None:
    comparison = compared(
        "table2",
        {
            "revnet50": {"rotation_4x": {0: 30.0, 1: 32.0}, "jigsaw_4x": {0: math.nan}},
            "vgg19_bn": {"rotation_4x": {1: 9.0}},
        },
    )
    ours = grid_readings.our_grid(comparison)
    assert len(ours) == 11
    assert {cell: found for cell, found in ours.items() if found} == {
        Cell("rotation", 4): {"revnet50": 31.0, "vgg19_bn": 9.0}
    }
    by_seed = grid_readings.grids_by_seed(comparison)
    assert by_seed[0][Cell("rotation", 4)] == {"revnet50": 30.0}
    assert by_seed[1][Cell("rotation", 4)] == {"revnet50": 32.0, "vgg19_bn": 9.0}
    assert grid_readings.paper_grid(comparison) == printed("table2")


def test_metric_grid_has_means_over_seeds_times_the_factor() -> None:
    histories = {
        "revnet50/rotation_4x": {
            0: history(monitor__pretext_accuracy=0.5),
            1: history(monitor__pretext_accuracy=0.7),
        },
        "vgg19_bn/rotation_4x": {0: history(knn__top1=1.0)},
    }
    found = grid_readings.metric_grid(
        compared("table2", {}), histories, grid_readings.PRETEXT, 100.0
    )
    assert found[Cell("rotation", 4)] == {"revnet50": pytest.approx(60.0)}
    assert not any(values for cell, values in found.items() if cell != Cell("rotation", 4))


# Statistics and their reports.


def test_ours_is_compared_with_the_same_cells_of_the_paper() -> None:
    comparison, histories = sub_grid("table2")
    found = grid_readings.all_statistics(comparison, histories)
    assert list(found) == [
        grid_readings.PAPER,
        grid_readings.PART,
        grid_readings.OURS,
    ]
    part, ours = found[grid_readings.PART], found[grid_readings.OURS]
    assert part.ranks.keys() == ours.ranks.keys()
    assert part.ranks[Cell("rotation", 8)] == {"revnet50": 1, "resnet50_v1": 2, "vgg19_bn": 3}
    assert (len(found[grid_readings.PAPER].steps), len(part.steps)) == (42, 12)


def test_statistics_without_part_or_without_runs() -> None:
    whole = {
        row.key: {key: {0: value.value} for key, value in row.values.items()}  # type: ignore[union-attr]
        for row in reference("table3").rows
    }
    found = grid_readings.all_statistics(compared("table3", whole), {})
    assert list(found) == [grid_readings.PAPER, grid_readings.OURS]
    assert found[grid_readings.OURS].tasks == found[grid_readings.PAPER].tasks
    nothing = grid_readings.all_statistics(compared("table3", {}), {})
    assert list(nothing) == [grid_readings.PAPER]


def test_rankings_with_few_labels_are_compared_with_those_with_all() -> None:
    found = grid_readings.all_statistics(*sub_grid("table4"))
    name = "5 % of the labels"
    ours = found[grid_readings.OURS].shares[name]
    assert {correlation.value for correlation in ours.values()} == {1}  # all labels add 5 points
    assert len(ours) == 8
    paper = found[grid_readings.PAPER].shares[name]
    tables = zip(printed("table4").values(), printed("table3").values(), strict=True)
    assert list(paper.values()) == [kendall_tau(*both) for both in tables]
    of_table_2 = grid_readings.all_statistics(*sub_grid("table2"))
    assert list(of_table_2[grid_readings.OURS].shares) == ["10 % of the labels"]
    assert of_table_2[grid_readings.PAPER].shares == {}  # no table prints all of ImageNet's


def test_analyses_are_written_as_json_and_markdown(tmp_path: Path) -> None:
    grid_report.write_analyses(*sub_grid("table2"), tmp_path)
    written = json.loads(
        (tmp_path / "analyses.json").read_text(), parse_constant=lambda word: pytest.fail(word)
    )
    assert (written["table"], written["scale"], written["seeds"]) == ("table2", "proxy", [0, 1])
    assert written["paper"]["widenings"]["improving"] == 37
    assert written["ours"]["rank"]["rotation_8x"]["revnet50"] == 1
    assert written["ours"]["agreement of tasks"]["rotation, jigsaw"]["points"] == 3
    assert written["ours"]["reversals"]["revnet50, resnet50_v1"]["rotation"] > 4
    assert "jigsaw, rotation" not in written["ours"]["agreement of tasks"]
    text = (tmp_path / "analyses.md").read_text()
    assert "Widening improves in 37 of 42 steps." in text
    assert "- VGG19-BN, Rotation 4× to 8×: −2.1" in text  # noqa: RUF001
    assert "- ResNet50 v2 (-), Exemplar 8× to 12×: +0.0" in text  # noqa: RUF001
    assert "| Rotation | RevNet50 | 16× | 38.4 % |" in text  # noqa: RUF001
    assert "| RevNet50 − ResNet50 v1 | +" in text  # noqa: RUF001
    assert "random rankings of 3 encoders: 0 ± 0.64" in text
    assert "No run has one." in text
    assert "nan" not in text


def test_undefined_correlations_are_written_with_their_reason(tmp_path: Path) -> None:
    measured = {
        name: {"rotation_4x": {0: value}, "jigsaw_4x": {0: value}}
        for name, value in (("revnet50", 30.0), ("resnet50_v1", 20.0))
    }
    grid_report.write_analyses(compared("table2", measured), {}, tmp_path)
    written = json.loads((tmp_path / "analyses.json").read_text())
    found = written["ours"]["agreement of tasks"]["rotation, jigsaw"]
    assert found["value"] is None
    assert found["reason"] == "2 encoders in common: expected 3 or more"
    text = (tmp_path / "analyses.md").read_text()
    assert "Different tasks: no τ (2 encoders in common: expected 3 or more)" in text


# Pictures.


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Collect the figures that are saved, by file name."""
    pytest.importorskip("matplotlib")
    figures: dict[str, Any] = {}

    def keep(figure: Any, path: Path) -> None:
        figure.canvas.draw()
        figures[path.name] = figure

    for module in (grid_order, grid_ranks, grid_curves, tap_curves, probe_curves):
        monkeypatch.setattr(module, "save", keep)
    return figures


def texts(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_order_shows_the_lead_in_every_column_and_seed(
    drawn: dict[str, Any], tmp_path: Path
) -> None:
    measured = {
        "revnet50": {"rotation_8x": {0: 30.0, 1: 34.0}},
        "resnet50_v1": {"rotation_8x": {0: 29.0, 1: 27.0}},
    }
    grid_order.draw_order(compared("table2", measured), {}, tmp_path)
    (axes,) = drawn["order.svg"].axes
    paper = [line.get_ydata()[0] for line in axes.lines if line.get_marker() == "D"]
    assert paper[:4] == pytest.approx([4.5, 7.4, 10.5, 10.6])  # Rotation, of the paper's numbers
    assert len(paper) == 11
    assert [line.get_ydata()[0] for line in axes.lines if line.get_marker() == "o"] == [4.0]
    assert [list(line.get_ydata()) for line in axes.lines if line.get_marker() == "_"] == [[1, 7]]


def test_widths_hide_tasks_that_have_not_run(drawn: dict[str, Any], tmp_path: Path) -> None:
    comparison = compared("table2", {"revnet50": {"jigsaw_4x": {0: 1.0}, "jigsaw_8x": {0: 2.0}}})
    grid_curves.draw_widths(comparison, {}, tmp_path)
    assert [panel.get_visible() for panel in drawn["widths.svg"].axes[4:]] == [False] * 3 + [True]


def test_ranks_show_every_rank_and_the_agreement_of_tasks(
    drawn: dict[str, Any], tmp_path: Path
) -> None:
    comparison, histories = sub_grid("table2")
    grid_ranks.draw_ranks(comparison, histories, tmp_path)
    panels = drawn["ranks.svg"].axes
    assert len(panels) == 6  # the paper, our part of it, ours; ranks and agreement of each
    assert [panel.get_title("left") for panel in panels[::2]] == [
        "Paper",
        "Paper, the cells that were run",
        "Ours, proxy scale, 2 seeds",
    ]
    ranked = texts(panels[4])
    assert sum(text in ("1", "2", "3") for text in ranked) == 24
    assert f"{grid_readings.our_grid(comparison)[Cell('rotation', 8)]['revnet50']:.1f}" in ranked
    assert "+0.33" in texts(panels[3])
    ticks = [label.get_text() for label in panels[4].get_xticklabels()]
    assert ticks[0] == "4×\n+1.00"  # noqa: RUF001


def test_ranks_mark_encoders_that_have_not_run(drawn: dict[str, Any], tmp_path: Path) -> None:
    comparison = compared(
        "table2", {"revnet50": {"rotation_4x": {0: 30.0}}, "vgg19_bn": {"jigsaw_4x": {0: 9.0}}}
    )
    grid_ranks.draw_ranks(comparison, {}, tmp_path)
    ranks, agreement = drawn["ranks.svg"].axes[4:]
    assert texts(ranks).count("not run") == 2
    assert set(texts(agreement)) == {"–"}  # noqa: RUF001


def test_widths_dot_steps_that_do_not_improve(drawn: dict[str, Any], tmp_path: Path) -> None:
    grid_curves.draw_widths(compared("table2", {}), {}, tmp_path)
    panels = drawn["widths.svg"].axes
    dotted = [line for panel in panels for line in panel.lines if line.get_linestyle() == ":"]
    assert len(dotted) == 42 - 37
    assert [panel.get_title() for panel in panels] == [
        "Rotation: 16 of 18",
        "Exemplar: 11 of 12",
        "Rel. Patch Loc.: 6 of 6",
        "Jigsaw: 4 of 6",
    ]
    grid_curves.draw_widths(*sub_grid("table2"), tmp_path)
    assert len(drawn["widths.svg"].axes) == 8


def test_scatter_shows_tasks_with_a_pretext_accuracy(drawn: dict[str, Any], tmp_path: Path) -> None:
    comparison, histories = sub_grid("table2")
    grid_curves.draw_scatter(comparison, histories, tmp_path)
    assert drawn == {}
    for place, name in enumerate(SUB_GRID):
        own = histories[f"{name}/jigsaw_4x"]
        for seed in own:
            metrics = {**own[seed].metrics, grid_readings.PRETEXT: 0.5 + 0.1 * place}
            own[seed] = FinishedRun(Path(), metrics=metrics)
    grid_curves.draw_scatter(comparison, histories, tmp_path)
    (panel,) = drawn["pretext.svg"].axes
    assert panel.get_title() == "Jigsaw"
    assert "(n = 3)" in panel.get_xlabel()
    points = [line for line in panel.lines if line.get_marker() == "o"]
    assert [line.get_xdata()[0] for line in points] == pytest.approx([50.0, 60.0, 70.0])


def test_taps_show_our_and_the_paper_s_skip_gains(drawn: dict[str, Any], tmp_path: Path) -> None:
    values = {"skip": 50.0, "no_skip": 47.5}
    measured = {
        f"rotation_{name}": {tap: {0: value, 1: value + 1} for tap in tap_curves.TAPS}
        for name, value in values.items()
    }
    tap_curves.draw_taps(compared("table1", measured), {}, tmp_path)
    rotation, exemplar = drawn["taps.svg"].axes
    ticks = [label.get_text() for label in rotation.get_xticklabels()]
    assert ticks[1] == "Block2\nours +2.5\npaper +2.7"
    assert ticks[4] == "PreLogits\nours +2.5\n"
    assert exemplar.get_xticklabels()[3].get_text() == "Block4\npaper +2.1"
    solid = [line for line in rotation.lines if line.get_linestyle() == "-"]
    assert sorted(line.get_ydata()[0] for line in solid) == [48.0, 50.5]


def probe(folder: Path, name: str, top1: list[float], first_decay: int = 30) -> float:
    """Write the files of a finished probe; return its accuracy."""
    folder.mkdir(parents=True)
    curve = {
        figure: {"pre_logits": top1 if figure == "top1" else [3.0, None]}
        for figure in ("top1", "top5", "train_loss")
    }
    recipe = {"milestones": [first_decay, 40], "representation": {"taps": ["pre_logits"]}}
    owner = evaluation_owner(folder)
    write_record(folder / "curve.json", owner, {"epoch": [1, 2], **curve})
    result = {"metrics": {"top1": top1[-1]}, "recipe": recipe, "data": {}, "code": ""}
    write_record(folder / "result.json", owner, result)
    return top1[-1]


def test_read_curve_selects_the_probe_of_the_run_s_metrics(
    tmp_path: Path,
) -> None:
    evaluations = tmp_path / "evaluations"
    probe(evaluations / "linear_30-a", "linear_30", [1.0, 2.0], 7)
    probe(evaluations / "linear_30-b", "linear_30", [3.0, 5.0], 30)
    (evaluations / "linear_30-a0").mkdir()  # one that was interrupted
    found = probe_curves.read_curve(history(tmp_path, linear_30__top1=5.0), "linear_30")
    assert found is not None
    assert (found.first_decay, found.values["top1"]) == (30, [3.0, 5.0])
    assert math.isnan(found.values["train_loss"][1])
    assert probe_curves.read_curve(history(tmp_path, linear_30__top1=4.0), "linear_30") is None
    assert probe_curves.read_curve(history(tmp_path), "linear_120") is None


def test_probe_curves_end_with_a_point_and_dash_the_optimum(
    drawn: dict[str, Any], tmp_path: Path
) -> None:
    figures = {
        f"linear_{schedule}__top1": probe(
            tmp_path / "evaluations" / f"linear_{schedule}-x", f"linear_{schedule}", [1.0, last]
        )
        for schedule, last in (("30", 10.0), ("480", 20.0))
    }
    run = {0: history(tmp_path, optimum__top1=25.0, **figures)}
    histories = {f"jigsaw_{name}": run for name in ("30", "480", "optimum")}
    probe_curves.draw_probe_curves(compared("figure1", {}), histories, tmp_path)
    accuracy, loss = drawn["probes.svg"].axes
    assert accuracy.get_title() == "Jigsaw"
    assert (accuracy.get_xscale(), loss.get_xlabel()) == ("log", "epoch")
    curves = [list(line.get_ydata()) for line in accuracy.lines]
    assert curves == [[1.0, 10.0], [10.0], [1.0, 20.0], [20.0], [25.0, 25.0]]
    assert accuracy.lines[-1].get_linestyle() == "--"
    assert all(line.get_linestyle() != "--" for line in loss.lines)


def test_probe_curves_without_probes_draw_nothing(drawn: dict[str, Any], tmp_path: Path) -> None:
    probe_curves.draw_probe_curves(compared("figure1", {}), {}, tmp_path)
    assert drawn == {}


def test_factors_show_layers_as_lines_and_single_layers_as_levels() -> None:
    pytest.importorskip("matplotlib")
    names = (*factor_pictures.FACTORS, "effective_rank", "mean_cosine")
    deep = {tap: dict.fromkeys(names, 10.0 * place) for place, tap in enumerate(("root", "top"))}
    flat = {"pre_logits": dict.fromkeys(names, 7.0)}
    changed = dict.fromkeys(factor_pictures.SHOWN, 30.0)
    figure = factor_pictures.draw_factors(
        {"Rotation": [deep, deep], "raw pixels": [flat, flat]},
        {"Rotation": [changed, changed], "raw pixels": [changed, changed]},
        title="resnet50_v1 4x",
    )
    outline: Any = figure.axes[0]
    assert outline.get_title() == "outline"
    deep_line, level, chance = outline.lines
    assert list(deep_line.get_ydata()) == [0.0, 10.0]
    assert list(level.get_ydata()) == [7.0, 7.0]
    assert list(chance.get_ydata()) == [100 / 32, 100 / 32]
    assert len(figure.axes) == len(names) + 1
    assert figure.get_suptitle() == "resnet50_v1 4x, 2 seeds"
