"""Public functions of the package refuse arguments that do not fit, in one form of sentence."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from feature_transform import (
    JigsawHead,
    TransformRecipe,
    cut_jigsaw,
    extrapolate_positives,
    hard_negative_scores,
    mix_negatives,
    mix_with_query,
    mixed_cosines,
    transformed_logits,
)
from feature_transform.draws import draw_groups, hard_weights, mixture, positive_weights
from feature_transform.draws import row_weights as draw_weights
from feature_transform.infomin import branch_logits
from feature_transform.jigsaw import shuffled_orders
from feature_transform.logits import mixed_scores, transformed_pair, transformed_scores
from feature_transform.negatives import MixedGroup, scores_of_groups
from feature_transform.siamese import mean_loss_weight
from feature_transform.simclr import transformed_pairs_logits
from feature_transform.sinkhorn import sinkhorn
from feature_transform.swav import prediction_losses
from retable.errors import UserError
from retable.nn.losses import Pairs, view_pairs
from retable.testing import SENTENCES, Described, check_refusals


def unit(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator, dtype=dtype), dim=-1)


KEY, TRANSFORM, HARD = 7, TransformRecipe(), TransformRecipe(negatives="hard")
QUERY, OTHER, QUEUE = unit(5, 3), unit(5, 3, seed=1), unit(7, 3, seed=2)
POSITIONS, PARTNERS = torch.arange(5), torch.arange(7).roll(1)
PAIRS = view_pairs(QUERY, OTHER)
PAIR: Described = {"query": ("B D", QUERY), "key": ("B D", OTHER)}
PLACED: Described = {"positions": ("B", POSITIONS)}
WHOLE: Described = {**PAIR, "queue": ("K D", QUEUE), **PLACED}
ROWS: Described = {"query": ("B D", QUERY), "negatives": ("K D", QUEUE)}
HEAD = JigsawHead(3, 4, 2, rng_key=0)

FUNCTIONS: dict[str, tuple[Callable[..., object], Described]] = {
    "extrapolate_positives": (lambda query, key: extrapolate_positives(query, key, 1.5), PAIR),
    "mix_negatives": (
        lambda negatives, partners: mix_negatives(negatives, partners, 0.5),
        {"negatives": ("K D", QUEUE), "partners": ("K", PARTNERS)},
    ),
    "mixed_cosines": (
        lambda cosines, partners, between: mixed_cosines(cosines, partners, 0.5, between),
        {
            "cosines": ("B K", QUERY @ QUEUE.T),
            "partners": ("K", PARTNERS),
            "between": ("K", (QUEUE * QUEUE[PARTNERS]).sum(1)),
        },
    ),
    "mix_with_query": (lambda query, negatives: mix_with_query(query, negatives, 0.5), ROWS),
    "hard_negative_scores": (
        lambda scored, query, negatives: hard_negative_scores(scored, query, negatives, 0.5),
        {"scored": ("B D", QUERY), **ROWS},
    ),
    "scores_of_groups": (
        lambda scored, negatives, partners: scores_of_groups(
            scored, negatives, [MixedGroup(slice(0, 5), partners, torch.tensor(0.5))]
        ),
        {"scored": ("N D", QUERY), "negatives": ("K D", QUEUE), "partners": ("K", PARTNERS)},
    ),
    "transformed_logits": (
        lambda query, key, queue, positions: transformed_logits(
            query, key, queue, TRANSFORM, KEY, positions
        ),
        WHOLE,
    ),
    "transformed_logits, hard": (
        lambda query, key, queue, positions: transformed_logits(
            query, key, queue, HARD, KEY, positions
        ),
        WHOLE,
    ),
    "transformed_pair": (
        lambda query, key, positions: transformed_pair(query, key, TRANSFORM, KEY, positions),
        {**PAIR, **PLACED},
    ),
    "transformed_scores": (
        lambda scored, query, queue, positions: transformed_scores(
            scored, query, queue, HARD, KEY, positions
        ),
        {"scored": ("B D", QUERY), "query": ("B D", QUERY), "queue": ("K D", QUEUE), **PLACED},
    ),
    "mixed_scores": (
        lambda one, other, queue, positions: mixed_scores(
            [one, other], queue, TRANSFORM, KEY, positions
        ),
        {"one": ("B D", QUERY), "other": ("B D", OTHER), "queue": ("K D", QUEUE), **PLACED},
    ),
    "branch_logits": (
        lambda one, other, key, queue, positions: branch_logits(
            [one, other], key, queue, TRANSFORM, KEY, positions
        ),
        {
            "one": ("B D", QUERY),
            "other": ("B D", OTHER),
            "key": ("B D", OTHER),
            "queue": ("K D", QUEUE),
            **PLACED,
        },
    ),
    "transformed_pairs_logits": (
        lambda anchors, partners, columns, masked: transformed_pairs_logits(
            Pairs(anchors, partners, columns, masked), TRANSFORM, KEY, POSITIONS
        ),
        {
            "anchors": ("A D", PAIRS.anchors),
            "partners": ("A D", PAIRS.partners),
            "columns": ("C D", PAIRS.columns),
            "masked": ("A C", PAIRS.masked),
        },
    ),
    "row_weights": (
        lambda positions: draw_weights(KEY, positions, 3, (2.0, 2.0), "sample"),
        {"positions": ("B", POSITIONS)},
    ),
    "positive_weights": (lambda positions: positive_weights(TRANSFORM, KEY, positions, 3), PLACED),
    "hard_weights": (lambda positions: hard_weights(HARD, KEY, positions, 3), PLACED),
    "draw_groups": (lambda positions: list(draw_groups(positions, 5)), PLACED),
    "sinkhorn": (
        lambda scores: sinkhorn(scores, epsilon=0.05, iterations=3),
        {"scores": ("B P", unit(5, 4))},
    ),
    "prediction_losses": (
        lambda scores, codes: prediction_losses(scores, codes, 0.1),
        {"scores": ("B V P", unit(5, 3, 4)), "codes": ("B A P", unit(5, 2, 4))},
    ),
    "cut_jigsaw": (
        lambda views, positions: cut_jigsaw(views, KEY, positions, grid=2, cell=4, crop=3),
        {"views": ("b C H W", torch.rand(5, 3, 8, 8)), "positions": ("b", POSITIONS)},
    ),
    "shuffled_orders": (lambda positions: shuffled_orders(KEY, positions, 9), PLACED),
    "JigsawHead": (
        HEAD,
        {"features": ("B N F", unit(5, 4, 3)), "orders": ("B N", torch.arange(4).expand(5, 4))},
    ),
}


@pytest.mark.wheel
@pytest.mark.parametrize(("function", "described"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_only_tensors_that_fit_are_accepted(
    function: Callable[..., object], described: Described
) -> None:
    assert check_refusals(function, described) >= 4


# Weights

WEIGHTED: dict[str, Callable[..., Any]] = {
    "extrapolate_positives": extrapolate_positives,
    "mix_negatives": lambda query, key, weight: mix_negatives(
        query, torch.arange(len(query)).roll(1), weight
    ),
    "mix_with_query": mix_with_query,
    "hard_negative_scores": lambda query, key, weight: hard_negative_scores(
        query, query, key, weight
    ),
}
EACH_WEIGHTED = pytest.mark.parametrize("function", WEIGHTED.values(), ids=WEIGHTED)


@EACH_WEIGHTED
@settings(deadline=None, max_examples=30)
@given(count=st.integers(1, 6), dim=st.integers(1, 6), seed=st.integers(0, 99))
def test_a_weight_for_each_row_goes_along_the_rows_also_where_they_are_as_many_as_dimensions(
    function: Callable[..., Any], count: int, dim: int, seed: int
) -> None:
    query, key = unit(count, dim, seed=seed), unit(count, dim, seed=seed + 1)
    weight = 1 + torch.rand(count, generator=torch.Generator().manual_seed(seed))
    found, expected = (function(query, key, w) for w in (weight, weight[:, None]))
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@EACH_WEIGHTED
@pytest.mark.parametrize("shape", [(3,), (1, 3), (1, 1), (6,), (6, 1), (5, 4), (5, 1, 1)])
def test_weights_of_another_shape_are_refused(
    function: Callable[..., Any], shape: tuple[int, ...]
) -> None:
    with pytest.raises(UserError) as refused:
        function(QUERY, OTHER, torch.full(shape, 1.5))
    assert SENTENCES.fullmatch(str(refused.value))


@pytest.mark.parametrize("shape", [(7,), (5,), (1, 5), (7, 1), (5, 7, 1)])
def test_weights_of_mixed_scores_name_both_dimensions(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"shape \(1, 7\), \(5, 1\) or \(5, 7\), got"):
        mixed_cosines(QUERY @ QUEUE.T, PARTNERS, torch.full(shape, 0.5))


def test_a_weight_for_each_query_or_negative_mixes_its_row_or_column() -> None:
    cosines = QUERY @ QUEUE.T
    for shape in ((1, 7), (5, 1), (5, 7)):
        weight = torch.rand(shape)
        expected = weight * cosines + (1 - weight) * cosines[:, PARTNERS]
        torch.testing.assert_close(mixed_cosines(cosines, PARTNERS, weight), expected)


# Rows


UNIT: dict[str, tuple[Callable[..., Any], dict[str, Tensor]]] = {
    "extrapolate_positives": (
        lambda **given: extrapolate_positives(weight=1.5, **given),
        {"query": QUERY, "key": OTHER},
    ),
    "mix_negatives": (
        lambda **given: [mix_negatives(partners=PARTNERS, weight=0.5, **given)],
        {"negatives": QUEUE},
    ),
    "mix_with_query": (
        lambda **given: [mix_with_query(weight=0.5, **given)],
        {"query": QUERY, "negatives": QUEUE},
    ),
    "hard_negative_scores": (
        lambda **given: [hard_negative_scores(QUERY, weight=0.5, **given)],
        {"query": QUERY, "negatives": QUEUE},
    ),
    "transformed_logits": (
        lambda **given: [transformed_logits(transform=TRANSFORM, rng_key=KEY, **given)],
        {"query": QUERY, "key": OTHER, "queue": QUEUE},
    ),
    "branch_logits": (
        lambda **given: branch_logits([QUERY], transform=TRANSFORM, rng_key=KEY, **given),
        {"key": OTHER, "queue": QUEUE},
    ),
}


@pytest.mark.parametrize(("function", "given"), UNIT.values(), ids=UNIT)
def test_rows_of_another_length_are_refused_normalised_or_taken_as_they_are(
    function: Callable[..., Any], given: dict[str, Tensor]
) -> None:
    plain = function(**given)
    for name in given:
        short = {**given, name: 0.39 * given[name]}
        with pytest.raises(UserError, match=f"`{name}` must have rows of length 1, got .* of 0.39"):
            function(**short)
        for found, expected in zip(function(**short, rows="normalise"), plain, strict=True):
            torch.testing.assert_close(found, expected)
        found = function(**short, rows="unchecked")
        assert not all(torch.allclose(a, b) for a, b in zip(found, plain, strict=True))
    for found, expected in zip(function(**given, rows="unchecked"), plain, strict=True):
        assert torch.equal(found, expected)


# Random keys

DRAWING: dict[str, Callable[[Any], object]] = {
    "transformed_logits": lambda key: transformed_logits(QUERY, OTHER, QUEUE, TRANSFORM, key),
    "branch_logits": lambda key: branch_logits([QUERY], OTHER, QUEUE, TRANSFORM, key),
    "cut_jigsaw": lambda key: cut_jigsaw(torch.rand(5, 3, 8, 8), key, grid=2, cell=4, crop=3),
    "shuffled_orders": lambda key: shuffled_orders(key, POSITIONS, 9),
    "row_weights": lambda key: draw_weights(key, POSITIONS, 3, (2.0, 2.0), "sample"),
    "JigsawHead": lambda key: JigsawHead(3, 4, rng_key=key),
}


@pytest.mark.parametrize("draw", DRAWING.values(), ids=DRAWING)
@pytest.mark.parametrize("rng_key", [torch.Generator(), 0.5, None, "1", 2**63])
def test_a_random_key_is_an_integer(draw: Callable[[Any], object], rng_key: Any) -> None:
    with pytest.raises(UserError) as refused:
        draw(rng_key)
    assert SENTENCES.fullmatch(str(refused.value))


@pytest.mark.parametrize(
    "call",
    [
        lambda: mixture(HARD, KEY, torch.tensor(0), 7, 3),
        lambda: mixture(TRANSFORM, KEY, torch.tensor(0), 0, 3),
        lambda: draw_weights(KEY, POSITIONS, 3, (2.0, 2.0), "row"),  # type: ignore[arg-type]
        lambda: draw_weights(KEY, POSITIONS, 0, (2.0, 2.0), "dimension"),
        lambda: shuffled_orders(KEY, POSITIONS, 0),
        lambda: branch_logits([], OTHER, QUEUE, TRANSFORM, KEY),
        lambda: sinkhorn(QUERY, epsilon=float("nan"), iterations=3),
        lambda: prediction_losses(unit(5, 3, 4), unit(5, 2, 4), 0.0),
        lambda: scores_of_groups(
            QUERY, QUEUE, [MixedGroup(slice(0, 4), PARTNERS, torch.tensor(0.5))]
        ),
        lambda: scores_of_groups(
            QUERY, QUEUE, [MixedGroup(slice(1, 5), PARTNERS, torch.tensor(0.5))]
        ),
        lambda: JigsawHead(3, 0, rng_key=0),
        lambda: mean_loss_weight(-0.5),
    ],
)
def test_values_outside_their_range_are_refused(call: Callable[[], object]) -> None:
    with pytest.raises(UserError, match=r"must .*, got .*\. [A-Z]"):
        call()
