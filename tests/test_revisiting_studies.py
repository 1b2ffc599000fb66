"""Studies of the four pretext tasks: the settings that they change and those that they keep."""

from __future__ import annotations

import doctest
from dataclasses import replace
from types import ModuleType

import pytest

from reproductions.revisiting_ssl.grid_readings import PRETEXT
from retable.evaluate.logistic.probe import LogisticProbe
from retable.evaluate.mlp import MlpProbe
from retable.nn.patches import PatchGrid
from retable.reproduce.table import TableRow
from retable.views import ViewRecipe
from revisiting_ssl import JigsawRecipe, RelativePatchLocationRecipe
from studies.revisiting_ssl import mlp_gain, shortcuts
from studies.revisiting_ssl.proxy_rows import linear_of, rows_of

ROWS = rows_of("resnet50_v1", 4)


@pytest.fixture(params=["jigsaw", "relpatchloc"])
def row(request: pytest.FixtureRequest) -> TableRow:
    found: TableRow = ROWS[request.param]
    return TableRow(found.pretrain, (linear_of(found),))


@pytest.mark.parametrize("study", [shortcuts, mlp_gain])
def test_doctests_pass(study: ModuleType) -> None:
    assert doctest.testmod(study).failed == 0


def cut(row: TableRow) -> tuple[PatchGrid, ViewRecipe]:
    """Return the patch grid of a training and the view that it cuts."""
    method = row.pretrain.method
    assert isinstance(method, JigsawRecipe | RelativePatchLocationRecipe)
    (view,) = row.pretrain.views
    return method.patches, view


@pytest.mark.parametrize("way", list(shortcuts.WAYS))
def test_shortcuts_keep_the_patch_size_and_fit_the_view(row: TableRow, way: str) -> None:
    grid, view = cut(shortcuts.WAYS[way](row))
    assert view.size == grid.side
    assert grid.patch == cut(row)[0].patch


@pytest.mark.parametrize("way", list(shortcuts.WAYS))
def test_shortcuts_change_patches_and_views_only(row: TableRow, way: str) -> None:
    recipe = shortcuts.WAYS[way](row).pretrain
    assert isinstance(recipe.method, JigsawRecipe | RelativePatchLocationRecipe)
    method = replace(recipe.method, patches=cut(row)[0])
    assert replace(recipe, method=method, views=row.pretrain.views) == row.pretrain


def test_touching_patches_have_no_jitter_and_the_same_share_of_the_image(
    row: TableRow,
) -> None:
    _, before = cut(row)
    grid, after = cut(shortcuts.touching(row))
    assert grid.cell == grid.patch
    assert before.resize is not None
    assert after.resize is not None
    assert after.size / after.resize == pytest.approx(before.size / before.resize, abs=0.01)


def test_evaluation_standardises_patches_as_the_training_does(row: TableRow) -> None:
    for way, change in shortcuts.WAYS.items():
        changed = change(row)
        grid, view = cut(changed)
        seen = linear_of(changed).representation.patches
        assert seen is not None
        assert (
            grid.standardise == seen.standardise == (way not in ("not standardised", "all three"))
        )
        assert (view.gray_probability > 0) == (way not in ("never grey", "all three"))


def test_table_shows_both_accuracies_in_percent() -> None:
    found = {("jigsaw", "patches touch"): [{PRETEXT: 0.5, "imagenet.top1": 20.0}]}
    _, line = shortcuts.as_table(found).splitlines()
    assert line.split() == ["Jigsaw", "patches", "touch", "50.0", "20.0"]


@pytest.mark.parametrize("task", ["rotation", "jigsaw"])
def test_mlp_and_linear_probe_share_features(task: str) -> None:
    row = mlp_gain.with_both_probes(ROWS[task])
    linear, mlp = row.evaluations
    assert isinstance(linear, LogisticProbe)
    assert isinstance(mlp, MlpProbe)
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
