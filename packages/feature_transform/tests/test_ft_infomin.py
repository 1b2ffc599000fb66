"""InfoMin: MoCo with a jigsaw beside the query, both transformed against one mixed queue."""

import copy
import json
import math
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from feature_transform.draws import draw_groups, hard_weights, mixture, positive_weights
from feature_transform.infomin import InfoMin, InfoMinRecipe, branch_logits
from feature_transform.jigsaw import cut_jigsaw, shuffled_orders
from feature_transform.logits import transformed_logits
from feature_transform.moco import MoCoFTRecipe
from feature_transform.recipe import TransformRecipe
from retable import views
from retable.data.sources import open_source
from retable.encoders import ResNetRecipe
from retable.errors import UserError
from retable.methods.method import Batch
from retable.methods.moco import moco_v2
from retable.nn.batch_norm import group_batch_norm
from retable.random import derive_key, normal
from retable.testing import TinyEncoder, make_batch, run_processes, train_steps
from retable.train.optim import OptimizerRecipe
from retable.train.options import RunOptions
from retable.train.pretrain import make_accelerator, pretrain
from retable.train.recipe import PretrainRecipe
from retable.train.runs import RunDirectory

torch.set_num_threads(1)

RECIPE = InfoMinRecipe(queue=20, dim=6, momentum=0.9, grid=2, cell=5, crop=3)
STEPS_PER_EPOCH = 5
SIDES = (8, 8, 10)
jigsaw_batch = partial(make_batch, sides=SIDES)
pair_batch = partial(make_batch, sides=SIDES[:2])
TRANSFORMS = {
    "none": TransformRecipe(positives="none", negatives="none"),
    "both": TransformRecipe(),
    "positives": TransformRecipe(negatives="none"),
    "negatives": TransformRecipe(positives="none"),
    "sample": TransformRecipe(level="sample"),
    "dimension": TransformRecipe(level="dimension"),
    "renormalised": TransformRecipe(renormalise=True),
    "raw query": TransformRecipe(score_against="raw"),
    "extrapolated": TransformRecipe(negatives="extrapolate"),
    "groups": TransformRecipe(draw_group=4),
    "hard": TransformRecipe(negatives="hard", level="sample"),
}


def built(transform: str = "both", norm: bool = False, **changes: Any) -> InfoMin:
    recipe = replace(RECIPE, transform=TRANSFORMS[transform], **changes)
    return recipe.build(TinyEncoder(norm), 3)


# Without the jigsaw


