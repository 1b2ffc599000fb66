"""RandAugment: the operations are Pillow's, the draws timm's, and no image sees its batch."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from retable import random, views
from retable.errors import UserError
from retable.settings import from_plain, to_plain
from retable.views import ViewParameters, ViewRecipe, sample_parameters
from retable.views.colours import _blur_basis, _program
from retable.views.photometric_plan import photometric_plan
from retable.views.rand_augment import OPERATIONS, SKIPPED, draw_operations, operation_arguments

GEOMETRIC = ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
FILL = (124, 116, 104)  # ImageNet's mean in levels
BARE = ViewRecipe(48, rand_augment=(1, 10.0, 0.5), std=(1.0, 1.0, 1.0))


def pictures(count: int, size: int) -> Tensor:
    """Smooth, flat, noisy, dark and nearly flat images: uint8 (count, 3, size, size)."""
    source = random.generator(size)
    coarse = torch.rand(count, 3, size // 8 + 2, size // 8 + 2, generator=source) * 1.4 - 0.2
    images = torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear").clamp(0, 1)
    images[0] = 0.4
    images[1] = 0.4
    images[1, :, 0, 0] = 0.5
    images[2] = torch.rand(3, size, size, generator=source)
    images[3] *= 0.3
    images[4, :, size // 2 :] = 1
    return images.mul(255).round().to(torch.uint8)


def add_to_dark_levels(image: Image.Image, amount: int) -> Image.Image:
    return image.point([min(255, v + amount) if v < 128 else v for v in range(256)] * 3)


def posterized(image: Image.Image, bits: int) -> Image.Image:
    # Pillow refuses the 0 bits of magnitudes below 2.5, with which it once made black.
    return ImageOps.posterize(image, bits) if bits else Image.new("RGB", image.size)


def moved(image: Image.Image, name: str, value: float, filter: Any) -> Image.Image:
    if name == "Rotate":
        return image.rotate(value, resample=filter, fillcolor=FILL)
    width, height = image.size
    matrix = {
        "ShearX": (1, value, 0, 0, 1, 0),
        "ShearY": (1, 0, 0, value, 1, 0),
        "TranslateXRel": (1, 0, value * width, 0, 1, 0),
        "TranslateYRel": (1, 0, 0, 0, 1, value * height),
    }[name]
    affine = Image.Transform.AFFINE
    return image.transform(image.size, affine, matrix, resample=filter, fillcolor=FILL)


def by_pillow(image: Tensor, name: str, value: float, bicubic: bool) -> Tensor:
    """Carry out one operation on a uint8 image (3, H, W), as timm calls Pillow."""
    import numpy as np

    filter = Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR
    operations: dict[str, Callable[[Image.Image], Image.Image]] = {
        "AutoContrast": ImageOps.autocontrast,
        "Equalize": ImageOps.equalize,
        "Invert": ImageOps.invert,
        "Posterize": lambda picture: posterized(picture, int(value)),
        "Solarize": lambda picture: ImageOps.solarize(picture, int(value)),
        "SolarizeAdd": lambda picture: add_to_dark_levels(picture, int(value)),
        "Color": lambda picture: ImageEnhance.Color(picture).enhance(value),
        "Contrast": lambda picture: ImageEnhance.Contrast(picture).enhance(value),
        "Brightness": lambda picture: ImageEnhance.Brightness(picture).enhance(value),
        "Sharpness": lambda picture: ImageEnhance.Sharpness(picture).enhance(value),
    }
    operations |= {n: partial(moved, name=n, value=value, filter=filter) for n in GEOMETRIC}
    picture = operations[name](Image.fromarray(image.permute(1, 2, 0).numpy()))
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def levels_of(made: Tensor, recipe: ViewRecipe) -> Tensor:
    """Undo the normalisation: back to levels."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (recipe.mean, recipe.std))
    return (made * std + mean) * 255


