from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from retable.encoders import ResNetRecipe
from retable.methods import (
    BYOLRecipe,
    SimCLRRecipe,
    SimSiamRecipe,
    SupervisedRecipe,
    moco_v2,
)
from retable.methods.method import Batch, Method, MethodRecipe, Progress, StepOutput
from retable.train import cost
from retable.train.cost import Throughput, forward_flops, matmul_rate


class Net(nn.Module):
    feature_dim = 5

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4 * 8 * 8, 5)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.linear(self.norm(self.conv(images)).flatten(1))
        return features


class TwoPasses(Method):
    passes_per_view = 2.0

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Net()

    def forward(self, batch: Batch) -> StepOutput:
        raise NotImplementedError


OPERATIONS = 2 * (8 * 8 * 4 * 3 * 3 * 3) + 2 * (4 * 8 * 8 * 5)
"""Two for each multiply-add of the convolution and of the linear layer, counted by hand."""


def test_operations_are_those_counted_by_hand() -> None:
    assert forward_flops(Net(), 8) == OPERATIONS


@pytest.mark.parametrize(("name", "operations"), [("resnet18", 1.82e9), ("resnet50", 4.09e9)])
def test_operations_are_those_that_torchvision_states(name: str, operations: float) -> None:
    # torchvision, documentation of its weights: GFLOPS 1.81 and 4.09, multiply-adds with the
    # classifier; it calls a multiply-add one operation.
    encoder = ResNetRecipe(name).build(0)
    classifier = encoder.feature_dim * 1000
    assert forward_flops(encoder, 224) / 2 + classifier == pytest.approx(operations, rel=0.01)


def test_counting_leaves_the_encoder_as_it_was() -> None:
    net = Net().train()
    net.norm.eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    forward_flops(net, 8)
    assert net.training
    assert not net.norm.training
    assert not net.conv._forward_hooks
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_device_has_a_rate() -> None:
    assert matmul_rate(torch.device("cpu"), torch.float32) > 1e6


class Quarters(TwoPasses):
    """Give each view to the encoder, and four quarters of the first."""

    def encoder_inputs(self, sizes: Sequence[int]) -> tuple[tuple[int, float], ...]:
        return (*super().encoder_inputs(sizes), (sizes[0] // 2, 4.0))


def test_the_share_counts_what_the_encoder_is_given_at_its_sizes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cost, "matmul_rate", lambda device, dtype: 1e6)
    monkeypatch.setattr("time.perf_counter", iter([0.0, 1.0]).__next__)
    method = Quarters()
    method.encoder = nn.Sequential(nn.Conv2d(3, 4, 1))
    rates = Throughput(method, batch=50, precision="float32", sizes=[8, 6], step=0).rates(1)
    per_pixel = 2 * 3 * 4
    pixels = 2 * 8 * 8 + 2 * 6 * 6 + 4 * 4 * 4
    assert rates["utilisation"] == pytest.approx(50.0 * per_pixel * pixels / 1e6)


def test_rates_count_images_since_the_last_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 12.0, 100.0, 101.0])
    monkeypatch.setattr(cost, "matmul_rate", lambda device, dtype: 1e6)
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    rates = Throughput(TwoPasses(), batch=50, precision="float32", sizes=[8], step=3)
    first = rates.rates(7)
    assert first["images_per_second"] == 4 * 50 / 2.0
    assert first["utilisation"] == pytest.approx(100.0 * 2 * OPERATIONS / 1e6)
    rates.restart(7)
    assert rates.rates(8)["images_per_second"] == 50.0


class Watching(nn.Module):
    """An encoder that counts the passes that an image's training takes, by side."""

    feature_dim = 6

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 6)
        self.passes: dict[int, float] = {}

    def forward(self, images: Tensor) -> Tensor:
        side = images.shape[-1]
        work = 3.0 if torch.is_grad_enabled() else 1.0  # forward and backward, or forward
        self.passes[side] = self.passes.get(side, 0.0) + work * len(images)
        features: Tensor = self.linear(images.mean((2, 3)))
        return features


@pytest.mark.parametrize(
    ("recipe", "sizes"),
    [
        (moco_v2(queue=16), (8, 6)),
        (SimCLRRecipe(), (8, 8)),
        (BYOLRecipe(hidden_dim=16), (8, 8)),
        (SimSiamRecipe(dim=16, predictor_hidden_dim=8), (8, 8)),
        (SupervisedRecipe(4), (8,)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_methods_say_what_their_encoders_are_given(
    recipe: MethodRecipe, sizes: tuple[int, ...]
) -> None:
    method = recipe.build(Watching(), 0)
    places = torch.arange(4)
    views = tuple(torch.rand(4, 3, size, size) for size in sizes)
    method(Batch(views, places, places, places, Progress(0, 1, 1), 0))
    seen: dict[int, float] = {}
    for encoder in (module for module in method.modules() if isinstance(module, Watching)):
        for side, passes in encoder.passes.items():
            seen[side] = seen.get(side, 0.0) + passes / 4
    said: dict[int, float] = {}
    for side, passes in method.encoder_inputs(sizes):
        said[side] = said.get(side, 0.0) + passes
    assert said == seen
