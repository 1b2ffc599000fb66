from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from retable import views
from retable.methods import Batch, Progress, Supervised, SupervisedRecipe
from retable.random import derive_key, normal


class Flat(nn.Module):
    feature_dim = 12

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def make_batch(labels: list[int]) -> Batch:
    size = len(labels)
    return Batch(
        views=(normal(derive_key(0, "v"), torch.arange(size * 12)).view(size, 3, 2, 2),),
        labels=torch.tensor(labels),
        indices=torch.arange(size),
        positions=torch.arange(size),
        progress=Progress(0, 10, 2),
        rng_key=1,
    )


def make_method(rng_key: int = 0) -> Supervised:
    return SupervisedRecipe(classes=3).build(Flat(), rng_key)


def test_loss_is_the_cross_entropy_in_plain_loops() -> None:
    # The definition: minus the log of the softmax at the label, averaged; in float64.
    method, labels = make_method(), [2, 0, 1, 1, 0]
    batch = make_batch(labels)
    weight, bias = (p.detach().double() for p in method.classifier.parameters())
    losses, right = [], 0
    for image, label in zip(batch.views[0].flatten(1).double(), labels, strict=True):
        scores = [float(weight[c] @ image + bias[c]) for c in range(3)]
        losses.append(math.log(sum(math.exp(s) for s in scores)) - scores[label])
        right += max(range(3), key=scores.__getitem__) == label
    output = method(batch)
    assert output.loss.item() == pytest.approx(sum(losses) / 5, abs=1e-6)
    assert float(output.metrics["accuracy"]) == pytest.approx(right / 5)


def test_first_weights_are_a_function_of_the_key() -> None:
    first, same, other = (make_method(key).classifier.weight for key in (4, 4, 5))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_gradient_of_a_batch_is_the_mean_of_its_parts() -> None:
    batch, method = make_batch([0, 1, 2, 0]), make_method()
    assert method.accumulates
    method(batch).loss.backward()
    whole = method.classifier.weight.grad
    assert whole is not None
    parts = torch.zeros_like(whole)
    for rows in (slice(0, 2), slice(2, 4)):
        part = Batch(
            (batch.views[0][rows],),
            batch.labels[rows],
            batch.indices[rows],
            batch.positions[rows],
            batch.progress,
            batch.rng_key,
        )
        method.zero_grad()
        method(part).loss.backward()
        assert method.classifier.weight.grad is not None
        parts += method.classifier.weight.grad / 2
    torch.testing.assert_close(parts, whole)


def test_two_views_are_refused() -> None:
    batch = make_batch([0, 1])
    two = Batch(
        batch.views * 2, batch.labels, batch.indices, batch.positions, batch.progress, batch.rng_key
    )
    with pytest.raises(ValueError, match="unpack"):
        make_method()(two)


def test_a_classifier_is_tested_without_augmentation() -> None:
    method = SupervisedRecipe(3).build(Flat(), rng_key=0)
    (view,) = method.pretext_views((views.crop_and_flip(32),))
    assert view == views.center(32, 32)
