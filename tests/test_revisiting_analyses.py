"""What the grid of Revisiting SSL says: the paper's own numbers by the functions that read ours."""

from __future__ import annotations

import doctest
import importlib
import json
import math
import random
import sys
from itertools import combinations, permutations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retable.reproduce import FinishedRun
from retable.tables import Comparison, Reference, compare, load_reference

FOLDER = Path(__file__).parents[1] / "reproductions" / "revisiting_ssl"
SUB_GRID = ("revnet50", "resnet50_v1", "vgg19_bn")
MODULES = (
    "rankings",
    "pretext_accuracy",
    "grid_readings",
    "grid_statistics",
    "grid_report",
    "grid_order",
    "grid_ranks",
    "grid_curves",
    "tap_curves",
    "probe_curves",
    "factor_pictures",
)


def scripts() -> Any:
    """Import the scripts as they import each other, by their bare names."""
    sys.path.insert(0, str(FOLDER))
    try:
        return SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
    finally:
        sys.path.remove(str(FOLDER))


S = scripts()
Cell = S.rankings.Cell


def reference(table: str) -> Reference:
    return load_reference(FOLDER / f"{table}.toml")


def printed(table: str) -> Any:
    return S.grid_readings.reference_grid(reference(table))


def grid(**columns: dict[str, float]) -> Any:
    """Make a grid of columns such as ``rotation_4x``."""
    return {S.rankings.cell_of(name): values for name, values in columns.items()}


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_the_scripts_are_true(name: str) -> None:
    assert doctest.testmod(getattr(S, name)).failed == 0


# The paper's own numbers, against what its sheet says of them.


@pytest.mark.parametrize(("table", "improving"), [("table2", 37), ("table3", 41), ("table4", 29)])
def test_so_many_of_the_paper_s_42_widenings_improve(table: str, improving: int) -> None:
    steps = S.rankings.width_steps(printed(table))
    assert len(steps) == 42
    assert S.rankings.improving(steps) == improving


