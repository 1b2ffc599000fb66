"""Which tables the continuous check trains at proxy scale, and what it says of a failure."""

import dataclasses
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from retable import views
from retable.encoders import ResNetRecipe
from retable.evaluate.knn import Knn
from retable.methods import moco_v2
from retable.reproduce import Metric, Table, TableRow
from retable.train.optim import OptimizerRecipe
from retable.train.recipe import PretrainRecipe

ROOT = Path(__file__).parents[1]


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


def row(epochs: int) -> TableRow:
    view = views.moco_v2(32)
    recipe = PretrainRecipe(
        method=moco_v2(queue=128),
        data="shapes?count=128&test_count=64&classes=16",
        views=(view, view),
        encoder=ResNetRecipe("small_resnet8"),
        optimizer=OptimizerRecipe(lr=0.03),
        epochs=epochs,
        batch=64,
    )
    return TableRow(recipe, (Knn(),))


def table(folder: Path, name: str, *epochs: int, recorded: bool = True) -> Table:
    """Make a table with a row for each number of epochs, not shrunk by any scale."""
    script = folder / "paper" / f"{name}.py"
    script.parent.mkdir(exist_ok=True)
    if recorded:
        script.with_suffix(".proxy.toml").touch()
    return Table(
        script=script,
        rows={f"row{n}": row(n) for n in epochs},
        columns={"top1": Metric("knn.top1")},
        proxy=lambda row: row,
        smoke=lambda row: row,
        images=128,
    )


@pytest.fixture
def epoch(check: ModuleType, tmp_path: Path) -> float:
    """Operations of one epoch."""
    (one,) = check.plan_checks([table(tmp_path, "unit", 1)], 1e18)
    return float(one.operations)


def test_tables_without_recorded_numbers_are_run_at_smoke_scale(
    check: ModuleType, tmp_path: Path
) -> None:
    (only,) = check.plan_checks([table(tmp_path, "table1", 1, recorded=False)], 1e18)
    assert only.scale == "smoke"


def test_the_budget_goes_to_tables_before_figures(
    check: ModuleType, tmp_path: Path, epoch: float
) -> None:
    tables = [table(tmp_path, "figure1", 2), table(tmp_path, "table1", 3)]
    checks = check.plan_checks(tables, 3.5 * epoch)
    scales = {chosen.table.script.stem: chosen.scale for chosen in checks}
    assert scales == {"table1": "proxy", "figure1": "smoke"}


def test_a_run_that_two_tables_share_is_counted_once(
    check: ModuleType, tmp_path: Path, epoch: float
) -> None:
    tables = [table(tmp_path, "table1", 2, 3), table(tmp_path, "table2", 3, 1)]
    checks = check.plan_checks(tables, 6.5 * epoch)
    assert [chosen.scale for chosen in checks] == ["proxy", "proxy"]
    assert sum(chosen.operations for chosen in checks) == pytest.approx(6 * epoch)


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import sys; sys.exit(0)", ""),
        ("import sys; sys.exit(1)", "missed"),
        ("import sys; sys.exit(2)", "failed with status 2"),
        ("import time; time.sleep(600)", "did not end within 0.02 minutes"),
    ],
)
def test_a_failure_is_said(check: ModuleType, tmp_path: Path, program: str, said: str) -> None:
    broken = table(tmp_path, "table1", 1)
    broken.script.write_text(program)
    chosen = check.Check(dataclasses.replace(broken), "smoke", 0.0)
    assert check.run_check(chosen, tmp_path / "runs", minutes=0.02) == said


def test_every_table_of_the_repository_is_found(check: ModuleType) -> None:
    names = {script.stem for script in check.find_scripts()}
    assert "table1" in names
    assert "mochi_recipes" not in names


def test_an_unknown_table_is_wrong_usage(
    check: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check.main(["no-table"]) == 2
    said = capsys.readouterr().out
    assert "error: no table no-table: choose from " in said
    assert "mochi-table1" in said
