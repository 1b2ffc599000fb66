import json
import math
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from feature_transform.draws import positive_weights
from feature_transform.positives import extrapolate_positives
from feature_transform.recipe import TransformRecipe
from feature_transform.swav import SwAV, SwAVRecipe
from retable import distributed, views
from retable.data.sources import open_source
from retable.encoders import ResNetRecipe
from retable.errors import UserError
from retable.methods.method import Batch
from retable.nn.batch_norm import average_statistics, group_batch_norm
from retable.random import derive_key, normal
from retable.reproduce.pricing import price
from retable.testing import (
    StoppedError,
    TinyEncoder,
    make_batch,
    own_share,
    run_processes,
    train_steps,
)
from retable.train.cost import forward_flops
from retable.train.optim import OptimizerRecipe, build_optimizer
from retable.train.options import RunOptions
from retable.train.pretrain import Training, make_accelerator, pretrain
from retable.train.recipe import PretrainRecipe
from retable.train.runs import RunDirectory
from retable.weights import load_encoder

torch.set_num_threads(1)

RECIPE = SwAVRecipe(
    prototypes=11, queue=20, queue_start_epoch=1, frozen_prototype_steps=0, hidden_dim=16, dim=6
)
APART = TransformRecipe(negatives="none")
STEPS_PER_EPOCH = 5
BATCH = 8
crop_batch = partial(make_batch, sides=(8, 8, 5, 5))


def with_full_queue(method: SwAV) -> SwAV:
    assert method.queue is not None
    rows = normal(3, torch.arange(20 * 12)).view(20, 2, 6)
    method.queue.enqueue(nn.functional.normalize(rows, dim=2).flatten(1))
    return method


# The loss


