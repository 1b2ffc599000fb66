import math

import pytest
import torch
from torch import Tensor

from relicv2.class_distances import concentration, nearest_others, same_rate
from retable.errors import UserError


def points(seed: int, count: int = 60) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, 5, generator=generator, dtype=torch.float64)
    return features, torch.randint(0, 4, (count,), generator=generator)


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_the_concentration_is_that_of_loops(rows: int) -> None:
    features, labels = points(0)
    found = concentration(features, labels, rows=rows)
    for kind in range(4):
        pairs = [(i, j) for i in range(60) for j in range(60) if i != j and labels[i] == kind]
        lengths = {pair: float((features[pair[0]] - features[pair[1]]).norm()) for pair in pairs}
        within = [length for (_, j), length in lengths.items() if labels[j] == kind]
        between = [length for (_, j), length in lengths.items() if labels[j] != kind]
        expected = (sum(between) / len(between)) / (sum(within) / len(within))
        assert float(found[kind]) == pytest.approx(expected)


def test_random_labels_are_not_told_apart_and_clusters_are() -> None:
    features, labels = points(1, 4000)
    assert float((concentration(features, labels) - 1).abs().max()) < 0.02
    centers = 10 * torch.eye(4, 5, dtype=torch.float64)
    clustered = features + centers[labels]
    assert float(concentration(clustered, labels).min()) > 3
    # A larger scale changes nothing.
    torch.testing.assert_close(
        concentration(7 * clustered, labels), concentration(clustered, labels)
    )


def test_classes_without_pairs_have_no_concentration() -> None:
    found = concentration(torch.rand(4, 2), torch.tensor([0, 0, 2, 0]))
    assert [math.isnan(value) for value in found.tolist()] == [False, True, True]
    assert concentration(torch.rand(3, 2), torch.zeros(3, dtype=torch.int64)).isnan().all()
    equal = torch.tensor([[1.0, 2.0], [1.0, 2.0], [0.0, 0.0], [3.0, 0.0]])
    assert concentration(equal, torch.tensor([0, 0, 1, 1])).isnan().tolist() == [True, False]
    with pytest.raises(UserError, match="`labels` must be 0 or more, got -1"):
        concentration(equal, torch.tensor([0, 0, -1, 1]))


def test_neighbours_are_the_nearest_others() -> None:
    features, labels = points(2)
    distances, positions = nearest_others(features, 3)
    for number in range(60):
        lengths = (features - features[number]).norm(dim=1)
        order = [place for place in lengths.argsort().tolist() if place != number][:3]
        assert positions[number].tolist() == order
        torch.testing.assert_close(distances[number], lengths[order])
    expected = sum(
        int(labels[j] == labels[i]) for i, row in enumerate(positions.tolist()) for j in row
    )
    assert same_rate(positions, labels) == pytest.approx(expected / 180)


def test_perfect_clusters_have_neighbours_of_their_own_class_only() -> None:
    features, labels = points(3)
    centers = 100 * torch.eye(4, 5, dtype=torch.float64)
    _, positions = nearest_others(features + centers[labels])
    assert same_rate(positions, labels) == 1.0


def test_more_neighbours_than_there_are_images_are_refused() -> None:
    with pytest.raises(UserError, match="`k` must be from 1 to the number of other images, 3"):
        nearest_others(torch.rand(4, 2), 4)
