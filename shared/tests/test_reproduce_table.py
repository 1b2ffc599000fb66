from __future__ import annotations

from pathlib import Path

import pytest

from retable.errors import UserError
from retable.reproduce import Difference, Figure, Gain, Table
from retable.reproduce.command import load_table

FIGURES = {
    "a": {0: {"knn.top1": 40.0, "pretrain.share": 0.25}, 1: {"knn.top1": 42.0}},
    "b": {0: {"knn.top1": 50.0, "pretrain.share": 0.5, "pretrain.real": 0.75}},
}


def test_a_figure_is_the_rows_own_times_its_factor() -> None:
    assert Figure("knn.top1").value("a", 1, FIGURES) == 42.0
    assert Figure("pretrain.share", 100.0).value("b", 0, FIGURES) == 50.0


def test_where_a_figure_is_missing_another_may_stand_for_it() -> None:
    column = Figure("pretrain.real", 100.0, otherwise="pretrain.share")
    assert column.value("b", 0, FIGURES) == 75.0
    assert column.value("a", 0, FIGURES) == 25.0
    assert column.value("a", 1, FIGURES) is None


@pytest.mark.parametrize(("row", "seed"), [("c", 0), ("b", 1)])
def test_what_has_not_run_has_no_value(row: str, seed: int) -> None:
    assert Figure("knn.top1").value(row, seed, FIGURES) is None


def test_a_gain_is_over_another_row_of_the_same_seed() -> None:
    gain = Gain(Figure("knn.top1"), over="a")
    assert gain.value("b", 0, FIGURES) == 10.0
    assert gain.value("a", 1, FIGURES) == 0.0
    assert gain.value("b", 1, FIGURES) is None


def test_a_difference_is_between_columns_of_one_row() -> None:
    difference = Difference(Figure("knn.top1"), Figure("pretrain.share", 100.0))
    assert difference.value("a", 0, FIGURES) == 15.0
    assert difference.value("a", 1, FIGURES) is None


def test_a_table_is_named_after_its_folder_and_script(table: Table) -> None:
    assert table.name == "paper-unit"
    assert table.reference.name == "unit.toml"
    assert table.proxy_reference.name == "unit.proxy.toml"


def test_a_file_that_is_no_table_script_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.py does not exist: name a script"):
        load_table(tmp_path / "nowhere.py")
    script = tmp_path / "other.py"
    script.write_text("TABLE = 3\n")
    with pytest.raises(UserError, match=r"other\.py states no TABLE"):
        load_table(script)
