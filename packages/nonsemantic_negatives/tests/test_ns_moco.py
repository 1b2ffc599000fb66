import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from nonsemantic_negatives import (
    MoCoNS,
    MoCoNSRecipe,
    PatchNegatives,
    TextureNegatives,
    nonsemantic_logits,
)
from retable.errors import UserError
from retable.methods.method import Batch
from retable.methods.moco import moco_v2
from retable.nn.batch_norm import group_batch_norm
from retable.nn.losses import info_nce
from retable.testing import TinyEncoder, make_batch, own_share, run_processes, train_steps

PATCHES = PatchNegatives(low=2, high=5)
BESIDE: Any = "beside"
RECIPE = MoCoNSRecipe(queue=32, dim=6, momentum=0.9, negatives=PATCHES)


def batch_of(step: int) -> Batch:
    return make_batch(step, sides=(8, 8))


@dataclass(frozen=True)
class LeftHalfMasked:
    """A generator of a user's own: the view without its left half."""

    count: int = 1

    def images(self, batch: Batch, view: int) -> Tensor:
        masked = batch.views[view].clone()
        masked[..., : masked.shape[-1] // 2] = 0
        return masked[None]


# The loss


@pytest.mark.parametrize("placement", ["inside", "outside"])
@pytest.mark.parametrize("count", [1, 3])
def test_the_loss_is_info_nce_with_the_negatives_of_each_query(placement: Any, count: int) -> None:
    recipe = replace(RECIPE, placement=placement, negatives=replace(PATCHES, count=count))
    method = recipe.build(TinyEncoder(), 3)
    train_steps(method, range(3), batch_of)
    batch = batch_of(3)
    found = method(batch)
    # After forward the key encoder is the one that it used.
    queries, keys = method.queries(batch.views[0]), method.keys(batch.views[1], batch)
    images = recipe.negatives.images(batch, 0)
    assert images.shape == (count, 8, 3, 8, 8)
    negatives = torch.stack([normalize(method.key_encoder(one), dim=1) for one in images], dim=1)
    columns = nonsemantic_logits(queries, negatives, alpha=2.0, placement=placement)
    positive = (queries * keys).sum(dim=1, keepdim=True)
    logits = torch.cat([positive, queries @ method.queue.rows.T, columns], dim=1)
    torch.testing.assert_close(found.loss, info_nce(logits, 0.2))
    for metrics in (found.metrics, found.trace):
        assert all(math.isfinite(float(value)) for value in metrics.values())


def test_negatives_are_made_of_the_query_s_view() -> None:
    batch = batch_of(0)
    (negatives,) = PATCHES.images(batch, 0)
    for view, negative in zip(batch.views[0], negatives, strict=True):
        pixels = {tuple(pixel) for pixel in view.flatten(1).T.tolist()}
        assert {tuple(pixel) for pixel in negative.flatten(1).T.tolist()} <= pixels


def test_with_a_vanishing_alpha_it_is_moco_v2_with_one_more_in_the_denominator() -> None:
    plain = moco_v2(queue=32, dim=6, momentum=0.9).build(TinyEncoder(), 3)
    method = replace(RECIPE, alpha=1e-12).build(TinyEncoder(), 3)
    batch = batch_of(0)
    logits = plain.logits(plain.queries(batch.views[0]), plain.keys(batch.views[1], batch), batch)
    with_one = torch.cat([logits, torch.zeros(8, 1)], dim=1)
    torch.testing.assert_close(method(batch).loss, info_nce(with_one, 0.2))


def test_only_the_queries_get_a_gradient() -> None:
    method = RECIPE.build(TinyEncoder(), 3)
    method(batch_of(0)).loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in method.key_encoder.parameters())
    assert all(
        p.grad is not None for p in (*method.encoder.parameters(), *method.head.parameters())
    )


def test_the_gradient_passes_through_no_negative() -> None:
    method = RECIPE.build(TinyEncoder(), 3)
    batch = batch_of(0)
    assert not method.negative_keys(batch).requires_grad
    torch.testing.assert_close(method.negative_keys(batch).norm(dim=2), torch.ones(8, 1))