def test_without_jigsaw_and_transformation_it_is_moco_to_the_bit() -> None:
    plain = moco_v2(queue=20, dim=6, momentum=0.9, temperature=0.15).build(TinyEncoder(), 3)
    infomin = built("none", jigsaw=False)
    steps = range(7)
    assert train_steps(plain, steps, pair_batch) == train_steps(infomin, steps, pair_batch)
    assert plain.state_dict().keys() == infomin.state_dict().keys()
    for one, other in zip(plain.parameters(), infomin.parameters(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(plain.queue.rows, infomin.queue.rows)


def test_without_jigsaw_it_is_transformed_moco_to_the_bit() -> None:
    recipe = MoCoFTRecipe(queue=20, dim=6, momentum=0.9, temperature=0.15, head="mlp")
    steps = range(7)
    expected = train_steps(recipe.build(TinyEncoder(), 3), steps, pair_batch)
    assert train_steps(built(jigsaw=False), steps, pair_batch) == expected


def test_the_jigsaw_changes_neither_the_pairs_draws_nor_the_other_weights() -> None:
    # Source: identity, at the first step.
    with_it, without = built()(jigsaw_batch(0)), built(jigsaw=False)(pair_batch(0))
    assert with_it.metrics["pair_loss"] == without.loss
    for name in without.trace:
        assert with_it.trace[name] == without.trace[name]


# The loss


def loss_in_loops(method: InfoMin, batch: Batch) -> Tensor:
    """Follow the step image by image, crop by crop and negative by negative."""
    recipe, transform, tau = method.recipe, method.transform, method.temperature
    rng_key, jigsaw_key = (
        derive_key(batch.rng_key, "transform"),
        derive_key(batch.rng_key, "jigsaw"),
    )
    branch_keys = (rng_key, derive_key(rng_key, "branch", 1))
    places, size, dim = batch.positions, recipe.queue, recipe.dim
    groups = list(draw_groups(places, transform.draw_group))
    sizes = {"grid": recipe.grid, "cell": recipe.cell, "crop": recipe.crop}
    assert method.jigsaw_head is not None
    losses = []
    for image in range(len(places)):
        one = slice(image, image + 1)
        query_view, key_view, puzzle = (view[one] for view in batch.views)
        query = F.normalize(method.head(method.encoder(query_view)), dim=1)[0]
        with torch.no_grad():
            key = F.normalize(method.key_encoder(key_view), dim=1)[0]
        (crops,) = cut_jigsaw(puzzle, jigsaw_key, places[one], **sizes)
        (order,) = shuffled_orders(derive_key(jigsaw_key, "order"), places[one], len(crops))
        parts = [method.jigsaw_head.each(method.encoder(crops[i, None]))[0] for i in order]
        joined = F.normalize(method.jigsaw_head.joined(torch.cat(parts)), dim=0)
        (number,) = (number for number, own in groups if own.start <= image < own.stop)
        for raw, branch_key in zip((query, joined), branch_keys, strict=True):
            moved, moved_key = raw, key
            if transform.positives == "extrapolate":
                weight = positive_weights(transform, branch_key, places, dim)[image]
                moved, moved_key = (
                    weight * a + (1 - weight) * b for a, b in ((raw, key), (key, raw))
                )
                if transform.renormalise:
                    moved, moved_key = F.normalize(moved, dim=0), F.normalize(moved_key, dim=0)
            seen = moved if transform.score_against == "extrapolated" else raw
            scores = [moved @ moved_key]
            for j in range(size):
                row = method.queue.rows[j]
                if transform.negatives == "hard":
                    share = hard_weights(transform, branch_key, places, dim)[image]
                    row = share * raw + (1 - share) * row
                elif transform.negatives != "none":
                    partners, weight = mixture(transform, rng_key, number, size, dim)
                    share = weight if weight.ndim == 0 else weight[j]
                    row = share * row + (1 - share) * method.queue.rows[partners[j]]
                if transform.renormalise:
                    row = F.normalize(row, dim=0)
                scores.append(seen @ row)
            logits = torch.stack(scores) / tau
            losses.append(logits.logsumexp(0) - logits[0])
    return torch.stack(losses).mean()


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_step_is_that_of_straight_loops(name: str) -> None:
    # Source: the paper's equations, in loops; weights, partners, crops by the functions tested
    # elsewhere. Gradients of every weight, encoder and both heads.
    method = built(name)
    train_steps(method, range(2), jigsaw_batch)
    reference = copy.deepcopy(method)
    batch = jigsaw_batch(2)
    reference.key_encoder.update(0.9)
    expected = loss_in_loops(reference, batch)
    expected.backward()  # type: ignore[no-untyped-call]
    method.zero_grad()
    output = method(batch)
    output.loss.backward()
    torch.testing.assert_close(output.loss, expected, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(method.parameters(), reference.parameters(), strict=True):
        if ours.requires_grad:
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)


def rows(count: int, seed: int) -> Tensor:
    return F.normalize(normal(seed, torch.arange(count * 6)).view(count, 6), dim=1)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_first_branch_has_the_logits_of_a_method_without_branches(name: str) -> None:
    # Source: identity.
    query, other, key, queue = rows(8, 1), rows(8, 2), rows(8, 3), rows(20, 4)
    positions, transform = torch.arange(8), TRANSFORMS[name]
    alone = transformed_logits(query, key, queue, transform, 5, positions)
    first, second = branch_logits([query, other], key, queue, transform, 5, positions)
    assert torch.equal(first, alone)
    assert second.shape == alone.shape


def test_branches_share_the_mixed_queue_and_have_weights_of_their_own() -> None:
    # Source: definition; equal queries show what differs between the branches.
    query, key, queue, positions = rows(8, 1), rows(8, 3), rows(20, 4), torch.arange(8)
    mixed = branch_logits([query] * 2, key, queue, TRANSFORMS["negatives"], 5, positions)
    assert torch.equal(*mixed)
    assert not torch.allclose(mixed[0][:, 1:], query @ queue.T)
    first, second = branch_logits([query] * 2, key, queue, TRANSFORMS["both"], 5, positions)
    lost = (query * key).sum(dim=1) - torch.stack([first[:, 0], second[:, 0]])
    ratio = lost[1] / lost[0]  # of 2 w (w - 1), one weight for all rows of a branch
    torch.testing.assert_close(ratio, ratio[:1].expand(8), rtol=1e-3, atol=0)
    assert abs(float(ratio[0]) - 1) > 0.01


def test_the_loss_is_the_mean_of_both_branches_losses() -> None:
    output = built()(jigsaw_batch(0))
    pair, jigsaw = output.metrics["pair_loss"], output.metrics["jigsaw_loss"]
    assert float(output.loss.detach()) == pytest.approx((float(pair) + float(jigsaw)) / 2)


def test_nothing_is_transformed_before_the_start_epoch() -> None:
    late = built()
    late.transform = replace(late.transform, start_epoch=1)
    plain = built("none")
    epoch = range(STEPS_PER_EPOCH)
    assert train_steps(late, epoch, jigsaw_batch) == train_steps(plain, epoch, jigsaw_batch)
    assert train_steps(late, [STEPS_PER_EPOCH], jigsaw_batch) != train_steps(
        plain, [STEPS_PER_EPOCH], jigsaw_batch
    )


# What it leaves alone


def test_the_raw_keys_of_the_pair_and_nothing_else_enter_the_queue() -> None:
    method = built()
    train_steps(method, range(2), jigsaw_batch)  # 16 of 20 rows
    batch, before = jigsaw_batch(2), method.queue.rows.clone()
    method(batch)
    assert torch.equal(method.queue.rows, before)
    keys = method.keys(batch.views[1], batch)
    method.after_step(batch.progress)
    torch.testing.assert_close(method.queue.rows[16:], keys[:4])
    torch.testing.assert_close(method.queue.rows[:4], keys[4:])
    assert torch.equal(method.queue.rows[4:16], before[4:16])


def test_no_gradient_reaches_the_key_encoder_which_has_no_jigsaw_head() -> None:
    method = built()
    method(jigsaw_batch(0)).loss.backward()
    assert all(p.grad is None for p in method.key_encoder.parameters())
    names = [name for name, _ in method.named_parameters() if "jigsaw" in name]
    assert len(names) == 6
    assert all(name.startswith("jigsaw_head.") for name in names)


def test_scores_are_float32_under_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert built()(jigsaw_batch(0)).loss.dtype == torch.float32


# Batch norm, processes


def test_a_group_of_batch_norm_holds_all_crops_of_its_images() -> None:
    # Source: another image's jigsaw does not matter outside the group of four images.
    method = group_batch_norm(built(norm=True), 4)
    assert isinstance(method, InfoMin)
    batch = jigsaw_batch(0)
    changed = batch.views[2].clone()
    changed[5] += 1
    before, after = (method.jigsaw_queries(view, batch) for view in (batch.views[2], changed))
    differs = (before - after).abs().amax(dim=1) > 1e-6
    assert differs.tolist() == [False] * 4 + [True] * 4


Share = tuple[list[float], Tensor, list[Tensor]]


def train_share(transform: str, group: int, steps: Iterable[int]) -> Share:
    method = group_batch_norm(built(transform, norm=True), group)
    assert isinstance(method, InfoMin)
    losses = train_steps(method, steps, jigsaw_batch)
    return losses, method.queue.rows, [p.detach() for p in method.parameters()]


@pytest.mark.parametrize(
    ("transform", "group"), [("both", 4), ("both", 8), ("dimension", 2), ("groups", 4)]
)
def test_two_processes_train_as_one(transform: str, group: int) -> None:
    """Theorem: mean of the processes' losses and gradients = those of the global batch."""
    one = train_share(transform, group, range(4))
    first, second = run_processes(train_share, 2, transform, group, range(4))
    assert first[0] == pytest.approx(one[0], abs=1e-5)
    assert torch.equal(first[1], second[1])
    torch.testing.assert_close(first[1], one[1], rtol=0, atol=1e-4)
    for ours, others, expected in zip(first[2], second[2], one[2], strict=True):
        torch.testing.assert_close(ours, others, rtol=0, atol=1e-6)
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)


# In the loop


def test_it_trains_in_the_loop_on_its_views(tmp_path: Path) -> None:
    recipe = PretrainRecipe(
        method=replace(
            InfoMinRecipe(queue=64, dim=16, cell=11, crop=8, momentum=0.99),
            transform=TRANSFORMS["both"],
        ),
        data="shapes?count=64&test_count=16&classes=16",
        views=(views.infomin(32), views.infomin(32), views.jigsaw(33)),
        encoder=ResNetRecipe("small_resnet8"),
        optimizer=OptimizerRecipe(lr=0.03, momentum=0.9, weight_decay=1e-4),
        epochs=2,
        batch=16,
        bn_group=8,
    )
    summary = pretrain(
        recipe,
        0,
        open_source(recipe.data, "train"),
        RunDirectory(tmp_path / "run"),
        make_accelerator("float32"),
        RunOptions(log_every=1, quiet=True),
    )
    assert summary["steps"] == 8
    assert summary["complete"]
    log = (tmp_path / "run" / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in log.splitlines()]
    steps = [line for line in lines if line["kind"] == "steps"]
    assert len(steps) == 8
    for line in steps:
        assert math.isfinite(line["loss"])
        assert line["loss"] == pytest.approx(
            (line["pair_loss"] + line["jigsaw_loss"]) / 2, rel=1e-5
        )
        assert 0 <= line["jigsaw_proxy_accuracy"] <= 1


def test_the_branch_costs_three_passes_of_each_of_its_crops() -> None:
    recipe = replace(RECIPE, grid=3, cell=85, crop=64)
    inputs = recipe.build(TinyEncoder(), 0).encoder_inputs([224, 224, 255])
    assert inputs == ((224, 3.0), (224, 1.0), (64, 27.0))
    assert built(jigsaw=False).encoder_inputs([224, 224]) == ((224, 3.0), (224, 1.0))


# Usage


def test_the_recipe_defaults_to_the_official_code() -> None:
    recipe = InfoMinRecipe()
    assert (recipe.queue, recipe.temperature, recipe.head) == (65536, 0.15, "mlp")
    assert (recipe.momentum, recipe.dim, recipe.shuffle) == (0.999, 128, True)
    assert (recipe.jigsaw, recipe.grid, recipe.cell, recipe.crop) == (True, 3, 85, 64)
    assert recipe.transform == TRANSFORMS["none"]


@pytest.mark.parametrize(("jigsaw", "given"), [(True, 2), (False, 3)])
def test_a_wrong_number_of_views_is_a_users_mistake(jigsaw: bool, given: int) -> None:
    batch = make_batch(0, sides=SIDES[:given])
    with pytest.raises(UserError, match=f"must be {5 - given}, got {given}"):
        built(jigsaw=jigsaw)(batch)


def test_a_jigsaw_that_cannot_be_cut_is_refused_before_training() -> None:
    with pytest.raises(UserError, match="`patch` must be at most `cell`, 5 pixels, got 6"):
        replace(RECIPE, crop=6).build(TinyEncoder(), 0)
