"""The semi-hard triplet loss against the double loop of its definition."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from revisiting_ssl.triplet import (
    mine_semi_hard,
    normalised,
    semi_hard_triplet_loss,
    squared_distances,
    triplet_loss,
)


def plain_loss(embeddings: Tensor, labels: list[int], margin: float) -> Tensor:
    """Loop over ordered pairs as the paper's sheet writes it, in the embeddings' precision."""
    n = len(labels)
    d = [[(embeddings[i] - embeddings[j]).square().sum() for j in range(n)] for i in range(n)]
    terms = []
    for a, p in itertools.permutations(range(n), 2):
        negatives = [d[a][m] for m in range(n) if labels[m] != labels[a]]
        if labels[a] != labels[p] or not negatives:
            continue
        further = [distance for distance in negatives if distance > d[a][p]]
        chosen = min(further) if further else max(negatives)
        terms.append((margin + d[a][p] - chosen).clamp(min=0))
    return torch.stack(terms).mean() if terms else embeddings.sum() * 0


def random_embeddings(n: int, dim: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dim, generator=generator, dtype=torch.float64)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=12),
    st.integers(1, 5),
    st.floats(0.05, 4.0),
    st.integers(0, 10_000),
)
def test_loss_and_gradient_are_those_of_the_double_loop(
    labels: list[int], dim: int, margin: float, seed: int
) -> None:
    rows = random_embeddings(len(labels), dim, seed).requires_grad_()
    found = semi_hard_triplet_loss(rows, torch.tensor(labels), margin, rows="unchecked")
    expected = plain_loss(rows, labels, margin)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, rows), torch.autograd.grad(expected, rows)
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=10))
def test_equal_distances_are_no_further_ones(rows: list[tuple[int, int]]) -> None:
    """On whole numbers distances are exact, and many are equal: a tie is not further away."""
    embeddings = torch.tensor([[float(place)] for place, _ in rows], dtype=torch.float64)
    labels = [label for _, label in rows]
    found = triplet_loss(
        (embeddings - embeddings.T).square(),
        mine_semi_hard((embeddings - embeddings.T).square(), torch.tensor(labels)),
        0.5,
    )
    torch.testing.assert_close(found, plain_loss(embeddings, labels, 0.5))


def test_four_points_on_a_line() -> None:
    # Two of four pairs fall back on the furthest negative, at 1 where the positive is at 4.
    line, labels = torch.tensor([[0.0], [2.0], [1.0], [3.0]]), torch.tensor([0, 0, 1, 1])
    assert semi_hard_triplet_loss(line, labels, 0.5, rows="unchecked") == 1.75
    triplets = mine_semi_hard(squared_distances(line), labels)
    assert triplets.fallback.nonzero().tolist() == [[1, 0], [2, 3]]
    assert triplets.pairs.nonzero().tolist() == [[0, 1], [1, 0], [2, 3], [3, 2]]


@pytest.mark.parametrize("row", [[0.1, 0.7, -0.3], [1000.1, -700.7, 0.3]])
@pytest.mark.parametrize("margin", [0.5, 1.0])
def test_a_collapsed_embedding_has_exactly_the_margin_as_loss(
    row: list[float], margin: float
) -> None:
    embeddings = torch.tensor(row).expand(24, 3)
    assert (
        semi_hard_triplet_loss(embeddings, torch.arange(24) // 8, margin, rows="unchecked")
        == margin
    )


def test_images_at_right_angles_with_equal_views_have_no_loss() -> None:
    embeddings = torch.eye(6).repeat_interleave(4, dim=0)
    labels = torch.arange(6).repeat_interleave(4)
    assert semi_hard_triplet_loss(embeddings, labels, 0.5, rows="unchecked") == 0
    # Negatives are at 2: a larger margin is not kept.
    assert semi_hard_triplet_loss(embeddings, labels, 2.5, rows="unchecked") == 0.5


def test_the_loss_does_not_depend_on_the_order_of_rows() -> None:
    embeddings, labels = random_embeddings(24, 5, 0), torch.arange(24) // 4
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        semi_hard_triplet_loss(embeddings[order], labels[order], rows="unchecked"),
        semi_hard_triplet_loss(embeddings, labels, rows="unchecked"),
    )


def test_on_the_unit_sphere_neither_scale_nor_rotation_matters() -> None:
    embeddings, labels = random_embeddings(24, 5, 0), torch.arange(24) // 4
    scale = torch.rand(24, 1, generator=torch.Generator().manual_seed(1)).double() * 9 + 0.1
    turn = torch.linalg.qr(random_embeddings(5, 5, 2)).Q
    expected = semi_hard_triplet_loss(normalised(embeddings), labels)
    for changed in (embeddings * scale, embeddings @ turn):
        found = semi_hard_triplet_loss(normalised(changed), labels)
        torch.testing.assert_close(found, expected)


def test_the_gradient_flows_through_the_pair_and_its_negative_only() -> None:
    # One anchor's pair and the negative at 0.6; the one at 5 is never the nearest further one.
    line = torch.tensor([[0.0], [0.5], [0.6], [5.0]], requires_grad=True)
    labels, distances = torch.tensor([0, 0, 1, 2]), squared_distances(line)
    triplets = mine_semi_hard(distances, labels)
    assert triplets.negatives[0, 1] == 2
    # From 0.5 the negative at 0.6 is nearer than the positive, so that at 5 is chosen.
    assert triplets.negatives[1, 0] == 3
    (gradient,) = torch.autograd.grad(semi_hard_triplet_loss(line, labels, rows="unchecked"), line)
    (expected,) = torch.autograd.grad((0.5 + distances[0, 1] - distances[0, 2]) / 2, line)
    assert gradient[3] == 0  # its term is below zero
    torch.testing.assert_close(gradient, expected)


def test_groups_are_mined_by_themselves() -> None:
    groups, labels = random_embeddings(36, 4, 3).view(3, 12, 4), torch.arange(12) // 3
    expected = [semi_hard_triplet_loss(group, labels, rows="unchecked") for group in groups]
    torch.testing.assert_close(
        semi_hard_triplet_loss(groups, labels, rows="unchecked"), torch.stack(expected)
    )
    together = semi_hard_triplet_loss(groups.flatten(0, 1), torch.arange(36) // 3, rows="unchecked")
    assert not torch.isclose(together, torch.stack(expected).mean())


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2], [0]])
def test_without_pairs_or_negatives_the_loss_is_zero_and_no_gradient_is_nan(
    labels: list[int],
) -> None:
    rows = random_embeddings(len(labels), 2, 0).requires_grad_()
    loss = semi_hard_triplet_loss(rows, torch.tensor(labels), rows="unchecked")
    (gradient,) = torch.autograd.grad(loss, rows)
    assert loss == 0
    assert gradient.abs().max() == 0


def test_distances_are_those_of_torch_and_never_negative() -> None:
    rows = random_embeddings(20, 7, 4)
    torch.testing.assert_close(squared_distances(rows), torch.cdist(rows, rows).square())
    near = (1000 + 1e-3 * random_embeddings(20, 7, 4)).float()
    assert squared_distances(near).min() >= 0
    torch.testing.assert_close(
        squared_distances(near), torch.cdist(near.double(), near.double()).square().float()
    )


def test_rounding_makes_no_distance_negative() -> None:
    rows = random_embeddings(32, 64, 0).float()
    both = torch.cat([rows, rows + 1e-4 * random_embeddings(32, 64, 1).float()])
    products = (both - both.mean(dim=0)) @ (both - both.mean(dim=0)).T
    squares = products.diagonal()
    assert (squares[:, None] + squares - 2 * products).min() < 0  # as it would be
    assert squared_distances(both).min() == 0


def test_unit_vectors_lie_along_the_axis_that_was_asked_for() -> None:
    embeddings = random_embeddings(24, 5, 0).view(2, 12, 5)
    ones = torch.ones(2, 1).double()
    torch.testing.assert_close(normalised(embeddings).norm(dim=2), ones.expand(2, 12))
    torch.testing.assert_close(normalised(embeddings, "batch").norm(dim=1), ones.expand(2, 5))
    assert normalised(torch.zeros(2, 3)).abs().max() == 0


def test_the_two_axes_differ_as_much_as_the_paper_leaves_open() -> None:
    # 128 rows of 1000 features: mean squared norm 1000 / 128, twice that between rows.
    rows = random_embeddings(128, 1000, 0)
    by_column = normalised(rows, "batch")
    assert float(by_column.square().sum(dim=1).mean()) == pytest.approx(1000 / 128)
    between = squared_distances(by_column).sum() / (128 * 127)
    assert float(between) == pytest.approx(15.7, abs=0.1)
    assert float(squared_distances(normalised(rows)).sum() / (128 * 127)) == pytest.approx(
        2.0, abs=0.02
    )


def test_random_directions_lose_nearly_the_margin() -> None:
    """In many dimensions all distances are near 2, and the nearest further negative is too."""
    rows = F.normalize(random_embeddings(128, 1000, 0), dim=1)
    loss = semi_hard_triplet_loss(rows, torch.arange(128) // 8, 0.5, rows="unchecked")
    assert 0.45 < float(loss) < 0.5
