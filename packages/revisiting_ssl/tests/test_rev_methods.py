"""Properties common to the four methods: batches, parts of batches, processes, evaluation mode."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from retable import distributed
from retable.encoders import ResNetRecipe
from retable.errors import UserError
from retable.methods.method import Batch, Method, MethodRecipe, Progress
from retable.nn.batch_norm import group_batch_norm
from retable.nn.patches import PatchGrid
from retable.random import derive_key, initialising, normal
from retable.settings import with_field
from retable.testing import run_processes
from revisiting_ssl import (
    ExemplarRecipe,
    JigsawRecipe,
    RelativePatchLocationRecipe,
    RotationRecipe,
)

GRID = PatchGrid(cell=6, patch=4)
RECIPES: dict[str, MethodRecipe] = {
    "rotation": RotationRecipe(),
    "exemplar": ExemplarRecipe(dim=6, mining_group_images=4),
    "jigsaw": JigsawRecipe(
        GRID, embed_dim=6, hidden_dim=16, permutations=10, permutations_per_image=3
    ),
    "relative_patch_location": RelativePatchLocationRecipe(GRID, embed_dim=6, hidden_dim=16),
}
CLASSIFYING = ["rotation", "jigsaw", "relative_patch_location"]
BATCH, GROUP, STEPS = 8, 4, 3

Share = tuple[list[float], dict[str, Tensor]]


class Pixels(nn.Module):
    """Pixels through a convolution and a batch norm, averaged over the image's halves."""

    feature_dim = 16

    def __init__(self) -> None:
        super().__init__()
        with initialising(5):
            self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, images: Tensor) -> Tensor:
        maps = torch.tanh(2 * self.norm(self.conv(images)))
        return torch.cat([maps[..., :1, :].mean((2, 3)), maps[..., 1:, :].mean((2, 3))], dim=1)


def make_batch(name: str, step: int = 0, size: int = BATCH) -> Batch:
    """Make the global batch of a step; views of an image are alike."""
    views, side = (3 if name == "exemplar" else 1), GRID.side
    shape = (size, 3, side, side)
    images = normal(derive_key(step, "images"), torch.arange(math.prod(shape))).view(shape)
    noise = [
        normal(derive_key(step, "view", number), torch.arange(math.prod(shape))).view(shape)
        for number in range(views)
    ]
    return Batch(
        views=tuple(images + 0.5 * of_view for of_view in noise),
        labels=torch.full((size,), -1),
        indices=torch.arange(size),
        positions=torch.arange(size),
        progress=Progress(step, STEPS, 4),
        rng_key=derive_key(0, "step", step),
    )


def part_of(batch: Batch, rows: slice) -> Batch:
    return replace(
        batch,
        views=tuple(view[rows] for view in batch.views),
        labels=batch.labels[rows],
        indices=batch.indices[rows],
        positions=batch.positions[rows],
    )


def build(name: str) -> Method:
    method = RECIPES[name].build(Pixels(), 3)
    group_batch_norm(method, GROUP)
    return method


def gradients(method: Method, batch: Batch) -> list[Tensor]:
    return list(torch.autograd.grad(method(batch).loss, list(method.parameters())))


# The loss


@pytest.mark.parametrize(
    ("name", "layer", "classes"),
    [
        ("rotation", "embed", 4),
        ("jigsaw", "head.scores", 10),
        ("relative_patch_location", "head.scores", 8),
    ],
)
def test_without_a_clue_the_loss_is_that_of_guessing(name: str, layer: str, classes: int) -> None:
    method = build(name)
    nn.init.zeros_(method.get_submodule(layer).weight)  # type: ignore[arg-type]
    assert method(make_batch(name)).loss.item() == pytest.approx(math.log(classes), rel=1e-6)


def test_a_hundred_permutations_start_at_their_logarithm() -> None:
    method = JigsawRecipe(GRID, embed_dim=6, hidden_dim=16).build(Pixels(), 3)
    nn.init.zeros_(method.head.scores.weight)
    assert method(make_batch("jigsaw")).loss.item() == pytest.approx(4.605170, abs=1e-6)


@pytest.mark.parametrize("name", RECIPES)
def test_every_weight_is_trained_by_every_step(name: str) -> None:
    method = build(name)
    found = gradients(method, make_batch(name))
    for (parameter, _), gradient in zip(method.named_parameters(), found, strict=True):
        if parameter.endswith("weight"):  # biases before a normalisation have no effect
            assert gradient.abs().max() > 1e-5, parameter


