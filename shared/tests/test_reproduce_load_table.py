"""Loading of table scripts: by dotted name, or by path with neighbours of their own."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

from retable.errors import UserError
from retable.reproduce import Table, TableRow
from retable.reproduce.command import load_table

SCRIPT = """
from dataclasses import replace
from pathlib import Path
from {base} import TABLE
TABLE = replace(TABLE, script=Path(__file__))
"""
BASE = """
from dataclasses import replace
from pathlib import Path
from recipes import EPOCHS
from retable.encoders import ResNetRecipe
from retable.evaluate.knn import Knn
from retable.methods import moco_v2
from retable.reproduce import Metric, Table, TableRow
from retable.train.optim import OptimizerRecipe
from retable.train.recipe import PretrainRecipe
from retable.views import moco_v2 as view
recipe = PretrainRecipe(
    method=moco_v2(queue=128),
    data="",
    views=(view(32), view(32)),
    encoder=ResNetRecipe("small_resnet8"),
    optimizer=OptimizerRecipe(lr=0.03),
    epochs=EPOCHS,
    batch=64,
)
TABLE = Table(
    script=Path(__file__),
    rows={"moco": TableRow(recipe, (Knn(),))},
    columns={"top1": Metric("knn.top1")},
    proxy=lambda row: row,
    smoke=lambda row: row,
    images=128,
)
"""


def scripts(folder: Path, epochs: int, base: str = "table1") -> Path:
    """Write a table that imports another one, which imports recipes; return its script."""
    folder.mkdir()
    (folder / "recipes.py").write_text(f"EPOCHS = {epochs}\n")
    (folder / "table1.py").write_text(BASE)
    script = folder / "table1_extended.py"
    script.write_text(SCRIPT.format(base=base))
    return script


def epochs_of(table: Table) -> int:
    row = table.rows["moco"]
    assert isinstance(row, TableRow)
    return row.pretrain.epochs


def test_scripts_of_two_folders_import_their_own_neighbours(tmp_path: Path) -> None:
    first, second = (scripts(tmp_path / name, n) for name, n in (("first", 3), ("second", 5)))
    assert [epochs_of(load_table(script)) for script in (first, second, first)] == [3, 5, 3]
    assert load_table(second).script == second


def test_loading_a_script_leaves_imports_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = scripts(tmp_path / "paper", 3)
    imported = ModuleType("recipes")  # of another folder, imported by the program itself
    monkeypatch.setitem(sys.modules, "recipes", imported)
    path = list(sys.path)
    assert epochs_of(load_table(script)) == 3
    assert sys.modules["recipes"] is imported
    assert "table1" not in sys.modules
    assert sys.path == path


def test_a_script_that_fails_leaves_imports_as_they_were(tmp_path: Path) -> None:
    script = scripts(tmp_path / "paper", 3)
    script.write_text("import recipes\nraise ValueError('unfinished')\n")
    path = list(sys.path)
    with pytest.raises(ValueError, match="unfinished"):
        load_table(script)
    assert "recipes" not in sys.modules
    assert sys.path == path


def test_scripts_of_a_package_are_imported_by_their_dotted_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "papers_of_a_test").mkdir()
    (tmp_path / "papers_of_a_test" / "__init__.py").touch()
    for name, n in (("first", 3), ("second", 5)):
        folder = tmp_path / "papers_of_a_test" / name
        script = scripts(folder, n, f"papers_of_a_test.{name}.table1")
        (folder / "__init__.py").touch()
        base = BASE.replace("from recipes", f"from papers_of_a_test.{name}.recipes")
        (folder / "table1.py").write_text(base)
        assert epochs_of(load_table(script)) == n
        module = sys.modules[f"papers_of_a_test.{name}.table1_extended"]
        assert load_table(script) is vars(module)["TABLE"]
    assert "table1" not in sys.modules
    copy = tmp_path / "copy" / "papers_of_a_test"  # not the importable one
    shutil.copytree(tmp_path / "papers_of_a_test", copy)
    script = copy / "first" / "table1_extended.py"
    assert load_table(script).script == script


def test_files_without_a_table_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.py does not exist: name a script"):
        load_table(tmp_path / "nowhere.py")
    script = tmp_path / "other.py"
    script.write_text("TABLE = 3\n")
    with pytest.raises(UserError, match=r"other\.py must be a retable\.reproduce\.Table, got int"):
        load_table(script)
