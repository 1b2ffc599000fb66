"""Defects planted in ReLICv2: each changes the training and leaves the loss finite."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from reproductions.relicv2.mask_probability import TABLE
from retable.data.cutting import layer_names
from retable.data.plans import EvaluationPlan
from retable.data.sources import open_source
from retable.data.workers import make_view_loader
from retable.methods import Batch, Progress
from retable.reproduce.plan import TableSelection, resolve_rows
from retable.train.recipe import PretrainRecipe, build_method
from studies.relicv2.mask_quality import AREA, KINDS, of_superpixels, overlap, simple_scenes
from studies.relicv2.planted_defects import METHODS, ROW, VIEWS, plant

DEFECTS = tuple(dict.fromkeys((*METHODS, *VIEWS)))


def batch_of(recipe: PretrainRecipe, images: int) -> Batch:
    source = open_source(recipe.data, "train")
    keys = tuple(range(len(recipe.views)))
    loader = make_view_loader(source, recipe.views, workers=0, device="cpu", resident=True)
    plan = EvaluationPlan(torch.arange(images), images, 7, keys)
    (made,) = loader.batches(plan, [0])
    places = torch.arange(images)
    labels = source.labels[made.indices]
    return Batch(made.views, labels, made.indices, places, Progress(0, 10, 2), 3, made.layers)


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_changes_the_second_step_and_trains(defect: str) -> None:
    (row,) = resolve_rows(TABLE, TableSelection(scale="smoke", rows=(ROW,))).values()
    losses = {}
    for name, planted in (("sound", row), (defect, plant(row, defect))):
        recipe = planted.pretrain
        if name == "small views masked" or name == "sound":
            assert layer_names(recipe.views) == ("mask",)
        # Masks of one view in ten would rarely show in two steps.
        views = [replace(view, mask_probability=0.8 if view.mask else 0.0) for view in recipe.views]
        recipe = replace(recipe, views=tuple(views))
        method = build_method(recipe, 0).train()
        optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], 0.1)
        found = []
        for _ in range(2):
            batch = batch_of(recipe, recipe.batch)
            output = method(batch)
            optimizer.zero_grad()
            output.loss.backward()
            optimizer.step()
            method.after_step(batch.progress)
            found.append(float(output.loss.detach()))
        losses[name] = found
    assert all(map(torch.isfinite, map(torch.tensor, losses[defect])))
    assert losses[defect][1] != losses["sound"][1]


def test_a_simple_scene_shows_an_object_of_one_area_that_its_colours_tell_apart() -> None:
    made = simple_scenes(8)
    assert {scene.kind for scene in made} == set(KINDS[2:])
    for scene in made:
        inside = scene.truth
        assert float(inside.float().mean()) == pytest.approx(AREA, abs=0.01)
        border = torch.cat([inside[0], inside[-1], inside[:, 0], inside[:, -1]])
        assert not border.any()
        near, far = (scene.image[:, part].float().mean(dim=1) for part in (inside, ~inside))
        assert float((near - far).norm()) > 0.3 * 255


def test_superpixels_cover_a_compact_object_but_for_its_edge() -> None:
    for scene in simple_scenes(4):
        assert 0.9 < overlap(of_superpixels(scene), scene.truth) < 1