def plain_codes(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Follow algorithm 1 of SwAV's appendix, in float64."""
    Q = (scores.double() / epsilon).exp().T
    Q = Q / Q.sum()
    for _ in range(iterations):
        Q = Q / Q.sum(dim=1, keepdim=True) / Q.shape[0]
        Q = Q / Q.sum(dim=0, keepdim=True) / Q.shape[1]
    return (Q * Q.shape[1]).T


def plain_loss(method: SwAV, batch: Batch, queued: Tensor | None, weight: float) -> Tensor:
    """Write SwAV's loss out, image by image and crop by crop."""
    recipe = method.recipe
    crops = [method.encoder(view) for view in batch.views]
    rows = method.head(torch.cat(crops)).double()  # its batch norm sees all crops
    z = [part / part.norm(dim=1, keepdim=True) for part in rows.split(len(batch.labels))]
    prototypes = method.prototypes.weight.double()
    prototypes = prototypes / prototypes.detach().norm(dim=1, keepdim=True)
    z[0], z[1] = (
        weight * z[0] + (1 - weight) * z[1],
        weight * z[1] + (1 - weight) * z[0],
    )
    loss = torch.zeros((), dtype=torch.float64)
    for crop in (0, 1):
        scores = z[crop] @ prototypes.T
        if queued is not None:
            scores = torch.cat([queued[:, crop].double() @ prototypes.T, scores])
        codes = plain_codes(scores.detach(), recipe.epsilon, recipe.sinkhorn_iterations)
        codes = codes[-len(batch.labels) :]
        for view in range(len(z)):
            if view == crop:
                continue
            for image in range(len(batch.labels)):
                exponents = (z[view][image] @ prototypes.T / recipe.temperature).exp()
                entropy = -(codes[image] * (exponents / exponents.sum()).log()).sum()
                loss = loss + entropy / len(batch.labels) / (len(z) - 1) / 2
    return loss


@pytest.mark.parametrize("small_crops", [0, 2])
@pytest.mark.parametrize("queue", [False, True])
@pytest.mark.parametrize("apart", [False, True])
def test_loss_and_gradient_are_those_written_out(
    small_crops: int, queue: bool, apart: bool
) -> None:
    recipe = replace(RECIPE, transform=APART) if apart else RECIPE
    method = recipe.build(TinyEncoder(), 3)
    queued, weight = None, 1.0
    batch = make_batch(STEPS_PER_EPOCH, sides=(8, 8, 5, 5)[: 2 + small_crops])
    if queue:
        with_full_queue(method)
        assert method.queue is not None
        queued = method.queue.rows.view(20, 2, 6)
    if apart:
        rng_key = derive_key(batch.rng_key, "transform")
        weight = float(positive_weights(APART, rng_key, batch.positions, 6)[0])
        assert weight > 1.05
    expected = plain_loss(method, batch, queued, weight)
    parameters = list(method.parameters())
    theirs = torch.autograd.grad(expected, parameters)
    loss = method(batch).loss
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    # Written out for prototypes of unit length, which is what they have been made in place.
    torch.testing.assert_close(
        method.prototypes.weight.norm(dim=1), torch.ones(11), rtol=1e-6, atol=1e-6
    )
    expected = plain_loss(method, batch, queued, weight)
    theirs = torch.autograd.grad(expected, parameters)
    ours = torch.autograd.grad(loss, parameters)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_only_directions_of_prototypes_count() -> None:
    method, longer = RECIPE.build(TinyEncoder(), 3), RECIPE.build(TinyEncoder(), 3)
    with torch.no_grad():
        longer.prototypes.weight.mul_(torch.linspace(0.1, 5, 11)[:, None])
    losses = [one(crop_batch(0)).loss for one in (method, longer)]
    torch.testing.assert_close(losses[0], losses[1])


def test_training_brings_assignments_and_predictions_together() -> None:
    losses = train_steps(replace(RECIPE, queue=0).build(TinyEncoder(), 3), [0] * 30, crop_batch)
    assert losses[-1] < losses[0] - 0.3


# Positive extrapolation


@settings(max_examples=30, deadline=None)
@given(
    weight=st.floats(1, 2), level=st.sampled_from(["batch", "sample"]), rng_key=st.integers(0, 99)
)
def test_extrapolating_features_equals_extrapolating_scores(
    weight: float, level: str, rng_key: int
) -> None:
    # Source: prototypes are linear.
    weights = torch.tensor(weight, dtype=torch.float64)
    if level == "sample":
        weights = torch.linspace(1, weight, 7, dtype=torch.float64)[:, None]
    rows = normal(rng_key, torch.arange(7 * 2 * 6)).view(2, 7, 6).double()
    first, second = nn.functional.normalize(rows, dim=2)
    prototypes = normal(rng_key + 1, torch.arange(11 * 6)).view(11, 6).double()
    features = extrapolate_positives(first, second, weights)
    scores = extrapolate_positives(
        first @ prototypes.T, second @ prototypes.T, weights, rows="unchecked"
    )
    for moved, expected in zip(features, scores, strict=True):
        torch.testing.assert_close(moved @ prototypes.T, expected)


@pytest.mark.parametrize("level", ["batch", "sample", "dimension"])
@pytest.mark.parametrize("renormalise", [False, True])
def test_only_features_of_large_crops_are_extrapolated(level: Any, renormalise: bool) -> None:
    transform = replace(APART, level=level, renormalise=renormalise)
    method = replace(RECIPE, transform=transform).build(TinyEncoder(), 3)
    batch = crop_batch(0)
    raw = method.features(batch.views)
    moved = method.transformed(raw, batch)
    assert torch.equal(moved[:, 2:], raw[:, 2:])
    before, after = ((z[:, 0] * z[:, 1]).sum(dim=1) for z in (raw, moved))
    assert (after < before).all()
    lengths = moved[:, :2].norm(dim=2)
    if renormalise:
        torch.testing.assert_close(lengths, torch.ones(BATCH, 2))
    else:
        torch.testing.assert_close(moved.sum(dim=1), raw.sum(dim=1))
        assert (lengths > 1).all() or level == "dimension"
    assert not torch.equal(moved, method.transformed(raw, crop_batch(1)))


def test_before_its_epoch_nothing_is_moved_or_drawn() -> None:
    plain = RECIPE.build(TinyEncoder(), 3)
    late = replace(RECIPE, transform=replace(APART, start_epoch=1.0)).build(TinyEncoder(), 3)
    before = [train_steps(method, range(STEPS_PER_EPOCH), crop_batch) for method in (plain, late)]
    assert before[0] == before[1]
    after = [train_steps(method, [STEPS_PER_EPOCH], crop_batch)[0] for method in (plain, late)]
    assert after[1] != after[0]


def test_transformed_negatives_are_refused() -> None:
    with pytest.raises(UserError, match=r"`transform.negatives` must be none, got interpolate"):
        SwAVRecipe(transform=TransformRecipe())


# The queue


def test_the_queue_keeps_raw_features_first_in_first_out_from_its_epoch_on() -> None:
    recipe = replace(RECIPE, transform=APART)
    method = recipe.build(TinyEncoder(), 3)
    assert method.queue is not None
    first = method.queue.rows.clone()
    train_steps(method, range(STEPS_PER_EPOCH), crop_batch)
    assert torch.equal(method.queue.rows, first)
    enqueued = []
    for step in range(STEPS_PER_EPOCH, STEPS_PER_EPOCH + 4):
        enqueued.append(method.features(crop_batch(step).views)[:, :2].detach())
        train_steps(method, [step], crop_batch)
    rows = torch.cat(enqueued)  # 32 images through 20 rows: the oldest 12 have left
    kept = torch.cat([rows[20:], rows[12:20]]).flatten(1)
    torch.testing.assert_close(method.queue.rows, kept)
    torch.testing.assert_close(rows.norm(dim=2), torch.ones(32, 2))


def test_the_queue_is_used_once_it_is_full() -> None:
    method, without = (
        RECIPE.build(TinyEncoder(), 3),
        replace(RECIPE, queue=0).build(TinyEncoder(), 3),
    )
    steps = range(STEPS_PER_EPOCH + 3)  # 24 features for 20 rows
    assert train_steps(method, steps, crop_batch) == train_steps(without, steps, crop_batch)
    used, plain = (one(crop_batch(STEPS_PER_EPOCH + 3)) for one in (method, without))
    assert used.metrics["queue_used"] == 1
    assert plain.metrics["queue_used"] == 0
    assert abs(used.loss - plain.loss) > 1e-3
    assert "queue.rows" not in without.state_dict()


def test_the_loss_does_not_depend_on_the_order_of_the_queue() -> None:
    losses = []
    for shift in (0, 7):
        method = with_full_queue(RECIPE.build(TinyEncoder(), 3))
        assert method.queue is not None
        method.queue.rows.copy_(method.queue.rows.roll(shift, dims=0))
        losses.append(method(crop_batch(0)).loss)
    torch.testing.assert_close(losses[0], losses[1])


def test_features_enter_the_queue_after_the_step_and_before_the_next() -> None:
    method = RECIPE.build(TinyEncoder(), 3)
    assert method.queue is not None
    method(crop_batch(STEPS_PER_EPOCH))
    assert method.queue.filled == 0
    with pytest.raises(RuntimeError, match="after_step"):
        method(crop_batch(STEPS_PER_EPOCH + 1))
    method.after_step(crop_batch(STEPS_PER_EPOCH).progress)
    assert method.queue.filled == BATCH


# Frozen prototypes


def test_frozen_prototypes_have_a_gradient_of_zero_and_the_others_have_theirs() -> None:
    free, frozen = (
        replace(RECIPE, frozen_prototype_steps=steps).build(TinyEncoder(), 3) for steps in (3, 4)
    )
    for method in (free, frozen):
        method(crop_batch(3)).loss.backward()
    for (name, one), other in zip(free.named_parameters(), frozen.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        if name == "prototypes.weight":
            assert one.grad.abs().max() > 0
            assert torch.equal(other.grad, torch.zeros(11, 6))
        else:
            assert torch.equal(one.grad, other.grad)


@pytest.mark.parametrize("name", ["sgd", "lars"])
def test_no_optimizer_turns_frozen_prototypes(name: Any) -> None:
    method = replace(RECIPE, frozen_prototype_steps=3).build(TinyEncoder(), 3)
    optimizer = build_optimizer(OptimizerRecipe(name, lr=0.6, weight_decay=1e-2), method)
    directions = []
    for step in range(5):
        method(crop_batch(step)).loss.backward()
        directions.append(method.prototypes.weight.detach().clone())
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(crop_batch(step).progress)
    for direction in directions[1:4]:
        torch.testing.assert_close(direction, directions[0], rtol=0, atol=1e-6)
    assert (directions[4] - directions[0]).abs().max() > 1e-5


# Batch norm


def test_crops_of_one_size_are_normalised_together_and_the_head_sees_all() -> None:
    # Source: the official code's wrapper, which concatenates crops of a size for the encoder and
    # everything for the head.
    method = RECIPE.build(TinyEncoder(norm=True), 3)
    other = RECIPE.build(TinyEncoder(norm=True), 3)
    batch = crop_batch(0)
    features = method.features(batch.views)
    large = other.encoder(torch.cat(batch.views[:2]))
    small = other.encoder(torch.cat(batch.views[2:]))
    raw = other.head(torch.cat([large, small]))
    expected = nn.functional.normalize(raw, dim=1).view(4, BATCH, 6).transpose(0, 1)
    torch.testing.assert_close(features, expected)
    for one, two in zip(method.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(one, two)
    alone = [other.encoder(view) for view in batch.views[:2]]
    assert not torch.allclose(torch.cat(alone), large, atol=1e-3)


def test_a_batch_norm_group_holds_all_crops_of_its_images() -> None:
    grouped = group_batch_norm(RECIPE.build(TinyEncoder(norm=True), 3), 4)
    assert isinstance(grouped, SwAV)
    views_of_all = crop_batch(0).views
    features = grouped.features(views_of_all)
    for rows in (slice(0, 4), slice(4, 8)):
        alone = RECIPE.build(TinyEncoder(norm=True), 3).features([v[rows] for v in views_of_all])
        torch.testing.assert_close(features[rows], alone)


# What it measures


def test_metrics_are_those_of_the_step() -> None:
    method = replace(RECIPE, transform=APART).build(TinyEncoder(), 3)
    batch = crop_batch(0)
    output = method(batch)
    z = method.features(batch.views).detach()
    moved = method.transformed(z, batch).detach()
    scores = moved @ method.prototypes.weight.detach().T
    codes = [plain_codes(scores[:, crop], 0.05, 3) for crop in (0, 1)]
    log_p = (scores / 0.1).log_softmax(dim=2).double()
    losses = [
        [float(-(codes[crop] * log_p[:, view]).sum(dim=1).mean()) for view in range(4)]
        for crop in (0, 1)
    ]
    usage = (codes[0].mean(dim=0) + codes[1].mean(dim=0)) / 2
    expected = {
        "loss_large_crops": (losses[0][1] + losses[1][0]) / 2,
        "loss_small_crops": sum(losses[crop][view] for crop in (0, 1) for view in (2, 3)) / 4,
        "prototype_usage": float(-(usage * usage.log()).sum()) / math.log(11),
        "assignment_sharpness": float(torch.cat(codes).max(dim=1).values.mean()),
        "embedding_spread": float(z[:, 0].std(dim=0).mean()) * math.sqrt(6),
        "chance_loss": math.log(11),
        "queue_used": 0.0,
    }
    found = {name: float(value) for name, value in output.metrics.items()}
    assert found == pytest.approx(expected, rel=1e-4)
    assert output.loss.item() == pytest.approx(
        (expected["loss_large_crops"] + 2 * expected["loss_small_crops"]) / 3, rel=1e-4
    )
    assert {name: float(value) for name, value in output.trace.items()} == pytest.approx(
        {
            "positive_mean": float((z[:, 0] * z[:, 1]).sum(dim=1).mean()),
            "transformed_positive_mean": float((moved[:, 0] * moved[:, 1]).sum(dim=1).mean()),
        },
        rel=1e-4,
    )
    assert list(RECIPE.build(TinyEncoder(), 3)(batch).trace) == ["positive_mean"]


def test_an_untrained_prediction_at_chance_has_the_chance_loss() -> None:
    method = replace(RECIPE, temperature=1e6).build(TinyEncoder(), 3)
    output = method(crop_batch(0))
    assert output.loss.item() == pytest.approx(float(output.metrics["chance_loss"]), rel=1e-4)


def test_a_step_reads_nothing_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    # Tensors on the meta device have no values to wait for; it knows no half precision either.
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    with torch.device("meta"):
        method = with_full_queue(replace(RECIPE, transform=APART).build(TinyEncoder(norm=True), 3))
    batch = crop_batch(STEPS_PER_EPOCH)
    batch = replace(
        batch,
        views=tuple(view.to("meta") for view in batch.views),
        positions=batch.positions.to("meta"),
    )
    output = method(batch)
    torch.autograd.backward(output.loss)
    method.after_step(batch.progress)
    assert all(value.is_meta for value in output.trace.values() if isinstance(value, Tensor))


def test_assignments_are_made_in_float32_under_autocast() -> None:
    method = replace(RECIPE, transform=APART).build(TinyEncoder(), 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = method.features(crop_batch(0).views)
        output = method(crop_batch(0))
    assert features.dtype == output.loss.dtype == torch.float32
    exact = RECIPE.build(TinyEncoder(), 3)
    scores = features.detach() @ exact.normalised_prototypes(crop_batch(0).progress).T
    assert scores.dtype == torch.float32


def test_small_crops_cost_their_share_of_the_pixels() -> None:
    crops = views.swav(224, 96)
    recipe = PretrainRecipe(
        method=SwAVRecipe(),
        data="shapes",
        views=crops,
        encoder=ResNetRecipe("resnet50"),
        optimizer=OptimizerRecipe(),
        epochs=1,
        batch=256,
    )
    encoder = recipe.encoder.build(0)
    large, small = (forward_flops(encoder, size) for size in (224, 96))
    expected = 256 * 3 * (2 * large + 6 * small)
    assert price(recipe, 256).flops == pytest.approx(expected, rel=1e-6)


# Processes


Share = tuple[list[float], dict[str, Tensor], list[Tensor], dict[str, float]]


def train_share(recipe: SwAVRecipe, steps: list[int], group: int | None) -> Share:
    """Train; return losses, state, the gradient of one more step, and what that step measured."""
    method = recipe.build(TinyEncoder(norm=group is not None), 3)
    if group is not None:
        group_batch_norm(method, group)
    losses = train_steps(method, steps, crop_batch)
    output = method(own_share(crop_batch(steps[-1] + 1)))
    gradients = torch.autograd.grad(output.loss, list(method.parameters()))
    average_statistics(method)
    state = {k: v for k, v in method.state_dict().items() if isinstance(v, Tensor)}
    measured = {
        name: float(distributed.mean(torch.as_tensor(value, dtype=torch.float64)))
        for name, value in {**output.metrics, **output.trace}.items()
        if name != "embedding_spread"  # of each process's images, before it is averaged
    }
    return losses, state, [distributed.mean(gradient) for gradient in gradients], measured


@pytest.mark.parametrize(
    ("level", "draw_group", "group"),
    [("batch", None, 2), ("sample", None, 8), ("batch", 2, 4), ("dimension", None, 8)],
)
def test_two_processes_train_as_one(level: Any, draw_group: int | None, group: int) -> None:
    """Theorem: mean of the processes' losses and gradients = those of the global batch."""
    transform = replace(APART, level=level, draw_group=draw_group)
    recipe = replace(RECIPE, transform=transform, frozen_prototype_steps=STEPS_PER_EPOCH + 1)
    # Draws from the first step; prototypes learn from the seventh, the queue is used in the ninth.
    steps = list(range(STEPS_PER_EPOCH - 1, STEPS_PER_EPOCH + 3))
    one = train_share(recipe, steps, group)
    first, second = run_processes(train_share, 2, recipe, steps, group)
    assert first[0] == pytest.approx(one[0], abs=1e-5)
    assert one[3]["queue_used"] == 1
    assert first[1].keys() == one[1].keys()
    for name, expected in one[1].items():
        assert torch.equal(first[1][name], second[1][name]), name
        torch.testing.assert_close(first[1][name], expected, rtol=0, atol=2e-5)
    # Groups of two images differ by more with oneDNN's kernels for AVX2, not with those for AVX.
    gradients_within, metrics_within = (3e-4, 1e-4) if group == 2 else (1e-4, 2e-5)
    for gradient, expected in zip(first[2], one[2], strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=gradients_within)
    assert first[3] == pytest.approx(one[3], abs=metrics_within)


# Through the loop


def shapes_recipe() -> PretrainRecipe:
    crops = tuple(replace(view, blur_probability=0.0) for view in views.swav(16, 8, 2))
    return PretrainRecipe(
        method=SwAVRecipe(
            prototypes=12,
            queue=32,
            queue_start_epoch=0,
            frozen_prototype_steps=3,
            hidden_dim=16,
            dim=8,
            transform=APART,
        ),
        data="shapes?count=72&test_count=32&size=16&classes=4",
        views=crops,
        encoder=ResNetRecipe("small_resnet8", width=0.25),
        optimizer=OptimizerRecipe("lars", lr=0.6, weight_decay=1e-6),
        epochs=2,
        batch=16,
        bn_group=8,
    )


def run(folder: Path, execution: RunOptions) -> dict[str, Any]:
    recipe = shapes_recipe()
    source = open_source(recipe.data, "train")
    directory = RunDirectory(folder)
    return pretrain(recipe, 3, source, directory, make_accelerator("float32"), execution)


def test_a_run_stopped_and_continued_ends_with_the_bits_of_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    often = RunOptions(log_every=1, checkpoint_every=1, quiet=True)
    whole = run(tmp_path / "whole", often)
    make_step = Training.make_step

    def stop(self: Training, *arguments: Any) -> Any:
        if self.step == 6:  # in the second epoch, the queue full, the prototypes free
            raise StoppedError
        return make_step(self, *arguments)

    monkeypatch.setattr(Training, "make_step", stop)
    with pytest.raises(StoppedError):
        run(tmp_path / "pieces", often)
    monkeypatch.undo()
    assert run(tmp_path / "pieces", often) == whole
    assert whole["steps"] == 8
    first, second = (
        load_encoder(tmp_path / name / "encoder.safetensors").encoder.state_dict()
        for name in ("whole", "pieces")
    )
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    lines = [
        json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    ]
    used = [line["queue_used"] for line in lines if line["kind"] == "steps"]
    assert used == [0, 0, 1, 1, 1, 1, 1, 1]


def test_the_memory_format_changes_a_run_by_rounding_alone(tmp_path: Path) -> None:
    usual = run(tmp_path / "a", RunOptions(quiet=True))
    other = run(tmp_path / "b", RunOptions(quiet=True, channels_last=False))
    assert other["epochs"][0]["loss"] == pytest.approx(usual["epochs"][0]["loss"], rel=1e-3)


# Usage


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"epsilon": 0.0}, "`epsilon` must be positive, got 0.0"),
        ({"temperature": -0.1}, "`temperature` must be positive, got -0.1"),
        ({"prototypes": 1}, "`prototypes` must be at least 2, got 1"),
        ({"queue": -1}, "`queue` must be at least 0, got -1"),
    ],
)
def test_a_wrong_recipe_is_a_user_error(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        replace(RECIPE, **change)


@pytest.mark.parametrize("kept", [[0], [0, 2]])
def test_invalid_crops_are_refused(kept: list[int]) -> None:
    batch = crop_batch(0)
    batch = replace(batch, views=tuple(batch.views[number] for number in kept))
    with pytest.raises(UserError, match=r"must be at least two, the first two of one size"):
        RECIPE.build(TinyEncoder(), 3)(batch)


def test_the_defaults_are_those_of_the_official_script() -> None:
    # Source: swav_200ep_bs256_pretrain.sh and resnet50.py of the official code.
    recipe = SwAVRecipe()
    assert (recipe.prototypes, recipe.temperature, recipe.epsilon) == (3000, 0.1, 0.05)
    assert (recipe.sinkhorn_iterations, recipe.frozen_prototype_steps) == (3, 5005)
    assert (recipe.queue, recipe.queue_start_epoch) == (3840, 15)
    assert (recipe.hidden_dim, recipe.dim) == (2048, 128)
    assert (recipe.transform.positives, recipe.transform.negatives) == ("none", "none")