# The key encoder


def inputs_of_the_key_encoder(method: MoCoNS, batch: Batch) -> list[Tensor]:
    seen: list[Tensor] = []
    handle = method.key_encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    method(batch)
    handle.remove()
    return seen


def rows_in(images: Tensor, shuffled: Tensor) -> list[int]:
    """Return the places of shuffled images among images."""
    return [
        next(i for i, one in enumerate(images) if torch.equal(one, image)) for image in shuffled
    ]


def test_negatives_have_a_pass_and_a_shuffle_of_their_own() -> None:
    method = replace(RECIPE, negatives=replace(PATCHES, count=2)).build(TinyEncoder(), 3)
    batch = make_batch(0, 64, sides=(8, 8))
    keys, *negatives = inputs_of_the_key_encoder(method, batch)
    orders = [rows_in(batch.views[1], keys)]
    images = replace(PATCHES, count=2).images(batch, 0)
    orders += [rows_in(*pair) for pair in zip(images, negatives, strict=True)]
    assert len(orders) == 3
    for order in orders:
        assert sorted(order) == list(range(64))
    assert len({tuple(order) for order in orders}) == 3


def test_batch_statistics_of_keys_do_not_depend_on_negatives() -> None:
    batch = batch_of(0)
    keys = []
    for negatives in (PATCHES, LeftHalfMasked()):
        method = replace(RECIPE, negatives=negatives).build(TinyEncoder(norm=True), 3)
        method(batch)
        method.after_step(batch.progress)
        keys.append(method.queue.rows[:8].clone())
    assert torch.equal(*keys)


def test_only_keys_enter_the_queue() -> None:
    method = RECIPE.build(TinyEncoder(), 3)
    train_steps(method, range(3), batch_of)
    batch, before = batch_of(3), method.queue.rows.clone()
    method(batch)
    keys = method.keys(batch.views[1], batch)
    method.after_step(batch.progress)
    torch.testing.assert_close(method.queue.rows[24:], keys)
    assert torch.equal(method.queue.rows[:24], before[:24])
    assert (method.queue.pointer, method.queue.filled) == (0, 32)


def test_the_key_encoder_moves_before_the_keys() -> None:
    # Source: theta_k <- m theta_k + (1 - m) theta_q over parameters, with theta_q of this forward.
    method = RECIPE.build(TinyEncoder(), 3)
    train_steps(method, range(2), batch_of)
    online = [*method.encoder.parameters(), *method.head.parameters()]
    expected = [
        0.9 * k + (1 - 0.9) * q.detach()
        for k, q in zip(method.key_encoder.parameters(), online, strict=True)
    ]
    method(batch_of(2))
    torch.testing.assert_close(list(method.key_encoder.parameters()), expected)


# Generators


def test_any_generator_of_images_serves() -> None:
    method = replace(RECIPE, negatives=LeftHalfMasked()).build(TinyEncoder(), 3)
    assert all(math.isfinite(loss) for loss in train_steps(method, range(3), batch_of))


def test_several_negatives_of_a_query_differ() -> None:
    first, second = replace(PATCHES, count=2).images(batch_of(0), 0)
    assert not torch.equal(first, second)
    (alone,) = PATCHES.images(batch_of(0), 0)
    assert torch.equal(first, alone)


def test_texture_twins_are_the_layer_of_the_query_s_view() -> None:
    batch = batch_of(0)
    twins = 0.5 * batch.views[0]
    batch = replace(batch, layers=({"companion": twins}, {}))
    assert torch.equal(TextureNegatives().images(batch, 0)[0], twins)
    method = replace(RECIPE, negatives=TextureNegatives()).build(TinyEncoder(), 3)
    assert math.isfinite(method(batch).loss.item())
    with pytest.raises(UserError, match="`layer` must be a layer of view 2, none, got 'companion'"):
        TextureNegatives().images(batch, 1)
    with pytest.raises(UserError, match="Add it to the `layers` of the view's recipe"):
        method(batch_of(0))


# What it logs