@pytest.mark.parametrize("bicubic", [False, True])
@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_is_pillows(name: str, bicubic: bool) -> None:
    # Source: Pillow, one image at a time, over all magnitudes and both signs.
    images = pictures(24, BARE.size)
    drawn = sample_parameters(BARE, 0, torch.arange(24), BARE.size, BARE.size)
    operations = torch.full((24, 1), OPERATIONS.index(name))
    magnitudes = torch.linspace(0, 10, 24)[torch.randperm(24, generator=random.generator(0))]
    arguments = operation_arguments(operations[:, 0], magnitudes, torch.arange(24) % 2 == 0)
    drawn = replace(
        drawn,
        operations=operations,
        arguments=arguments[:, None],
        bicubic=torch.full((24, 1), bicubic),
    )
    theirs = [
        by_pillow(image, name, value, bicubic)
        for image, value in zip(images, arguments.tolist(), strict=True)
    ]
    ours = levels_of(views.photometric(images, drawn, BARE), BARE)
    torch.testing.assert_close(ours, torch.stack(theirs).float(), rtol=0, atol=1e-3)


def argument_by_timm(name: str, magnitude: float, negative: bool) -> float:
    level = magnitude / 10.0
    sign = -1 if negative else 1
    if name in ("Color", "Contrast", "Brightness", "Sharpness"):
        return level * 1.8 + 0.1
    formulas = {
        "Rotate": sign * level * 30.0,
        "Posterize": int(level * 4),
        "Solarize": int(level * 256),
        "SolarizeAdd": int(level * 110),
        "ShearX": sign * level * 0.3,
        "ShearY": sign * level * 0.3,
        "TranslateXRel": sign * level * 0.45,
        "TranslateYRel": sign * level * 0.45,
    }
    return formulas.get(name, 0.0)


@pytest.mark.parametrize("name", OPERATIONS)
@settings(deadline=None, max_examples=30)
@given(magnitude=st.floats(0, 10, width=32), negative=st.booleans())
def test_magnitudes_become_arguments_as_in_timm(
    name: str, magnitude: float, negative: bool
) -> None:
    # Source: the formulas of timm's auto_augment.py, written down one by one.
    operation = torch.tensor([OPERATIONS.index(name)])
    ours = operation_arguments(operation, torch.tensor([magnitude]), torch.tensor([negative]))
    expected = argument_by_timm(name, magnitude, negative)
    if name in ("Posterize", "Solarize", "SolarizeAdd"):  # float32 may sit on the step's edge
        neighbours = [argument_by_timm(name, magnitude + d, negative) for d in (-1e-5, 0, 1e-5)]
        assert float(ours) in neighbours
    else:
        assert float(ours) == pytest.approx(expected, abs=1e-5)


def test_the_recipes_magnitude_varies_normally_and_stops_at_10() -> None:
    # Source: the normal distribution: half of the draws about 10 are cut to it; five deviations.
    count = 40_000
    operations, arguments, _ = draw_operations((2, 10.0, 0.5), 3, torch.arange(count))
    for name in ("ShearX", "TranslateYRel"):
        drawn = arguments[operations == OPERATIONS.index(name)] / argument_by_timm(name, 10, False)
        magnitudes = drawn.abs() * 10
        share = (magnitudes > 10 - 1e-4).float().mean()
        assert float(share) == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(len(drawn)))
        below = magnitudes[magnitudes < 10 - 1e-4] - 10
        assert float(below.square().mean().sqrt()) == pytest.approx(0.5, rel=0.1)
        assert float((drawn > 0).float().mean()) == pytest.approx(
            0.5, abs=2.5 / math.sqrt(len(drawn))
        )
    _, steady, _ = draw_operations((1, 5.0, 0.0), 3, torch.arange(count))
    assert set(steady[:, 0].tolist()) == {
        float(torch.tensor(argument_by_timm(name, 5.0, negative)))
        for name in OPERATIONS
        for negative in (False, True)
    }


def test_operations_are_equally_frequent_and_half_of_them_skipped() -> None:
    # Source: Pearson's chi-squared test, 14 degrees of freedom, rejects once in 10,000 above 42.6.
    operations, _, bicubic = draw_operations((2, 10.0, 0.5), 0, torch.arange(15_000))
    for layer in operations.T:
        done = layer[layer != SKIPPED]
        assert abs(len(done) - 7_500) < 4 * math.sqrt(15_000 / 4)
        expected = len(done) / 15
        counts = Counter(done.tolist())
        assert sorted(counts) == list(range(15))
        assert sum((count - expected) ** 2 / expected for count in counts.values()) < 42.6
    assert abs(float(bicubic.float().mean()) - 0.5) < 2 / math.sqrt(30_000)


