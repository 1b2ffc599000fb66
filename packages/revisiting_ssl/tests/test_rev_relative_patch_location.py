"""Relative patch location: which pairs, in which order, with which class."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from retable.errors import UserError
from retable.nn.patches import PatchGrid, cut_patches
from retable.random import derive_key
from retable.testing import TinyEncoder, make_batch
from revisiting_ssl import (
    RelativePatchLocation,
    RelativePatchLocationRecipe,
    join_with_centre,
    location_pairs,
)

RECIPE = RelativePatchLocationRecipe(
    PatchGrid(cell=5, patch=3), embed_dim=2, hidden_dim=8, dropout=0.0
)


def build() -> RelativePatchLocation:
    return RECIPE.build(TinyEncoder(), 3)


def test_pairs_are_the_neighbours_row_by_row_each_with_the_centre() -> None:
    pairs = [(0, 4), (1, 4), (2, 4), (3, 4), (5, 4), (6, 4), (7, 4), (8, 4)]
    assert location_pairs() == pairs
    assert all(neighbour == (j if j < 4 else j + 1) for j, (neighbour, _) in enumerate(pairs))
    assert len(location_pairs(5)) == 24
    assert {centre for _, centre in location_pairs(5)} == {12}


@pytest.mark.parametrize("grid", [3, 5])
def test_rows_hold_the_neighbour_first_and_then_the_centre(grid: int) -> None:
    vectors = torch.randn(2, grid * grid, 3)
    rows = join_with_centre(vectors)
    for row, (neighbour, centre) in enumerate(location_pairs(grid)):
        expected = torch.cat([vectors[:, neighbour], vectors[:, centre]], dim=1)
        assert torch.equal(rows[:, row], expected)


@pytest.mark.parametrize("grid", [1, 2, 4])
def test_grids_without_a_centre_and_a_neighbour_are_refused(grid: int) -> None:
    with pytest.raises(UserError, match=f"must be an odd number of at least 3, got {grid}"):
        location_pairs(grid)


def test_every_image_gives_all_eight_rows_with_the_classes_tiled() -> None:
    rows, labels = build().rows(torch.randn(4, 9, 2), make_batch(size=4, sides=(15,)))
    assert rows.shape == (4, 8, 4)
    assert labels.tolist() == [list(range(8))] * 4


def test_the_loss_is_that_of_pairs_one_by_one() -> None:
    """Every pair by itself, in evaluation mode: patch, embedding, scores, logarithm."""
    method, batch = build().eval(), make_batch(size=4, sides=(15,))
    patches, losses = method.cut(batch), []
    for image, (label, pair) in itertools.product(range(4), enumerate(location_pairs())):
        vectors = [method.embed(method.encoder(patches[image, i][None]))[0] for i in pair]
        scores = method.head(torch.cat(vectors)[None, None], 0, torch.tensor([0]))[0, 0]
        losses.append(-scores.log_softmax(dim=0)[label])
    torch.testing.assert_close(method(batch).loss, torch.stack(losses).mean())


def test_the_metric_is_the_share_of_pairs_that_were_found() -> None:
    method = build().eval()
    nn.init.zeros_(method.head.scores.weight)
    with torch.no_grad():
        method.head.scores.bias.copy_(torch.arange(8))  # the last class, whatever the pair
    assert method(make_batch(size=4, sides=(15,))).metrics["accuracy"] == 1 / 8


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_each_step_drops_other_units_if_any(rate: float) -> None:
    fixed = PatchGrid(cell=5, patch=5)  # patches have no choice of place: only dropout is drawn
    recipe = replace(RECIPE, patches=fixed, hidden_dim=64, dropout=rate)
    method, batch = recipe.build(TinyEncoder(), 3), make_batch(size=4, sides=(15,))
    losses = [method(replace(batch, rng_key=key)).loss.item() for key in (7, 8, 7)]
    assert losses[0] == losses[2]
    assert (losses[0] != losses[1]) == (rate > 0)


def test_the_head_is_what_the_recipe_says() -> None:
    recipe = replace(RECIPE, hidden_dim=24, dropout=0.25, norm_momentum=0.2)
    head = recipe.build(TinyEncoder(), 3).head
    assert (head.dropout_rate, head.norm.momentum) == (0.25, 0.2)
    assert head.hidden.weight.shape == (24, 4)


def test_patches_are_cut_with_a_key_of_their_own_at_the_images_places() -> None:
    batch = make_batch(size=4, sides=(15,))
    rng_key = derive_key(batch.rng_key, "patches")
    expected = cut_patches(batch.views[0], RECIPE.patches, rng_key, batch.positions)
    assert torch.equal(build().cut(batch), expected)
