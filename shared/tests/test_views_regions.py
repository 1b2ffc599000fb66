"""Regions of views: TensorFlow's crops, and windows of the whole image at any place."""

from __future__ import annotations

import importlib
import math
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from retable import views
from retable.errors import UserError
from retable.random import uniform
from retable.views import ViewParameters, ViewRecipe, cropping, sample_parameters
from retable.views.sampling import SLOTS

# Untyped, and re-exporting in a way that strict typing does not accept.
F: Any = importlib.import_module("torchvision.transforms.v2").functional


def uniformly_distributed(values: Tensor) -> bool:
    """Kolmogorov-Smirnov's test for [0, 1]; the keys are fixed, so is its outcome.

    Rejects once in 10,000.
    """
    count = len(values)
    places = torch.arange(count, dtype=torch.float64)
    values = values.double().sort().values
    distance = torch.maximum(values - places / count, (places + 1) / count - values).max()
    return float(distance) < math.sqrt(-0.5 * math.log(0.5e-4) / count)


def tensorflow_crop(
    recipe: ViewRecipe, draws: list[float], height: int, width: int
) -> tuple[int, int, int, int]:
    """One image, one attempt after the other, from what TensorFlow documents of its sampling."""
    assert recipe.crop_scale is not None
    lowest, highest = (share * (height * width) for share in recipe.crop_scale)
    low, high = recipe.crop_ratio
    for attempt in range(10):
        aspect = low + (high - low) * draws[10 + attempt]
        possible = [
            tall
            for tall in range(height + 1)
            if round(math.sqrt(lowest / aspect)) <= tall <= round(math.sqrt(highest / aspect))
            and tall * aspect < width + 0.5
        ]
        if not possible:  # then the largest that the image holds
            possible = [min(height, math.ceil((width + 0.5) / aspect) - 1)]
        tall = possible[int(draws[attempt] * len(possible))]
        if tall * round(tall * aspect) < lowest:
            tall += 1
        if tall * round(tall * aspect) > highest:
            tall -= 1
        wide = round(tall * aspect)
        enough = max(lowest, 0.1 * (height * width))
        if not (0 < tall <= height and 0 < wide <= width and enough <= tall * wide <= highest):
            continue
        return int(draws[20] * (height - tall + 1)), int(draws[21] * (width - wide + 1)), tall, wide
    return 0, 0, height, width


@settings(deadline=None, max_examples=150)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    bounds=st.tuples(st.floats(0.02, 1.0), st.floats(0.1, 1.0)).map(sorted),
    ratio=st.sampled_from([(0.75, 1.33), (0.3, 3.0), (1.0, 1.0)]),
    rng_key=st.integers(0, 2**40),
)
@example(height=90, width=20, bounds=[0.02, 1.0], ratio=(0.5, 0.5), rng_key=0)  # 41 / 2 is no width
@example(height=90, width=21, bounds=[0.02, 1.0], ratio=(0.5, 0.5), rng_key=0)
def test_tensorflows_crops_are_those_of_a_loop_over_attempts(
    height: int, width: int, bounds: list[float], ratio: tuple[float, float], rng_key: int
) -> None:
    recipe = ViewRecipe(
        8, crop_scale=(bounds[0], bounds[1]), crop_ratio=ratio, crop_sampling="tensorflow"
    )
    indices = torch.arange(12)
    crops = sample_parameters(recipe, rng_key, indices, height, width).crops
    draws = uniform(rng_key, indices[:, None] * SLOTS + torch.arange(22)).double().tolist()
    expected = [tensorflow_crop(recipe, of_image, height, width) for of_image in draws]
    assert list(map(tuple, crops.tolist())) == expected


