"""The estimate of a training's memory, against what trainings hold."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from retable import views
from retable.encoders import EncoderRecipe, ResidualRecipe, ResNetRecipe, VggRecipe
from retable.errors import UserError
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
from retable.train.memory import training_memory
from retable.train.optim import OptimizerRecipe, build_optimizer
from retable.train.recipe import PretrainRecipe, build_method

torch.set_num_threads(1)

SMALL = ResNetRecipe("small_resnet8")
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


def batch_of(chosen: PretrainRecipe, images: int) -> Batch:
    places = torch.arange(images)
    made = tuple(torch.rand(images, 3, view.size, view.size) for view in chosen.views)
    return Batch(made, torch.zeros_like(places), places, places, Progress(1, 1, chosen.epochs), 0)


def sizes(tensors: list[Tensor]) -> int:
    storages = {tensor.data_ptr(): tensor.untyped_storage() for tensor in tensors}
    return sum(storage.nbytes() for storage in storages.values())


def measured_peak(chosen: PretrainRecipe, images: int) -> int:
    """Return the most bytes of tensors that a step held; the second, when momentum is there."""
    from torch.profiler import ProfilerActivity, profile

    method = build_method(chosen, 0).train()
    optimizer = build_optimizer(chosen.optimizer, method)

    def step(batch: Batch) -> None:
        half = chosen.precision != "float32"
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            output = method(batch)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        method.after_step(batch.progress)

    step(batch_of(chosen, images))
    batch = batch_of(chosen, images)
    momentum = [state["momentum_buffer"] for state in optimizer.state.values()]
    before = sizes([*method.parameters(), *method.buffers(), *momentum, *batch.views])
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step(batch)
    assert profiled.profiler is not None
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: int(event.start_ns())):
        now += event.nbytes()
        most = max(most, now)
    return before + most


FAMILIES: dict[str, EncoderRecipe] = {
    "small": SMALL,
    "resnet": ResNetRecipe("resnet18", width=0.25, stem="small"),
    "residual": ResidualRecipe(units=(1, 1, 1, 1), widening=1),
    "reversible": ResidualRecipe("reversible", units=(1, 1, 1, 1), widening=1),
    "vgg": VggRecipe(widening=2, stacks=(1, 1, 1, 1, 1), fc_kernel=1),
}


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_estimate_is_within_a_fifth_of_the_measured_peak(family: str, precision: str) -> None:
    chosen = recipe(encoder=FAMILIES[family], precision=precision)
    estimate = training_memory(chosen, 32).total
    assert estimate == pytest.approx(measured_peak(chosen, 32), rel=0.2)


@pytest.mark.parametrize("method", [SimCLRRecipe(hidden_dim=64), BYOLRecipe(hidden_dim=128)])
def test_the_estimate_of_two_views_is_within_a_fifth_of_the_measured_peak(
    method: MethodRecipe,
) -> None:
    chosen = recipe(method, view_count=2)
    estimate = training_memory(chosen, 48).total
    assert estimate == pytest.approx(measured_peak(chosen, 48), rel=0.2)


def test_a_reversible_backward_pass_takes_less_and_the_estimate_says_so() -> None:
    plain = ResidualRecipe("reversible", widening=1)
    saving = replace(plain, reversible_backward=True)
    expected, saved = (
        training_memory(recipe(encoder=encoder, side=64), 16).total for encoder in (plain, saving)
    )
    peak = measured_peak(recipe(encoder=saving, side=64), 16)
    assert 0.6 * peak < saved < 1.2 * peak
    assert saved < 0.6 * expected


METHODS: dict[str, tuple[MethodRecipe, int]] = {
    "moco": (moco_v2(queue=128), 2),
    "byol": (BYOLRecipe(hidden_dim=128), 2),
    "simclr": (SimCLRRecipe(), 2),
    "supervised": (LABELS, 1),
}


@pytest.mark.parametrize("name", METHODS)
def test_state_and_optimizer_are_counted_exactly(name: str) -> None:
    method, count = METHODS[name]
    chosen = recipe(method, view_count=count)
    real = build_method(chosen, 0)
    trained = sum(p.numel() for p in real.parameters() if p.requires_grad)
    everything = sum(t.nbytes for t in [*real.parameters(), *real.buffers()])
    memory = training_memory(chosen, 32)
    assert memory.state == everything
    assert memory.optimizer == trained * (4 + 4)
    still = replace(chosen, optimizer=OptimizerRecipe(momentum=0.0))
    assert training_memory(still, 32).optimizer == trained * 4
    half = replace(chosen, precision="bf16")
    assert training_memory(half, 32).optimizer == trained * (4 + 4 + 2)


def kept_in_truth(chosen: PretrainRecipe, images: int) -> int:
    """Return the bytes of the views and of what a real forward pass keeps."""
    real, batch = build_method(chosen, 0), batch_of(chosen, images)
    own = {t.data_ptr() for t in [*real.parameters(), *real.buffers(), *batch.views]}
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    half = chosen.precision != "float32"
    with hooks, torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        output = real(batch)
    assert output.loss.requires_grad
    weights = {t.shape for t in real.parameters()}  # under autocast, their copies are counted apart
    kept = [t for t in kept if t.data_ptr() not in own and not (half and t.shape in weights)]
    return sizes(kept) + sizes(list(batch.views))


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("name", METHODS)
def test_activations_are_what_a_forward_pass_of_the_real_method_keeps(
    name: str, precision: str
) -> None:
    method, count = METHODS[name]
    chosen = recipe(method, view_count=count, precision=precision)
    expected = kept_in_truth(chosen, 40)
    assert training_memory(chosen, 40).activations == pytest.approx(expected, rel=0.04)


def test_scores_of_all_pairs_grow_with_the_square_of_the_batch() -> None:
    narrow = ResNetRecipe("small_resnet8", width=0.25)
    chosen = recipe(SimCLRRecipe(), narrow, view_count=2, side=16)
    expected = kept_in_truth(chosen, 400)
    scores = 800 * 801 * 4  # one matrix of them, at least
    assert scores > 0.1 * expected
    assert training_memory(chosen, 400).activations == pytest.approx(expected, rel=0.04)


def test_memory_follows_the_width_of_the_encoder_without_running_it() -> None:
    narrow, wide = (
        training_memory(recipe(encoder=ResidualRecipe(widening=k), side=224), 64) for k in (4, 16)
    )
    assert wide.activations == pytest.approx(4 * narrow.activations, rel=0.02)
    assert wide.state == pytest.approx(16 * narrow.state, rel=0.02)


@dataclass(frozen=True)
class GroupedRecipe:
    """Compare the images of a group; only whole groups."""

    group: int = 8

    def build(self, encoder: nn.Module, rng_key: int) -> Grouped:
        return Grouped(encoder, self.group)


class Grouped(Method):
    def __init__(self, encoder: nn.Module, group: int) -> None:
        super().__init__()
        self.encoder, self.group = encoder, group

    def forward(self, batch: Batch) -> StepOutput:
        if len(batch.positions) % self.group:
            raise UserError("only whole groups")
        features = self.encoder(batch.views[0]).view(-1, self.group, 64)
        return StepOutput((features @ features.mT).exp().mean(), {})


def test_a_method_of_whole_groups_is_measured_with_whole_groups() -> None:
    half, whole = (training_memory(recipe(GroupedRecipe()), images) for images in (16, 32))
    assert whole.activations == pytest.approx(2 * half.activations)
    with pytest.raises(UserError, match="only whole groups"):
        training_memory(recipe(GroupedRecipe()), 20)


class Crops(Method):
    """Train on quarters of the view, and encode the whole without gradient."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, batch: Batch) -> StepOutput:
        (view,) = batch.views
        with torch.no_grad():
            self.encoder(view)
        quarters = view.unfold(2, 16, 16).unfold(3, 16, 16).permute(0, 2, 3, 1, 4, 5)
        return StepOutput(self.encoder(quarters.reshape(-1, 3, 16, 16)).sum(), {})


