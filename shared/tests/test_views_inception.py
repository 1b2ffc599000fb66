"""Colours of the pretext tasks: TensorFlow's brightness and saturation, grey by the mean."""

from __future__ import annotations

import colorsys
import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from retable import views
from retable.errors import UserError
from retable.nn.patches import PatchGrid
from retable.random import derive_key, uniform
from retable.settings import from_plain, to_plain
from retable.views import ViewRecipe, sample_parameters
from retable.views.colours import _blur_basis, _program
from retable.views.photometric_plan import photometric_plan

RECIPES = {
    "rotation": views.inception(24),
    "exemplar": views.inception(24, standardise=True, gray_probability=0.66),
    "patch tasks": views.patch_tasks(24, 28),
    "with everything else": ViewRecipe(
        24,
        crop_scale=(0.1, 1.0),
        flip_probability=0.5,
        jitter=(0.4, 0.4, 0.4, 0.1),
        jitter_probability=0.7,
        brightness_shift=0.1,
        saturation=(0.0, 3.0),
        gray_probability=0.3,
        gray="mean",
        blur_probability=0.5,
        solarize_probability=0.4,
        standardise=True,
    ),
}
RAW = ViewRecipe(12, mean=(0.0,) * 3, std=(1.0,) * 3)


def noise(count: int, side: int, darkest: float = 0.2) -> Tensor:
    """Pictures in [0, 1] of every colour, among them black, white and grey ones; some are dark."""
    pictures = uniform(side, torch.arange(count * 3 * side * side).view(count, 3, side, side))
    pictures[:, :, 0] = pictures[:, :1, 0]
    pictures[:, :, 1, 0], pictures[:, :, 1, 1] = 0.0, 1.0
    return pictures * torch.linspace(1.0, darkest, count)[:, None, None, None]


def as_tensorflow(pixel: list[float], shift: float, factor: float) -> list[float]:
    """Add, convert to HSV, scale and cut S, convert back, cut: one pixel at a time."""
    pixel = [value + shift for value in pixel]
    if max(pixel) <= 0:  # where S is 0, says TensorFlow's rgb_to_hsv
        return [0.0] * 3
    hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
    changed = colorsys.hsv_to_rgb(hue, min(max(saturation * factor, 0.0), 1.0), value)
    return [min(max(channel, 0.0), 1.0) for channel in changed]


@pytest.mark.parametrize("fixed_shapes", [False, True])
def test_brightness_and_saturation_equal_a_conversion_to_hsv_and_back(fixed_shapes: bool) -> None:
    # Source: the standard library's colorsys, pixel by pixel; as TensorFlow does, nothing is cut to
    # [0, 1] between the two steps.
    recipe = replace(RAW, brightness_shift=0.4, saturation=(0.0, 3.0))
    pictures = noise(8, 12)
    drawn = replace(
        sample_parameters(recipe, 4, torch.arange(8), 12, 12),
        brightness_shift=torch.tensor([0.4, -0.3, 0.1, -0.4, 0.3, -0.1, 0.2, -0.2]),
    )
    ours = _program(
        pictures, photometric_plan(drawn, recipe, fixed_shapes=fixed_shapes), torch.empty(0), recipe
    )
    theirs = torch.empty_like(pictures)
    for i in range(8):
        shift, factor = float(drawn.brightness_shift[i]), float(drawn.saturation[i])
        for y in range(12):
            for x in range(12):
                pixel = as_tensorflow(pictures[i, :, y, x].tolist(), shift, factor)
                theirs[i, :, y, x] = torch.tensor(pixel)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    shifted = pictures + drawn.brightness_shift[:, None, None, None]
    assert shifted.min() < -0.3
    assert shifted.max() > 1.3


