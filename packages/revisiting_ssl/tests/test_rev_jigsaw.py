"""Jigsaw: which permutations are drawn, and how embeddings are joined."""

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from retable.nn.patches import PatchGrid
from retable.testing import TinyEncoder, make_batch
from revisiting_ssl import Jigsaw, JigsawRecipe, draw_permutations, join, permutation_set

GRID = PatchGrid(cell=5, patch=3)
RECIPE = JigsawRecipe(
    GRID, embed_dim=2, hidden_dim=8, permutations=12, permutations_per_image=5, dropout=0.0
)


def build(recipe: JigsawRecipe = RECIPE) -> Jigsaw:
    return recipe.build(TinyEncoder(), 3)


# Which permutations


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.data())
def test_no_permutation_is_drawn_twice_for_an_image(chosen: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, chosen))
    drawn = draw_permutations(5, torch.arange(20), count, chosen)
    assert drawn.shape == (20, count)
    assert int(drawn.min()) >= 0
    assert int(drawn.max()) < chosen
    assert all(len(set(row)) == count for row in drawn.tolist())


def test_each_permutation_is_drawn_as_often_as_any_other_in_each_place() -> None:
    drawn = draw_permutations(5, torch.arange(6000), 3, 12)
    counts = nn.functional.one_hot(drawn).sum(dim=0)  # (3, 12), 500 each
    assert int((counts - 500).abs().max()) < 110  # five standard deviations


def test_images_draw_independently_of_each_other() -> None:
    drawn = draw_permutations(5, torch.arange(6000), 3, 12)
    shown = nn.functional.one_hot(drawn).sum(dim=1).double() - 3 / 12
    # An image and the next, each permutation with each: no draw serves for two.
    between = shown[:-1].T @ shown[1:] / len(shown)
    assert between.abs().max() < 0.02  # 3 / 16 if draws were shared; six standard deviations


def test_a_part_of_the_batch_draws_what_the_whole_does_and_another_step_does_not() -> None:
    whole = draw_permutations(5, torch.arange(8), 16, 100)
    assert torch.equal(draw_permutations(5, torch.arange(4, 8), 16, 100), whole[4:])
    assert not torch.equal(draw_permutations(6, torch.arange(8), 16, 100), whole)
    assert not torch.equal(whole[0], whole[1])


# How they are joined


def test_place_j_holds_the_embedding_of_patch_pi_of_j() -> None:
    vectors = torch.arange(2 * 9 * 4).view(2, 9, 4).float()
    orders = permutation_set(9, 6).view(2, 3, 9)
    joined = join(vectors, orders)
    assert joined.shape == (2, 3, 36)
    for image, row, place in itertools.product(range(2), range(3), range(9)):
        patch = int(orders[image, row, place])
        expected = vectors[image, patch]
        assert torch.equal(joined[image, row, 4 * place : 4 * place + 4], expected)


def test_the_identity_joins_patches_row_by_row() -> None:
    vectors = torch.randn(2, 9, 4)
    assert torch.equal(join(vectors, torch.arange(9).expand(2, 1, 9))[:, 0], vectors.flatten(1))


# The method


def test_rows_are_images_times_permutations_and_classes_are_the_drawn_ones() -> None:
    method, batch = build(), make_batch(size=4, sides=(15,))
    vectors = torch.randn(4, 9, 2)
    rows, labels = method.rows(vectors, batch)
    assert rows.shape == (4, 5, 18)
    assert torch.equal(labels, method.draw(batch))
    for image, row in itertools.product(range(4), range(5)):
        order = permutation_set(9, 12)[labels[image, row]]
        assert torch.equal(rows[image, row], vectors[image, order].flatten())


def test_the_papers_numbers_of_rows_and_classes() -> None:
    method = JigsawRecipe(GRID, embed_dim=2, hidden_dim=8).build(TinyEncoder(), 3)
    rows, labels = method.rows(torch.randn(3, 9, 2), make_batch(size=3, sides=(15,)))
    assert rows.shape == (3, 16, 18)
    assert method.head.scores.out_features == 100
    assert int(labels.max()) < 100


def test_the_loss_is_that_of_patches_joined_one_by_one() -> None:
    """Every row by itself, in evaluation mode: patch, embedding, order, scores, logarithm."""
    method, batch = build().eval(), make_batch(size=4, sides=(15,))
    patches, drawn = method.cut(batch), method.draw(batch)
    losses = []
    for image, row in itertools.product(range(4), range(5)):
        label = int(drawn[image, row])
        vectors = [method.embed(method.encoder(patch[None]))[0] for patch in patches[image]]
        joined = torch.cat([vectors[patch] for patch in method.permutations[label].tolist()])
        scores = method.head(joined[None, None], 0, torch.tensor([0]))[0, 0]
        losses.append(-scores.log_softmax(dim=0)[label])
    torch.testing.assert_close(method(batch).loss, torch.stack(losses).mean())


def test_patches_are_standardised_and_lie_elsewhere_in_each_step() -> None:
    method, batch = build(), make_batch(size=4, sides=(15,))
    patches = method.cut(batch)
    assert patches.shape == (4, 9, 3, 3, 3)
    torch.testing.assert_close(patches.mean((2, 3, 4)), torch.zeros(4, 9), rtol=0, atol=1e-5)
    deviation = patches.std((2, 3, 4), correction=0)
    torch.testing.assert_close(deviation, torch.ones(4, 9))
    assert not torch.equal(method.cut(replace(batch, rng_key=8)), patches)


@pytest.mark.parametrize("selection", ["mean", "minimum"])
def test_the_set_belongs_to_the_recipe_and_is_stored_with_the_weights(selection: str) -> None:
    recipe = replace(RECIPE, selection=selection)  # type: ignore[arg-type]
    expected = permutation_set(9, 12, recipe.selection)
    for key in (3, 4):
        method = recipe.build(TinyEncoder(), key)
        assert torch.equal(method.permutations, expected)
        assert torch.equal(method.state_dict()["permutations"], expected)


def test_a_grid_of_another_size_has_permutations_of_its_own() -> None:
    recipe = replace(RECIPE, patches=PatchGrid(2, 5, 3))
    method = recipe.build(TinyEncoder(), 3)
    batch = replace(make_batch(size=4, sides=(15,)), views=(torch.rand(4, 3, 10, 10),))
    assert method.permutations.shape == (12, 4)
    assert method(batch).loss.isfinite()