@settings(deadline=None, max_examples=100)
@given(height=st.integers(1, 80), width=st.integers(1, 80), rng_key=st.integers(0, 2**40))
def test_an_inception_crop_lies_within_its_image_and_covers_a_tenth(
    height: int, width: int, rng_key: int
) -> None:
    # Source: definition; the whole image is such a crop.
    recipe = views.inception(8)
    drawn = sample_parameters(recipe, rng_key, torch.arange(20), height, width)
    top, left, tall, wide = drawn.crops.unbind(dim=1)
    assert (drawn.crops[:, :2] >= 0).all()
    assert (top + tall <= height).all()
    assert (left + wide <= width).all()
    assert (tall * wide >= 0.1 * height * width).all()
    assert (drawn.resized == 8).all()
    assert (drawn.window == 0).all()


def test_aspect_height_and_place_of_tensorflows_crops_are_uniform() -> None:
    # Source: documentation of tf.image.sample_distorted_bounding_box; so large an image makes
    # rounding small, and none of the attempts fails at these bounds.
    recipe = replace(views.inception(8), crop_scale=(0.2, 0.4))
    side = 40_000
    crops = sample_parameters(recipe, 3, torch.arange(4000), side, side).crops.double()
    top, left, tall, wide = crops.unbind(dim=1)
    aspect = wide / tall
    shortest, tallest = ((share * side**2 / aspect).sqrt() for share in (0.2, 0.4))
    for share in (
        (aspect - 0.75) / (1.33 - 0.75),
        (tall - shortest) / (tallest - shortest),
        top / (side - tall + 1),
        left / (side - wide + 1),
    ):
        assert uniformly_distributed(share.clamp(0, 1))


def test_rejected_crops_leave_the_others_distribution_as_it_is() -> None:
    # Source: heights between those of a tenth and of all of the image, at the drawn aspect. One
    # attempt in seven is below a tenth, which favours an aspect only where that share depends on
    # it.
    side = 40_000
    crops = sample_parameters(views.inception(8), 3, torch.arange(4000), side, side).crops.double()
    tall, wide = crops[:, 2], crops[:, 3]
    shortest = (0.1 * side**2 * tall / wide).sqrt()
    tallest = torch.minimum(side * tall / wide, torch.tensor(float(side)))
    assert uniformly_distributed(((tall - shortest) / (tallest - shortest)).clamp(0, 1))


def test_where_no_attempt_of_tensorflows_fits_the_whole_image_is_taken() -> None:
    # Source: documentation of tf.image.sample_distorted_bounding_box.
    recipe = replace(views.inception(8), crop_scale=(0.9, 1.0))
    crops = sample_parameters(recipe, 0, torch.arange(50), 20, 100).crops
    assert (crops == torch.tensor([0, 0, 20, 100])).all()


def photographs(count: int, height: int, width: int) -> Tensor:
    coarse = uniform(height * width, torch.arange(count * 3 * 25).view(count, 3, 5, 5))
    images = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return images.clamp(0, 1).mul(255).round().to(torch.uint8)


WINDOWS = {
    "patch tasks": views.patch_tasks(25, 30, gray_probability=0.0),
    "evaluated patches": views.patch_evaluation(21, 28),
    "evaluated at random": views.patch_evaluation(21, 28, "random"),
    "aspect kept": replace(views.resized_crop(24, 30, "random"), mean=(0.0,) * 3, std=(1.0,) * 3),
    "aspect kept, flipped": replace(
        views.resized_crop(24, 24, "random"), flip_probability=0.5, mean=(0.0,) * 3, std=(1.0,) * 3
    ),
}


SIZES = [(40, 33), (28, 61), (30, 30), (9, 12)]