@settings(deadline=None, max_examples=60)
@given(
    color=st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3),
    shift=st.floats(-1, 1, width=32),
    factor=st.floats(0, 4, width=32),
)
def test_any_colour_is_saturated_as_by_hsv(color: list[float], shift: float, factor: float) -> None:
    # Source: the standard library's colorsys.
    recipe = replace(RAW, size=1, brightness_shift=1.0, saturation=(0.0, 4.0))
    drawn = replace(
        sample_parameters(recipe, 0, torch.arange(1), 1, 1),
        brightness_shift=torch.tensor([shift]),
        saturation=torch.tensor([factor]),
    )
    ours = views.photometric(torch.tensor(color).view(1, 3, 1, 1), drawn, recipe).flatten()
    theirs = torch.tensor(as_tensorflow(color, shift, factor))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_no_factor_and_no_shift_change_no_picture() -> None:
    # Source: identity.
    recipe = replace(RAW, brightness_shift=1e-30, saturation=(1.0, 1.0))
    pictures = noise(8, 12)
    drawn = sample_parameters(recipe, 3, torch.arange(8), 12, 12)
    torch.testing.assert_close(
        views.photometric(pictures, drawn, recipe), pictures, rtol=0, atol=1e-7
    )


def test_shift_and_factor_are_uniform_and_independent() -> None:
    # Source: moments of the uniform distribution, four standard deviations; correlation of
    # independent draws.
    drawn = sample_parameters(views.inception(8), 0, torch.arange(20_000), 9, 9)
    unit = [
        drawn.brightness_shift / (32 / 255),
        2 * (drawn.saturation - 1),
        2 * (drawn.flip.float() - 0.5),
    ]
    for values in unit[:2]:
        assert values.abs().max() <= 1
        assert values.abs().max() > 0.999
        assert abs(float(values.mean())) < 4 / math.sqrt(3 * 20_000)
        assert abs(float(values.square().mean()) - 1 / 3) < 4 * math.sqrt(4 / 45 / 20_000)
    correlation = torch.corrcoef(torch.stack(unit)) - torch.eye(3)
    assert correlation.abs().max() < 4 / math.sqrt(20_000)


def test_grey_by_the_mean_is_the_mean_of_the_channels() -> None:
    # Source: definition.
    recipe = replace(RAW, gray_probability=0.5, gray="mean")
    pictures = noise(32, 12)
    drawn = sample_parameters(recipe, 3, torch.arange(32), 12, 12)
    made = views.photometric(pictures, drawn, recipe)
    expected = pictures.mean(dim=1, keepdim=True).expand_as(pictures)
    assert 0 < int(drawn.gray.sum()) < 32
    torch.testing.assert_close(made[drawn.gray], expected[drawn.gray], rtol=0, atol=1e-6)
    assert torch.equal(made[~drawn.gray], pictures[~drawn.gray])


def test_grey_comes_before_brightness_and_saturation() -> None:
    # Source: a grey picture has no saturation to change, and its channels stay equal.
    recipe = replace(views.inception(12, gray_probability=1.0), mean=(0.0,) * 3, std=(1.0,) * 3)
    pictures = noise(8, 12)
    drawn = sample_parameters(recipe, 3, torch.arange(8), 12, 12, image_key=0)
    shifted = pictures.mean(dim=1, keepdim=True) + drawn.brightness_shift[:, None, None, None]
    expected = shifted.clamp(0, 1).expand_as(pictures)
    made = views.photometric(pictures, drawn, recipe)
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-6)


def test_to_make_an_image_grey_before_or_after_it_is_cut_is_the_same() -> None:
    # Source: a mean over channels commutes with what treats the channels alike.
    recipe = views.patch_tasks(24, 28, gray_probability=1.0)
    images = noise(6, 40).mul(255).round().to(torch.uint8)
    grey = images.double().mean(dim=1, keepdim=True)
    after = views.make_view(images, torch.arange(6), recipe, 5)
    drawn = sample_parameters(recipe, 5, torch.arange(6), 40, 40)
    resized = torch.nn.functional.interpolate(grey, (28, 28), mode="bilinear", antialias=True)
    for view, image, (top, left) in zip(after, resized, drawn.window.tolist(), strict=True):
        before = (image[:, top : top + 24, left : left + 24] / 255).float().expand_as(view)
        torch.testing.assert_close(view, before, rtol=0, atol=1e-6)


