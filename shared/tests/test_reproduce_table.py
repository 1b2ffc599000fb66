from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from retable.reproduce import Difference, Gain, Metric, Ratio, Table
from retable.reproduce.run import FinishedRun, FinishedRuns


def finished(metrics: dict[str, dict[int, dict[str, float]]]) -> FinishedRuns:
    return {
        name: {seed: FinishedRun(Path(), metrics=own) for seed, own in by_seed.items()}
        for name, by_seed in metrics.items()
    }


RUNS = finished({
    "a": {0: {"knn.top1": 40.0, "pretrain.share": 0.25}, 1: {"knn.top1": 42.0}},
    "b": {0: {"knn.top1": 50.0, "pretrain.share": 0.5, "pretrain.real": 0.75}},
})  # fmt: skip


def test_a_figure_is_the_rows_own_times_its_factor() -> None:
    assert Metric("knn.top1").value("a", 1, RUNS) == 42.0
    assert Metric("pretrain.share", 100.0).value("b", 0, RUNS) == 50.0


def test_where_a_figure_is_missing_another_may_stand_for_it() -> None:
    column = Metric("pretrain.real", 100.0, otherwise="pretrain.share")
    assert column.value("b", 0, RUNS) == 75.0
    assert column.value("a", 0, RUNS) == 25.0
    assert column.value("a", 1, RUNS) is None


@pytest.mark.parametrize(("row", "seed"), [("c", 0), ("b", 1)])
def test_what_has_not_run_has_no_value(row: str, seed: int) -> None:
    assert Metric("knn.top1").value(row, seed, RUNS) is None


def test_a_gain_is_over_another_row_of_the_same_seed() -> None:
    gain = Gain(Metric("knn.top1"), over="a")
    assert gain.value("b", 0, RUNS) == 10.0
    assert gain.value("a", 1, RUNS) == 0.0
    assert gain.value("b", 1, RUNS) is None


def test_a_difference_is_between_columns_of_one_row() -> None:
    difference = Difference(Metric("knn.top1"), Metric("pretrain.share", 100.0))
    assert difference.value("a", 0, RUNS) == 15.0
    assert difference.value("a", 1, RUNS) is None


def test_a_ratio_is_between_columns_of_one_row() -> None:
    ratio = Ratio(Metric("pretrain.share"), Metric("pretrain.real"))
    assert ratio.value("b", 0, RUNS) == 0.5 / 0.75
    assert ratio.value("a", 0, RUNS) is None
    over_zero = Ratio(Metric("knn.top1"), Metric("knn.top1", 0.0)).value("a", 0, RUNS)
    assert over_zero is not None
    assert math.isnan(over_zero)


SIDE_BY_SIDE = finished({
    "base/res18": {0: {"knn.top1": 40.0}},
    "base/res50": {0: {"knn.top1": 60.0}},
    "ours/res18": {0: {"knn.top1": 45.0}},
    "ours/res50": {0: {"knn.top1": 61.0}},
})  # fmt: skip


def test_a_column_reads_one_of_the_trainings_that_a_row_holds() -> None:
    small, large = (Metric("knn.top1", variant=name) for name in ("res18", "res50"))
    assert small.value("ours", 0, SIDE_BY_SIDE) == 45.0
    assert large.value("ours", 0, SIDE_BY_SIDE) == 61.0
    assert Metric("knn.top1").value("ours", 0, SIDE_BY_SIDE) is None
    assert Gain(small, over="base").value("ours", 0, SIDE_BY_SIDE) == 5.0
    assert Difference(large, small).value("ours", 0, SIDE_BY_SIDE) == 16.0


def test_a_column_names_the_trainings_that_it_reads() -> None:
    small, large = (Metric("knn.top1", variant=name) for name in ("res18", "res50"))
    assert Metric("knn.top1").reads("a") == ("a",)
    assert small.reads("ours") == ("ours/res18",)
    assert Gain(small, over="base").reads("ours") == ("ours/res18", "base/res18")
    assert Difference(large, small).reads("ours") == ("ours/res50", "ours/res18")
    assert Ratio(large, small).reads("ours") == ("ours/res50", "ours/res18")


def test_a_column_that_reads_no_training_is_a_mistake_of_the_script(table: Table) -> None:
    with pytest.raises(ValueError, match="but top1 reads none of"):
        dataclasses.replace(table, columns={"top1": Metric("knn.top1", variant="res18")})


def test_a_table_is_named_after_its_folder_and_script(table: Table) -> None:
    assert table.name == "paper-unit"
    assert table.reference.name == "unit.toml"
    assert table.proxy_reference.name == "unit.proxy.toml"