@pytest.mark.parametrize("name", CLASSIFYING)
def test_training_on_a_batch_finds_its_classes(name: str) -> None:
    recipe = RECIPES[name]
    if name != "rotation":
        recipe = replace(recipe, dropout=0.0, hidden_dim=64)  # type: ignore[type-var]
    method = recipe.build(Pixels(), 3)
    optimizer = torch.optim.Adam(method.parameters(), lr=0.02)
    batch = make_batch(name)
    accuracies = []
    for _ in range(60):
        output = method(batch)
        optimizer.zero_grad()
        torch.autograd.backward(output.loss)
        optimizer.step()
        accuracies.append(float(output.metrics["accuracy"]))
    assert accuracies[0] < 0.5
    assert accuracies[-1] > 0.9


# Parts of batches


@pytest.mark.parametrize("name", RECIPES)
def test_gradients_of_parts_add_up_to_that_of_the_batch(name: str) -> None:
    method, batch = build(name), make_batch(name)
    assert method.accumulates
    whole = gradients(method, batch)
    halves = [gradients(method, part_of(batch, rows)) for rows in (slice(4), slice(4, 8))]
    for expected, *parts in zip(whole, *halves, strict=True):
        torch.testing.assert_close((parts[0] + parts[1]) / 2, expected, rtol=1e-4, atol=1e-6)


def train_share(name: str) -> Share:
    """Take SGD steps on this process's share, gradients averaged; return losses and state."""
    method, losses = build(name), []
    rows = distributed.own_slice(torch.arange(BATCH))
    own = slice(int(rows[0]), int(rows[-1]) + 1)
    for step in range(STEPS):
        loss = method(part_of(make_batch(name, step), own)).loss
        found = torch.autograd.grad(loss, list(method.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(method.parameters(), found, strict=True):
                parameter.sub_(0.1 * distributed.mean(gradient))
        losses.append(distributed.mean(loss).item())
    return losses, dict(method.state_dict())


def train_all_shares() -> dict[str, Share]:
    return {name: train_share(name) for name in RECIPES}


def test_two_processes_train_as_one() -> None:
    """Theorem: mean of the processes' losses and gradients = those of the global batch."""
    one = train_all_shares()
    first, second = run_processes(train_all_shares, 2)
    for name in RECIPES:
        assert first[name][0] == pytest.approx(one[name][0], rel=1e-5)
        for parameter, _ in RECIPES[name].build(Pixels(), 3).named_parameters():
            expected = one[name][1][parameter]
            torch.testing.assert_close(first[name][1][parameter], expected, rtol=1e-4, atol=1e-5)
            assert torch.equal(first[name][1][parameter], second[name][1][parameter])


# The device


@pytest.mark.parametrize("name", RECIPES)
def test_a_step_reads_nothing_from_the_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors on the meta device have no values to wait for."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # none on this device
    batch = make_batch(name)
    with torch.device("meta"):
        encoder = ResNetRecipe("small_resnet8").build(rng_key=0)
        method = group_batch_norm(RECIPES[name].build(encoder, rng_key=0), GROUP)
        rows = torch.arange(BATCH)
    views = tuple(view.to("meta") for view in batch.views)
    batch = replace(batch, views=views, labels=rows, indices=rows, positions=rows)
    output = method(batch)
    torch.autograd.backward(output.loss)
    for value in output.metrics.values():
        assert isinstance(value, Tensor)
        assert value.device.type == "meta"
        assert not value.requires_grad


@pytest.mark.parametrize("name", RECIPES)
def test_autocast_leaves_the_loss_in_single_precision(name: str) -> None:
    method, batch = build(name), make_batch(name)
    expected = method(batch).loss
    with torch.autocast("cpu", torch.bfloat16):
        loss = method(batch).loss
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=0.05)


# Evaluation


@pytest.mark.parametrize("name", RECIPES)
def test_evaluation_draws_the_same_task_and_changes_nothing(name: str) -> None:
    method, batch = build(name).eval(), make_batch(name)
    before = {key: value.clone() for key, value in method.state_dict().items()}
    found = [method(batch), method(batch)]
    assert torch.equal(found[0].loss, found[1].loss)
    for key, value in method.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_held_out_images_say_something_of_tasks_with_classes() -> None:
    held_out = {name: getattr(build(name), "has_pretext_metrics", False) for name in RECIPES}
    assert held_out == {
        "rotation": True,
        "exemplar": False,
        "jigsaw": True,
        "relative_patch_location": True,
    }


# Recipes


@pytest.mark.parametrize(
    ("name", "sizes", "inputs"),
    [
        ("rotation", (224,), ((224, 12.0),)),
        ("exemplar", (224,) * 8, ((224, 3.0),) * 8),
        ("jigsaw", (255,), ((64, 27.0),)),
        ("relative_patch_location", (255,), ((64, 27.0),)),
    ],
)
def test_the_encoders_work_for_an_image(
    name: str, sizes: tuple[int, ...], inputs: tuple[tuple[int, float], ...]
) -> None:
    recipe = RECIPES[name]
    if name in ("jigsaw", "relative_patch_location"):
        recipe = replace(recipe, patches=PatchGrid())  # type: ignore[type-var]
    method: Any = recipe.build(Pixels(), 3)
    assert method.encoder_inputs(sizes) == inputs


@pytest.mark.parametrize("name", RECIPES)
def test_weights_are_drawn_from_the_key(name: str) -> None:
    methods = [RECIPES[name].build(Pixels(), key) for key in (3, 3, 4)]
    first, again, other = (method.get_submodule("embed").weight for method in methods)
    assert isinstance(first, Tensor)
    assert isinstance(again, Tensor)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)  # type: ignore[arg-type]