@pytest.mark.parametrize("views_of", [1, 8])
def test_all_views_of_an_image_share_its_greyscale_and_nothing_else(views_of: int) -> None:
    # Source: definition; two thirds, four standard deviations.
    recipe, indices = RECIPES["exemplar"], torch.arange(2000)
    drawn = [
        sample_parameters(recipe, derive_key(0, "views", 0, view), indices, 30, 40, image_key=9)
        for view in range(views_of)
    ]
    for other in drawn[1:]:
        assert torch.equal(other.gray, drawn[0].gray)
        for name in ("crops", "flip", "brightness_shift", "saturation"):
            assert not torch.equal(getattr(other, name), getattr(drawn[0], name))
    share = float(drawn[0].gray.float().mean())
    assert abs(share - 0.66) < 4 * math.sqrt(0.66 * 0.34 / 2000)
    epoch = sample_parameters(recipe, derive_key(0, "views", 0, 0), indices, 30, 40, image_key=10)
    agree = float((epoch.gray == drawn[0].gray).float().mean())
    chance = 0.66**2 + 0.34**2
    assert abs(agree - chance) < 4 * math.sqrt(chance * (1 - chance) / 2000)


def test_the_shared_greyscale_is_independent_of_what_a_view_draws() -> None:
    # Source: correlation of independent draws.
    recipe, indices = RECIPES["exemplar"], torch.arange(20_000)
    drawn = sample_parameters(recipe, 4, indices, 30, 40, image_key=5)
    columns = [drawn.gray, drawn.flip, drawn.brightness_shift, drawn.saturation]
    correlation = torch.corrcoef(torch.stack([c.float() for c in columns])) - torch.eye(4)
    assert correlation.abs().max() < 4 / math.sqrt(20_000)


def test_views_that_share_a_draw_ask_for_the_images_key() -> None:
    # Source: the function's own documentation.
    with pytest.raises(ValueError, match="`image_key` must be given"):
        sample_parameters(RECIPES["exemplar"], 0, torch.arange(3), 30, 40)


@pytest.mark.parametrize("name", ["exemplar", "with everything else"])
def test_standardised_views_have_mean_0_and_deviation_1(name: str) -> None:
    # Source: definition.
    recipe = RECIPES[name]
    images = noise(16, 30).mul(255).to(torch.uint8)
    made = views.make_view(images, torch.arange(16), recipe, 5, image_key=6).double()
    zeros = torch.zeros(16, dtype=torch.float64)
    torch.testing.assert_close(made.mean(dim=(1, 2, 3)), zeros, rtol=0, atol=1e-5)
    deviations = made.flatten(1).std(dim=1, correction=0)
    torch.testing.assert_close(deviations, zeros + 1, rtol=0, atol=1e-5)


def test_views_of_rotation_fill_minus_1_to_1() -> None:
    # Source: clip to [0, 1], then subtract 0.5 and double.
    recipe = RECIPES["rotation"]
    drawn = sample_parameters(recipe, 5, torch.arange(16), 24, 24)
    made = views.photometric(noise(16, 24, darkest=1.0), drawn, recipe)
    assert float(made.min()) == -1
    assert float(made.max()) == 1


@pytest.mark.parametrize("name", RECIPES)
def test_a_schedule_with_fixed_shapes_computes_the_same(name: str) -> None:
    # Source: identity.
    recipe = RECIPES[name]
    crops = noise(40, 24)
    drawn = sample_parameters(recipe, 5, torch.arange(40), 24, 24, image_key=6)
    basis = _blur_basis(24, recipe.kernel_size, crops.device)
    fixed = _program(crops, photometric_plan(drawn, recipe, fixed_shapes=True), basis, recipe)
    torch.testing.assert_close(fixed, views.photometric(crops, drawn, recipe), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["exemplar", "with everything else"])
