"""Exemplar: which rows are compared, and what is logged."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from retable.errors import UserError
from retable.methods.method import Batch, Progress
from revisiting_ssl import Exemplar, ExemplarRecipe, semi_hard_triplet_loss
from revisiting_ssl.triplet import Axis, mine_semi_hard, normalised, squared_distances

VIEWS = 4


class Raw(nn.Module):
    """Six features of an image, its pixels."""

    feature_dim = 6

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def build(axis: Axis = "feature", group: int = 4, dim: int = 6) -> Exemplar:
    recipe = ExemplarRecipe(dim=dim, normalize_axis=axis, mining_group_images=group)
    return recipe.build(Raw(), 3)


def make_batch(images: int = 8, views: int = VIEWS, spread: float = 1.0) -> Batch:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(images, 3, 1, 2, generator=generator)
    rows = torch.arange(images)
    return Batch(
        views=tuple(
            centres + spread * torch.randn(images, 3, 1, 2, generator=generator)
            for _ in range(views)
        ),
        labels=rows,
        indices=rows,
        positions=rows,
        progress=Progress(0, 1, 1),
        rng_key=0,
    )


def embeddings_by_image(method: Exemplar, batch: Batch) -> list[list[Tensor]]:
    """Embed view by view and image by image: (images)(views) of (dim,)."""
    embedded = [method.embed(method.encoder(view)) for view in batch.views]
    return [[of_view[image] for of_view in embedded] for image in range(len(batch.positions))]


@pytest.mark.parametrize("axis", ["feature", "batch"])
@pytest.mark.parametrize("group", [2, 4, 8])
def test_the_loss_is_the_mean_over_groups_of_consecutive_images(axis: Axis, group: int) -> None:
    method, batch = build(axis, group), make_batch()
    rows = embeddings_by_image(method, batch)
    losses = []
    for first in range(0, 8, group):
        of_group = [row for image in rows[first : first + group] for row in image]
        labels = [image for image in range(group) for _ in range(VIEWS)]
        unit = normalised(torch.stack(of_group), axis)
        losses.append(semi_hard_triplet_loss(unit, torch.tensor(labels), 0.5, rows="unchecked"))
    torch.testing.assert_close(method(batch).loss, torch.stack(losses).mean())


def test_larger_groups_have_nearer_negatives() -> None:
    """What a device holds decides the loss, unless the group is fixed."""
    metrics = [build(group=group)(make_batch(16, spread=0.1)).metrics for group in (2, 4, 16)]
    assert all(of_group["fallback_share"] == 0 for of_group in metrics)
    nearest = [float(of_group["negative_distance"]) for of_group in metrics]
    assert nearest == sorted(nearest, reverse=True)
    assert nearest[0] > nearest[2] + 0.2


def test_the_labels_are_images_whatever_the_data_set_says() -> None:
    batch = make_batch()
    relabelled = replace(batch, labels=torch.zeros(8).long())
    assert torch.equal(build()(batch).loss, build()(relabelled).loss)


def test_metrics_are_those_of_the_pairs() -> None:
    method, batch = build(group=8), make_batch(spread=3.0)
    metrics = method(batch).metrics
    by_image = embeddings_by_image(method, batch)
    rows = normalised(torch.stack([row for image in by_image for row in image])).detach()
    labels = torch.arange(8).repeat_interleave(VIEWS)
    distances = squared_distances(rows).tolist()
    triplets = mine_semi_hard(squared_distances(rows), labels)
    pairs = [(a, p) for a in range(32) for p in range(32) if a != p and labels[a] == labels[p]]
    further = [
        max(distances[a][n] for n in range(32) if labels[n] != labels[a]) <= distances[a][p]
        for a, p in pairs
    ]
    expected = {
        "fallback_share": sum(further) / len(pairs),
        "positive_distance": sum(distances[a][p] for a, p in pairs) / len(pairs),
        "negative_distance": sum(distances[a][int(triplets.negatives[a, p])] for a, p in pairs)
        / len(pairs),
    }
    assert 0 < expected["fallback_share"] < 0.5
    assert {name: float(value) for name, value in metrics.items()} == pytest.approx(expected)


def test_a_collapsed_embedding_shows_as_pairs_without_further_negatives() -> None:
    method = build()
    nn.init.zeros_(method.embed.weight)
    nn.init.ones_(method.embed.bias)
    output = method(make_batch())
    assert output.loss == 0.5
    assert output.metrics["fallback_share"] == 1
    assert output.metrics["positive_distance"] == output.metrics["negative_distance"] == 0


def test_images_that_are_apart_have_no_loss() -> None:
    method = build(group=4, dim=6)
    with torch.no_grad():
        method.embed.weight.copy_(torch.eye(6))
    images = 5 * torch.eye(4, 6).view(4, 3, 1, 2)
    output = method(replace(make_batch(4), views=(images,) * VIEWS))
    assert output.loss == 0
    assert float(output.metrics["negative_distance"]) == pytest.approx(2.0)


def test_shares_that_hold_no_whole_group_are_refused() -> None:
    with pytest.raises(UserError, match="a multiple of `mining_group_images` = 4, got 6"):
        build()(make_batch(6))


def test_one_view_is_too_few() -> None:
    with pytest.raises(UserError, match="must be two or more, got 1"):
        build()(make_batch(views=1))
