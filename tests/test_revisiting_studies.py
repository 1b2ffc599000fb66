"""Studies beside the tables: what they change in a training or an evaluation, and what not."""

from __future__ import annotations

import doctest
import importlib
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from retable.evaluate.mlp import MlpProbe
from retable.nn.patches import PatchGrid
from retable.reproduce.table import TableRow
from retable.views import ViewRecipe
from revisiting_ssl import JigsawRecipe, RelativePatchLocationRecipe

FOLDER = Path(__file__).parents[1] / "reproductions" / "revisiting_ssl"


def script(name: str) -> ModuleType:
    """Import a script as it imports those beside it, by their bare names."""
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(FOLDER))


S, M = script("shortcuts"), script("mlp_gain")
ROWS = S.rows_of("resnet50_v1", 4)


@pytest.fixture(params=["jigsaw", "relpatchloc"])
def row(request: pytest.FixtureRequest) -> TableRow:
    found: TableRow = ROWS[request.param]
    return TableRow(found.pretrain, (S.linear_of(found),))


@pytest.mark.parametrize("study", [S, M])
def test_the_examples_are_true(study: ModuleType) -> None:
    assert doctest.testmod(study).failed == 0


def cut(row: TableRow) -> tuple[PatchGrid, ViewRecipe]:
    """Return how a training's patches are cut, and from which view."""
    method = row.pretrain.method
    assert isinstance(method, JigsawRecipe | RelativePatchLocationRecipe)
    (view,) = row.pretrain.views
    return method.patches, view


@pytest.mark.parametrize("way", list(S.WAYS))
def test_every_way_cuts_patches_of_the_same_size_from_views_that_fit(
    row: TableRow, way: str
) -> None:
    grid, view = cut(S.WAYS[way](row))
    assert view.size == grid.side
    assert grid.patch == cut(row)[0].patch


@pytest.mark.parametrize("way", list(S.WAYS))
def test_nothing_else_of_a_training_changes(row: TableRow, way: str) -> None:
    recipe = S.WAYS[way](row).pretrain
    method = replace(recipe.method, patches=cut(row)[0])
    assert replace(recipe, method=method, views=row.pretrain.views) == row.pretrain


def test_touching_patches_have_no_choice_of_place_and_show_as_much_of_the_image(
    row: TableRow,
) -> None:
    _, before = cut(row)
    grid, after = cut(S.touching(row))
    assert grid.cell == grid.patch
    assert before.resize is not None
    assert after.resize is not None
    assert after.size / after.resize == pytest.approx(before.size / before.resize, abs=0.01)


def test_an_encoder_is_evaluated_on_patches_as_it_was_trained_on(row: TableRow) -> None:
    for way, change in S.WAYS.items():
        changed = change(row)
        grid, view = cut(changed)
        seen = S.linear_of(changed).representation.patches
        assert (
            grid.standardise == seen.standardise == (way not in ("not standardised", "all three"))
        )
        assert (view.gray_probability > 0) == (way not in ("never grey", "all three"))


def test_both_accuracies_are_told_in_percent() -> None:
    found = {("jigsaw", "patches touch"): [{S.PRETEXT: 0.5, "imagenet.top1": 20.0}]}
    _, line = S.as_table(found).splitlines()
    assert line.split() == ["Jigsaw", "patches", "touch", "50.0", "20.0"]


@pytest.mark.parametrize("task", ["rotation", "jigsaw"])
def test_the_mlp_sees_the_features_that_the_linear_classifier_sees(task: str) -> None:
    row = M.judged_by_both(ROWS[task])
    linear, mlp = row.evaluations
    assert row.pretrain == ROWS[task].pretrain
    assert mlp.test_view == linear.view
    assert mlp.train_view is None  # the test view, once
    assert (mlp.representation, mlp.data) == (linear.representation, linear.data)
    paper = MlpProbe()
    assert mlp == replace(
        paper,
        batch=64,
        penalty=5.0,
        test_view=mlp.test_view,
        representation=mlp.representation,
        data=mlp.data,
    )