@pytest.mark.parametrize("placement", ["inside", "outside"])
def test_metrics_are_means_of_the_raw_cosines(placement: Any) -> None:
    method = replace(RECIPE, placement=placement, alpha=3.0).build(TinyEncoder(), 3)
    batch = batch_of(0)
    metrics = method(batch).metrics
    queries, keys = method.queries(batch.views[0]), method.keys(batch.views[1], batch)
    cosines = torch.einsum("bd,bnd->bn", queries, method.negative_keys(batch)).detach()
    positive = (queries * keys).sum(dim=1, keepdim=True).detach()
    torch.testing.assert_close(metrics["nonsemantic_score"], cosines.mean())
    torch.testing.assert_close(metrics["nonsemantic_margin"], (positive - cosines).mean())
    logit = 3 * cosines if placement == "inside" else cosines + 0.2 * math.log(3)
    assert metrics["nonsemantic_above"] == (logit > positive).float().mean()
    assert 0 < float(metrics["nonsemantic_share"]) < 3


def test_the_encoder_s_work_counts_the_negatives_pass() -> None:
    plain = moco_v2(queue=32, dim=6).build(TinyEncoder(), 3).encoder_inputs((32, 32))
    assert plain == ((32, 3.0), (32, 1.0))
    method = replace(RECIPE, negatives=replace(PATCHES, count=2)).build(TinyEncoder(), 3)
    assert method.encoder_inputs((32, 32)) == (*plain, (32, 2.0))


# State and processes


def test_state_saved_in_the_middle_continues_to_the_bit() -> None:
    whole = RECIPE.build(TinyEncoder(), 3)
    losses = train_steps(whole, range(6), batch_of)
    first = RECIPE.build(TinyEncoder(), 3)
    start = train_steps(first, range(4), batch_of)
    second = RECIPE.build(TinyEncoder(), 4)
    second.load_state_dict(first.state_dict())
    assert start + train_steps(second, range(4, 6), batch_of) == losses
    assert torch.equal(whole.queue.rows, second.queue.rows)


def test_under_autocast_scores_are_float32() -> None:
    method = RECIPE.build(TinyEncoder(), 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = method(batch_of(0))
    assert output.loss.dtype == torch.float32


def train_share(recipe: MoCoNSRecipe, steps: Iterable[int], norm: bool) -> tuple[Any, ...]:
    method = recipe.build(TinyEncoder(norm), 3)
    if norm:
        group_batch_norm(method, 4)
    losses = train_steps(method, steps, batch_of)
    negatives = recipe.negatives.images(own_share(batch_of(9)), 0)[0]
    return losses, method.queue.rows, next(method.encoder.parameters()), negatives


@pytest.mark.parametrize("norm", [False, True])
def test_two_processes_train_as_one(norm: bool) -> None:
    """Theorem: mean of the processes' losses and gradients = those of the global batch."""
    one = train_share(RECIPE, range(4), norm)
    first, second = run_processes(train_share, 2, RECIPE, range(4), norm)
    assert first[0] == pytest.approx(one[0], abs=1e-6)
    assert torch.equal(first[1], second[1])
    for found, expected in zip(first[1:3], one[1:3], strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert torch.equal(torch.cat([first[3], second[3]]), one[3])


# Usage


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: replace(RECIPE, alpha=0.0), "`alpha` must be positive, got 0.0"),
        (lambda: MoCoNSRecipe(placement=BESIDE), "`placement` must be one of"),
        (lambda: PatchNegatives(low=9, high=5), "`low` and `high` must be at least 1"),
        (lambda: PatchNegatives(low=0), "`low` must be at least 1"),
        (lambda: PatchNegatives(count=0), "`count` must be at least 1"),
    ],
)
def test_a_wrong_recipe_is_a_user_error(build: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        build()


def test_the_defaults_are_table_1_s() -> None:
    recipe = MoCoNSRecipe()
    assert (recipe.queue, recipe.temperature, recipe.head) == (16384, 0.2, "mlp")
    assert (recipe.momentum, recipe.alpha, recipe.placement) == (0.999, 2.0, "inside")
    assert recipe.negatives == PatchNegatives(low=16, high=72)
    assert isinstance(RECIPE.build(TinyEncoder(), 3), MoCoNS)