def windows_by_torchvision(images: Tensor, drawn: ViewParameters, recipe: ViewRecipe) -> Tensor:
    to = [recipe.resize] if recipe.keep_aspect else [recipe.resize] * 2
    windows = []
    for image, (top, left), flip in zip(images, drawn.window.tolist(), drawn.flip, strict=True):
        resized = F.resize(image, to, antialias=True)
        window = F.crop(resized, top, left, recipe.size, recipe.size)
        windows.append(F.horizontal_flip(window) if flip else window)
    return torch.stack(windows)


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("image_by_image", [False, True])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_window_of_the_resized_image_equals_torchvision(
    name: str, height: int, width: int, image_by_image: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Source: torchvision.transforms.v2.functional.resize(antialias=True), crop, horizontal_flip.
    recipe = WINDOWS[name]
    images, indices = photographs(6, height, width), torch.arange(6) * 5
    monkeypatch.setattr(cropping, "_DENSE_LIMIT", 0 if image_by_image else 2**60)
    made = views.make_view(images, indices, recipe, 11)
    drawn = sample_parameters(recipe, 11, indices, height, width)
    expected = windows_by_torchvision(images.float(), drawn, recipe) / 255
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_worker_cuts_the_window_that_torchvision_cuts(name: str, height: int, width: int) -> None:
    # Source: torchvision.transforms.v2.functional on uint8.
    recipe = WINDOWS[name]
    images = photographs(6, height, width)
    drawn = sample_parameters(recipe, 11, torch.arange(6) * 5, height, width)
    cut = [views.cut(image, drawn[i : i + 1], recipe) for i, image in enumerate(images)]
    assert torch.equal(torch.stack(cut), windows_by_torchvision(images, drawn, recipe))


@pytest.mark.parametrize(("height", "width"), [(50, 50), (40, 80), (71, 33)])
def test_every_place_of_a_window_is_as_likely(height: int, width: int) -> None:
    # Source: Pearson's chi-squared test, 35 degrees of freedom, rejects once in 10,000 above 73.
    recipe = views.patch_tasks(20, 25)
    window = sample_parameters(recipe, 2, torch.arange(3600), height, width).window
    counts = Counter(map(tuple, window.tolist()))
    assert sorted(counts) == [(top, left) for top in range(6) for left in range(6)]
    assert sum((count - 100) ** 2 / 100 for count in counts.values()) < 73


def test_where_the_aspect_is_ignored_the_window_depends_on_the_image_alone_not_on_its_size() -> (
    None
):
    # Source: identity.
    indices = torch.arange(40)
    drawn = [
        sample_parameters(views.patch_tasks(20, 25), 2, indices, height, width)
        for height, width in ((50, 50), (31, 90))
    ]
    assert torch.equal(drawn[0].window, drawn[1].window)
    assert torch.equal(drawn[0].resized, torch.full((40, 2), 25))
    assert not torch.equal(drawn[0].crops, drawn[1].crops)


def test_a_kept_aspect_leaves_the_long_side_more_places() -> None:
    # Source: 60 x 100 becomes 30 x 50, of which 24 x 24 has 7 x 27 places.
    drawn = sample_parameters(views.resized_crop(24, 30, "random"), 2, torch.arange(3000), 60, 100)
    assert drawn.window.amin(dim=0).tolist() == [0, 0]
    assert drawn.window.amax(dim=0).tolist() == [6, 26]
    assert (drawn.resized == torch.tensor([30, 50])).all()


def test_the_middle_of_192_pixels_in_255_is_cut_out_to_evaluate_patches() -> None:
    # Source: (255 - 192) / 2 = 31.5, rounded to the even number as torchvision's center_crop does.
    drawn = sample_parameters(views.patch_evaluation(), 0, torch.arange(3), 300, 400)
    assert (drawn.window == 32).all()
    assert (drawn.resized == 255).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"keep_aspect": False, "crop_scale": (0.2, 1.0)},
        {"window": "random", "crop_scale": (0.2, 1.0)},
        {"window": "left"},
        {"crop_sampling": "pillow"},
        {"crop_sampling": "tensorflow"},
        {"crop_sampling": "tensorflow", "crop_scale": (0.01, 0.05)},
    ],
)
def test_options_of_regions_that_do_not_go_together_are_named(changes: dict[str, Any]) -> None:
    # Source: the recipe's own documentation.
    with pytest.raises(UserError, match=r"`\w+`.* must be .*, got"):
        ViewRecipe(8, **changes)
