import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from feature_transform import mix_negatives, mixed_cosines
from feature_transform.negatives import MixedGroup, scores_of_groups

WEIGHT_SHAPES = {"batch": (), "sample": (40, 1), "dimension": (40, 8)}
SHAPES = pytest.mark.parametrize("shape", WEIGHT_SHAPES.values(), ids=WEIGHT_SHAPES)
OPERATIONS = pytest.mark.parametrize("outside", [0, 1], ids=["interpolate", "extrapolate"])


def unit(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def shares(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def permuted(n: int, seed: int = 0) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


@OPERATIONS
@SHAPES
def test_each_negative_is_the_weighted_sum_with_its_partner(
    shape: tuple[int, ...], outside: int
) -> None:
    # Independent reference: one number after the other.
    queue, partners, weight = unit(40, 8), permuted(40), outside + shares(*shape)
    mixed, each = mix_negatives(queue, partners, weight), weight.expand(40, 8)
    for j in range(40):
        for d in range(8):
            w = float(each[j, d])
            expected = w * float(queue[j, d]) + (1 - w) * float(queue[partners[j], d])
            assert float(mixed[j, d]) == pytest.approx(expected)


@OPERATIONS
def test_one_weight_keeps_every_querys_mean_score(outside: int) -> None:
    """So a rise of the mean over a training is no direct effect of the operation."""
    query, queue, weight = unit(5, 8, seed=1), unit(40, 8), outside + shares()
    raw = query @ queue.T
    mixed = query @ mix_negatives(queue, permuted(40), weight).T
    torch.testing.assert_close(mixed.mean(dim=1), raw.mean(dim=1))


@OPERATIONS
def test_one_weight_changes_the_variance_of_scores_by_a_known_factor(outside: int) -> None:
    # Source: the variance of a weighted sum, with the scores' correlation to the permuted ones.
    query, queue, partners = unit(5, 8, seed=1), unit(40, 8), permuted(40)
    w = outside + shares()
    raw = query @ queue.T
    mixed = query @ mix_negatives(queue, partners, w).T
    for b in range(5):
        correlation = torch.corrcoef(torch.stack([raw[b], raw[b, partners]]))[0, 1]
        factor = w**2 + (1 - w) ** 2 + 2 * w * (1 - w) * correlation
        torch.testing.assert_close(mixed[b].var(), factor * raw[b].var())
        assert (mixed[b].var() < raw[b].var()) == (outside == 0)


@OPERATIONS
@pytest.mark.parametrize("shape", [(), (40, 1)])
def test_lengths_follow_from_the_weight_and_the_parents_cosine(
    shape: tuple[int, ...], outside: int
) -> None:
    queue, partners, weight = unit(40, 8), permuted(40), outside + shares(*shape)
    squared = mix_negatives(queue, partners, weight).square().sum(dim=1)
    w = weight.expand(40, 1)[:, 0]
    cosine = (queue * queue[partners]).sum(dim=1)
    torch.testing.assert_close(squared, 1 - 2 * w * (1 - w) * (1 - cosine))
    assert (squared >= 1 - 1e-12).all() if outside else (squared <= 1 + 1e-12).all()


@SHAPES
@OPERATIONS
def test_renormalised_negatives_are_the_same_directions_of_unit_length(
    shape: tuple[int, ...], outside: int
) -> None:
    queue, partners, weight = unit(40, 8), permuted(40), outside + shares(*shape)
    plain = mix_negatives(queue, partners, weight)
    mixed = mix_negatives(queue, partners, weight, renormalise=True)
    torch.testing.assert_close(mixed.norm(dim=1), torch.ones(40, dtype=torch.float64))
    torch.testing.assert_close(mixed * plain.norm(dim=1, keepdim=True), plain)


def test_weights_and_permutations_that_change_nothing_change_nothing_to_the_bit() -> None:
    queue, partners = unit(40, 8).float(), permuted(40)
    for weight in (1.0, torch.tensor(1.0), torch.ones(40, 1), torch.ones(40, 8)):
        assert torch.equal(mix_negatives(queue, partners, weight), queue)
    for weight in (0.0, torch.tensor(0.0), torch.zeros(40, 1)):
        assert torch.equal(mix_negatives(queue, partners, weight), queue[partners])
    identity = torch.arange(40)
    for weight in (0.3, 1.7):
        assert torch.equal(mix_negatives(queue, identity, weight), queue)


def test_fixed_points_of_the_permutation_stay() -> None:
    queue, partners = unit(4, 8), torch.tensor([0, 2, 1, 3])
    mixed = mix_negatives(queue, partners, 0.3)
    assert torch.equal(mixed[[0, 3]], queue[[0, 3]])
    torch.testing.assert_close(mixed[1] + mixed[2], queue[1] + queue[2])


@pytest.mark.parametrize("renormalise", [False, True])
def test_what_is_mixed_stays_as_it_was(renormalise: bool) -> None:
    queue = unit(40, 8)
    before = queue.clone()
    mix_negatives(queue, permuted(40), 0.3, renormalise=renormalise)
    assert torch.equal(queue, before)


@pytest.mark.parametrize("renormalise", [False, True])
@SHAPES
def test_negatives_that_ask_for_a_gradient_get_that_of_both_their_places(
    shape: tuple[int, ...], renormalise: bool
) -> None:
    # Independent reference: written out of place. SimCLR's negatives are trained on.
    partners, weight, pull = permuted(40), shares(*shape), unit(40, 8, seed=3)
    gradients = []
    for written_out in (True, False):
        queue = unit(40, 8).requires_grad_()
        if written_out:
            mixed = weight * queue + (1 - weight) * queue[partners]
            mixed = mixed / mixed.norm(dim=1, keepdim=True) if renormalise else mixed
        else:
            mixed = mix_negatives(queue, partners, weight, renormalise=renormalise)
        gradients.append(torch.autograd.grad((mixed * pull).sum(), queue)[0])
    torch.testing.assert_close(*gradients)


# From scores alone


@settings(deadline=None, max_examples=50)
@given(
    batch=st.integers(1, 4),
    size=st.integers(1, 30),
    dim=st.integers(2, 8),
    outside=st.sampled_from([0, 1]),
    by_row=st.booleans(),
    renormalise=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_mixed_scores_equal_scores_with_mixed_negatives_in_value_and_gradient(
    batch: int, size: int, dim: int, outside: int, by_row: bool, renormalise: bool, seed: int
) -> None:
    query, queue = unit(batch, dim, seed=seed).requires_grad_(), unit(size, dim, seed=seed + 1)
    partners, pull = permuted(size, seed), unit(batch, size, seed=seed + 2)
    weight = outside + (shares(size, seed=seed) if by_row else shares(seed=seed))
    between = (queue * queue[partners]).sum(dim=1) if renormalise else None
    column = weight[:, None] if by_row else weight
    forms = (
        query @ mix_negatives(queue, partners, column, renormalise=renormalise).T,
        mixed_cosines(query @ queue.T, partners, weight[None] if by_row else weight, between),
    )
    torch.testing.assert_close(*forms, rtol=1e-9, atol=1e-9)
    gradients = [torch.autograd.grad((form * pull).sum(), query)[0] for form in forms]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-8)


@settings(deadline=None, max_examples=50)
@given(
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    size=st.integers(1, 30),
    outside=st.sampled_from([0, 1]),
    trained=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_scores_of_groups_are_those_with_negatives_mixed_for_each(
    sizes: list[int], size: int, outside: int, trained: bool, seed: int
) -> None:
    ends = list(itertools.accumulate(sizes, initial=0))
    query, queue = unit(ends[-1], 5, seed=seed).requires_grad_(), unit(size, 5, seed=seed + 1)
    queue.requires_grad_(trained)
    pull = unit(ends[-1], size, seed=seed + 2)
    weights = outside + shares(len(sizes), seed=seed)
    groups = [
        MixedGroup(slice(start, stop), permuted(size, seed + start), weight)
        for start, stop, weight in zip(ends, ends[1:], weights, strict=False)
    ]
    mixed = [query[rows] @ mix_negatives(queue, *how).T for rows, *how in groups]
    forms = (scores_of_groups(query, queue, groups), torch.cat(mixed))
    torch.testing.assert_close(*forms)
    inputs = [query, queue] if trained else [query]
    for gradients in zip(
        *(torch.autograd.grad((form * pull).sum(), inputs) for form in forms), strict=True
    ):
        torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("renormalise", [False, True])
def test_each_query_may_have_partners_and_weights_of_its_own(renormalise: bool) -> None:
    query, queue = unit(3, 8), unit(20, 8, seed=1)
    partners = torch.stack([permuted(20, seed) for seed in range(3)])
    weight = shares(3, 20)
    between = (queue * queue[partners]).sum(dim=2) if renormalise else None
    found = mixed_cosines(query @ queue.T, partners, weight, between)
    for b in range(3):
        mixed = mix_negatives(queue, partners[b], weight[b][:, None], renormalise=renormalise)
        torch.testing.assert_close(found[b], mixed @ query[b])


def test_opposites_in_equal_shares_give_finite_scores_and_gradients() -> None:
    queue = torch.tensor([[1.0, 0.0], [-1.0000001, 0.0]])
    query = torch.tensor([[1.0, 0.0]], requires_grad=True)
    partners = torch.tensor([1, 0])
    between = (queue * queue[partners]).sum(dim=1)
    scores = mixed_cosines(query @ queue.T, partners, 0.5, between)
    torch.autograd.backward(scores.sum())
    assert scores.abs().max() <= 1
    assert query.grad is not None
    assert query.grad.isfinite().all()


def test_weights_of_single_precision_mix_features_of_double_and_of_half() -> None:
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        queue, partners = unit(40, 8).to(dtype), permuted(40)
        for weight in (0.25, torch.tensor(0.25), torch.full((40, 1), 0.25)):
            mixed = mix_negatives(queue, partners, weight)
            assert mixed.dtype == dtype
            expected = 0.25 * queue.double() + 0.75 * queue[partners].double()
            torch.testing.assert_close(mixed.double(), expected, rtol=0, atol=1e-2)
            assert mixed_cosines(queue[:2] @ queue.T, partners, 0.25).dtype == dtype
