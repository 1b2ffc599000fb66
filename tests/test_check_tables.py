"""Which rows the check of all tables trains, and what it says of a failure."""

import importlib.util
import shutil
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from retable import views
from retable.encoders import ResNetRecipe
from retable.errors import UserError
from retable.evaluate.knn import Knn
from retable.methods import SupervisedRecipe, moco_v2
from retable.reproduce import Metric, Table, TableRow
from retable.train.optim import OptimizerRecipe
from retable.train.recipe import PretrainRecipe

ROOT = Path(__file__).parents[1]
RECORDED = ROOT / "reproductions" / "mochi" / "table1.proxy.toml"


@pytest.fixture(scope="module")
def check() -> ModuleType:
    path = ROOT / "reproductions" / "check_tables.py"
    spec = importlib.util.spec_from_file_location("check_tables", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["check_tables"] = module
    spec.loader.exec_module(module)
    return module


def row(epochs: int = 1, *, supervised: bool = False) -> TableRow:
    view = views.moco_v2(32)
    recipe = PretrainRecipe(
        method=SupervisedRecipe(16) if supervised else moco_v2(queue=128),
        data="shapes?count=128&test_count=64&classes=16",
        views=(view,) if supervised else (view, view),
        encoder=ResNetRecipe("small_resnet8"),
        optimizer=OptimizerRecipe(lr=0.03),
        epochs=epochs,
        batch=64,
    )
    return TableRow(recipe, (Knn(k=20),))


def table(
    folder: Path,
    name: str,
    rows: Mapping[str, TableRow],
    check_rows: tuple[str, ...] = (),
    *,
    recorded: bool = True,
) -> Table:
    """Make a table whose rows no scale shrinks."""
    script = folder / "paper" / f"{name}.py"
    script.parent.mkdir(exist_ok=True)
    if recorded:
        shutil.copy(RECORDED, script.with_suffix(".proxy.toml"))
    return Table(
        script=script,
        rows=rows,
        columns={"top1": Metric("knn.top1")},
        proxy=lambda row: row,
        smoke=lambda row: row,
        images=128,
        check_rows=check_rows,
    )


ROWS = {"moco": row(), "longer": row(2), "supervised": row(supervised=True)}


def chosen(checks: list[Any]) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(check.table.script.stem, check.scale, check.rows) for check in checks]


def test_a_recorded_table_trains_the_rows_that_it_names(check: ModuleType, tmp_path: Path) -> None:
    recorded = table(tmp_path, "table1", ROWS, ("longer",))
    # Of the kind of `longer` nothing is left to run; the supervised row is of another kind.
    assert chosen(check.plan_checks([recorded])) == [
        ("table1", "proxy", ("longer",)),
        ("table1", "smoke", ("supervised",)),
    ]


def test_a_recorded_table_that_names_no_rows_is_an_error(check: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^paper-table1 has recorded numbers but names no rows"):
        check.plan_checks([table(tmp_path, "table1", ROWS)])


def test_a_table_may_only_name_rows_that_it_has(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`check_rows` must be rows of the table, got else"):
        table(tmp_path, "table1", ROWS, ("moco", "else"))


def test_one_row_of_each_kind_runs_at_smoke_scale(check: ModuleType, tmp_path: Path) -> None:
    first = table(tmp_path, "figure1", ROWS, recorded=False)
    second = table(tmp_path, "figure2", {"longer": row(2)}, recorded=False)
    # The second table has no kind of its own; its script still runs.
    assert chosen(check.plan_checks([first, second])) == [
        ("figure1", "smoke", ("moco", "supervised")),
        ("figure2", "smoke", ("longer",)),
    ]


def test_full_runs_all_rows(check: ModuleType, tmp_path: Path) -> None:
    tables = [
        table(tmp_path, "table1", ROWS, ("moco",)),
        table(tmp_path, "figure1", ROWS, recorded=False),
    ]
    assert chosen(check.plan_checks(tables, full=True)) == [
        ("table1", "proxy", ()),
        ("figure1", "smoke", ()),
    ]


def test_a_run_that_two_tables_share_is_trained_once(check: ModuleType, tmp_path: Path) -> None:
    tables = [
        table(tmp_path, "table1", ROWS, ("moco", "longer")),
        table(tmp_path, "table2", {"same": row(2)}, ("same",)),
    ]
    trainings = check.plan_trainings(check.plan_checks(tables, full=False)[:2])
    assert [run.recipe.epochs for run, _ in trainings] == [2, 1]
    (longer, two), (_, one) = trainings
    assert two == pytest.approx(2 * one)
    assert len(longer.rows) == 2


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (0, "ran"),
        (1, "missed"),
        (2, "failed with status 2"),
        (70, "failed with status 70"),
    ],
)
def test_a_failure_is_reported(
    check: ModuleType,
    tmp_path: Path,
    outcome: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = []

    def reproduce(table: Table, words: list[str]) -> int:
        asked.append(words)
        return outcome

    path = table(tmp_path, "table1", ROWS)
    monkeypatch.setattr(check, "reproduce", reproduce)
    monkeypatch.setattr(check, "find_scripts", lambda: [path.script])
    monkeypatch.setattr(check, "load_table", lambda script: path)
    monkeypatch.setattr(check, "train_all", lambda runs, folder: None)
    one = check.Check(path, "smoke", ("moco",))
    monkeypatch.setattr(check, "plan_checks", lambda tables, full: [one])
    assert check.main(["--runs", str(tmp_path / "runs")]) == outcome
    assert capsys.readouterr().out.splitlines()[-1].endswith(said)
    assert asked[0][:2] == ["--scale", "smoke"]
    assert asked[0][-2:] == ["--rows", "moco"]


def test_recorded_tables_run_with_the_first_recorded_seed(
    check: ModuleType, tmp_path: Path
) -> None:
    recorded = table(tmp_path, "table1", ROWS, ("moco",))
    other = table(tmp_path, "table2", ROWS, recorded=False)
    assert check.Check(recorded, "proxy").seeds == (1,)
    assert check.Check(recorded, "smoke").seeds == tuple(recorded.seeds["smoke"])
    assert check.Check(other, "smoke").seeds == tuple(other.seeds["smoke"])


def test_every_table_of_the_repository_is_found(check: ModuleType) -> None:
    names = {script.stem for script in check.find_scripts()}
    assert "table1" in names
    assert "check_tables" not in names


def test_every_recorded_table_names_a_pair_that_one_of_its_claims_compares(
    check: ModuleType,
) -> None:
    recorded = [path for path in check.find_scripts() if path.with_suffix(".proxy.toml").exists()]
    assert len(recorded) >= 7
    for script in recorded:
        claims = tomllib.loads(script.with_suffix(".toml").read_text())["claims"]
        rows = {name.partition("/")[0] for name in check.load_table(script).check_rows}
        assert any({claim["better"], claim["than"]} <= rows for claim in claims), script


def test_an_unknown_table_is_wrong_usage(check: ModuleType) -> None:
    with pytest.raises(UserError, match=r"^No table no-table\. Choose from .*mochi-table1"):
        check.main(["no-table"])
