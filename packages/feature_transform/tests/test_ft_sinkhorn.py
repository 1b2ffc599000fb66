import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from feature_transform.sinkhorn import sinkhorn
from retable import distributed
from retable.errors import UserError
from retable.random import normal
from retable.testing import run_processes

torch.set_num_threads(1)


def scores_of(samples: int, prototypes: int, rng_key: int = 0, spread: float = 0.5) -> Tensor:
    return spread * normal(rng_key, torch.arange(samples * prototypes)).view(samples, prototypes)


def published(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Follow algorithm 1 of SwAV's appendix with Python's numbers, one entry at a time."""
    samples, prototypes = scores.shape
    Q = [
        [math.exp(float(scores[b, p]) / epsilon) for b in range(samples)] for p in range(prototypes)
    ]
    total = sum(map(sum, Q))
    Q = [[entry / total for entry in row] for row in Q]
    for _ in range(iterations):
        Q = [[entry / sum(row) / prototypes for entry in row] for row in Q]
        sums = [sum(row[b] for row in Q) for b in range(samples)]
        Q = [[row[b] / sums[b] / samples for b in range(samples)] for row in Q]
    sums = [sum(row[b] for row in Q) for b in range(samples)]
    return torch.tensor(
        [[row[b] / sums[b] for row in Q] for b in range(samples)], dtype=torch.float64
    )


@settings(max_examples=30, deadline=None)
@given(
    samples=st.integers(1, 12),
    prototypes=st.integers(1, 9),
    rng_key=st.integers(0, 1000),
    epsilon=st.sampled_from([0.05, 0.3, 2.0]),
    iterations=st.integers(0, 4),
)
def test_codes_are_those_of_the_published_algorithm(
    samples: int, prototypes: int, rng_key: int, epsilon: float, iterations: int
) -> None:
    scores = scores_of(samples, prototypes, rng_key)
    expected = published(scores, epsilon, iterations)
    wide = sinkhorn(scores.double(), epsilon=epsilon, iterations=iterations)
    torch.testing.assert_close(wide, expected, rtol=1e-9, atol=1e-12)
    codes = sinkhorn(scores, epsilon=epsilon, iterations=iterations)
    assert codes.dtype == torch.float32
    torch.testing.assert_close(codes.double(), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("samples", "prototypes"), [(24, 6), (6, 24)])
def test_samples_are_assigned_wholly_and_prototypes_equally(samples: int, prototypes: int) -> None:
    scores = scores_of(samples, prototypes)
    codes = sinkhorn(scores, epsilon=0.2, iterations=200)
    torch.testing.assert_close(codes.sum(dim=1), torch.ones(samples))
    torch.testing.assert_close(codes.sum(dim=0), torch.full((prototypes,), samples / prototypes))
    # Which is not what the scores alone would do.
    assert (scores / 0.2).softmax(dim=1).sum(dim=0).std() > 0.1 * samples / prototypes


def test_more_iterations_come_closer_to_equal_shares() -> None:
    scores = scores_of(30, 10)
    deviations = [
        float((sinkhorn(scores, epsilon=0.1, iterations=n).sum(dim=0) - 3).abs().max())
        for n in (1, 3, 10, 30)
    ]
    assert deviations == sorted(deviations, reverse=True)


def test_a_constant_on_all_scores_changes_nothing() -> None:
    scores = scores_of(10, 6)
    for constant in (-3.0, 100.0):
        shifted = sinkhorn((scores.double() + constant), epsilon=0.05, iterations=3)
        torch.testing.assert_close(shifted, sinkhorn(scores.double(), epsilon=0.05, iterations=3))


def test_a_constant_on_one_prototype_changes_nothing_from_the_first_iteration_on() -> None:
    scores = scores_of(10, 6).double()
    moved = scores + torch.tensor([0.0, 2.0, -1.0, 0.0, 5.0, 0.0])
    for iterations in (1, 3):
        torch.testing.assert_close(
            sinkhorn(moved, epsilon=0.1, iterations=iterations),
            sinkhorn(scores, epsilon=0.1, iterations=iterations),
        )
    assert not torch.allclose(
        sinkhorn(moved, epsilon=0.1, iterations=0), sinkhorn(scores, epsilon=0.1, iterations=0)
    )


def test_codes_follow_permutations_of_samples_and_prototypes() -> None:
    scores = scores_of(8, 5).double()
    rows, columns = torch.tensor([3, 1, 0, 7, 2, 5, 6, 4]), torch.tensor([4, 0, 2, 1, 3])
    torch.testing.assert_close(
        sinkhorn(scores[rows][:, columns], epsilon=0.1, iterations=3),
        sinkhorn(scores, epsilon=0.1, iterations=3)[rows][:, columns],
    )


def test_scores_of_extrapolated_features_neither_overflow_nor_vanish() -> None:
    """Features that are moved apart are up to three long: scores / epsilon reach 60 and -60."""
    scores = scores_of(16, 8, spread=3.0).clamp(-3, 3)
    scores[:, 0] = -3.0  # a prototype that is everyone's last, by e^-100 and more
    codes = sinkhorn(scores, epsilon=0.05, iterations=3)
    assert codes.isfinite().all()
    torch.testing.assert_close(codes.sum(dim=1), torch.ones(16))
    expected = published(scores.double(), 0.05, 3)
    torch.testing.assert_close(codes.double(), expected, rtol=1e-3, atol=1e-5)
    assert codes[:, 0].sum() > 0.5


def test_half_precision_is_widened_and_no_gradient_is_kept() -> None:
    scores = scores_of(8, 5).bfloat16().requires_grad_()
    codes = sinkhorn(scores, epsilon=0.05, iterations=3)
    assert codes.dtype == torch.float32
    assert not codes.requires_grad
    assert torch.equal(codes, sinkhorn(scores.float(), epsilon=0.05, iterations=3))


def own_codes(scores: Tensor, sizes: list[int]) -> Tensor:
    own = scores.split(sizes)[distributed.process_index()]  # type: ignore[no-untyped-call]
    return sinkhorn(own, epsilon=0.05, iterations=3)


@pytest.mark.parametrize("sizes", [[6, 6], [9, 3]])
def test_processes_share_the_codes_of_the_whole_batch(sizes: list[int]) -> None:
    scores = scores_of(12, 7)
    whole = sinkhorn(scores, epsilon=0.05, iterations=3)
    parts = torch.cat(run_processes(own_codes, 2, scores, sizes))
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)
    alone = torch.cat([sinkhorn(part, epsilon=0.05, iterations=3) for part in scores.split(sizes)])  # type: ignore[no-untyped-call]
    assert not torch.allclose(alone, whole, atol=1e-2)


@pytest.mark.parametrize(
    ("epsilon", "iterations", "sentence"),
    [
        (0.0, 3, "`epsilon` must be positive, got 0.0"),
        (0.05, -1, "`sinkhorn_iterations` must be 0 or more, got -1"),
    ],
)
def test_invalid_numbers_are_refused(epsilon: float, iterations: int, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        sinkhorn(scores_of(2, 2), epsilon=epsilon, iterations=iterations)
