"""SimSiam and BYOL with positive extrapolation: what it does is known in closed form."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from feature_transform import BYOLFTRecipe, SimSiamFTRecipe, TransformRecipe
from feature_transform import logits as logits_module
from feature_transform.siamese import mean_loss_weight
from retable.errors import UserError
from retable.methods import (
    Batch,
    BYOLRecipe,
    MethodRecipe,
    Metrics,
    Siamese,
    SimSiamRecipe,
)
from retable.nn.batch_norm import group_batch_norm
from retable.nn.momentum import MomentumRecipe
from retable.random import derive_key, normal
from retable.testing import TinyEncoder, make_batch

PLAIN: dict[str, MethodRecipe] = {
    "simsiam": SimSiamRecipe(dim=6, hidden_dim=10, predictor_hidden_dim=4),
    "byol": BYOLRecipe(dim=6, hidden_dim=10, momentum=MomentumRecipe(0.9, "cosine")),
}
RECIPES = {
    "simsiam": SimSiamFTRecipe(dim=6, hidden_dim=10, predictor_hidden_dim=4),
    "byol": BYOLFTRecipe(dim=6, hidden_dim=10, momentum=MomentumRecipe(0.9, "cosine")),
}
BEST = {"simsiam": -1.0, "byol": 0.0}
"""The loss where predictions meet their targets."""

POSITIVES = TransformRecipe(negatives="none")
NOTHING = TransformRecipe(positives="none", negatives="none")
VARIANTS = {
    "batch": POSITIVES,
    "groups of two": replace(POSITIVES, draw_group=2),
    "a group beyond the batch": replace(POSITIVES, draw_group=16),
    "sample": replace(POSITIVES, level="sample"),
    "dimension": replace(POSITIVES, level="dimension"),
    "by dimension, as the only target": replace(POSITIVES, single_target_elementwise=True),
    "renormalised": replace(POSITIVES, renormalise=True),
}
EACH = pytest.mark.parametrize("transform", VARIANTS.values(), ids=VARIANTS)
BOTH = pytest.mark.parametrize("name", RECIPES)


def plain(name: str) -> Siamese:
    built = PLAIN[name].build(TinyEncoder(), 3)
    assert isinstance(built, Siamese)
    return built


def build(name: str, transform: TransformRecipe = POSITIVES, loss_weight: float = 1.0) -> Siamese:
    recipe: Any = RECIPES[name]
    built = replace(recipe, transform=transform, loss_weight=loss_weight).build(TinyEncoder(), 3)
    assert isinstance(built, Siamese)
    return built


def gradient(method: Siamese, batch: Batch) -> list[Tensor]:
    trained = [parameter for parameter in method.parameters() if parameter.requires_grad]
    return list(torch.autograd.grad(method(batch).loss, trained))


def assert_equal_to_rounding(found: list[Tensor], expected: list[Tensor]) -> None:
    """Compare gradients, whose entries are sums of terms that are as large as the largest."""
    largest = max(float(tensor.abs().max()) for tensor in expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-6 * largest)


def weigh(monkeypatch: pytest.MonkeyPatch, weight: Tensor | float) -> None:
    """Let both terms of a step draw this weight."""
    drawn = torch.as_tensor(weight)
    monkeypatch.setattr(logits_module, "positive_weights", lambda *_: drawn)


# Predictions and targets outside a network: unit rows, float64, predictions made of `raw`


def raw_and_targets(rows: int = 8, dim: int = 6) -> tuple[Tensor, Tensor]:
    draws = [normal(derive_key(4, n), torch.arange(rows * dim)).view(rows, dim) for n in (0, 1)]
    raw = 3 * draws[0].double()
    return raw.requires_grad_(), normalize(draws[0].double() + draws[1].double(), dim=1)


def scores(
    method: Siamese, raw: Tensor, targets: Tensor, batch: Batch | None = None, term: int = 0
) -> tuple[Tensor, Tensor]:
    """Return a method's similarities (B,) and their gradient (B, D) in what was normalised."""
    if batch is None:
        batch = replace(make_batch(), positions=torch.arange(len(raw)))
    found = method.similarity(normalize(raw, dim=1), targets, batch, term)
    return found.detach(), torch.autograd.grad(found.sum(), raw)[0]


