"""Public functions of the package refuse arguments that do not fit, in one form of sentence."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from mochi import analysis, mix_hard_negatives, mixed_logits
from mochi.draws import MixingDraws, draw_mixing
from mochi.logits import logits_from_draws
from mochi.mixing import points_from_draws
from mochi.oracle import allowed_negatives, same_class
from mochi.pool import HardPool, hardest
from retable.errors import UserError
from retable.testing import SENTENCES, Described, check_refusals


def unit(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator), dim=-1)


QUERY, QUEUE = unit(5, 3), unit(7, 3, seed=1)
COSINES = QUERY @ QUEUE.T
LABELS, QUEUE_LABELS = torch.arange(5), torch.arange(7)
POOL = hardest(COSINES, 4)
DRAWS = draw_mixing(1, LABELS, POOL.sizes, s=2, s_prime=6)
COUNTS: dict[str, Any] = {"n_hard": 4, "s": 2, "s_prime": 6}
ROWS: Described = {"query": ("B D", QUERY), "queue": ("K D", QUEUE)}
MIXED: Described = {
    **ROWS,
    "positions": ("B", LABELS),
    "cosines": ("B K", COSINES),
    "allowed": ("B K", COSINES > -2),
}
LABELLED: Described = {"labels": ("B", LABELS), "queue_labels": ("K", QUEUE_LABELS)}
DRAWN: Described = {
    "first": ("B s", DRAWS.first),
    "second": ("B s", DRAWS.second),
    "alpha": ("B s", DRAWS.alpha),
    "parent": ("B p", DRAWS.parent),
    "beta": ("B p", DRAWS.beta),
}


def mixed(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda query, queue, **given: function(query, queue, 1, **COUNTS, **given)


def given_draws(function: Callable[..., object]) -> Callable[..., object]:
    def call(first: Any, second: Any, alpha: Any, parent: Any, beta: Any, **tensors: Any) -> object:
        return function(draws=MixingDraws(first, second, alpha, parent, beta), **tensors)

    return call


def false_shares(rows: Tensor, draws: MixingDraws, **labels: Tensor) -> object:
    return analysis.synthetic_false_negatives(HardPool(rows, POOL.sizes), draws, **labels)


WITHOUT_SHARES = {name: DRAWN[name] for name in ("first", "second", "parent")}
FUNCTIONS: dict[str, tuple[Callable[..., object], Described]] = {
    "mix_hard_negatives": (mixed(mix_hard_negatives), MIXED),
    "mixed_logits": (mixed(mixed_logits), MIXED),
    "points_from_draws": (
        given_draws(lambda draws, query, queue: points_from_draws(query, queue, POOL, draws)),
        {**ROWS, **DRAWN},
    ),
    "logits_from_draws": (
        given_draws(
            lambda draws, query, queue, cosines: logits_from_draws(
                query, queue, cosines, POOL, draws
            )
        ),
        {**ROWS, "cosines": ("B K", COSINES), **DRAWN},
    ),
    "draw_mixing": (
        lambda **tensors: draw_mixing(1, **tensors, s=2, s_prime=3),
        {"positions": ("B", LABELS), "sizes": ("B", POOL.sizes)},
    ),
    "hardest": (lambda cosines: hardest(cosines, 4), {"cosines": ("B K", COSINES)}),
    "same_class": (same_class, LABELLED),
    "allowed_negatives": (allowed_negatives, LABELLED),
    "proxy_accuracy": (analysis.proxy_accuracy, {"logits": ("B 1+K", COSINES)}),
    "hardness": (
        analysis.hardness,
        {"real": ("B K", COSINES), "synthetic": ("B S", unit(5, 2))},
    ),
    "matching_probabilities": (
        lambda logits: analysis.matching_probabilities(logits, 0.2, 3),
        {"logits": ("B 1+K", COSINES)},
    ),
    "false_negatives": (analysis.false_negatives, {"cosines": ("B K", COSINES), **LABELLED}),
    "synthetic_false_negatives": (
        lambda rows, labels, first, second, parent: false_shares(
            rows,
            MixingDraws(first, second, DRAWS.alpha, parent, DRAWS.beta),
            labels=labels,
            queue_labels=QUEUE_LABELS,
        ),
        {"rows": ("B N", POOL.rows), "labels": ("B", LABELS), **WITHOUT_SHARES},
    ),
}


@pytest.mark.wheel
@pytest.mark.parametrize(("function", "described"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_only_tensors_that_fit_are_accepted(
    function: Callable[..., object], described: Described
) -> None:
    assert check_refusals(function, described) >= 4


MIXING = pytest.mark.parametrize("function", [mix_hard_negatives, mixed_logits])


@MIXING
def test_the_positive_among_the_cosines_is_refused_with_the_remedy(function: Any) -> None:
    with_positive = torch.cat([(QUERY * QUERY).sum(1, keepdim=True), COSINES], dim=1)
    with pytest.raises(UserError) as refused:
        function(QUERY, QUEUE, 1, **COUNTS, cosines=with_positive)
    assert str(refused.value) == (
        "`cosines` must have shape (5, 7), got (5, 8). Pass `query @ queue.T`, without the "
        "positive's column."
    )


@MIXING
@pytest.mark.parametrize(
    "wrong",
    [
        COSINES / 0.2,
        COSINES.roll(1, dims=1),
        torch.cat([(QUERY * QUERY).sum(1, keepdim=True), COSINES], dim=1)[:, :7],
        unit(5, 3, seed=9) @ QUEUE.T,
        QUERY @ QUEUE.roll(1, dims=0).T,
    ],
    ids=["over the temperature", "shifted", "positive kept", "other queries", "other queue"],
)
def test_cosines_of_other_vectors_are_refused(function: Any, wrong: Tensor) -> None:
    with pytest.raises(UserError, match=r"`cosines` must be `query @ queue\.T`"):
        function(QUERY, QUEUE, 1, **COUNTS, cosines=wrong)


@MIXING
def test_cosines_in_half_precision_and_masked_ones_are_accepted(function: Any) -> None:
    function(QUERY, QUEUE, 1, **COUNTS, cosines=(QUERY.bfloat16() @ QUEUE.bfloat16().T))
    masked = COSINES.clone()
    masked[0] = -torch.inf
    masked[1, :6] = -torch.inf
    function(QUERY, QUEUE, 1, **COUNTS, cosines=masked)


@MIXING
@pytest.mark.parametrize("name", ["query", "queue"])
def test_rows_of_another_length_are_refused_or_normalised(function: Any, name: str) -> None:
    given = {"query": QUERY, "queue": QUEUE}
    given[name] = 0.39 * given[name]
    with pytest.raises(UserError, match=f"`{name}` must have rows of length 1, got .* of 0.39"):
        function(**given, rng_key=1, **COUNTS)
    found = function(**given, rng_key=1, **COUNTS, rows="normalise")
    torch.testing.assert_close(found, function(QUERY, QUEUE, 1, **COUNTS))
    with pytest.raises(UserError, match="`rows` must be 'unit' or 'normalise' for mixing"):
        function(QUERY, QUEUE, 1, **COUNTS, rows="unchecked")


@MIXING
@pytest.mark.parametrize("rng_key", [torch.Generator(), 0.5, None, "1", 2**63])
def test_a_random_key_is_an_integer(function: Any, rng_key: Any) -> None:
    with pytest.raises(UserError) as refused:
        function(QUERY, QUEUE, rng_key, **COUNTS)
    assert SENTENCES.fullmatch(str(refused.value))


@MIXING
def test_positions_count_from_0_if_none_are_given(function: Any) -> None:
    found = function(QUERY, QUEUE, 1, **COUNTS)
    assert torch.equal(found, function(QUERY, QUEUE, 1, torch.arange(5), **COUNTS))
    assert not torch.equal(found, function(QUERY, QUEUE, 1, torch.arange(5) + 5, **COUNTS))


@pytest.mark.parametrize(
    "call",
    [
        lambda: analysis.proxy_accuracy(COSINES, 0),
        lambda: analysis.proxy_accuracy(COSINES, 7),
        lambda: analysis.matching_probabilities(COSINES, 0.0, 3),
        lambda: analysis.matching_probabilities(COSINES, 0.2, 7),
        lambda: analysis.false_negatives(COSINES, LABELS, QUEUE_LABELS, 0),
        lambda: hardest(COSINES, 8),
        lambda: draw_mixing(1, LABELS, POOL.sizes, s=-1, s_prime=3),
        lambda: draw_mixing(1, LABELS, POOL.sizes, s=1, s_prime=3, beta_max=float("nan")),
    ],
)
def test_numbers_outside_their_range_are_refused(call: Callable[[], object]) -> None:
    with pytest.raises(UserError, match=r"must .*, got .*\. [A-Z]"):
        call()
