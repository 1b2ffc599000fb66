"""The estimate of a training's memory, compared with measured peaks."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from retable import views
from retable.encoders import EncoderRecipe, ResNetRecipe
from retable.evaluate.sweep import Sweep
from retable.evaluate.transfer.detection.networks.detectors import build_detector
from retable.evaluate.transfer.detection.recipe import DetectorRecipe
from retable.evaluate.transfer.finetune import FineTuning
from retable.methods import (
    Batch,
    BYOLRecipe,
    Method,
    Progress,
    SimCLRRecipe,
    StepOutput,
    SupervisedRecipe,
    moco_v2,
)
from retable.methods.method import MethodRecipe
from retable.train.memory import network_memory, training_memory
from retable.train.optim import OptimizerRecipe, build_optimizer
from retable.train.recipe import PretrainRecipe, build_method

torch.set_num_threads(1)

SMALL = ResNetRecipe("small_resnet8")
RESNET = ResNetRecipe("resnet18", width=0.25, stem="small")
LABELS = SupervisedRecipe(10)


def recipe(
    method: MethodRecipe = LABELS,
    encoder: EncoderRecipe = SMALL,
    *,
    view_count: int = 1,
    side: int = 32,
    precision: str = "float32",
) -> PretrainRecipe:
    view = views.crop_and_flip(side)
    optimizer = OptimizerRecipe()
    return PretrainRecipe(
        method, "shapes", (view,) * view_count, encoder, optimizer, 2, 32, precision=precision
    )


def sizes(tensors: list[Tensor]) -> int:
    storages = {tensor.data_ptr(): tensor.untyped_storage() for tensor in tensors}
    return sum(storage.nbytes() for storage in storages.values())


def measured_peak(chosen: PretrainRecipe, images: int) -> int:
    """Return the most bytes of tensors that the second step held, when there is momentum."""
    from torch.profiler import ProfilerActivity, profile

    method = build_method(chosen, 0).train()
    optimizer = build_optimizer(chosen.optimizer, method)

    def batch() -> Batch:
        places = torch.arange(images)
        made = tuple(torch.rand(images, 3, view.size, view.size) for view in chosen.views)
        progress = Progress(1, 1, chosen.epochs)
        return Batch(made, torch.zeros_like(places), places, places, progress, 0)

    def step(batch: Batch) -> None:
        half = chosen.precision != "float32"
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            output = method(batch)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        method.after_step(batch.progress)

    step(batch())
    measured = batch()
    momentum = [state["momentum_buffer"] for state in optimizer.state.values()]
    before = sizes([*method.parameters(), *method.buffers(), *momentum, *measured.views])
    with profile(
        activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as profiled:
        step(measured)
    assert profiled.profiler is not None
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: int(event.start_ns())):
        now += event.nbytes()
        most = max(most, now)
    return before + most


WITH_AVX512 = pytest.mark.skipif(
    "AVX512" not in torch.backends.cpu.get_cpu_capability(),
    reason="MoCo in bf16 was measured a third above the estimate without AVX-512, cause unknown",
)


@pytest.mark.parametrize(
    "chosen",
    [
        recipe(encoder=SMALL),
        recipe(encoder=RESNET),
        recipe(encoder=RESNET, precision="bf16"),
        recipe(SimCLRRecipe(hidden_dim=64), view_count=2),
        recipe(BYOLRecipe(hidden_dim=128), RESNET, view_count=2),
        pytest.param(
            recipe(moco_v2(queue=128), RESNET, view_count=2, precision="bf16"), marks=WITH_AVX512
        ),
    ],
    ids=["small", "resnet", "bf16", "simclr", "byol", "moco"],
)
def test_the_estimate_is_within_a_fifth_of_the_measured_peak(chosen: PretrainRecipe) -> None:
    assert training_memory(chosen, 32) == pytest.approx(measured_peak(chosen, 32), rel=0.2)


def test_fine_tuning_takes_what_supervised_training_does_but_for_the_classifier() -> None:
    tuned = FineTuning(batch=32, bn_group=None, train_view=views.crop_and_flip(32))
    classifier = (SMALL.build(0).feature_dim + 1) * LABELS.classes
    expected = training_memory(recipe(), 32) - classifier * (4 + 4 + 4)
    assert tuned.memory(SMALL, 320, 32) == expected
    sweep = Sweep(tuned, (("batch", (8, 32, 16)),))
    assert sweep.memory(SMALL, 320, 32) == expected


@pytest.mark.parametrize(
    "detector",
    [
        DetectorRecipe("c4", masks=True, sizes=(8.0, 16.0, 32.0), side=8, hidden=16, chosen=64),
        DetectorRecipe(
            "fpn", masks=True, sizes=(4.0, 8.0, 16.0, 32.0), hidden=32, usual_size=16.0, chosen=64
        ),
    ],
    ids=["c4", "fpn"],
)
def test_what_a_detector_keeps_is_within_a_fifth_of_the_estimate(detector: DetectorRecipe) -> None:
    network = build_detector(detector, SMALL.build(0), 5, 1).train()
    network.start_step(3, [0, 1])
    draw = torch.Generator().manual_seed(0)
    corners = 80 * torch.rand(12, 2, generator=draw)
    boxes = torch.cat([corners, corners + 10 + 35 * torch.rand(12, 2, generator=draw)], 1)
    masks = torch.zeros(12, 128, 128, dtype=torch.bool)
    objects = {"boxes": boxes, "labels": torch.arange(12) % 5 + 1, "masks": masks}
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    images = torch.randn(2, 3, 128, 128, generator=draw)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(images, [(128, 128)] * 2, [objects, objects])
    state = [*network.parameters(), *network.buffers()]
    own = {tensor.data_ptr() for tensor in state}
    measured = sizes([tensor for tensor in kept if tensor.data_ptr() not in own])
    parts = [(network.maps, (3, 128, 128), 1), *network.region_passes()]
    fixed = network_memory(network, [], 0)
    assert fixed == sum(t.nbytes for t in state) + 2 * sum(p.nbytes for p in network.parameters())
    assert network.training
    assert network_memory(network, parts, 2) - fixed == pytest.approx(measured, rel=0.2)


@pytest.mark.parametrize(
    ("method", "count"),
    [(moco_v2(queue=128), 2), (BYOLRecipe(hidden_dim=128), 2), (SimCLRRecipe(), 2), (LABELS, 1)],
    ids=["moco", "byol", "simclr", "supervised"],
)
def test_state_and_optimizer_are_counted_exactly(method: MethodRecipe, count: int) -> None:
    chosen = recipe(method, view_count=count)
    real = build_method(chosen, 0)
    trained = sum(p.numel() for p in real.parameters() if p.requires_grad)
    everything = sum(t.nbytes for t in [*real.parameters(), *real.buffers()])
    assert training_memory(chosen, 0) == everything + trained * (4 + 4)
    still = replace(chosen, optimizer=OptimizerRecipe(momentum=0.0))
    assert training_memory(still, 0) == everything + trained * 4
    half = replace(chosen, precision="bf16")
    assert training_memory(half, 0) == everything + trained * (4 + 4 + 2)


class Crops(Method):
    """Train on quarters of the view, and encode the view itself without gradient."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def encoder_inputs(self, sizes: object) -> tuple[tuple[int, float], ...]:
        return ((32, 1.0), (16, 12.0))

    def forward(self, batch: Batch) -> StepOutput:
        raise NotImplementedError


