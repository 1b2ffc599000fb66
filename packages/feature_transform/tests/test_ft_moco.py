import math
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from feature_transform import MoCoFT, MoCoFTRecipe, TransformRecipe, transformed_logits
from retable import distributed, random
from retable.errors import UserError
from retable.methods.method import Batch, Progress, StepOutput
from retable.methods.moco import MoCo, MoCoRecipe
from retable.random import derive_key, initialising, normal
from retable.testing import run_processes

BOTH = TransformRecipe()
NOTHING = TransformRecipe(positives="none", negatives="none")
RECIPE = MoCoFTRecipe(queue=20, dim=6, temperature=0.2, momentum=0.9)
PLAIN = MoCoRecipe(queue=20, dim=6, temperature=0.2, momentum=0.9)
STEPS_PER_EPOCH = 5
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

Trained = tuple[list[float], Tensor, Tensor, Tensor]


class Pixels(nn.Module):
    """Pixels through one matrix, without batch norm."""

    feature_dim = 12

    def __init__(self) -> None:
        super().__init__()
        with initialising(5):
            self.linear = nn.Linear(48, 12)

    def forward(self, images: Tensor) -> Tensor:
        return torch.tanh(self.linear(images.flatten(1)))


def make_batch(step: int, size: int = 8) -> Batch:
    """Make the global batch of a step."""
    rows = torch.arange(size * 48)
    views = tuple(normal(derive_key(step, "view", n), rows).view(size, 3, 4, 4) for n in (0, 1))
    return Batch(
        views=(views[0], 0.5 * views[0] + views[1]),
        labels=torch.arange(size) % 3,
        indices=torch.arange(size),
        positions=torch.arange(size),
        progress=Progress(step, STEPS_PER_EPOCH, 4),
        rng_key=derive_key(0, "step", step),
    )


def own_share(batch: Batch) -> Batch:
    take = distributed.own_slice
    return replace(
        batch,
        views=tuple(take(view) for view in batch.views),
        labels=take(batch.labels),
        indices=take(batch.indices),
        positions=take(batch.positions),
    )


def build(transform: TransformRecipe, **changes: Any) -> MoCoFT:
    return replace(RECIPE, transform=transform, **changes).build(Pixels(), 3)


def train(method: MoCo, steps: Iterable[int]) -> list[float]:
    """Take SGD steps with momentum, gradients averaged over processes; return the losses."""
    trained = [parameter for parameter in method.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, 0.1, momentum=0.9, weight_decay=1e-4)
    losses = []
    for step in steps:
        output = method(own_share(make_batch(step)))
        optimizer.zero_grad()
        output.loss.backward()
        for parameter in trained:
            assert parameter.grad is not None
            parameter.grad = distributed.mean(parameter.grad)
        optimizer.step()
        method.after_step(make_batch(step).progress)
        losses.append(float(distributed.mean(output.loss)))
    return losses


def equal_states(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in pairs)


def scored_step(method: MoCoFT, step: int) -> tuple[Tensor, Tensor, Tensor, StepOutput]:
    """Return queries, keys and queue of a step as the loss sees them, and what it gives back."""
    batch = make_batch(step)
    queue = method.queue.rows.clone()
    output = method(batch)
    queries = method.queries(batch.views[0]).detach()
    return queries, method.keys(batch.views[1], batch), queue, output


# When it transforms


def test_a_recipe_that_transforms_nothing_is_moco_to_the_bit() -> None:
    plain, transformed = PLAIN.build(Pixels(), 3), build(NOTHING)
    assert train(plain, range(8)) == train(transformed, range(8))
    assert equal_states(plain, transformed)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize(("start_epoch", "first"), [(1.0, 5), (0.5, 3), (0.4, 2)])
def test_a_run_is_moco_to_the_bit_until_the_start_epoch_and_not_beyond(
    name: str, start_epoch: float, first: int
) -> None:
    plain, transformed = (
        PLAIN.build(Pixels(), 3),
        build(replace(VARIANTS[name], start_epoch=start_epoch)),
    )
    for step in range(first):
        assert train(plain, [step]) == train(transformed, [step])
    assert equal_states(plain, transformed)
    assert train(plain, [first]) != train(transformed, [first])


