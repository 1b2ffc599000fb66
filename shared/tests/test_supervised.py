from __future__ import annotations

import math

import pytest

from retable import views
from retable.methods import Supervised, SupervisedRecipe
from retable.testing import TinyEncoder, make_batch


def make_method(rng_key: int = 0) -> Supervised:
    return SupervisedRecipe(classes=3).build(TinyEncoder(), rng_key)


def test_loss_is_the_cross_entropy_in_plain_loops() -> None:
    # The definition: minus the log of the softmax at the label, averaged; in float64.
    method, labels = make_method(), [2, 0, 1, 1, 0]
    batch = make_batch(size=5, sides=(4,), labels=labels)
    weight, bias = (p.detach().double() for p in method.classifier.parameters())
    features = method.encoder(batch.views[0])
    losses, right = [], 0
    for image, label in zip(features.detach().double(), labels, strict=True):
        scores = [float(weight[c] @ image + bias[c]) for c in range(3)]
        losses.append(math.log(sum(math.exp(s) for s in scores)) - scores[label])
        right += max(range(3), key=scores.__getitem__) == label
    output = method(batch)
    assert output.loss.item() == pytest.approx(sum(losses) / 5, abs=1e-6)
    assert float(output.metrics["accuracy"]) == pytest.approx(right / 5)


def test_a_classifier_is_tested_without_augmentation() -> None:
    method = SupervisedRecipe(3).build(TinyEncoder(), rng_key=0)
    (view,) = method.pretext_views((views.crop_and_flip(32),))
    assert view == views.center(32, 32)