@dataclass(frozen=True)
class CropsRecipe:
    def build(self, encoder: nn.Module, rng_key: int) -> Method:
        return Crops(encoder)


def test_only_what_is_trained_on_is_kept_at_the_size_that_the_encoder_sees() -> None:
    crops = training_memory(recipe(CropsRecipe()), 32).activations
    view = 32 * 3 * 32 * 32 * 4  # which is cut into copies, all as large together
    small = training_memory(recipe(side=16), 32 * 4).activations
    assert crops == pytest.approx(small + view, rel=0.01)


def test_the_estimate_takes_little_memory_itself_and_imports_no_compiler() -> None:
    program = """
import resource, sys
from retable import views
from retable.encoders import ResidualRecipe
from retable.train.memory import training_memory
from retable.methods import SupervisedRecipe
from retable.train.optim import OptimizerRecipe
from retable.train.recipe import PretrainRecipe
view, encoder = views.crop_and_flip(224), ResidualRecipe(widening=16)
recipe = PretrainRecipe(SupervisedRecipe(9), "x", (view,), encoder, OptimizerRecipe(), 1, 64)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
needed = training_memory(recipe, 2)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)  # from KiB
print(needed.activations)
assert "torch._dynamo" not in sys.modules and "sympy" not in sys.modules
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    used, of_two_images = (float(line) for line in ended.stdout.split())
    assert used < 0.6 * of_two_images
