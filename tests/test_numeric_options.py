"""Every numeric field of every recipe, and every numeric option, refuses nonsense in a sentence.

Nothing is trained: values are given by ``--set`` and on the command line.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from reproductions.check_tables import find_scripts
from retable import cli
from retable.errors import UserError
from retable.evaluate import named_protocol, protocol_names
from retable.reproduce import Table, main
from retable.reproduce.arguments import parse
from retable.reproduce.checks import check_recipes
from retable.reproduce.command import load_table
from retable.reproduce.plan import TableSelection, plan_runs, resolve_rows
from retable.settings import parse_setting, validate_fields, with_field
from retable.train.options import RunOptions
from retable.views import ViewRecipe

SCRIPTS = find_scripts()

NONSENSE = ("NaN", "Infinity", "-Infinity", "-1", "1e308", "1e400", "9" * 400, "true", "text")
"""No numeric field of a recipe accepts one of these."""

DOUBTFUL = ("0", "[]", "null", "2.5")
"""Accepted by some fields and refused by others, in both cases without a traceback."""


def numbers(recipe: Any, path: str = "") -> Iterator[tuple[str, tuple[type, str]]]:
    """Yield the path of each field that holds numbers, with its class and name."""
    for field in dataclasses.fields(recipe):
        value, inner = getattr(recipe, field.name), f"{path}{field.name}"
        if dataclasses.is_dataclass(value):
            yield from numbers(value, f"{inner}.")
        items = value if isinstance(value, tuple) and value else (value,)
        if all(isinstance(item, int | float) and not isinstance(item, bool) for item in items):
            yield inner, (type(recipe), field.name)


def refusal(recipe: Any, path: str, text: str) -> str | None:
    """Return the sentence that refuses a setting, None if it is accepted."""
    try:
        with_field(recipe, path.split("."), parse_setting(f"{path}={text}")[1], path)
    except UserError as error:
        return str(error)
    return None


def check(recipe: Any, seen: set[tuple[type, str]]) -> None:
    for path, field in numbers(recipe):
        if field in seen:
            continue
        seen.add(field)
        for text in NONSENSE:
            said = refusal(recipe, path, text)
            assert said is not None, f"{field} accepts {text[:9]}"
            assert field[1] in said
            assert "\n" not in said
            assert len(said) < 400
        for text in DOUBTFUL:
            refusal(recipe, path, text)


@pytest.fixture(autouse=True)
def _no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


def test_every_number_of_every_recipe_has_a_domain() -> None:
    seen: set[tuple[type, str]] = set()
    for script in SCRIPTS:
        table = load_table(script)
        for row in resolve_rows(table, TableSelection(scale="paper", data="shapes")).values():
            check(row.pretrain, seen)
            for view in row.pretrain.views:
                check(view, seen)
            for evaluation in row.evaluations:
                check(evaluation, seen)
    for name in protocol_names():
        check(named_protocol(name, 32), seen)
    assert len(seen) > 100
    assert {kind.__name__ for kind, _ in seen} > {"MoCHiRecipe", "VggRecipe", "ExemplarRecipe"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_no_recipe_in_use_is_refused(script: Path) -> None:
    table = load_table(script)
    for scale in ("smoke", "proxy", "paper"):
        data = "shapes" if scale == "paper" else None
        for row in resolve_rows(table, TableSelection(scale=scale, data=data)).values():
            for recipe in (row.pretrain, *row.evaluations):
                validate_fields(recipe)


@pytest.mark.parametrize("path", ["method.temperature", "method.queue", "batch", "optimizer.lr"])
@pytest.mark.parametrize("text", ["0", "1", "1e38", "1000000"])
def test_an_extreme_number_never_ends_a_check_in_a_traceback(path: str, text: str) -> None:
    table = load_table(SCRIPTS[-1].parents[1] / "mochi" / "table1.py")
    overrides = (f"pretrain.{path}={text}",)
    selection = TableSelection(scale="smoke", rows=("moco_v2",), overrides=overrides)
    with contextlib.suppress(UserError):
        check_recipes(plan_runs(resolve_rows(table, selection), [0]), 1, RunOptions())


@pytest.fixture(scope="module")
def table() -> Table:
    return load_table(SCRIPTS[-1].parents[1] / "mochi" / "table1.py")


@pytest.mark.parametrize(
    "option", ["--processes", "--jobs", "--workers", "--accumulate", "--max-steps", "--seeds"]
)
def test_every_numeric_option_of_a_table_has_a_domain(option: str, table: Table) -> None:
    for text in (*NONSENSE, "0-2000000000", "1-0", "²", "", "1.5"):
        with pytest.raises(UserError) as refused:
            parse(table, [f"{option}={text}"])
        assert option in str(refused.value)
        assert len(str(refused.value)) < 400


@pytest.mark.parametrize("option", ["--size", "--seed", "--workers"])
@pytest.mark.parametrize("text", [*NONSENSE, "1e9", "99999999999"])
def test_every_numeric_option_of_an_evaluation_has_a_domain(
    option: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["evaluate", "untrained:small_resnet8", f"{option}={text}"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"retable: Argument {option}: must be an integer of at ")
    assert said.count("\n") == 1


@pytest.mark.parametrize("text", [*NONSENSE, "0"])
def test_every_numeric_option_of_a_picture_has_a_domain(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plot", "scores", "runs", f"--smooth={text}"]) == 2
    assert "Argument --smooth: must be an integer of at " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../../evil", "/evil", ".hidden", "", "a b", "x" * 65, "a.b"])
def test_the_name_of_an_evaluation_cannot_lead_out_of_the_folder(
    name: str, table: Table, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--scale", "smoke", "--rows", "moco_v2", "--runs", str(tmp_path / "runs")]
    assert main(table, [*words, "--set", f"linear.name={name}"]) == 2
    assert "`name` must be a name of up to 64 letters" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_temperature_that_prefers_the_farthest_neighbours_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["evaluate", "untrained:small_resnet8", "--protocol", "knn", "--device", "cpu"]
    assert cli.main([*words, "--set", "temperature=-1"]) == 2
    assert "`temperature` must be positive, got -1.0" in capsys.readouterr().err


def test_probes_are_refused_before_the_pretraining(
    table: Table, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for setting in ("linear.lr=0", "linear.milestones=[-1]", "linear.gamma=-0.1"):
        words = ["--scale", "smoke", "--rows", "moco_v2", "--runs", str(tmp_path / "runs")]
        assert main(table, [*words, "--set", setting]) == 2
        assert setting.partition("=")[0].partition(".")[2] in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@dataclasses.dataclass(frozen=True)
class HeirOfAView(ViewRecipe):
    """A recipe of a script, which has no checks of its own."""


def test_a_recipe_of_a_script_inherits_the_checks() -> None:
    with pytest.raises(UserError, match="`size` must be at least 1, got 0"):
        HeirOfAView(0)
    with pytest.raises(UserError, match="`std` must be positive in each item, got"):
        HeirOfAView(8, std=(1.0, 0.0, 1.0))
    with pytest.raises(UserError, match="`jitter` must be 4 values, got "):
        HeirOfAView(8, jitter=(0.1, 0.1, 0.1))  # type: ignore[arg-type]


def test_pictures_of_a_package_have_domains(capsys: pytest.CaptureFixture[str]) -> None:
    pictures = pytest.importorskip("revisiting_ssl.pictures")
    assert isinstance(pictures, ModuleType)
    for option in ("--images", "--size", "--seed"):
        for text in NONSENSE:
            words = ["--task", "rotation", "--out", "x.png", f"{option}={text}"]
            assert pictures.main(words) == 2
            assert f"Argument {option}: must be an integer of" in capsys.readouterr().err
