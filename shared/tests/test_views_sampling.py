"""Draws follow torchvision's random transforms and depend on key and index only."""

from __future__ import annotations

import importlib
import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from retable import views
from retable.errors import UserError
from retable.settings import from_plain, to_plain
from retable.views import ViewParameters, ViewRecipe, sample_parameters

DRAWS = 3000
# Untyped, and re-exporting in a way that strict typing does not accept.
transforms: Any = importlib.import_module("torchvision.transforms.v2")


def same_distribution(ours: Tensor, theirs: Tensor) -> bool:
    """Kolmogorov-Smirnov's two-sample test; the keys are fixed, so is its outcome.

    Rejects equal distributions once in 10,000.
    """
    values = torch.cat([ours, theirs]).sort().values
    share_ours = torch.searchsorted(ours.sort().values, values, right=True) / len(ours)
    share_theirs = torch.searchsorted(theirs.sort().values, values, right=True) / len(theirs)
    limit = math.sqrt(-0.5 * math.log(0.5e-4) * (1 / len(ours) + 1 / len(theirs)))
    return float((share_ours - share_theirs).abs().max()) < limit


def drawn_by_torchvision(make: Callable[[], Any], seed: int) -> list[Any]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return [make() for _ in range(DRAWS)]


@pytest.mark.parametrize(
    ("height", "width", "scale"),
    [
        (32, 32, (0.2, 1.0)),
        (48, 70, (0.08, 1.0)),
        (30, 90, (0.7, 1.0)),  # nearly every attempt fails: the largest centre crop
        (90, 60, (0.5, 1.0)),  # some fail
        (7, 5, (0.01, 0.1)),  # a height or width of 0 is drawn
    ],
)
def test_crops_are_distributed_as_torchvisions(
    height: int, width: int, scale: tuple[float, float]
) -> None:
    # Source: torchvision.transforms.v2.RandomResizedCrop.
    transform = transforms.RandomResizedCrop(32, scale=scale)
    blank = torch.zeros(3, height, width)
    made = drawn_by_torchvision(lambda: tuple(transform.make_params([blank]).values()), 1)
    theirs = torch.tensor(made).double()
    recipe = ViewRecipe(32, crop_scale=scale)
    crops = sample_parameters(recipe, 2, torch.arange(DRAWS), height, width).crops
    ours = crops.double()

    def statistics(boxes: Tensor) -> list[Tensor]:
        top, left, tall, wide = boxes.unbind(dim=1)
        free = [(top / (height - tall + 1)), (left / (width - wide + 1))]
        return [top, left, tall, wide, tall * wide, wide / tall, *free]

    for mine, reference in zip(statistics(ours), statistics(theirs), strict=True):
        assert same_distribution(mine, reference)


@settings(deadline=None, max_examples=100)
@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    low=st.floats(0.01, 1.0),
    rng_key=st.integers(0, 2**40),
)
def test_a_crop_lies_within_its_image(height: int, width: int, low: float, rng_key: int) -> None:
    # Source: definition.
    recipe = ViewRecipe(8, crop_scale=(low, 1.0))
    crops = sample_parameters(recipe, rng_key, torch.arange(20), height, width).crops
    top, left, tall, wide = crops.unbind(dim=1)
    assert (crops[:, :2] >= 0).all()
    assert (crops[:, 2:] >= 1).all()
    assert (top + tall <= height).all()
    assert (left + wide <= width).all()


@pytest.mark.parametrize("jitter", [(0.4, 0.4, 0.4, 0.1), (1.6, 0.8, 0.2, 0.5)])
def test_jitter_is_distributed_as_torchvisions(jitter: tuple[float, float, float, float]) -> None:
    # Source: torchvision.transforms.v2.ColorJitter.
    transform = transforms.ColorJitter(*jitter)
    made = drawn_by_torchvision(lambda: transform.make_params([]), 3)
    recipe = ViewRecipe(8, jitter=jitter, jitter_probability=1.0)
    ours = sample_parameters(recipe, 4, torch.arange(DRAWS), 8, 8)
    assert bool(ours.jitter.all())
    for operation, name in enumerate(("brightness", "contrast", "saturation", "hue")):
        theirs = torch.tensor([parameters[f"{name}_factor"] for parameters in made])
        assert same_distribution(ours.jitter_factors[:, operation], theirs)


def test_all_orders_of_the_jitter_are_equally_frequent() -> None:
    # Source: Pearson's chi-squared test, 23 degrees of freedom, rejects once in 10,000 above 55.5.
    orders = sample_parameters(views.moco_v2(8), 4, torch.arange(24 * 400), 8, 8).jitter_order
    counts = Counter(map(tuple, orders.tolist()))
    assert len(counts) == 24
    assert sum((count - 400) ** 2 / 400 for count in counts.values()) < 55.5


def test_each_step_happens_with_its_probability_and_independently() -> None:
    # Source: binomial distribution, four standard deviations; correlation of independent draws.
    recipe = ViewRecipe(
        8,
        crop_scale=(0.2, 1.0),
        flip_probability=0.5,
        jitter=(0.4, 0.4, 0.4, 0.1),
        jitter_probability=0.8,
        gray_probability=0.2,
        blur_probability=0.6,
        solarize_probability=0.3,
    )
    count = 20_000
    drawn = sample_parameters(recipe, 0, torch.arange(count), 40, 40)
    steps = [drawn.flip, drawn.jitter, drawn.gray, drawn.blur_sigma > 0, drawn.solarize]
    for step, probability in zip(steps, (0.5, 0.8, 0.2, 0.6, 0.3), strict=True):
        deviation = math.sqrt(probability * (1 - probability) / count)
        assert abs(float(step.float().mean()) - probability) < 4 * deviation
    columns = [
        *(step.float() for step in steps),
        *drawn.crops.float().unbind(1)[2:],
        *drawn.jitter_factors.unbind(1),
    ]
    correlation = torch.corrcoef(torch.stack(columns)) - torch.eye(len(columns))
    correlation[5:7, 5:7] = 0  # height and width of a crop share its area
    assert float(correlation.abs().max()) < 5 / math.sqrt(count)


