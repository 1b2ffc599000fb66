"""Norms of gradients by module, held against loops over single numbers."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from retable.data.sources import open_source
from retable.encoders import ResNetRecipe
from retable.errors import UserError
from retable.random import derive_key, initialising, normal
from retable.train.gradients import GradientLandscape, read_landscape
from retable.train.metrics import MetricsLog
from retable.train.options import RunOptions
from retable.train.pretrain import Training, make_accelerator, pretrain
from retable.train.runs import RunDirectory


def small_network() -> nn.Sequential:
    with initialising(0):
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2)
        )


def backward(network: nn.Module, step: int, scale: float = 1.0) -> None:
    """Give a network the gradients of one batch."""
    images = normal(derive_key(0, "images", step), torch.arange(5 * 48).view(5, 3, 4, 4))
    network.zero_grad()
    torch.autograd.backward(scale * network(images).square().mean())


def norms_one_by_one(network: nn.Module, name: str) -> float:
    module = network.get_submodule(name)
    gradients = [p.grad for p in module.parameters(recurse=False) if p.grad is not None]
    return math.sqrt(sum(float(g) ** 2 for gradient in gradients for g in gradient.flatten()))


def assert_equal(found: Mapping[str, Sequence[float]], norms: dict[str, list[float]]) -> None:
    assert list(found) == list(norms)
    for name, values in norms.items():
        expected = (statistics.fmean(values), statistics.pstdev(values), max(values))
        assert found[name] == pytest.approx(expected, rel=1e-5, abs=1e-7), name


@pytest.mark.parametrize(
    ("encoder", "modules", "tensors"), [("resnet18", 40, 60), ("resnet50", 106, 159)]
)
def test_the_modules_are_the_convolutions_and_batch_norms(
    encoder: str, modules: int, tensors: int
) -> None:
    # ResNet-18: 20 convolutions and 20 batch norms of two tensors each; ResNet-50: 53 and 53.
    with torch.device("meta"):
        network = ResNetRecipe(encoder).build(rng_key=0)
    landscape = GradientLandscape(network)
    kinds = [type(network.get_submodule(name)) for name in landscape.modules]
    assert kinds.count(nn.Conv2d) == kinds.count(nn.BatchNorm2d) == modules // 2
    assert len(landscape.modules) == modules
    assert len(list(network.parameters())) == tensors
    assert landscape.modules[:2] == ["conv1", "bn1"]


@settings(max_examples=20, deadline=None)
@given(steps=st.integers(1, 12))
def test_statistics_are_those_of_every_number_over_the_steps(steps: int) -> None:
    network = small_network()
    landscape = GradientLandscape(network)
    norms: dict[str, list[float]] = {"0": [], "1": [], "3": []}
    for step in range(steps):
        backward(network, step)
        landscape.measure()
        for name, values in norms.items():
            values.append(norms_one_by_one(network, name))
    assert_equal(landscape.statistics(), norms)


def test_more_steps_than_one_chunk_are_all_counted() -> None:
    layer = nn.Linear(1, 1, bias=False)
    landscape = GradientLandscape(layer)
    layer.weight.grad = torch.zeros(1, 1)
    for step in range(1, 601):
        layer.weight.grad.fill_(step)
        landscape.measure()
    ((name, (mean, std, maximum)),) = landscape.statistics().items()
    assert name == "Linear"
    # The first n numbers have the mean (n + 1) / 2 and the variance (n^2 - 1) / 12.
    assert (mean, maximum) == (300.5, 600.0)
    assert std == pytest.approx(math.sqrt((600**2 - 1) / 12))


def test_frozen_modules_are_left_out_and_unreached_ones_have_norm_zero() -> None:
    network = small_network()
    network[0].requires_grad_(False)
    landscape = GradientLandscape(network)
    assert landscape.modules == ["1", "3"]
    landscape.measure()
    assert landscape.statistics() == {}  # before any backward pass
    backward(network, 0)
    network[1].zero_grad()
    landscape.measure()
    found = landscape.statistics()
    assert found["1"] == (0.0, 0.0, 0.0)
    assert found["3"][0] > 0


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_step_whose_gradient_is_not_finite_is_left_out_everywhere(bad: float) -> None:
    network = small_network()
    landscape = GradientLandscape(network)
    for step in range(3):
        backward(network, step)
        if step == 1:
            gradient = network[3].bias.grad
            assert isinstance(gradient, Tensor)
            gradient[0] = bad
        landscape.measure()
    without = GradientLandscape(network)
    for step in (0, 2):
        backward(network, step)
        without.measure()
    assert landscape.statistics() == without.statistics()


def test_after_unscaling_the_scale_of_the_loss_does_not_matter() -> None:
    # Source: torch.amp.GradScaler, on the CPU; a power of two scales without rounding.
    network = small_network()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    plain, scaled, forgotten = (GradientLandscape(network) for _ in range(3))
    backward(network, 0)
    plain.measure()
    scaler.scale(torch.ones(()))  # it learns here where it is
    backward(network, 0, scale=2.0**12)
    forgotten.measure()
    scaler.unscale_(optimizer)
    scaled.measure()
    assert scaled.statistics() == plain.statistics()
    assert forgotten.statistics()["0"][0] == pytest.approx(2.0**12 * plain.statistics()["0"][0])


@pytest.mark.parametrize("stop", [1, 3])
def test_an_epoch_continued_from_a_state_ends_with_the_same_bits(stop: int) -> None:
    network = small_network()

    def measure(landscape: GradientLandscape, steps: Iterable[int]) -> None:
        for step in steps:
            backward(network, step)
            landscape.measure()

    whole, first, second = (GradientLandscape(network) for _ in range(3))
    measure(whole, range(stop))
    whole.state()  # kept at the same step: sums are rounded at the same places
    measure(whole, range(stop, 6))
    measure(first, range(stop))
    second.restore(first.state())
    measure(second, range(stop, 6))
    assert second.statistics() == whole.statistics()


def test_measuring_never_waits_for_the_device_and_keeps_gradients() -> None:
    with torch.device("meta"):
        network = small_network()
        landscape = GradientLandscape(network)
        for parameter in network.parameters():
            parameter.grad = torch.empty_like(parameter)
        for _ in range(300):
            landscape.measure()
        landscape.state()
    kept = small_network()
    backward(kept, 0)
    before = [
        parameter.grad.clone() for parameter in kept.parameters() if parameter.grad is not None
    ]
    GradientLandscape(kept).measure()
    after = [parameter.grad for parameter in kept.parameters() if parameter.grad is not None]
    assert all(map(torch.equal, before, after))


def test_each_epoch_has_a_line_of_its_own_steps_and_is_read_back(tmp_path: Path) -> None:
    network = small_network()
    landscape = GradientLandscape(network)
    for epoch in (1, 2):
        for step in range(3):
            backward(network, 3 * epoch + step)
            landscape.measure()
        landscape.write(tmp_path, 3 * epoch, epoch)
    alone = GradientLandscape(network)
    for step in range(3):
        backward(network, 6 + step)
        alone.measure()
    first, second = MetricsLog.of(tmp_path).read()
    assert (first["kind"], first["step"], first["epoch"]) == ("gradients", 3, 1)
    for name, found in alone.statistics().items():
        assert second["modules"][name] == pytest.approx(found, rel=1e-5)
    read = read_landscape(tmp_path)
    assert (read.epochs, read.modules) == ([1, 2], ["0", "1", "3"])
    assert read.mean.shape == read.std.shape == read.maximum.shape == (2, 3)
    assert [float(x[1, 2]) for x in read[2:]] == second["modules"]["3"]


def test_the_mean_norm_of_each_module_becomes_an_event(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    network = small_network()
    landscape = GradientLandscape(network)
    backward(network, 0)
    landscape.measure()
    landscape.write(MetricsLog(tmp_path / "metrics.jsonl", tmp_path / "events"), 7, 1)
    events: Any = EventAccumulator(str(tmp_path / "events"))  # type: ignore[no-untyped-call]
    events.Reload()
    (event,) = events.Scalars("gradients/3")
    assert (event.step, event.value) == (7, pytest.approx(norms_one_by_one(network, "3"), rel=1e-5))


def test_an_epoch_without_any_gradient_has_no_line(tmp_path: Path) -> None:
    GradientLandscape(small_network()).write(tmp_path, 1, 1)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_log_without_gradients_or_of_several_networks_is_refused(tmp_path: Path) -> None:
    log = MetricsLog.of(tmp_path)
    with pytest.raises(UserError, match=r"no line of kind gradients\. Pass the folder of a run"):
        read_landscape(tmp_path)
    log.write("gradients", 1, {"epoch": 1, "modules": {"a": [1.0, 0.0, 1.0]}})
    log.write("gradients", 2, {"epoch": 2, "modules": {"b": [1.0, 0.0, 1.0]}})
    with pytest.raises(UserError, match="gradients of several networks"):
        read_landscape(log.path)


# In the loop


def train(recipe: Any, folder: Path, accelerator: Any = None, **execution: Any) -> dict[str, Any]:
    torch.set_num_threads(1)
    chosen = RunOptions(quiet=True, **execution)
    accelerator = accelerator or make_accelerator("float32")
    source = open_source(recipe.data, "train")
    return pretrain(recipe, 3, source, RunDirectory(folder), accelerator, chosen)


def test_the_loop_writes_the_gradients_that_the_optimizer_gets(
    contrastive: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms: dict[str, list[float]] = {}
    step = torch.optim.SGD.step

    def make_step(self: Training, *arguments: Any) -> Any:
        encoder = self.method.encoder

        def noting(optimizer: Any, *closure: Any) -> Any:
            for name in self.recorder.gradients.modules:
                norms.setdefault(name, []).append(norms_one_by_one(encoder, name))
            return step(optimizer, *closure)

        monkeypatch.setattr(torch.optim.SGD, "step", noting)
        return original(self, *arguments)

    original = Training.make_step
    monkeypatch.setattr(Training, "make_step", make_step)
    train(contrastive(), tmp_path, checkpoint_every=3)
    read = read_landscape(tmp_path)
    assert read.epochs == [1, 2]
    assert read.modules == list(norms)
    for number in range(2):
        rows = {name: values[4 * number : 4 * number + 4] for name, values in norms.items()}
        found = torch.stack(read[2:], dim=2)[number].tolist()
        assert_equal(dict(zip(read.modules, found, strict=True)), rows)


def test_accumulated_gradients_have_the_norms_of_the_whole_batch(
    supervised: Any, tmp_path: Path
) -> None:
    recipe = supervised(epochs=1)
    recipe = replace(recipe, encoder=replace(recipe.encoder, norm="group"))
    train(recipe, tmp_path / "whole")
    train(recipe, tmp_path / "parts", accumulate=2)
    whole, parts = (read_landscape(tmp_path / run) for run in ("whole", "parts"))
    torch.testing.assert_close(parts.mean, whole.mean, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(parts.maximum, whole.maximum, rtol=1e-3, atol=1e-5)


def test_a_scaled_loss_does_not_change_what_the_loop_writes(
    contrastive: Any, tmp_path: Path
) -> None:
    train(contrastive(epochs=1), tmp_path / "plain")
    accelerator = make_accelerator("float32")
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    accelerator.native_amp = True
    accelerator.state._mixed_precision = "fp16"
    try:
        train(contrastive(epochs=1), tmp_path / "scaled", accelerator)
    finally:
        accelerator.state._mixed_precision = "no"
    plain, scaled = (read_landscape(tmp_path / run) for run in ("plain", "scaled"))
    torch.testing.assert_close(scaled.mean, plain.mean, rtol=0.1, atol=1e-4)
