import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from mochi import mix_hard_negatives, mixed_logits
from mochi.analysis import (
    false_negatives,
    hardness,
    matching_probabilities,
    proxy_accuracy,
    synthetic_false_negatives,
)
from mochi.draws import MixingDraws, draw_mixing
from mochi.oracle import allowed_negatives, same_class
from mochi.pool import HardPool, hardest

Mixed = tuple[HardPool, MixingDraws, Tensor, Tensor]


def unit(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def classes(count: int, n: int, seed: int = 0) -> Tensor:
    return torch.randint(count, (n,), generator=torch.Generator().manual_seed(seed))


# Proxy-task accuracy


def test_synthetic_negatives_can_only_lower_proxy_accuracy() -> None:
    query, queue = unit(50, 8), unit(100, 8, seed=1)
    key = normalize(query + 0.5 * unit(50, 8, seed=2), dim=1)
    real = torch.cat([(query * key).sum(1, keepdim=True), query @ queue.T], dim=1)
    synthetic = mixed_logits(query, queue, 1, n_hard=10, s=20, s_prime=20)
    logits = torch.cat([real, synthetic], dim=1)
    assert proxy_accuracy(logits) <= proxy_accuracy(logits, negatives=100)
    assert proxy_accuracy(logits, negatives=100) == proxy_accuracy(real)


@pytest.mark.parametrize(("agreement", "expected"), [(1.0, 1.0), (0.6, 0.0)])
def test_query_mixed_points_outrank_a_key_that_orthogonal_negatives_do_not(
    agreement: float, expected: float
) -> None:
    """Orthogonal negatives bound q.h' by sqrt(1/2): above q.k = 0.6, below q.k = 1."""
    query = torch.eye(6)[:1]
    queue = torch.eye(6)[2:]
    key = torch.zeros(1, 6)
    key[0, 0], key[0, 1] = agreement, math.sqrt(1 - agreement**2)
    synthetic = mixed_logits(query, queue, 1, n_hard=4, s=0, s_prime=500)
    assert synthetic.max() <= math.sqrt(0.5) + 1e-6
    logits = torch.cat([(query * key).sum(1, keepdim=True), query @ queue.T, synthetic], dim=1)
    assert proxy_accuracy(logits, negatives=4) == 1.0
    assert proxy_accuracy(logits) == expected


# Hardness


def test_query_mixed_points_are_nearly_always_the_hardest() -> None:
    query, queue = unit(64, 16), unit(256, 16, seed=1)
    cosines = query @ queue.T
    mixed = mixed_logits(query, queue, 1, n_hard=16, s=0, s_prime=64)
    gap, harder = hardness(cosines, mixed)
    assert harder == 1.0
    expected = torch.stack([m.max() - c.max() for m, c in zip(mixed, cosines, strict=True)])
    torch.testing.assert_close(gap, expected.mean())


def test_a_query_without_negatives_has_no_gap() -> None:
    masked = torch.full((1, 3), -math.inf)
    real, synthetic = torch.cat([torch.zeros(1, 3), masked]), torch.cat([torch.ones(1, 3), masked])
    assert hardness(real, synthetic).gap == 1.0


# Matching probabilities


def test_matching_probabilities_equal_a_sorted_softmax() -> None:
    # Independent reference: softmax, sort, mean, one query after the other.
    cosines = torch.rand(5, 41, dtype=torch.float64).float() * 2 - 1
    curves = []
    for row in cosines.double():
        exponentials = [math.exp(float(x) / 0.2) for x in row]
        curves.append(sorted((e / sum(exponentials) for e in exponentials[1:]), reverse=True)[:7])
    expected = torch.tensor(curves).mean(dim=0)
    torch.testing.assert_close(matching_probabilities(cosines, 0.2, n=7), expected)


# False negatives


def test_false_negatives_equal_a_count_in_plain_loops() -> None:
    cosines = torch.randn(6, 80, generator=torch.Generator().manual_seed(0))
    labels, queue_labels = classes(4, 6), classes(4, 80, seed=1)
    queue_labels[::7] = -1  # not filled yet
    shares = []
    for b in range(6):
        top = sorted(range(80), key=lambda k: -float(cosines[b, k]))[:16]
        shares.append(sum(int(queue_labels[k] == labels[b]) for k in top) / 16)
    expected = torch.tensor(shares).mean()
    torch.testing.assert_close(false_negatives(cosines, labels, queue_labels, n=16), expected)


def test_a_short_queue_is_used_completely() -> None:
    labels, queue_labels = classes(4, 6), classes(4, 80, seed=1)
    expected = (labels[:, None] == queue_labels).float().mean()
    torch.testing.assert_close(false_negatives(torch.randn(6, 80), labels, queue_labels), expected)


def test_unknown_classes_are_not_false_negatives() -> None:
    assert not same_class(torch.tensor([-1]), torch.tensor([-1, 0])).any()


@pytest.fixture
def mixed() -> Mixed:
    cosines = torch.randn(4, 60, generator=torch.Generator().manual_seed(0))
    pool = hardest(cosines, 12)
    draws = draw_mixing(1, torch.arange(4), pool.sizes, s=20000, s_prime=20000)
    return pool, draws, classes(3, 4), classes(3, 60, seed=1)


def test_synthetic_false_negatives_equal_a_count_in_plain_loops(mixed: Mixed) -> None:
    pool, draws, labels, queue_labels = mixed
    both = either = single = 0
    for b in range(4):
        is_false = [bool(queue_labels[k] == labels[b]) for k in pool.rows[b]]
        for i, j in zip(draws.first[b].tolist(), draws.second[b].tolist(), strict=True):
            both += is_false[i] and is_false[j]
            either += is_false[i] or is_false[j]
        single += sum(is_false[i] for i in draws.parent[b].tolist())
    counted = synthetic_false_negatives(pool, draws, labels, queue_labels)
    for share, count in zip(counted, (both, either, single), strict=True):
        assert float(share) == pytest.approx(count / 80000)


def test_synthetic_false_negatives_follow_the_hypergeometric_law(mixed: Mixed) -> None:
    # Source: m false of N drawn twice without replacement; 4 standard errors of 80000 draws.
    pool, draws, labels, queue_labels = mixed
    m = same_class(labels, queue_labels).gather(1, pool.rows).sum(dim=1).double()
    n = 12
    expected = (
        (m * (m - 1) / (n * (n - 1))).mean(),
        (1 - (n - m) * (n - m - 1) / (n * (n - 1))).mean(),
        (m / n).mean(),
    )
    counted = synthetic_false_negatives(pool, draws, labels, queue_labels)
    for share, probability in zip(counted, expected, strict=True):
        assert float(share) == pytest.approx(float(probability), abs=4 * 0.5 / 80000**0.5)


# The oracle


def oracle_loss(
    query: Tensor, key: Tensor, queue: Tensor, allowed: Tensor, **counts: Any
) -> Tensor:
    cosines = (query @ queue.T).masked_fill(~allowed, -math.inf)
    synthetic = mixed_logits(query, queue, 1, cosines=cosines, **counts)
    joined = torch.cat([(query * key).sum(1, keepdim=True), cosines, synthetic], dim=1)
    return cross_entropy(joined / 0.2, torch.zeros(len(query), dtype=torch.int64))


def test_an_oracle_without_false_negatives_changes_nothing() -> None:
    query, key, queue = unit(4, 8), unit(4, 8, seed=1), unit(40, 8, seed=2)
    labels, queue_labels = classes(3, 4), classes(3, 40) + 3
    losses = [
        oracle_loss(
            query,
            key,
            queue,
            allowed,
            n_hard=6,
            s=9,
            s_prime=9,
        )
        for allowed in (
            allowed_negatives(labels, queue_labels),
            torch.ones(4, 40, dtype=torch.bool),
        )
    ]
    assert torch.equal(*losses)


def test_an_oracle_that_masks_everything_gives_zero_loss() -> None:
    query = unit(4, 8).requires_grad_()
    key, queue = unit(4, 8, seed=1), unit(40, 8, seed=2)
    labels, queue_labels = torch.full((4,), 2), torch.full((40,), 2)
    allowed = allowed_negatives(labels, queue_labels)
    for detach_query in (True, False):
        loss = oracle_loss(
            query, key, queue, allowed, n_hard=6, s=9, s_prime=9, detach_query=detach_query
        )
        assert loss == 0
        gradient = torch.autograd.grad(loss, query)[0]
        assert gradient.abs().max() == 0


def test_an_oracle_never_mixes_the_querys_class() -> None:
    queue = torch.eye(16, dtype=torch.float64)
    query = unit(4, 16)
    labels, queue_labels = classes(3, 4), classes(3, 16, seed=1)
    allowed = allowed_negatives(labels, queue_labels)
    pool = hardest((query @ queue.T).masked_fill(~allowed, -math.inf), 16)
    draws = draw_mixing(1, torch.arange(4), pool.sizes, s=500, s_prime=500)
    counted = synthetic_false_negatives(pool, draws, labels, queue_labels)
    assert [float(share) for share in counted] == [0, 0, 0]
    points = mix_hard_negatives(query, queue, 1, n_hard=16, s=500, s_prime=0, allowed=allowed)
    for b in range(4):
        assert points[b][:, queue_labels == labels[b]].abs().max() == 0