def test_the_program_with_fixed_shapes_is_one_graph_captured_once(name: str) -> None:
    # Source: torch.compile itself, asked to raise at a graph break or a second capture.
    recipe = RECIPES[name]
    crops = noise(16, 24)
    basis = _blur_basis(24, recipe.kernel_size, crops.device)
    torch._dynamo.reset()  # else a capture by another test counts as the first
    compiled = torch.compile(_program, fullgraph=True, backend="eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for key in range(3):
            drawn = sample_parameters(recipe, key, torch.arange(16), 24, 24, image_key=key)
            result = compiled(
                crops, photometric_plan(drawn, recipe, fixed_shapes=True), basis, recipe
            )
            expected = views.photometric(crops, drawn, recipe)
            torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", RECIPES)
def test_an_image_gets_the_same_view_in_any_batch(name: str) -> None:
    # Source: identity.
    recipe, indices = RECIPES[name], torch.arange(30) * 7
    images = noise(30, 36).mul(255).to(torch.uint8)
    rows = [4, 29, 0, 11]
    whole = views.make_view(images, indices, recipe, 3, image_key=2)
    part = views.make_view(images[rows], indices[rows], recipe, 3, image_key=2)
    torch.testing.assert_close(part, whole[rows], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "recipe",
    [
        *RECIPES.values(),
        views.patch_evaluation(21, 28, "random"),
        views.resized_crop(24, 28, standardise=True),
    ],
)
def test_a_recipe_survives_json(recipe: ViewRecipe) -> None:
    # Source: identity.
    copy = from_plain(ViewRecipe, json.loads(json.dumps(to_plain(recipe))))
    assert copy == recipe
    assert hash(copy) == hash(recipe)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("brightness_shift", -0.1),
        ("saturation", (1.5, 0.5)),
        ("saturation", (-0.5, 0.5)),
        ("saturation", (0.5,)),
        ("gray", "green"),
    ],
)
def test_a_value_out_of_range_is_named(name: str, value: object) -> None:
    # Source: the recipe's own documentation.
    with pytest.raises(UserError, match=f"`{name}`.* must be .*, got"):
        replace(RECIPES["rotation"], **{name: value})  # type: ignore[arg-type]


def test_recipes_hold_the_papers_numbers() -> None:
    # Source: the supplement and the official code's config/ and inception_preprocessing.py.
    crop = views.inception(224)
    assert (crop.crop_scale, crop.crop_ratio) == ((0.05, 1.0), (0.75, 1.33))
    assert (crop.brightness_shift, crop.saturation) == (32 / 255, (0.5, 1.5))
    assert (crop.flip_probability, crop.gray_probability) == (0.5, 0.0)
    patches = views.patch_tasks()
    assert (patches.resize, patches.keep_aspect, patches.window) == (292, False, "random")
    assert patches.size == PatchGrid().side == 255
    assert (patches.gray_probability, patches.gray, patches.gray_shared) == (2 / 3, "mean", False)
    assert patches.flip_probability == 0
    evaluated = views.patch_evaluation()
    assert evaluated.size == PatchGrid(cell=64, patch=64).side == 192
    assert (evaluated.resize, evaluated.keep_aspect) == (255, False)
    for recipe, low, high in (
        (crop, -1, 1),
        (views.resized_crop(224, 256), -1, 1),
        (patches, 0, 1),
        (evaluated, 0, 1),
    ):
        bounds = [(value - recipe.mean[0]) / recipe.std[0] for value in (0, 1)]
        assert bounds == [low, high]


@pytest.mark.parametrize(
    ("recipe", "is_random"),
    [
        (views.center(8), False),
        (views.resized_crop(8, 9, standardise=True), False),
        (views.resized_crop(8, 9, "random"), True),
        (views.patch_evaluation(), False),
        (views.patch_evaluation(window="random"), True),
        (replace(RAW, flip_probability=0.5), True),
        (replace(RAW, gray_probability=0.5), True),
        (replace(RAW, blur_probability=0.5), True),
        (replace(RAW, solarize_probability=0.5), True),
        (replace(RAW, jitter_probability=0.5), True),
        (replace(RAW, brightness_shift=0.1), True),
        (replace(RAW, saturation=(0.5, 1.5)), True),
        (replace(RAW, crop_scale=(1.0, 1.0)), True),
        (replace(RAW, rand_augment=(1, 5.0, 0.5)), True),
    ],
)
def test_a_recipe_knows_whether_anything_is_drawn(recipe: ViewRecipe, is_random: bool) -> None:
    # Source: views of two keys; bounds that leave no choice still count as random.
    assert recipe.is_random == is_random
    images = noise(32, 20).mul(255).to(torch.uint8)
    if recipe.size < 20:
        made = [views.make_view(images, torch.arange(32), recipe, key) for key in (0, 1)]
        assert torch.equal(*made) or is_random
