import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from retable import random
from retable.errors import UserError
from retable.evaluate.classifier import unit_rows
from retable.evaluate.geometry import alignment, effective_rank, mean_cosine, uniformity


def directions(rng_key: int, n: int, dim: int) -> Tensor:
    return random.normal(rng_key, torch.arange(n * dim)).view(n, dim).double()


def distances(features: Tensor) -> dict[tuple[int, int], float]:
    """Return the squared distance of every unordered pair of normalised rows, in plain loops."""
    rows = [[x / math.hypot(*row) for x in row] for row in features.tolist()]
    pairs = itertools.combinations(range(len(rows)), 2)
    return {(i, j): math.dist(rows[i], rows[j]) ** 2 for i, j in pairs}


@given(n=st.integers(2, 20), dim=st.integers(1, 6), rng_key=st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_alignment_equals_the_mean_over_pairs(n: int, dim: int, rng_key: int) -> None:
    # Reference: Wang and Isola 2020, the pairs of one class in plain loops, float64.
    features, labels = directions(rng_key, n, dim), random.integers(rng_key, torch.arange(n), 3)
    labels[-1] = labels[0]
    chosen = [d for (i, j), d in distances(features).items() if labels[i] == labels[j]]
    expected = sum(chosen) / len(chosen)
    assert alignment(features, labels).item() == pytest.approx(expected, abs=1e-12)


@given(
    n=st.integers(2, 20),
    dim=st.integers(1, 6),
    rows=st.integers(1, 21),
    t=st.floats(0.1, 4),
    rng_key=st.integers(0, 2**31),
)
@settings(max_examples=50, deadline=None)
def test_uniformity_equals_the_mean_over_pairs(
    n: int, dim: int, rows: int, t: float, rng_key: int
) -> None:
    # Reference: Wang and Isola 2020, all unordered pairs in plain loops, float64.
    features = directions(rng_key, n, dim)
    kernel = [math.exp(-t * d) for d in distances(features).values()]
    expected = math.log(sum(kernel) / len(kernel))
    assert uniformity(features, t=t, rows=rows).item() == pytest.approx(expected, abs=1e-10)


@given(n=st.integers(2, 20), dim=st.integers(1, 6), rng_key=st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_mean_cosine_equals_the_mean_over_pairs(n: int, dim: int, rng_key: int) -> None:
    # Reference: for unit vectors |x - y|^2 = 2 - 2 cos, all unordered pairs in plain loops.
    features = directions(rng_key, n, dim)
    cosines = [1 - d / 2 for d in distances(features).values()]
    assert mean_cosine(features).item() == pytest.approx(sum(cosines) / len(cosines), abs=1e-12)


def test_a_zero_vector_has_no_direction_to_share() -> None:
    features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 0.0]])
    assert mean_cosine(features).item() == pytest.approx(1 / 3)


def test_collapsed_features_are_aligned_and_not_uniform() -> None:
    features = directions(0, 1, 8).float().expand(300, 8)
    assert uniformity(features).item() == pytest.approx(0, abs=1e-6)
    assert alignment(features, torch.zeros(300).long()).item() == pytest.approx(0, abs=1e-6)
    assert effective_rank(features).item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("t", [1.0, 2.0])
def test_orthonormal_and_antipodal_points_have_their_known_uniformity(t: float) -> None:
    # Sheet of MoCHi, invariant 21: -2t for orthonormal vectors, -4t for two antipodal points.
    assert uniformity(3 * torch.eye(50), t=t, rows=7).item() == pytest.approx(-2 * t, abs=1e-6)
    poles = torch.tensor([[1.0, 0.0], [-2.0, 0.0]])
    assert uniformity(poles, t=t).item() == pytest.approx(-4 * t, abs=1e-6)


def test_lengths_of_features_do_not_matter() -> None:
    features, labels = directions(0, 30, 5), torch.arange(30) % 3
    scaled = features * random.uniform(1, torch.arange(30))[:, None]
    torch.testing.assert_close(alignment(features, labels), alignment(scaled, labels))
    torch.testing.assert_close(uniformity(features), uniformity(scaled))


@pytest.mark.parametrize("shape", [(40, 6), (6, 40)])
def test_effective_rank_is_the_entropy_of_singular_values(shape: tuple[int, int]) -> None:
    # Reference: Roy and Vetterli 2007 on the singular values of torch.linalg.svdvals.
    features = directions(0, *shape)
    singular = torch.linalg.svdvals(features)
    share = (singular / singular.sum()).tolist()
    expected = math.exp(-sum(p * math.log(p) for p in share))
    assert effective_rank(features).item() == pytest.approx(expected, rel=1e-8)


def test_effective_rank_of_equal_directions_is_their_number() -> None:
    basis = torch.eye(16)[:5].repeat(20, 1)
    assert effective_rank(basis).item() == pytest.approx(5, abs=1e-4)
    assert effective_rank(torch.zeros(5, 4)).item() == 0


def test_too_few_images_end_with_a_sentence() -> None:
    with pytest.raises(UserError, match="at least 2 images, got 1"):
        uniformity(torch.ones(1, 4))
    with pytest.raises(UserError, match="at least 2 images, got 1"):
        mean_cosine(torch.ones(1, 4))
    with pytest.raises(UserError, match="two of the 3 images"):
        alignment(torch.ones(3, 4), torch.arange(3))


def test_features_of_zeros_are_one_point_and_not_spread_evenly() -> None:
    # Reference: torch.pdist of the same rows.
    zeros = torch.zeros(12, 5)
    assert uniformity(zeros).item() == 0
    assert mean_cosine(zeros).item() == 0
    for count in (1, 2, 11):
        mixed = torch.cat([torch.zeros(count, 5), directions(0, 13, 5).float()])
        unit = torch.nn.functional.normalize(mixed.double(), dim=1)
        expected = torch.pdist(unit).square().mul(-2).exp().mean().log()
        torch.testing.assert_close(uniformity(mixed, rows=4), expected, atol=1e-6, rtol=0)
        labels = torch.zeros(len(mixed), dtype=torch.int64)
        torch.testing.assert_close(alignment(mixed, labels), torch.pdist(unit).square().mean())


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1e-13, 1e20, 1e36])
def test_features_of_any_size_have_the_geometry_of_their_directions(scale: float) -> None:
    features = directions(1, 30, 6).float()
    labels = random.integers(2, torch.arange(30), 3)
    scaled = (features.double() * scale).float()
    # 1e-40 keeps three digits only: such numbers are denormal.
    tolerance = 5e-3 if scale < 1e-38 else 1e-5
    for found, expected in (
        (uniformity(scaled), uniformity(features)),
        (alignment(scaled, labels), alignment(features, labels)),
        (effective_rank(scaled), effective_rank(features)),
    ):
        torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


def test_features_of_usual_sizes_are_normalised_to_the_same_bits_as_before() -> None:
    features = directions(3, 40, 7).float() * torch.logspace(-6, 6, 40)[:, None]
    assert torch.equal(unit_rows(features), torch.nn.functional.normalize(features, dim=1))