def test_nothing_is_drawn_until_the_start_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> Tensor:
        raise AssertionError("drawn")

    monkeypatch.setattr(random, "beta", refuse)
    monkeypatch.setattr(random, "permutation", refuse)
    transformed = build(TransformRecipe(start_epoch=1.0))
    train(transformed, range(5))
    with pytest.raises(AssertionError, match="drawn"):
        transformed(make_batch(5))


@pytest.mark.parametrize("name", VARIANTS)
def test_the_loss_is_infonce_of_the_transformed_pairs_of_that_step(name: str) -> None:
    transform = VARIANTS[name]
    method = build(transform)
    train(method, range(2))
    for step in (2, 3):  # draws are those of the step, not of the construction
        queries, keys, queue, output = scored_step(method, step)
        method.after_step(make_batch(step).progress)
        rng_key = derive_key(make_batch(step).rng_key, "transform")
        logits = transformed_logits(queries, keys, queue, transform, rng_key) / 0.2
        expected = (logits.logsumexp(dim=1) - logits[:, 0]).mean()
        torch.testing.assert_close(output.loss.detach(), expected)


def test_autocast_leaves_the_loss_in_single_precision() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = build(BOTH)(make_batch(0))
    assert output.loss.dtype == torch.float32


# What it leaves alone


@pytest.mark.parametrize("name", VARIANTS)
def test_the_queue_takes_the_raw_keys_and_nothing_else(name: str) -> None:
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


@pytest.mark.parametrize("name", VARIANTS)
def test_no_gradient_reaches_the_key_encoder_or_the_queue(name: str) -> None:
    method = build(VARIANTS[name])
    method(make_batch(0)).loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in method.key_encoder.parameters())
    assert not method.queue.rows.requires_grad
    for module in (method.encoder, method.head):
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())


def test_state_saved_in_the_middle_continues_to_the_bit() -> None:
    whole = build(TransformRecipe(start_epoch=0.4))
    train(whole, range(3))
    losses = train(whole, range(3, 6))  # a new optimizer on both sides
    first, second = (build(TransformRecipe(start_epoch=0.4)) for _ in range(2))
    train(first, range(3))
    second.load_state_dict(first.state_dict())
    assert train(second, range(3, 6)) == losses
    assert equal_states(whole, second)


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
    train(method, range(3))
    queries, keys, queue, output = scored_step(method, 3)
    assert set(output.trace) == RAW | TRANSFORMED
    raw = torch.cat([(queries * keys).sum(1, keepdim=True), queries @ queue.T], dim=1)
    assert traced(output) == pytest.approx(numbers_of(raw), rel=1e-4, abs=1e-5)
    rng_key = derive_key(make_batch(3).rng_key, "transform")
    seen = transformed_logits(queries, keys, queue, VARIANTS[name], rng_key)
    expected = numbers_of(seen)
    assert traced(output, "transformed_") == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_the_trace_of_a_step_that_is_not_transformed_is_mocos() -> None:
    plain, transformed = PLAIN.build(Pixels(), 3), build(TransformRecipe(start_epoch=1.0))
    for step in range(5):
        outputs = [method(make_batch(step)) for method in (plain, transformed)]
        assert set(outputs[1].trace) == RAW
        assert outputs[0].trace == outputs[1].trace
        for method in (plain, transformed):
            method.after_step(make_batch(step).progress)
    assert set(transformed(make_batch(5)).trace) == RAW | TRANSFORMED
    assert set(build(NOTHING)(make_batch(0)).trace) == RAW


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


def test_what_is_traced_carries_no_gradient() -> None:
    output = build(BOTH)(make_batch(0))
    values = [*output.trace.values(), *output.metrics.values()]
    assert not any(isinstance(value, Tensor) and value.requires_grad for value in values)


# Off the unit sphere


