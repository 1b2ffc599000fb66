import math
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from feature_transform import MoCoFT, MoCoFTRecipe, TransformRecipe, transformed_logits
from retable.errors import UserError
from retable.methods.method import StepOutput
from retable.methods.moco import MoCoRecipe
from retable.random import derive_key
from retable.testing import TinyEncoder, make_batch, train_steps

BOTH = TransformRecipe()
NOTHING = TransformRecipe(positives="none", negatives="none")
RECIPE = MoCoFTRecipe(queue=20, dim=6, temperature=0.2, momentum=0.9)
PLAIN = MoCoRecipe(queue=20, dim=6, temperature=0.2, momentum=0.9)
VARIANTS = {
    "both": BOTH,
    "groups of four": TransformRecipe(draw_group=4),
    "groups of a row": TransformRecipe(draw_group=1),
    "a group beyond the batch": TransformRecipe(draw_group=16),
    "sample": TransformRecipe(level="sample"),
    "dimension": TransformRecipe(level="dimension", draw_group=4),
    "positives": TransformRecipe(negatives="none"),
    "extrapolated": TransformRecipe(positives="none", negatives="extrapolate", renormalise=True),
    "hard": TransformRecipe(positives="none", negatives="hard", hard_weight_on="negative"),
}


def build(transform: TransformRecipe, **changes: Any) -> MoCoFT:
    return replace(RECIPE, transform=transform, **changes).build(TinyEncoder(), 3)


def scored_step(method: MoCoFT, step: int) -> tuple[Tensor, Tensor, Tensor, StepOutput]:
    """Return queries, keys and queue of a step as the loss sees them, and what it gives back."""
    batch = make_batch(step)
    queue = method.queue.rows.clone()
    output = method(batch)
    queries = method.queries(batch.views[0]).detach()
    return queries, method.keys(batch.views[1], batch), queue, output


# When it transforms


@pytest.mark.parametrize("name", VARIANTS)
def test_the_loss_is_infonce_of_the_transformed_pairs_of_that_step(name: str) -> None:
    transform = VARIANTS[name]
    method = build(transform)
    train_steps(method, range(2))
    for step in (2, 3):  # draws are those of the step, not of the construction
        queries, keys, queue, output = scored_step(method, step)
        method.after_step(make_batch(step).progress)
        rng_key = derive_key(make_batch(step).rng_key, "transform")
        logits = transformed_logits(queries, keys, queue, transform, rng_key) / 0.2
        expected = (logits.logsumexp(dim=1) - logits[:, 0]).mean()
        torch.testing.assert_close(output.loss.detach(), expected)


# What it leaves alone


@pytest.mark.parametrize("name", VARIANTS)
def test_only_raw_keys_are_enqueued(name: str) -> None:
    method = build(VARIANTS[name])
    expected = method.queue.rows.clone()
    for step in range(4):  # 8 keys into 20 rows: the third step goes around the end
        before = method.queue.rows.clone()
        method(make_batch(step)).loss.backward()
        assert torch.equal(method.queue.rows, before)  # until the loss has been differentiated
        keys = method.keys(make_batch(step).views[1], make_batch(step))
        assert (keys @ before.T).max() < 1 - 1e-4  # no key is its own negative
        method.after_step(make_batch(step).progress)
        places = (8 * step + torch.arange(8)) % 20
        expected[places] = keys
        assert torch.equal(method.queue.rows, expected)
        assert method.queue.pointer == 8 * (step + 1) % 20
    torch.testing.assert_close(method.queue.rows.norm(dim=1), torch.ones(20))


# What it traces

RAW = {"positive_mean", "negative_mean", "negative_variance"}
TRANSFORMED = {f"transformed_{name}" for name in RAW}


def numbers_of(scores: Tensor) -> list[float]:
    """Return the three statistics of scores (B, 1 + K), one query after the other."""
    rows = scores.double()
    means = [float(row[1:].mean()) for row in rows]
    variances = [float(row[1:].var(unbiased=True)) for row in rows]
    count = len(rows)
    return [float(rows[:, 0].mean()), sum(means) / count, sum(variances) / count]