def test_the_five_widenings_of_table_2_that_do_not_improve_are_those_of_its_notes() -> None:
    worse = {
        (step.encoder, step.task, step.narrow, step.wide)
        for step in S.rankings.width_steps(printed("table2"))
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
def test_the_best_encoder_of_rotation_is_a_revnet_and_that_of_all_others_resnet_v1(
    table: str,
) -> None:
    best = {task: S.rankings.best_of(printed(table), task) for task in S.grid_readings.TASKS}
    exemplar = ["revnet50", "resnet50_v1"] if table == "table3" else ["resnet50_v1"]
    assert best["rotation"][:2] == (["revnet50"], 16)
    assert best["exemplar"][:2] == (exemplar, 12)  # a tie in table 3
    assert best["relpatchloc"][:2] == (["resnet50_v1"], 8)
    assert best["jigsaw"][:2] == (["resnet50_v1"], 8)


def test_vgg_is_last_in_every_column_of_table_2() -> None:
    for found in printed("table2").values():
        assert S.rankings.ranks(found)["vgg19_bn"] == 6


def test_the_66_encoders_rank_alike_in_the_paper_s_tables_less_so_with_few_labels() -> None:
    def flat(table: str) -> dict[str, float]:
        return {f"{c} {n}": v for c, found in printed(table).items() for n, v in found.items()}

    for one, other, expected in (
        ("table2", "table3", 0.92),
        ("table2", "table4", 0.88),
        ("table3", "table4", 0.79),
    ):
        found = S.rankings.rank_correlation(flat(one), flat(other))
        assert (found.points, round(found.value, 2)) == (66, expected)


@pytest.mark.parametrize(
    ("table", "rotation", "relpatchloc"), [("table2", 10.6, 5.4), ("table3", 5.9, 4.3)]
)
def test_the_order_of_revnet_and_resnet_v1_depends_on_the_task(
    table: str, rotation: float, relpatchloc: float
) -> None:
    widest = {
        cell: found
        for cell, found in printed(table).items()
        if cell in {("rotation", 16), ("relpatchloc", 8)}
    }
    by_task = S.rankings.reversals(widest)["revnet50", "resnet50_v1"]
    assert by_task == pytest.approx({"rotation": rotation, "relpatchloc": -relpatchloc})


@pytest.mark.parametrize("table", ["table2", "table3", "table4"])
def test_rankings_differ_more_between_tasks_than_between_the_widths_of_a_task(table: str) -> None:
    agreement = S.rankings.task_agreement(printed(table))
    across = S.rankings.overall(agreement, same=False)
    within = S.rankings.overall(agreement, same=True)
    assert across.value < within.value - 0.15
    assert (across.points, across.rankings, within.rankings) == (6, 6, 4)


# Rankings.


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8))
def test_equal_accuracies_share_the_mean_of_their_ranks(values: list[int]) -> None:
    # Reference: scipy's rankdata, ascending.
    from scipy.stats import rankdata

    found = S.rankings.ranks({str(place): value for place, value in enumerate(values)})
    assert list(found.values()) == rankdata([-value for value in values]).tolist()


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=8))
@settings(deadline=None)
def test_agreement_is_kendall_s_tau_b(pairs: list[tuple[int, int]]) -> None:
    # Reference: Kendall 1945, pairs in plain loops: (P - Q) / sqrt((n - ties) (n - ties)).
    first, second = ({str(i): p[side] for i, p in enumerate(pairs)} for side in (0, 1))
    found = S.rankings.rank_agreement(first, second)
    if len(set(first.values())) == 1 or len(set(second.values())) == 1:
        assert found.value is None
        assert "equal" in found.reason
        return
    score = left = right = 0
    for (a, b), (c, d) in combinations(pairs, 2):
        score += ((a > c) - (a < c)) * ((b > d) - (b < d))
        left += a != c
        right += b != d
    assert found.value == pytest.approx(score / math.sqrt(left * right))


@pytest.mark.parametrize("encoders", [3, 4])
def test_random_rankings_agree_by_chance_as_all_orders_do(encoders: int) -> None:
    # Reference: every order of the encoders against the first, in plain loops.
    names = "abcd"[:encoders]
    orders = [
        dict(zip(names, map(float, order), strict=True)) for order in permutations(range(encoders))
    ]
    taus = [S.rankings.rank_agreement(orders[0], order).value for order in orders]
    mean_square = math.fsum(tau * tau for tau in taus) / len(taus)
    assert S.grid_report.chance_spread(encoders) == pytest.approx(math.sqrt(mean_square))


@pytest.mark.parametrize("correlate", [S.rankings.rank_agreement, S.rankings.rank_correlation])
def test_two_points_have_no_correlation_but_a_reason(correlate: Any) -> None:
    found = correlate({"a": 1.0, "b": 2.0, "c": 3.0}, {"a": 1.0, "b": 2.0})
    assert (found.value, found.points) == (None, 2)
    assert "2" in found.reason
    assert "expected 3 or more" in found.reason


def test_a_mean_is_over_the_correlations_that_exist_and_says_the_fewest_points() -> None:
    made = S.rankings.Correlation
    found = S.rankings.mean_of(
        [made(1.0, 6), made(None, 2, reason="too few"), made(0.5, 3)], "nothing"
    )
    assert found == made(0.75, 3, 2)
    assert S.rankings.mean_of([made(None, 2, reason="too few")], "nothing").reason == "too few"
    assert S.rankings.mean_of([], "nothing") == made(None, 0, 0, "nothing")


UP, DOWN = {"a": 1.0, "b": 2.0, "c": 3.0}, {"a": 3.0, "b": 2.0, "c": 1.0}