def test_layers_and_all_other_draws_are_independent() -> None:
    # Source: correlation of independent draws.
    count = 20_000
    drawn = sample_parameters(views.infomin(32), 0, torch.arange(count), 40, 40)
    columns = [
        *drawn.operations.double().T,
        *drawn.arguments.double().T,
        *drawn.bicubic.double().T,
        drawn.flip.double(),
        drawn.gray.double(),
        drawn.blur_sigma.double(),
        *drawn.jitter_factors.double().T,
    ]
    correlation = torch.corrcoef(torch.stack(columns)) - torch.eye(len(columns))
    for layer in (0, 1):  # an argument depends on its operation
        correlation[layer, 2 + layer] = correlation[2 + layer, layer] = 0
    assert float(correlation.abs().max()) < 5 / math.sqrt(count)


def test_rand_augment_changes_no_other_draw() -> None:
    # Source: identity.
    with_it, without = (
        sample_parameters(recipe, 9, torch.arange(50), 40, 50)
        for recipe in (views.infomin(32), replace(views.infomin(32), rand_augment=None))
    )
    assert without.operations.shape == without.arguments.shape == without.bicubic.shape == (50, 0)
    for field in fields(ViewParameters):
        if field.name not in ("operations", "arguments", "bicubic"):
            assert torch.equal(getattr(with_it, field.name), getattr(without, field.name))


def by_torchvision_and_pillow(crop: Tensor, drawn: ViewParameters, recipe: ViewRecipe) -> Tensor:
    """Make one view of InfoMin's kind from one crop (3, S, S) in [0, 1]: levels (3, S, S)."""
    from torchvision.transforms.v2 import functional

    tools: Any = functional
    steps = [tools.adjust_brightness, tools.adjust_contrast]
    steps += [tools.adjust_saturation, tools.adjust_hue]
    view = crop
    if drawn.jitter[0]:
        for step in drawn.jitter_order[0].tolist():
            view = steps[step](view, float(drawn.jitter_factors[0, step]))
    if drawn.blur_sigma[0] > 0:
        taps = [recipe.kernel_size] * 2
        view = tools.gaussian_blur(view, taps, [float(drawn.blur_sigma[0])] * 2)
    image = (view * 255).round().to(torch.uint8)
    layers = (drawn.operations, drawn.arguments, drawn.bicubic)
    for operation, value, bicubic in zip(*(column[0].tolist() for column in layers), strict=True):
        if operation != SKIPPED:
            image = by_pillow(image, OPERATIONS[operation], value, bicubic)
    view = image.float()
    return tools.rgb_to_grayscale(view, num_output_channels=3) if drawn.gray[0] else view


def test_infomins_view_is_jitter_blur_rand_augment_greyscale_in_this_order() -> None:
    # Source: torchvision's functional operations and Pillow's, one image at a time.
    recipe, count = views.infomin(48), 120
    crops = pictures(count, 48).float() / 255
    drawn = sample_parameters(recipe, 5, torch.arange(count), 48, 48)
    both = drawn.gray & (drawn.operations != SKIPPED).all(dim=1) & drawn.jitter
    assert both.any()  # the order matters to some
    ours = levels_of(views.photometric(crops, drawn, recipe), recipe)
    theirs = [
        by_torchvision_and_pillow(crop, drawn[row : row + 1], recipe)
        for row, crop in enumerate(crops)
    ]
    # A value that lies half-way between two levels may be rounded either way.
    different = ((ours - torch.stack(theirs)).abs() > 0.01).flatten(1).float().mean(dim=1)
    assert different.mean() < 3e-3
    assert different.median() == 0


def test_what_comes_into_view_has_the_mean_colour() -> None:
    # Source: definition; half a level of the channel with the smallest deviation is 0.0088.
    recipe = ViewRecipe(32, rand_augment=(1, 10.0, 0.0))
    drawn = sample_parameters(recipe, 0, torch.arange(1), 32, 32)
    move = torch.tensor([[OPERATIONS.index("TranslateXRel")]])
    drawn = replace(drawn, operations=move, arguments=torch.tensor([[0.25]]))
    view = views.photometric(torch.ones(1, 3, 32, 32), drawn, recipe)
    assert view[..., 24:].abs().max() < 0.0089
    assert view[..., :24].min() > 1


