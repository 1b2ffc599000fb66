"""The two axes of figure 3c, which several papers share and the core computes."""

import math
from itertools import combinations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from retable.evaluate.geometry import alignment, uniformity


def unit(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=1)


@pytest.mark.parametrize("t", [1.0, 2.0])
def test_uniformity_of_collapsed_orthonormal_and_antipodal_features(t: float) -> None:
    assert float(uniformity(torch.ones(5, 3).double(), t=t)) == pytest.approx(0, abs=1e-12)
    assert float(uniformity(torch.eye(7).double(), t=t)) == pytest.approx(-2 * t)
    antipodal = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).double()
    assert float(uniformity(antipodal, t=t)) == pytest.approx(-4 * t)


def test_uniformity_and_alignment_equal_loops_over_pairs() -> None:
    # Source: Wang and Isola 2020, over unordered pairs; alignment over pairs of one class.
    features, labels = unit(12, 5), torch.arange(12) % 3
    pairs = list(combinations(range(12), 2))
    squares = {(i, j): float((features[i] - features[j]).square().sum()) for i, j in pairs}
    expected = math.log(sum(math.exp(-2 * d) for d in squares.values()) / len(pairs))
    assert float(uniformity(features)) == pytest.approx(expected)
    same = [squares[i, j] for i, j in pairs if labels[i] == labels[j]]
    assert float(alignment(features, labels)) == pytest.approx(sum(same) / len(same))


def test_alignment_of_a_class_follows_from_its_sum() -> None:
    # Source: the pairs' squared distances of n unit vectors of sum S add up to n^2 - |S|^2.
    features = unit(9, 4)
    pairs = 9 * 8 / 2
    expected = (81 - float(features.sum(0).square().sum())) / pairs
    assert float(alignment(features, torch.zeros(9).long())) == pytest.approx(expected)


def test_identical_features_are_perfectly_aligned() -> None:
    assert float(alignment(torch.ones(4, 3), torch.zeros(4).long())) == pytest.approx(0, abs=1e-12)