@dataclass(frozen=True)
class CropsRecipe:
    def build(self, encoder: nn.Module, rng_key: int) -> Method:
        return Crops(encoder)


def activations(chosen: PretrainRecipe, images: int) -> float:
    return training_memory(chosen, images) - training_memory(chosen, 0)


def test_only_what_is_trained_on_is_kept_at_the_size_that_the_encoder_sees() -> None:
    crops = activations(recipe(CropsRecipe()), 32)
    small = activations(recipe(side=16), 32 * 4)
    assert crops == pytest.approx(small)  # four quarters of a view are as large as the view


def test_activations_follow_the_width_and_wide_encoders_are_not_run() -> None:
    narrow, wide = (
        activations(recipe(encoder=ResNetRecipe("resnet50", width), side=224), 64)
        for width in (1.0, 4.0)
    )
    assert wide == pytest.approx(4 * narrow, rel=0.03)


def test_the_estimate_takes_little_memory_itself_and_imports_no_compiler() -> None:
    program = """
import resource, sys
from retable import views
from retable.encoders import ResNetRecipe
from retable.train.memory import training_memory
from retable.methods import SupervisedRecipe
from retable.train.optim import OptimizerRecipe
from retable.train.recipe import PretrainRecipe
view, encoder = views.crop_and_flip(224), ResNetRecipe("resnet50", width=4.0)
recipe = PretrainRecipe(SupervisedRecipe(9), "x", (view,), encoder, OptimizerRecipe(), 1, 64)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
needed = training_memory(recipe, 2)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)  # from KiB
print(needed)
assert "torch._dynamo" not in sys.modules and "sympy" not in sys.modules
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    used, estimate = (float(line) for line in ended.stdout.split())
    assert used < 0.1 * estimate
