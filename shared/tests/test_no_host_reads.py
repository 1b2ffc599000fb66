"""A step must not wait for the device: tensors on the meta device have no values to wait for."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from retable import random
from retable.encoders import ResNetRecipe
from retable.methods import Batch, BYOLRecipe, MethodRecipe, Progress, SimCLRRecipe, SimSiamRecipe
from retable.nn.batch_norm import group_batch_norm, shuffled
from retable.nn.losses import info_nce
from retable.nn.momentum import MomentumCopy
from retable.nn.queues import KeyQueue
from retable.nn.scores import queue_score_statistics, score_statistics
from retable.train.gradients import GradientLandscape
from retable.train.optim import (
    LARS,
    OptimizerRecipe,
    build_optimizer,
    parameter_groups,
    set_learning_rate,
)
from retable.train.traces import TraceLog


def test_the_meta_device_refuses_to_be_read() -> None:
    with pytest.raises(RuntimeError, match="meta"):
        torch.zeros(1, device="meta").item()


def test_a_contrastive_step_reads_nothing_from_the_device() -> None:
    with torch.device("meta"):
        encoder = group_batch_norm(ResNetRecipe("small_resnet8").build(rng_key=0), 4)
        target = MomentumCopy(encoder)
        queue = KeyQueue(12, 64, rng_key=0, labels=True)
        groups = parameter_groups(OptimizerRecipe(exclude_bias_and_norm=True), encoder)
        optimizer = LARS(groups, 0.1, nesterov=True)
        images = torch.empty(8, 3, 32, 32)
        labels = torch.empty(8, dtype=torch.long)
    for step in range(2):
        target.update(0.99)
        queries, keys = encoder(images), shuffled(target, images, rng_key=step)
        positive = (queries * keys).sum(1, keepdim=True)
        loss = info_nce(torch.cat([positive, queries @ queue.rows.T], 1), 0.2)
        torch.autograd.backward(loss)
        optimizer.step()
        queue.enqueue(keys, labels)
    assert queue.pointer == 4


@pytest.mark.parametrize("recipe", [SimCLRRecipe(), BYOLRecipe(), SimSiamRecipe()], ids=repr)
def test_a_step_of_a_method_reads_nothing_from_the_device(
    recipe: MethodRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # none on this device
    with torch.device("meta"):
        encoder = ResNetRecipe("small_resnet8").build(rng_key=0)
        method = recipe.build(encoder, rng_key=0)
        group_batch_norm(method, 4)
        images, rows = torch.empty(8, 3, 32, 32), torch.arange(8)
        optimizer = build_optimizer(OptimizerRecipe("lars", constant_rate=("encoder",)), method)
    for step in range(2):
        batch = Batch((images, images), rows, rows, rows, Progress(step, 2, 1), rng_key=step)
        torch.autograd.backward(method(batch).loss)
        set_learning_rate(optimizer, 0.1)
        optimizer.step()
        method.after_step(batch.progress)


def test_what_is_kept_of_every_step_reads_nothing_from_the_device(tmp_path: Path) -> None:
    with torch.device("meta"):
        encoder = ResNetRecipe("small_resnet8").build(rng_key=0)
        landscape, trace = GradientLandscape(encoder), TraceLog(tmp_path)
        queue = KeyQueue(12, 64, rng_key=0)
        images = torch.empty(8, 3, 32, 32)
    for step in range(3):
        features = encoder(images)
        logits = features @ queue.rows.T
        torch.autograd.backward(info_nce(logits, 0.2))
        landscape.measure()
        raw = queue_score_statistics(features, features, queue.moments)
        seen = score_statistics(logits[:, 0], logits[:, 1:])
        trace.add(step, raw.named() | seen.named("transformed_"))
        queue.enqueue(features)
    landscape.state()


def test_draws_read_nothing_from_the_device() -> None:
    with torch.device("meta"):
        places = torch.arange(6)
    for counters in (places, places.view(2, 3), places[0]):
        assert random.beta(1, counters, 2.0, 2.0).shape == counters.shape
        assert random.uniform(1, counters).shape == counters.shape
        assert random.integers(1, counters, 5).shape == counters.shape
        assert random.normal(1, counters).shape == counters.shape
    assert random.permutation(1, 5, "meta", number=places[0]).shape == (5,)