def test_off_the_unit_sphere_features_are_the_heads_outputs() -> None:
    method = build(BOTH, unit_sphere=False)
    raw = method.head(method.encoder(make_batch(0).views[0]))
    queries, keys, _, output = scored_step(method, 0)
    assert torch.equal(queries, raw.detach())
    assert (queries.norm(dim=1) - 1).abs().min() > 1e-3
    torch.autograd.backward(output.loss)
    method.after_step(make_batch(0).progress)
    assert torch.equal(method.queue.rows[:8], keys)
    assert (keys.norm(dim=1) - 1).abs().min() > 1e-3


def test_off_the_unit_sphere_the_spread_is_that_of_directions() -> None:
    """Otherwise a growing length would look like a spreading embedding."""
    batch = make_batch(0)
    method = build(NOTHING, unit_sphere=False)
    spread = method(batch).metrics["embedding_spread"]
    directions = normalize(method.queries(batch.views[0]).detach(), dim=1)
    expected = directions.std(dim=0).mean() * math.sqrt(6)
    torch.testing.assert_close(spread, expected)


def test_off_the_unit_sphere_steps_are_finite_with_and_without_transformation() -> None:
    for transform in (NOTHING, *VARIANTS.values()):
        losses = train(build(transform, unit_sphere=False), range(4))
        assert all(math.isfinite(loss) for loss in losses)


# Processes


def train_share(transform: TransformRecipe, shuffle: bool) -> Trained:
    method = build(transform, shuffle=shuffle)
    losses = train(method, range(4))
    batch = own_share(make_batch(9))
    keys = method.keys(batch.views[1], batch)
    return losses, method.queue.rows, keys, next(method.encoder.parameters()).detach()


def train_every_share() -> dict[str, Trained]:
    trained = {name: train_share(transform, True) for name, transform in VARIANTS.items()}
    return trained | {"unshuffled": train_share(BOTH, False)}


@pytest.fixture(scope="module")
def alone() -> dict[str, Trained]:
    return train_every_share()


@pytest.fixture(scope="module")
def together() -> list[dict[str, Trained]]:
    return run_processes(train_every_share, 2)


@pytest.mark.parametrize("name", VARIANTS)
def test_two_processes_train_as_one(name: str, alone: Any, together: Any) -> None:
    """Theorem: mean of the processes' losses and gradients = those of the global batch."""
    losses, queue, keys, weight = alone[name]
    first, second = (trained[name] for trained in together)
    assert first[0] == pytest.approx(losses, rel=1e-5)
    assert torch.equal(first[1], second[1])  # identical queues on both ranks
    torch.testing.assert_close(first[1], queue, rtol=0, atol=1e-5)  # keys in rank order
    torch.testing.assert_close(torch.cat([first[2], second[2]]), keys, rtol=0, atol=1e-5)
    torch.testing.assert_close(first[3], weight, rtol=0, atol=1e-5)


def test_shuffling_keys_over_processes_is_undone(together: Any) -> None:
    """Without batch norm nothing else is left of it."""
    for trained in together:
        losses, queue, keys, weight = trained["both"]
        unshuffled = trained["unshuffled"]
        assert losses == pytest.approx(unshuffled[0], rel=1e-5)
        for found, expected in zip((queue, keys, weight), unshuffled[1:], strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


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
    assert isinstance(RECIPE.build(Pixels(), 3), MoCoFT)
    fields = asdict(recipe)
    rebuilt = MoCoFTRecipe(**fields | {"transform": TransformRecipe(**fields["transform"])})
    assert rebuilt == recipe


@pytest.mark.parametrize("name", VARIANTS)
def test_an_oracle_beside_a_transformation_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"expected transform\.positives .* none beside oracle"):
        replace(RECIPE, oracle=True, transform=VARIANTS[name])


def test_an_oracle_alone_is_mocos() -> None:
    plain = replace(PLAIN, oracle=True).build(Pixels(), 3)
    transformed = build(NOTHING, oracle=True)
    assert train(plain, range(5)) == train(transformed, range(5))


def test_a_group_that_does_not_fit_is_refused_in_the_first_step_not_at_the_start_epoch() -> None:
    method = build(TransformRecipe(draw_group=3, start_epoch=2))
    with pytest.raises(UserError, match="draw_group is 3 and a process holds 8 rows"):
        method(make_batch(0))