def test_tasks_are_compared_at_equal_width_and_with_themselves_between_widths() -> None:
    found = S.rankings.task_agreement(
        grid(rotation_4x=UP, rotation_8x=DOWN, rotation_16x=DOWN, jigsaw_4x=UP, jigsaw_8x=UP)
    )
    assert found["rotation", "jigsaw"] == found["jigsaw", "rotation"]
    assert (found["rotation", "jigsaw"].value, found["rotation", "jigsaw"].rankings) == (0, 2)
    assert found["rotation", "rotation"].value == pytest.approx((-1 - 1 + 1) / 3)
    assert found["jigsaw", "jigsaw"].value == pytest.approx(1)
    assert S.rankings.overall(found, same=False)[:3] == (0, 3, 1)  # of one pair of tasks
    assert S.rankings.overall(found, same=True).value == pytest.approx((1 - 1 / 3) / 2)


def test_tasks_without_a_common_width_or_with_a_single_one_say_so() -> None:
    found = S.rankings.task_agreement(grid(rotation_4x=UP, jigsaw_8x=UP, exemplar_4x={}))
    assert found["rotation", "jigsaw"].reason == "no width in common"
    assert found["rotation", "rotation"].reason == "one width"
    assert not any("exemplar" in pair for pair in found)


def test_seeds_agree_column_by_column() -> None:
    same, other = grid(rotation_4x=UP, jigsaw_4x=UP), grid(rotation_4x=UP, jigsaw_4x=DOWN)
    found = S.rankings.seed_agreement({0: same, 1: other})
    assert (found.value, found.rankings) == (0, 2)
    assert S.rankings.seed_agreement({0: same}).reason == "one seed"


def test_a_step_is_to_the_next_width_and_equal_is_not_better() -> None:
    widths = grid(
        rotation_4x={"a": 1.0, "b": 1.0},
        rotation_8x={"a": 1.0},
        rotation_16x={"a": 2.0, "b": 3.0},
    )
    steps = S.rankings.width_steps(widths)
    assert [step[:4] for step in steps] == [("a", "rotation", 4, 8), ("a", "rotation", 8, 16)]
    assert S.rankings.improving(steps) == 1


def test_of_widths_that_reach_the_same_the_narrowest_is_the_best() -> None:
    equal = grid(rotation_4x={"a": 1.0}, rotation_8x={"a": 2.0}, rotation_12x={"a": 2.0})
    assert S.rankings.best_of(equal, "rotation") == (["a"], 8, 2.0)


def test_only_encoders_that_change_places_are_reversals() -> None:
    found = S.rankings.reversals(
        grid(
            rotation_4x={"a": 3.0, "b": 1.0, "c": 0.0},
            rotation_8x={"a": 5.0, "b": 1.0},
            jigsaw_4x={"a": 1.0, "b": 2.0, "c": 0.0},
        )
    )
    assert found == {("a", "b"): {"rotation": 3.0, "jigsaw": -1.0}}


# Pretext accuracy.


def test_pretext_accuracy_is_correlated_over_encoders_over_widths_and_over_all() -> None:
    pretext = grid(
        rotation_4x={"a": 50.0, "b": 60.0, "c": 70.0},
        rotation_8x={"a": 51.0, "b": 61.0, "c": 71.0},
        rotation_12x={"a": 52.0, "b": 62.0, "c": 72.0},
    )
    accuracies = grid(
        rotation_4x={"a": 30.0, "b": 20.0, "c": 10.0},
        rotation_8x={"a": 31.0, "b": 21.0, "c": 11.0},
        rotation_12x={"a": 32.0, "b": 22.0, "c": 10.5},
        exemplar_4x={"a": 40.0},
    )
    found = S.pretext_accuracy.predictions(pretext, accuracies)
    assert list(found) == ["rotation"]
    one = found["rotation"]
    assert (one.encoders.value, one.encoders.points, one.encoders.rankings) == (-1, 3, 3)
    assert (one.widths.value, one.widths.rankings) == (pytest.approx((1 + 1 + 0.5) / 3), 3)
    assert (one.all.points, one.all.value < -0.7) == (9, True)
    assert (one.agreeing, one.steps) == (5, 6)


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