def test_a_grey_view_stays_grey() -> None:
    # Source: greyscale after the jitter comes after RandAugment, which may colour a grey image.
    recipe = replace(views.infomin(32), gray_probability=1.0, std=(1.0, 1.0, 1.0))
    drawn = sample_parameters(recipe, 0, torch.arange(64), 32, 32)
    levels = levels_of(views.photometric(pictures(64, 32), drawn, recipe), recipe)
    assert (levels.amax(dim=1) - levels.amin(dim=1)).max() < 1e-3


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 29), min_size=1, max_size=12), st.integers(0, 2**32))
def test_an_image_gets_the_same_view_in_any_batch(rows: list[int], rng_key: int) -> None:
    # Source: identity, but for values half-way between two levels.
    recipe, images, indices = views.infomin(32), pictures(30, 36), torch.arange(30) * 7
    whole = views.make_view(images, indices, recipe, rng_key)[rows]
    part = views.make_view(images[rows], indices[rows], recipe, rng_key)
    assert ((part - whole).abs() > 1e-5).float().mean() < 1e-3


def test_the_program_with_fixed_shapes_computes_the_same_and_is_captured_once() -> None:
    # Source: identity; torch.compile itself, asked to raise at a graph break or second capture.
    recipe = replace(views.infomin(32), std=(1.0, 1.0, 1.0))
    crops = pictures(60, 32).float() / 255
    basis = _blur_basis(32, recipe.kernel_size, crops.device)
    torch._dynamo.reset()  # else a capture by another test counts as the first
    compiled = torch.compile(_program, fullgraph=True, backend="eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for key in range(3):
            drawn = sample_parameters(recipe, key, torch.arange(60), 32, 32)
            fixed = compiled(
                crops, photometric_plan(drawn, recipe, fixed_shapes=True), basis, recipe
            )
            difference = fixed - views.photometric(crops, drawn, recipe)
            assert (difference.abs() > 1e-5).float().mean() < 1e-3


def test_the_inputs_stay_as_they_were() -> None:
    # Source: identity.
    recipe = views.infomin(32)
    images = pictures(16, 32)
    drawn = sample_parameters(recipe, 0, torch.arange(16), 32, 32)
    for crops in (images, images.float() / 255):
        before = crops.clone()
        views.photometric(crops, drawn, recipe)
        assert torch.equal(crops, before)


def test_an_empty_batch_gives_an_empty_batch() -> None:
    # Source: identity.
    images = torch.zeros(0, 3, 40, 40, dtype=torch.uint8)
    assert views.make_view(images, torch.arange(0), views.infomin(32), 0).shape == (0, 3, 32, 32)


@pytest.mark.parametrize("recipe", [views.infomin(224), views.jigsaw()])
def test_a_recipe_survives_json(recipe: ViewRecipe) -> None:
    # Source: identity.
    copy = from_plain(ViewRecipe, json.loads(json.dumps(to_plain(recipe))))
    assert copy == recipe
    assert hash(copy) == hash(recipe)


def test_infomins_recipes_are_those_of_its_code() -> None:
    # Source: PyContrast's datasets/util.py, augmentation D and the jigsaw's.
    recipe, puzzle = views.infomin(224), views.jigsaw()
    assert (recipe.crop_scale, recipe.flip_probability) == ((0.2, 1.0), 0.5)
    assert (recipe.jitter, recipe.jitter_probability) == ((0.8, 0.8, 0.8, 0.2), 0.8)
    assert (recipe.kernel_size, recipe.blur_probability, recipe.blur_sigma) == (23, 0.5, (0.1, 2.0))
    assert (recipe.rand_augment, recipe.gray_probability) == ((2, 10.0, 0.5), 0.2)
    assert puzzle == ViewRecipe(255, crop_scale=(0.6, 1.0), flip_probability=0.5)


@pytest.mark.parametrize("value", [(0, 10.0, 0.5), (2, 11.0, 0.5), (2, 10.0, -0.5), (2, 10.0)])
def test_a_value_out_of_range_is_named(value: Any) -> None:
    # Source: the recipe's own documentation.
    with pytest.raises(UserError, match=r"`rand_augment`.* must be .*, got"):
        replace(views.infomin(32), rand_augment=value)