def traced(output: StepOutput, prefix: str = "") -> list[float]:
    names = ("positive_mean", "negative_mean", "negative_variance")
    return [float(output.trace[f"{prefix}{name}"]) for name in names]


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("unit_sphere", [True, False])
def test_the_trace_holds_raw_and_transformed_scores_of_the_step(
    name: str, unit_sphere: bool
) -> None:
    method = build(VARIANTS[name], unit_sphere=unit_sphere)
    train_steps(method, range(3))
    queries, keys, queue, output = scored_step(method, 3)
    assert set(output.trace) == RAW | TRANSFORMED
    raw = torch.cat([(queries * keys).sum(1, keepdim=True), queries @ queue.T], dim=1)
    assert traced(output) == pytest.approx(numbers_of(raw), rel=1e-4, abs=1e-5)
    rng_key = derive_key(make_batch(3).rng_key, "transform")
    seen = transformed_logits(
        queries, keys, queue, VARIANTS[name], rng_key, rows="unit" if unit_sphere else "unchecked"
    )
    expected = numbers_of(seen)
    assert traced(output, "transformed_") == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_interpolation_leaves_the_mean_of_the_negatives_and_lowers_their_variance() -> None:
    """So what one sees of it in the mean over a training is an effect of the training."""
    method = build(replace(BOTH, positives="none"))
    for step in range(4):
        output = method(make_batch(step))
        method.after_step(make_batch(step).progress)
        raw, seen = traced(output), traced(output, "transformed_")
        assert seen[:2] == pytest.approx(raw[:2], abs=1e-6)
        assert seen[2] < raw[2]


def test_the_scores_of_a_fresh_queue_are_those_of_directions_without_a_preference() -> None:
    # Source: uniform directions in D dimensions have mean score 0 and variance 1 / D.
    output = build(BOTH, queue=4000, dim=16)(make_batch(0))
    _, mean, variance = traced(output)
    assert mean == pytest.approx(0, abs=4 / math.sqrt(16 * 4000))
    assert variance == pytest.approx(1 / 16, rel=0.1)


# Off the unit sphere


def test_without_unit_sphere_features_are_the_heads_outputs() -> None:
    method = build(BOTH, unit_sphere=False)
    raw = method.head(method.encoder(make_batch(0).views[0]))
    queries, keys, _, output = scored_step(method, 0)
    assert torch.equal(queries, raw.detach())
    assert (queries.norm(dim=1) - 1).abs().min() > 1e-3
    torch.autograd.backward(output.loss)
    method.after_step(make_batch(0).progress)
    assert torch.equal(method.queue.rows[:8], keys)
    assert (keys.norm(dim=1) - 1).abs().min() > 1e-3


def test_without_unit_sphere_the_spread_is_that_of_directions() -> None:
    """Otherwise a growing length would look like a spreading embedding."""
    batch = make_batch(0)
    method = build(NOTHING, unit_sphere=False)
    spread = method(batch).metrics["embedding_spread"]
    directions = normalize(method.queries(batch.views[0]).detach(), dim=1)
    expected = directions.std(dim=0).mean() * math.sqrt(6)
    torch.testing.assert_close(spread, expected)


def test_without_unit_sphere_losses_are_finite() -> None:
    for transform in (NOTHING, *VARIANTS.values()):
        losses = train_steps(build(transform, unit_sphere=False), range(4))
        assert all(math.isfinite(loss) for loss in losses)


# Processes


# The recipe


def test_the_recipe_builds_the_method_and_defaults_to_version_1() -> None:
    recipe = MoCoFTRecipe()
    assert (recipe.queue, recipe.temperature, recipe.dim, recipe.head) == (
        65536,
        0.07,
        128,
        "linear",
    )
    assert (recipe.momentum, recipe.unit_sphere, recipe.transform) == (0.99, True, BOTH)
    assert isinstance(RECIPE.build(TinyEncoder(), 3), MoCoFT)
    fields = asdict(recipe)
    rebuilt = MoCoFTRecipe(**fields | {"transform": TransformRecipe(**fields["transform"])})
    assert rebuilt == recipe


@pytest.mark.parametrize("name", VARIANTS)
def test_an_oracle_with_a_transformation_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"`oracle` must be False with a transformation"):
        replace(RECIPE, oracle=True, transform=VARIANTS[name])


def test_an_oracle_without_transformation_equals_moco() -> None:
    plain = replace(PLAIN, oracle=True).build(TinyEncoder(), 3)
    transformed = build(NOTHING, oracle=True)
    assert train_steps(plain, range(5)) == train_steps(transformed, range(5))