def test_our_grid_holds_the_means_of_what_has_run_and_is_finite() -> None:
    comparison = compared(
        "table2",
        {
            "revnet50": {"rotation_4x": {0: 30.0, 1: 32.0}, "jigsaw_4x": {0: math.nan}},
            "vgg19_bn": {"rotation_4x": {1: 9.0}},
        },
    )
    ours = S.grid_readings.our_grid(comparison)
    assert len(ours) == 11
    assert {cell: found for cell, found in ours.items() if found} == {
        Cell("rotation", 4): {"revnet50": 31.0, "vgg19_bn": 9.0}
    }
    by_seed = S.grid_readings.grids_by_seed(comparison)
    assert by_seed[0][Cell("rotation", 4)] == {"revnet50": 30.0}
    assert by_seed[1][Cell("rotation", 4)] == {"revnet50": 32.0, "vgg19_bn": 9.0}
    assert S.grid_readings.paper_grid(comparison) == printed("table2")


def test_a_figure_of_the_runs_is_the_mean_over_seeds_times_a_factor() -> None:
    histories = {
        "revnet50/rotation_4x": {
            0: history(monitor__pretext_accuracy=0.5),
            1: history(monitor__pretext_accuracy=0.7),
        },
        "vgg19_bn/rotation_4x": {0: history(knn__top1=1.0)},
    }
    found = S.grid_readings.figure_grid(
        compared("table2", {}), histories, S.grid_readings.PRETEXT, 100.0
    )
    assert found[Cell("rotation", 4)] == {"revnet50": pytest.approx(60.0)}
    assert not any(values for cell, values in found.items() if cell != Cell("rotation", 4))


# What is said of a grid.


def test_ours_is_held_against_the_same_encoders_and_widths_of_the_paper() -> None:
    comparison, histories = sub_grid("table2")
    found = S.grid_statistics.all_statistics(comparison, histories)
    assert list(found) == [
        S.grid_statistics.PAPER,
        S.grid_statistics.PART,
        S.grid_statistics.OURS,
    ]
    part, ours = found[S.grid_statistics.PART], found[S.grid_statistics.OURS]
    assert part.ranks.keys() == ours.ranks.keys()
    assert part.ranks[Cell("rotation", 8)] == {"revnet50": 1, "resnet50_v1": 2, "vgg19_bn": 3}
    assert (len(found[S.grid_statistics.PAPER].steps), len(part.steps)) == (42, 12)


def test_the_whole_grid_has_no_part_and_nothing_run_only_the_paper() -> None:
    whole = {
        row.key: {key: {0: value.value} for key, value in row.values.items()}  # type: ignore[union-attr]
        for row in reference("table3").rows
    }
    found = S.grid_statistics.all_statistics(compared("table3", whole), {})
    assert list(found) == [S.grid_statistics.PAPER, S.grid_statistics.OURS]
    assert found[S.grid_statistics.OURS].tasks == found[S.grid_statistics.PAPER].tasks
    nothing = S.grid_statistics.all_statistics(compared("table3", {}), {})
    assert list(nothing) == [S.grid_statistics.PAPER]


def test_rankings_with_few_labels_are_held_against_those_with_all() -> None:
    found = S.grid_statistics.all_statistics(*sub_grid("table4"))
    name = "5 % of the labels"
    ours = found[S.grid_statistics.OURS].shares[name]
    assert {correlation.value for correlation in ours.values()} == {1}  # all labels add 5 points
    assert len(ours) == 8
    paper = found[S.grid_statistics.PAPER].shares[name]
    tables = zip(printed("table4").values(), printed("table3").values(), strict=True)
    assert list(paper.values()) == [S.rankings.rank_agreement(*both) for both in tables]
    of_table_2 = S.grid_statistics.all_statistics(*sub_grid("table2"))
    assert list(of_table_2[S.grid_statistics.OURS].shares) == ["10 % of the labels"]
    assert of_table_2[S.grid_statistics.PAPER].shares == {}  # no table prints all of ImageNet's