def test_sigma_is_uniform_within_its_bounds() -> None:
    # Source: the uniform distribution's quantiles.
    recipe = ViewRecipe(8, blur_probability=1.0, blur_sigma=(0.1, 2.0))
    sigma = sample_parameters(recipe, 0, torch.arange(DRAWS), 8, 8).blur_sigma
    assert same_distribution(sigma, torch.linspace(0.1, 2.0, 200_001))


def test_two_views_and_two_epochs_are_drawn_independently() -> None:
    # Source: correlation of independent draws.
    recipe, indices = views.moco_v2(32), torch.arange(DRAWS)
    first, second = (sample_parameters(recipe, key, indices, 40, 40) for key in (0, 1))
    for name in ("crops", "jitter_factors"):
        pairs = zip(getattr(first, name).T, getattr(second, name).T, strict=True)
        for one, other in pairs:
            correlation = torch.corrcoef(torch.stack([one.double(), other.double()]))[0, 1]
            assert abs(float(correlation)) < 4 / math.sqrt(DRAWS)


def equal(one: ViewParameters, other: ViewParameters) -> bool:
    return all(torch.equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))


@settings(deadline=None, max_examples=50)
@given(
    rows=st.lists(st.integers(0, 199), max_size=30),
    rng_key=st.integers(-(2**63), 2**63 - 1),
    name=st.sampled_from(["moco_v2", "byol", "center"]),
)
def test_what_an_image_gets_does_not_depend_on_its_batch(
    rows: list[int], rng_key: int, name: str
) -> None:
    # Source: identity.
    recipes = {"moco_v2": views.moco_v2(32), "byol": views.byol(32)[1], "center": views.center(8)}
    indices, chosen = torch.arange(200) * 31, torch.tensor(rows, dtype=torch.int64)
    heights, widths = 20 + indices % 57, 20 + indices % 43
    whole = sample_parameters(recipes[name], rng_key, indices, heights, widths)
    part = sample_parameters(
        recipes[name], rng_key, indices[chosen], heights[chosen], widths[chosen]
    )
    assert equal(part, whole[chosen])
    for i, row in enumerate(rows):
        assert equal(whole[torch.tensor([row])], part[i : i + 1])


def test_colours_do_not_depend_on_the_size_of_the_image() -> None:
    # Source: identity; a loader may finish views without knowing the sizes that its workers saw.
    small, large = (
        sample_parameters(views.moco_v2(32), 0, torch.arange(50), n, n) for n in (9, 90)
    )
    assert equal(replace(small, crops=large.crops), large)


@pytest.mark.parametrize(
    "recipe",
    [
        views.moco_v1(32),
        views.moco_v2(224),
        views.simclr(96, 0.5),
        *views.byol(32),
        *views.swav(32, 16, 1),
        views.center(9),
    ],
)
def test_a_recipe_survives_json(recipe: ViewRecipe) -> None:
    # Source: identity.
    copy = from_plain(ViewRecipe, json.loads(json.dumps(to_plain(recipe))))
    assert copy == recipe
    assert hash(copy) == hash(recipe)


def test_multi_crop_takes_two_large_views_and_small_ones_of_small_parts() -> None:
    # Source: swav_200ep_bs256_pretrain.sh of the official code.
    crops = views.swav(224, 96)
    assert [crop.size for crop in crops] == [224] * 2 + [96] * 6
    assert [crop.crop_scale for crop in crops] == [(0.14, 1.0)] * 2 + [(0.05, 0.14)] * 6
    assert len({replace(crop, size=224, crop_scale=None) for crop in crops}) == 1
    assert [crop.size for crop in views.swav(224, 96, small_crops=0)] == [224] * 2


@pytest.mark.parametrize(("size", "kernel"), [(224, 23), (96, 9), (64, 7), (32, 3)])
def test_simclr_and_byol_blur_with_a_tenth_of_the_side(size: int, kernel: int) -> None:
    # Source: the sizes that their published code yields, as listed for ReLICv2 (224, 96, 64).
    assert views.simclr(size).kernel_size == kernel
    assert views.byol(size)[0].kernel_size == kernel


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("size", 0),
        ("crop_scale", (0.5, 0.2)),
        ("crop_scale", (0.5, 1.2)),
        ("crop_ratio", (0.0, 1.0)),
        ("resize", 40),
        ("interpolation", "nearest"),
        ("flip_probability", 1.5),
        ("gray_probability", -0.1),
        ("jitter", (0.4, 0.4, 0.4, 0.6)),
        ("jitter", (0.4, 0.4, 0.4)),
        ("jitter_position", "first"),
        ("blur_sigma", (0.0, 2.0)),
        ("blur_kernel", 4),
        ("blur_kernel", 65),
        ("mean", (0.5,)),
        ("std", (1.0, 0.0, 1.0)),
    ],
)
def test_a_value_out_of_range_is_named(name: str, value: object) -> None:
    # Source: the recipe's own documentation.
    with pytest.raises(UserError, match=f"`{name}`.* must be .*, got"):
        replace(views.moco_v2(32), **{name: value})  # type: ignore[arg-type]
