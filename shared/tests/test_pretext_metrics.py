"""Pretext metrics are means over held-out images and leave the method unchanged."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from retable import distributed, random, views
from retable.data.loader import iterate
from retable.data.source import Source
from retable.data.sources import open_source
from retable.encoders import ResNetRecipe
from retable.errors import UserError
from retable.methods import MoCo, Supervised, SupervisedRecipe
from retable.methods.method import Batch, Method, Metrics, Progress, StepOutput
from retable.random import derive_key
from retable.testing import run_processes
from retable.train.pretext_metrics import pretext_metrics
from retable.train.recipe import PretrainRecipe, build_method

torch.set_num_threads(1)

PROGRESS = Progress(step=7, steps_per_epoch=4, epochs=2)
RANDOM = (views.crop_and_flip(16), views.crop_and_flip(16))


def images(count: int = 21) -> Source:
    return open_source(f"shapes?test_count={count}&size=16&classes=4", "test")


def trained() -> Supervised:
    """A method whose running statistics are not those of its first state."""
    encoder = ResNetRecipe("small_resnet8", width=0.25).build(0)
    method = SupervisedRecipe(4).build(encoder, 0)
    (view,) = next(iter(iterate(images(), views.center(16, 16), 21)))[:1]
    with torch.no_grad():
        for _ in range(3):
            method.encoder(view)
    return method


class Drawing(Method):
    """Measure what it is given: draws, views, labels; sensitive to each image's place."""

    has_pretext_metrics = True

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Identity()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, batch: Batch) -> StepOutput:
        draws = random.uniform(derive_key(batch.rng_key, "draw"), batch.positions).double()
        pixels = torch.stack([view.double().mean((1, 2, 3)) for view in batch.views])
        places = (batch.indices + 1).double()
        metrics: Metrics = {
            "draw": (draws * places).mean(),
            "first": (pixels[0] * places).mean(),
            "difference": ((pixels[0] - pixels[1]).abs() * places).mean(),
            "label": batch.labels.double().mean(),
            "gradient": float(torch.is_grad_enabled()),
            "training": float(self.training),
            "step": float(batch.progress.step),
        }
        return StepOutput(self.scale * places.mean(), metrics)


def test_metrics_are_those_of_all_images_in_one_batch_in_evaluation_mode() -> None:
    method, source = trained(), images()
    view = views.center(16, 16)
    measured = pretext_metrics(method, source, (view,), PROGRESS, batch_size=8)
    pixels, labels, _ = next(iter(iterate(source, view, 21)))
    method.eval()
    with torch.no_grad():
        scores = method.classifier(method.encoder(pixels))
    assert measured["loss"] == pytest.approx(F.cross_entropy(scores, labels).item(), rel=1e-5)
    right = (scores.argmax(1) == labels).sum().item()
    assert measured["accuracy"] == pytest.approx(right / 21, abs=1e-6)
    assert set(measured) == {"loss", "accuracy"}


def test_no_number_depends_on_the_batches_and_none_on_the_call() -> None:
    method, source = Drawing(), images()
    whole = pretext_metrics(method, source, RANDOM, PROGRESS, batch_size=21)
    for batch_size in (1, 8, 20):
        parts = pretext_metrics(method, source, RANDOM, PROGRESS, batch_size=batch_size)
        assert parts == pytest.approx(whole, rel=1e-6)
    later = Progress(step=3, steps_per_epoch=4, epochs=2)
    again = pretext_metrics(method, source, RANDOM, later, batch_size=21)
    assert {**again, "step": 7.0} == whole


def test_every_image_has_its_own_draws_and_every_view_too() -> None:
    measured = pretext_metrics(Drawing(), images(), RANDOM, PROGRESS)
    assert measured["difference"] > 0.1
    rng_key = derive_key(derive_key(derive_key(0, "held-out images"), "draws"), "draw")
    places = torch.arange(21)
    expected = (random.uniform(rng_key, places).double() * (places + 1)).mean()
    assert measured["draw"] == pytest.approx(expected.item())
    assert measured["label"] == pytest.approx(images().labels.double().mean().item())


def test_it_measures_in_evaluation_mode_without_gradients_and_says_where_training_stands() -> None:
    measured = pretext_metrics(Drawing(), images(), RANDOM, PROGRESS)
    assert (measured["training"], measured["gradient"], measured["step"]) == (0.0, 0.0, 7.0)


def test_modes_and_state_are_as_before_also_after_a_failure() -> None:
    method = trained()
    method.encoder.get_submodule("bn1").eval()
    modes = [module.training for module in method.modules()]
    assert True in modes
    assert False in modes
    before = {name: value.clone() for name, value in method.state_dict().items()}
    view = (views.crop_and_flip(16),)
    pretext_metrics(method, images(), view, PROGRESS)
    with pytest.raises(ValueError, match="too many values"):
        pretext_metrics(method, images(), view * 2, PROGRESS)
    assert [module.training for module in method.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert all(parameter.grad is None for parameter in method.parameters())


def test_groups_of_batch_norm_ask_nothing_of_the_number_of_held_out_images(
    supervised: Callable[..., PretrainRecipe],
) -> None:
    grouped, plain = (build_method(supervised(bn_group=group), 0) for group in (8, None))
    view = supervised().views
    measured = pretext_metrics(grouped, images(), view, PROGRESS, batch_size=5)
    assert measured == pretext_metrics(plain, images(), view, PROGRESS, batch_size=5)


def test_half_precision_is_that_of_training() -> None:
    method, view = trained(), (views.center(16, 16),)
    exact = pretext_metrics(method, images(), view, PROGRESS)
    half = pretext_metrics(method, images(), view, PROGRESS, precision="bf16")
    assert half["loss"] != exact["loss"]
    assert half["loss"] == pytest.approx(exact["loss"], rel=0.05)


def test_methods_say_whether_they_can_be_measured() -> None:
    assert Supervised.has_pretext_metrics
    assert not MoCo.has_pretext_metrics
    assert not Method.has_pretext_metrics


def measure_share(count: int) -> dict[str, float]:
    return pretext_metrics(Drawing(), images(count), RANDOM, PROGRESS, batch_size=4)


def refuse(count: int) -> str:
    with pytest.raises(UserError) as refused:
        measure_share(count)
    assert distributed.process_count() == 2
    return str(refused.value)


def test_two_processes_measure_what_one_does() -> None:
    one = measure_share(21)  # an odd number: shares of 10 and 11
    first, second = run_processes(measure_share, 2, 21)
    assert first == second
    assert first == pytest.approx(one, rel=1e-6)


def test_fewer_images_than_processes_are_refused() -> None:
    sentences = run_processes(refuse, 2, 1)
    assert sentences == ["2 processes share 1 held-out images: expected at least one image for "
                         "each, so start fewer processes."] * 2  # fmt: skip