def drawn_factors(found: Tensor, cosines: Tensor) -> Tensor:
    """Return 1 + 2 w (w - 1) of each row, from its score alone."""
    return 1 + (cosines - found) / (1 - cosines)


def drawn_weights(factors: Tensor) -> Tensor:
    """Return the w >= 1 of which factors are 1 + 2 w (w - 1)."""
    return (1 + (2 * factors - 1).sqrt()) / 2


@BOTH
@pytest.mark.parametrize("fields", [{}, {"draw_group": 2}, {"level": "sample"}])
def test_the_gradient_of_each_row_grows_as_its_score_falls(
    name: str, fields: dict[str, Any]
) -> None:
    """A score that falls by 2 w (w - 1) (1 - S) has 1 + 2 w (w - 1) times the gradient, exactly."""
    raw, targets = raw_and_targets()
    cosines, slopes = scores(plain(name), raw, targets)
    found, steeper = scores(build(name, replace(POSITIVES, **fields)), raw, targets)
    factors = drawn_factors(found, cosines)
    assert ((factors > 1) & (factors < 5)).all()
    torch.testing.assert_close(steeper, factors[:, None] * slopes, rtol=1e-10, atol=1e-12)
    expected = {"draw_group": 4, "level": 8}.get(next(iter(fields), ""), 1)
    assert len({round(float(factor), 9) for factor in factors}) == expected


