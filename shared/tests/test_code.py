"""Names of classes, and digests of the files that define them."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from retable import code
from retable.code import class_names, classes_of, code_digest
from retable.methods import moco_v2
from retable.reproduce.command import load_table
from retable.views import moco_v2 as view

Digest = Callable[..., str]


@pytest.fixture
def digest() -> Iterator[Digest]:
    """Return a digest that reads the files again at each call."""

    def fresh(*things: object) -> str:
        code._digest_of_file.cache_clear()
        code._digest_of_module.cache_clear()
        return code_digest(set().union(*map(classes_of, things)))

    yield fresh
    fresh()


@dataclass(frozen=True)
class Holder:
    parts: tuple[Any, ...]
    by_name: dict[str, Any]


def test_classes_are_those_of_all_fields() -> None:
    found = classes_of(Holder((moco_v2(queue=8),), {"view": view(8)}))
    assert {Holder, type(moco_v2()), type(view(8))} <= found
    names = class_names(Holder((), {}), moco_v2())
    assert "retable.methods.moco.MoCoRecipe" in names
    assert any(name.endswith(".Holder") for name in names)
    assert not [name for name in names if name.startswith("builtins")]


def test_the_code_digest_covers_the_package_of_a_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digest: Digest
) -> None:
    package = tmp_path / "some_paper"
    package.mkdir()
    (package / "__init__.py").write_text("class Recipe: ...\n")
    (package / "losses.py").write_text("loss = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    recipe = importlib.import_module("some_paper").Recipe()
    before = digest(recipe)
    assert before != digest()
    (package / "losses.py").write_text("loss = 2\n")
    assert digest(recipe) != before


def test_the_code_digest_covers_the_names_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digest: Digest
) -> None:
    package = tmp_path / "named_paper"
    package.mkdir()
    (package / "__init__.py").write_text("class Recipe: ...\n")
    (package / "one.py").write_text("LR = 0.1\n")
    monkeypatch.syspath_prepend(tmp_path)
    recipe = importlib.import_module("named_paper").Recipe()
    before = digest(recipe)
    (package / "one.py").rename(package / "two.py")
    assert digest(recipe) != before


def test_the_code_digest_covers_inherited_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digest: Digest
) -> None:
    (tmp_path / "base_of_a_paper.py").write_text("class Base: ...\n")
    (tmp_path / "heir_of_a_paper.py").write_text(
        "import base_of_a_paper\nclass Recipe(base_of_a_paper.Base): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    recipe = importlib.import_module("heir_of_a_paper").Recipe()
    before = digest(recipe)
    (tmp_path / "base_of_a_paper.py").write_text("class Base: x = 1\n")
    assert digest(recipe) != before


def test_the_code_digest_covers_what_a_plain_module_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digest: Digest
) -> None:
    (tmp_path / "constants_of_it.py").write_text("RATE = 1\n")
    (tmp_path / "losses_of_it.py").write_text(
        "import constants_of_it\ndef loss(): return constants_of_it.RATE\n"
    )
    (tmp_path / "method_of_it.py").write_text("from losses_of_it import loss\nclass Recipe: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    recipe = importlib.import_module("method_of_it").Recipe()
    before = digest(recipe)
    assert before == digest(recipe)
    (tmp_path / "constants_of_it.py").write_text("RATE = 2\n")
    assert digest(recipe) != before


SCRIPT = """
import sys
from dataclasses import dataclass
from retable.code import class_names, classes_of, code_digest

@dataclass(frozen=True)
class Recipe:
    rate: float = {rate}

if __name__ == "__main__":
    print(class_names(Recipe())[0], code_digest(classes_of(Recipe())))
"""


def facts_of_script(script: Path, *words: str, folder: Path | None = None) -> list[str]:
    command = [sys.executable, *(words or (str(script),))]
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    return found.stdout.split()


def test_a_class_of_a_script_is_named_by_its_path_and_its_source_counts(tmp_path: Path) -> None:
    facts = []
    for name, rate in (("one", 1), ("two", 1), ("one", 2)):
        script = tmp_path / name / "script.py"
        script.parent.mkdir(exist_ok=True)
        script.write_text(SCRIPT.format(rate=rate))
        facts.append(facts_of_script(script))
    (one, of_one), (two, of_two), (again, of_changed) = facts
    assert one == again != two
    assert one.startswith("script_")
    assert one.endswith(".Recipe")
    assert len({of_one, of_two, of_changed}) == 3


def test_a_script_of_a_package_has_one_name_however_it_is_started(tmp_path: Path) -> None:
    package = tmp_path / "scripts_of_a_paper"
    package.mkdir()
    (package / "__init__.py").touch()
    script = package / "table1.py"
    script.write_text(SCRIPT.format(rate=1))
    statement = (
        "import sys; sys.path.insert(0, '.'); from scripts_of_a_paper.table1 import *; "
        "print(class_names(Recipe())[0], code_digest(classes_of(Recipe())))"
    )
    found = [
        facts_of_script(script, *words, folder=tmp_path)
        for words in (("-m", "scripts_of_a_paper.table1"), ("-c", statement))
    ]
    assert found[0] == found[1]
    assert found[0][0] == "scripts_of_a_paper.table1.Recipe"


TABLE = """
from pathlib import Path
from recipes_beside import Recipe
from retable.reproduce import Table
TABLE = Table(script=Path(__file__), rows={}, columns={}, proxy=lambda row: row,
              smoke=lambda row: row, images=1)
RECIPE = Recipe()
"""


def test_a_module_beside_a_loaded_script_is_told_from_one_of_another_folder(
    tmp_path: Path, digest: Digest
) -> None:
    recipes = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "recipes_beside.py").write_text("class Recipe: ...\n")
        (folder / "table.py").write_text(TABLE)
        load_table(folder / "table.py")
        recipes.append(vars(sys.modules[code.script_name(folder / "table.py")])["RECIPE"])
    assert class_names(recipes[0]) != class_names(recipes[1])
    before = digest(recipes[0])
    (tmp_path / "one" / "recipes_beside.py").write_text("class Recipe: x = 1\n")
    assert digest(recipes[0]) != before