def test_the_layer_after_the_encoder_is_glorot_uniform_without_bias_at_first() -> None:
    method: Any = RotationRecipe().build(Pixels(), 3)
    bound = math.sqrt(6 / (16 + 4))
    assert bound * 0.8 < method.embed.weight.abs().max().item() <= bound
    assert method.embed.bias.abs().max() == 0


def test_defaults_are_the_papers() -> None:
    exemplar, jigsaw, location = ExemplarRecipe(), JigsawRecipe(), RelativePatchLocationRecipe()
    assert (exemplar.dim, exemplar.margin, exemplar.mining_group_images) == (1000, 0.5, 16)
    assert exemplar.normalize_axis == "feature"
    assert (jigsaw.permutations, jigsaw.permutations_per_image, jigsaw.selection) == (
        100,
        16,
        "mean",
    )
    for recipe in (jigsaw, location):
        assert (recipe.embed_dim, recipe.hidden_dim, recipe.dropout) == (1000, 4096, 0.5)
        assert recipe.patches == PatchGrid(3, 85, 64, True)


def test_fields_can_be_set_from_a_command_line() -> None:
    recipe = with_field(JigsawRecipe(), ["patches", "patch"], 48, "method.patches.patch")
    recipe = with_field(recipe, ["selection"], "minimum", "method.selection")
    recipe = with_field(recipe, ["dropout"], 0, "method.dropout")
    assert recipe == JigsawRecipe(PatchGrid(patch=48), selection="minimum", dropout=0.0)


@pytest.mark.parametrize(
    ("recipe", "change", "sentence"),
    [
        ("exemplar", {"mining_group_images": 1}, "`mining_group_images` must be at least 2, got 1"),
        ("exemplar", {"dim": 0}, "`dim` must be at least 1, got 0"),
        ("exemplar", {"margin": 0.0}, "`margin` must be positive, got 0.0"),
        ("exemplar", {"normalize_axis": "rows"}, "must be one of 'feature', 'batch', got 'rows'"),
        ("jigsaw", {"permutations_per_image": 11}, r"must be in \[1, 10\], got 11"),
        ("jigsaw", {"permutations_per_image": 0}, "must be at least 1, got 0"),
        ("jigsaw", {"selection": "median"}, "'median'"),
        (
            "jigsaw",
            {"patches": PatchGrid(2, 6, 4), "permutations": 25},
            r"permutations of 4 patches must be in \[1, 24\], got 25",
        ),
        ("jigsaw", {"embed_dim": 0}, "`embed_dim` must be at least 1, got 0"),
        ("relative_patch_location", {"hidden_dim": 0}, "`hidden_dim` must be at least 1, got 0"),
        ("relative_patch_location", {"dropout": 1.0}, r"`dropout` must be in \[0, 1\), got 1.0"),
        (
            "relative_patch_location",
            {"norm_momentum": 0.0},
            r"`norm_momentum` must be in \(0, 1\], got 0.0",
        ),
        (
            "relative_patch_location",
            {"patches": PatchGrid(2, 6, 4)},
            "an odd number of at least 3, got 2",
        ),
        (
            "relative_patch_location",
            {"patches": PatchGrid(1, 6, 4)},
            "an odd number of at least 3, got 1",
        ),
    ],
)
def test_a_wrong_recipe_is_a_user_error_before_training(
    recipe: str, change: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        replace(RECIPES[recipe], **change).build(Pixels(), 3)  # type: ignore[type-var]


@pytest.mark.parametrize("name", CLASSIFYING)
def test_two_views_are_one_too_many_for_tasks_with_one(name: str) -> None:
    batch = make_batch(name)
    with pytest.raises(UserError, match="must be one, got 2"):
        build(name)(replace(batch, views=batch.views * 2))


@pytest.mark.parametrize("name", ["jigsaw", "relative_patch_location"])
def test_a_view_of_another_size_than_the_grids_is_refused(name: str) -> None:
    batch = make_batch(name)
    with pytest.raises(UserError, match="must be 18 x 18 pixels, got 16 x 16"):
        build(name)(replace(batch, views=(batch.views[0][..., :16, :16],)))