@settings(deadline=None)
@given(
    weight=st.floats(1, 2),
    rows=st.lists(st.lists(st.floats(-1, 1), min_size=8, max_size=8), min_size=1, max_size=4),
)
def test_scores_and_gradients_are_the_closed_forms_for_any_pair(
    weight: float, rows: list[list[float]]
) -> None:
    """Without and with re-normalisation, for X = 2 w (w - 1) (1 - S)."""
    drawn = torch.tensor(rows, dtype=torch.float64) + torch.tensor([1.01, 0, 0, 0, 0, 1.02, 0, 0])
    raw, targets = drawn[:, :4].clone().requires_grad_(), normalize(drawn[:, 4:], dim=1)
    cosines, slopes = scores(plain("simsiam"), raw, targets)
    growth = 2 * weight * (weight - 1)
    fall = growth * (1 - cosines)
    with pytest.MonkeyPatch.context() as patch:
        weigh(patch, torch.tensor(weight, dtype=torch.float64))
        found, steeper = scores(build("simsiam"), raw, targets)
        bounded, bent = scores(build("simsiam", VARIANTS["renormalised"]), raw, targets)
    torch.testing.assert_close(found, cosines - fall, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(steeper, (1 + growth) * slopes, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(bounded, (cosines - fall) / (1 + fall), rtol=1e-9, atol=1e-9)
    expected = ((1 + 2 * growth) / (1 + fall).square())[:, None] * slopes
    torch.testing.assert_close(bent, expected, rtol=1e-8, atol=1e-8)


@BOTH
def test_renormalised_scores_are_the_closed_form_of_the_same_draws(name: str) -> None:
    raw, targets = raw_and_targets()
    for level in ("batch", "sample"):
        transform = replace(POSITIVES, level=level)
        cosines, _ = scores(plain(name), raw, targets)
        found, _ = scores(build(name, transform), raw, targets)
        bounded, _ = scores(build(name, replace(transform, renormalise=True)), raw, targets)
        fall = cosines - found
        torch.testing.assert_close(bounded, (cosines - fall) / (1 + fall))
        assert bounded.abs().max() <= 1


@BOTH
def test_weights_of_a_dimension_fall_by_the_sum_over_dimensions(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, targets = raw_and_targets()
    weight = 1 + torch.rand(8, 6, dtype=torch.float64)
    weigh(monkeypatch, weight)
    found, _ = scores(build(name, VARIANTS["dimension"]), raw, targets)
    predictions = normalize(raw.detach(), dim=1)
    falls = weight * (weight - 1) * (predictions - targets).square()
    torch.testing.assert_close(found, (predictions * targets).sum(dim=1) - falls.sum(dim=1))


# The loss of a step


@BOTH
@settings(deadline=None, max_examples=15)
@given(weight=st.floats(1, 2))
def test_the_loss_is_the_plain_one_times_a_factor_and_a_constant(name: str, weight: float) -> None:
    factor, batch = 1 + 2 * weight * (weight - 1), make_batch()
    reference, method = plain(name), build(name)
    with pytest.MonkeyPatch.context() as patch:
        weigh(patch, weight)
        loss, slopes = method(batch).loss, gradient(method, batch)
    expected = factor * reference(batch).loss - (factor - 1) * BEST[name]
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    assert_equal_to_rounding(slopes, [factor * slope for slope in gradient(reference, batch)])


@BOTH
@EACH
def test_the_loss_uses_the_similarity_hook(name: str, transform: TransformRecipe) -> None:
    method, batch = build(name, transform), make_batch()
    output = method(batch)
    (first, target_of_first), (second, target_of_second) = (
        [normalize(x, dim=1) for x in method.branches(view)] for view in batch.views
    )
    terms = [(first, target_of_second), (second, target_of_first)]
    similarities = torch.stack(
        [method.similarity(*pair, batch, term) for term, pair in enumerate(terms)]
    )
    torch.testing.assert_close(output.loss, method.loss(similarities))
    cosines = torch.stack([(one * other).sum(dim=1) for one, other in terms])
    assert (similarities < cosines).all()


# What is drawn


@BOTH
def test_each_term_of_each_step_draws_a_weight_of_its_own(name: str) -> None:
    raw, targets = raw_and_targets()
    method = build(name)
    cosines, _ = scores(plain(name), raw, targets)
    factors = [
        drawn_factors(scores(method, raw, targets, make_batch(step), term)[0], cosines)
        for step in range(6)
        for term in (0, 1)
    ]
    weights = torch.stack([drawn_weights(row) for row in factors])
    torch.testing.assert_close(weights, weights[:, :1].expand(-1, 8))  # one for the batch
    assert ((weights > 1) & (weights < 2)).all()
    distances = (weights[:, 0] - weights[:, :1]).abs() + torch.eye(12)
    assert distances.min() > 1e-6


@BOTH
def test_a_term_draws_by_the_place_of_a_sample_in_the_global_batch(name: str) -> None:
    raw, targets = raw_and_targets()
    for transform in VARIANTS.values():
        method, batch = build(name, transform), make_batch()
        whole, _ = scores(method, raw, targets, batch)
        for rows in (slice(0, 4), slice(4, 8)):
            part = replace(batch, positions=batch.positions[rows])
            found, _ = scores(method, raw[rows], targets[rows], part)
            torch.testing.assert_close(found, whole[rows])


@BOTH
@EACH
def test_gradient_of_a_batch_is_the_mean_of_its_parts(
    name: str, transform: TransformRecipe
) -> None:
    method, batch = build(name, transform, 2.6), make_batch()
    assert method.accumulates
    group_batch_norm(method, 4)
    parts = [batch.rows(rows) for rows in (slice(0, 4), slice(4, 8))]
    halves = zip(*(gradient(method, part) for part in parts), strict=True)
    means = [(one + other) / 2 for one, other in halves]
    assert_equal_to_rounding(means, gradient(method, batch))


# The control


@pytest.mark.parametrize("alpha", [0.2, 0.5, 1.0, 1.6, 2.0, 5.0])
def test_the_mean_loss_weight_is_the_integral_over_the_beta_distribution(alpha: float) -> None:
    # Over the angle whose squared sine is the draw, in which the density is bounded.
    angles = (torch.arange(200_000, dtype=torch.float64) + 0.5) * (math.pi / 2 / 200_000)
    draws = angles.sin().square()
    density = (angles.sin() * angles.cos()) ** (2 * alpha - 1)
    weights = 1 + draws
    factors = 1 + 2 * weights * (weights - 1)
    expected = float((factors * density).sum() / density.sum())
    assert mean_loss_weight(alpha) == pytest.approx(expected, rel=1e-3 if alpha < 0.5 else 1e-6)


@BOTH
@pytest.mark.parametrize("alpha", [0.5, 2.0])
def test_the_mean_over_draws_of_a_rows_gradient_is_that_of_the_control(
    name: str, alpha: float
) -> None:
    count = 40_000
    raw, targets = raw_and_targets(1, 4)
    many, same = raw.detach().expand(count, -1).clone().requires_grad_(), targets.expand(count, -1)
    cosines, slopes = scores(plain(name), raw, targets)
    transform = replace(POSITIVES, level="sample", alpha_ex=alpha)
    found, steeper = scores(build(name, transform), many, same)
    factors = drawn_factors(found, cosines)
    tolerance = 4 * float(factors.std()) / math.sqrt(count)
    assert float(factors.mean()) == pytest.approx(mean_loss_weight(alpha), abs=tolerance)
    control = mean_loss_weight(alpha) * slopes[0]
    error = (steeper.mean(dim=0) - control).norm() / slopes.norm()
    assert float(error) <= tolerance


@BOTH
@pytest.mark.parametrize("transform", [NOTHING, POSITIVES], ids=["control", "extrapolated"])
def test_the_loss_weight_scales_loss_and_gradient_and_nothing_else(
    name: str, transform: TransformRecipe
) -> None:
    batch = make_batch()
    reference = build(name, transform) if transform is POSITIVES else plain(name)
    expected, slopes = reference(batch), gradient(reference, batch)
    for factor in (0.5, 1.0, 4.0):  # powers of two: no rounding
        weighted = build(name, transform, factor)
        output = weighted(batch)
        assert torch.equal(output.loss, factor * expected.loss)
        assert all(map(torch.equal, gradient(weighted, batch), [factor * x for x in slopes]))
        assert (output.metrics, output.trace) == (expected.metrics, expected.trace)
    control = build(name, transform, mean_loss_weight(2.0))
    assert_equal_to_rounding(gradient(control, batch), [2.6 * slope for slope in slopes])


# When it transforms


# What it traces


def values(metrics: Metrics) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}


@BOTH
@EACH
def test_the_trace_holds_raw_and_transformed_scores_of_the_step(
    name: str, transform: TransformRecipe
) -> None:
    batch = make_batch(5)
    reference, method = plain(name), build(name, replace(transform, start_epoch=1.0))
    raw = values(reference(batch).trace)
    output = method(batch)
    found = values(output.trace)
    assert values(output.metrics) == values(reference(batch).metrics)  # of raw cosines
    assert found.pop("transformed_positive_mean") == pytest.approx(
        -output.loss.item() if name == "simsiam" else 1 - output.loss.item() / 4, abs=1e-6
    )
    assert found == raw
    assert set(method(make_batch(4)).trace) == set(raw)  # before the start epoch


# The recipe


@BOTH
@pytest.mark.parametrize("negatives", ["interpolate", "extrapolate", "hard"])
def test_negatives_are_refused(name: str, negatives: Any) -> None:
    recipe: Any = RECIPES[name]
    message = f"`transform.negatives` must be none, got {negatives}"
    with pytest.raises(UserError, match=message):
        replace(recipe, transform=TransformRecipe(negatives=negatives))


@BOTH
@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf])
def test_invalid_loss_weights_are_refused(name: str, weight: float) -> None:
    recipe: Any = RECIPES[name]
    with pytest.raises(UserError, match=f"must be positive.*, got {weight}"):
        replace(recipe, loss_weight=weight)