def test_the_analyses_are_written_as_json_and_as_text(tmp_path: Path) -> None:
    S.grid_report.write_analyses(*sub_grid("table2"), tmp_path)
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


def test_two_encoders_have_reasons_in_place_of_correlations(tmp_path: Path) -> None:
    measured = {
        name: {"rotation_4x": {0: value}, "jigsaw_4x": {0: value}}
        for name, value in (("revnet50", 30.0), ("resnet50_v1", 20.0))
    }
    S.grid_report.write_analyses(compared("table2", measured), {}, tmp_path)
    written = json.loads((tmp_path / "analyses.json").read_text())
    found = written["ours"]["agreement of tasks"]["rotation, jigsaw"]
    assert found["value"] is None
    assert found["reason"] == "2 encoders in common: expected 3 or more"
    text = (tmp_path / "analyses.md").read_text()
    assert "Different tasks: no τ (2 encoders in common: expected 3 or more)" in text


# Pictures.


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Keep the figures that are saved, by the names of their files."""
    pytest.importorskip("matplotlib")
    figures: dict[str, Any] = {}

    def keep(figure: Any, path: Path) -> None:
        figure.canvas.draw()
        figures[path.name] = figure

    for name in ("grid_order", "grid_ranks", "grid_curves", "tap_curves", "probe_curves"):
        monkeypatch.setattr(getattr(S, name), "save", keep)
    return figures


def texts(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_the_lead_of_revnet_is_drawn_in_every_column_with_each_seed(
    drawn: dict[str, Any], tmp_path: Path
) -> None:
    measured = {
        "revnet50": {"rotation_8x": {0: 30.0, 1: 34.0}},
        "resnet50_v1": {"rotation_8x": {0: 29.0, 1: 27.0}},
    }
    S.grid_order.draw_order(compared("table2", measured), {}, tmp_path)
    (axes,) = drawn["order.svg"].axes
    paper = [line.get_ydata()[0] for line in axes.lines if line.get_marker() == "D"]
    assert paper[:4] == pytest.approx([4.5, 7.4, 10.5, 10.6])  # Rotation, of the paper's numbers
    assert len(paper) == 11
    assert [line.get_ydata()[0] for line in axes.lines if line.get_marker() == "o"] == [4.0]
    assert [list(line.get_ydata()) for line in axes.lines if line.get_marker() == "_"] == [[1, 7]]


def test_a_task_that_has_not_run_has_no_slopes(drawn: dict[str, Any], tmp_path: Path) -> None:
    comparison = compared("table2", {"revnet50": {"jigsaw_4x": {0: 1.0}, "jigsaw_8x": {0: 2.0}}})
    S.grid_curves.draw_widths(comparison, {}, tmp_path)
    assert [panel.get_visible() for panel in drawn["widths.svg"].axes[4:]] == [False] * 3 + [True]


def test_every_rank_is_drawn_beside_the_tasks_agreement(
    drawn: dict[str, Any], tmp_path: Path
) -> None:
    comparison, histories = sub_grid("table2")
    S.grid_ranks.draw_ranks(comparison, histories, tmp_path)
    panels = drawn["ranks.svg"].axes
    assert len(panels) == 6  # the paper, our part of it, ours; ranks and agreement of each
    assert [panel.get_title("left") for panel in panels[::2]] == [
        "Paper",
        "Paper, what we have run of it",
        "Ours, proxy scale, 2 seeds",
    ]
    ranked = texts(panels[4])
    assert sum(text in ("1", "2", "3") for text in ranked) == 24
    assert f"{S.grid_readings.our_grid(comparison)[Cell('rotation', 8)]['revnet50']:.1f}" in ranked
    assert "+0.33" in texts(panels[3])
    ticks = [label.get_text() for label in panels[4].get_xticklabels()]
    assert ticks[0] == "4×\n+1.00"  # noqa: RUF001


def test_a_missing_encoder_leaves_its_place_empty(drawn: dict[str, Any], tmp_path: Path) -> None:
    comparison = compared(
        "table2", {"revnet50": {"rotation_4x": {0: 30.0}}, "vgg19_bn": {"jigsaw_4x": {0: 9.0}}}
    )
    S.grid_ranks.draw_ranks(comparison, {}, tmp_path)
    ranks, agreement = drawn["ranks.svg"].axes[4:]
    assert texts(ranks).count("not run") == 2
    assert set(texts(agreement)) == {"–"}  # noqa: RUF001


def test_widenings_that_do_not_improve_are_dotted(drawn: dict[str, Any], tmp_path: Path) -> None:
    S.grid_curves.draw_widths(compared("table2", {}), {}, tmp_path)
    panels = drawn["widths.svg"].axes
    dotted = [line for panel in panels for line in panel.lines if line.get_linestyle() == ":"]
    assert len(dotted) == 42 - 37
    assert [panel.get_title() for panel in panels] == [
        "Rotation: 16 of 18",
        "Exemplar: 11 of 12",
        "Rel. Patch Loc.: 6 of 6",
        "Jigsaw: 4 of 6",
    ]
    S.grid_curves.draw_widths(*sub_grid("table2"), tmp_path)
    assert len(drawn["widths.svg"].axes) == 8


def test_pretext_accuracy_is_drawn_for_the_tasks_that_have_one(
    drawn: dict[str, Any], tmp_path: Path
) -> None:
    comparison, histories = sub_grid("table2")
    S.grid_curves.draw_scatter(comparison, histories, tmp_path)
    assert drawn == {}
    for place, name in enumerate(SUB_GRID):
        own = histories[f"{name}/jigsaw_4x"]
        for seed in own:
            metrics = {**own[seed].metrics, S.grid_readings.PRETEXT: 0.5 + 0.1 * place}
            own[seed] = FinishedRun(Path(), metrics=metrics)
    S.grid_curves.draw_scatter(comparison, histories, tmp_path)
    (panel,) = drawn["pretext.svg"].axes
    assert panel.get_title() == "Jigsaw"
    assert "(n = 3)" in panel.get_xlabel()
    points = [line for line in panel.lines if line.get_marker() == "o"]
    assert [line.get_xdata()[0] for line in points] == pytest.approx([50.0, 60.0, 70.0])


def test_the_gap_of_skip_connections_is_the_mean_over_seeds_that_both_have() -> None:
    found = S.tap_curves.gaps(
        {"block1": {0: 30.0, 1: 34.0, 2: 90.0}, "block2": {0: math.nan}},
        {"block1": {0: 29.0, 1: 31.0}, "block2": {0: 1.0}},
    )
    assert found == {"block1": 2.0}


def test_layers_say_what_skip_connections_add_ours_and_the_paper_s(
    drawn: dict[str, Any], tmp_path: Path
) -> None:
    values = {"skip": 50.0, "no_skip": 47.5}
    measured = {
        f"rotation_{name}": {tap: {0: value, 1: value + 1} for tap in S.tap_curves.TAPS}
        for name, value in values.items()
    }
    S.tap_curves.draw_taps(compared("table1", measured), {}, tmp_path)
    rotation, exemplar = drawn["taps.svg"].axes
    ticks = [label.get_text() for label in rotation.get_xticklabels()]
    assert ticks[1] == "Block2\nours +2.5\npaper +2.7"
    assert ticks[4] == "PreLogits\nours +2.5\n"
    assert exemplar.get_xticklabels()[3].get_text() == "Block4\npaper +2.1"
    solid = [line for line in rotation.lines if line.get_linestyle() == "-"]
    assert sorted(line.get_ydata()[0] for line in solid) == [48.0, 50.5]


def probe(folder: Path, name: str, top1: list[float], first_decay: int = 30) -> float:
    """Leave what a finished probe leaves; return its accuracy."""
    folder.mkdir(parents=True)
    curve = {
        figure: {"pre_logits": top1 if figure == "top1" else [3.0, None]}
        for figure in ("top1", "top5", "train_loss")
    }
    recipe = {"milestones": [first_decay, 40], "representation": {"taps": ["pre_logits"]}}
    (folder / "curve.json").write_text(json.dumps({"epoch": [1, 2], **curve}))
    (folder / "recipe.json").write_text(json.dumps(recipe))
    (folder / "result.json").write_text(json.dumps({"top1": top1[-1]}))
    return top1[-1]


def test_of_several_probes_of_a_name_the_one_is_read_that_the_figures_are_of(
    tmp_path: Path,
) -> None:
    evaluations = tmp_path / "evaluations"
    probe(evaluations / "linear_30-a", "linear_30", [1.0, 2.0], 7)
    probe(evaluations / "linear_30-b", "linear_30", [3.0, 5.0], 30)
    (evaluations / "linear_30-a0").mkdir()  # one that was interrupted
    found = S.probe_curves.read_curve(history(tmp_path, linear_30__top1=5.0), "linear_30")
    assert (found.first_decay, found.values["top1"]) == (30, [3.0, 5.0])
    assert math.isnan(found.values["train_loss"][1])
    assert S.probe_curves.read_curve(history(tmp_path, linear_30__top1=4.0), "linear_30") is None
    assert S.probe_curves.read_curve(history(tmp_path), "linear_120") is None


def test_probes_are_drawn_to_their_last_epoch_with_the_optimum_dashed(
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
    S.probe_curves.draw_probe_curves(compared("figure1", {}), histories, tmp_path)
    accuracy, loss = drawn["probes.svg"].axes
    assert accuracy.get_title() == "Jigsaw"
    assert (accuracy.get_xscale(), loss.get_xlabel()) == ("log", "epoch")
    curves = [list(line.get_ydata()) for line in accuracy.lines]
    assert curves == [[1.0, 10.0], [10.0], [1.0, 20.0], [20.0], [25.0, 25.0]]
    assert accuracy.lines[-1].get_linestyle() == "--"
    assert all(line.get_linestyle() != "--" for line in loss.lines)


def test_without_probes_there_is_no_picture(drawn: dict[str, Any], tmp_path: Path) -> None:
    S.probe_curves.draw_probe_curves(compared("figure1", {}), {}, tmp_path)
    assert drawn == {}


def test_factors_are_drawn_by_layer_and_a_single_layer_as_a_level() -> None:
    pytest.importorskip("matplotlib")
    names = (*S.factor_pictures.FACTORS, "effective_rank", "mean_cosine")
    deep = {tap: dict.fromkeys(names, 10.0 * place) for place, tap in enumerate(("root", "top"))}
    flat = {"pre_logits": dict.fromkeys(names, 7.0)}
    changed = dict.fromkeys(S.factor_pictures.SHOWN, 30.0)
    figure = S.factor_pictures.draw_factors(
        {"Rotation": [deep, deep], "raw pixels": [flat, flat]},
        {"Rotation": [changed, changed], "raw pixels": [changed, changed]},
        title="resnet50_v1 4x",
    )
    outline = figure.axes[0]
    assert outline.get_title() == "outline"
    deep_line, level, chance = outline.lines
    assert list(deep_line.get_ydata()) == [0.0, 10.0]
    assert list(level.get_ydata()) == [7.0, 7.0]
    assert list(chance.get_ydata()) == [100 / 32, 100 / 32]
    assert len(figure.axes) == len(names) + 1
    assert figure.get_suptitle() == "resnet50_v1 4x, 2 seeds"
