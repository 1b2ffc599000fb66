"""Views equal torchvision's functional operations, one sample at a time, for equal parameters."""

from __future__ import annotations

import colorsys
import importlib
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from retable import random, views
from retable.views import ViewParameters, ViewRecipe, colours, cropping
from retable.views.colours import _blur_basis, _program
from retable.views.photometric_plan import photometric_plan

RECIPES = {
    "moco_v1": views.moco_v1(32),
    "moco_v2": views.moco_v2(32),
    "simclr": views.simclr(32),
    "byol_first": views.byol(32)[0],
    "byol_second": views.byol(32)[1],
    "swav_small": views.swav(64, 32)[2],
    "everything": ViewRecipe(
        32,
        crop_scale=(0.1, 1.0),
        flip_probability=0.5,
        jitter=(1.5, 1.5, 1.5, 0.5),
        jitter_probability=0.7,
        gray_probability=0.3,
        blur_probability=0.5,
        blur_kernel=31,
        solarize_probability=0.4,
    ),
    "without_hue": replace(views.moco_v2(32), jitter=(0.4, 0.0, 0.4, 0.0)),
    "nothing": ViewRecipe(32),
}


# Untyped, and re-exporting in a way that strict typing does not accept.
transforms: Any = importlib.import_module("torchvision.transforms.v2")
F: Any = transforms.functional


def photographs(count: int, height: int, width: int) -> Tensor:
    """Smooth colours, flat and grey areas, pure noise: uint8 (count, 3, height, width)."""
    source = random.generator(count * height + width)
    coarse = torch.rand(count, 3, height // 8 + 2, width // 8 + 2, generator=source) * 1.4 - 0.2
    images = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    noise = torch.randn(count // 4, 3, height, width, generator=source)
    images[: count // 4] += 0.3 * noise
    images[count // 4 : count // 2, :, : height // 2] = 0.6
    images[0] = images[0].mean(dim=0)
    return images.clamp(0, 1).mul(255).round().to(torch.uint8)


def cropped_by_torchvision(
    images: Tensor, parameters: ViewParameters, recipe: ViewRecipe
) -> Tensor:
    mode = transforms.InterpolationMode(recipe.interpolation)
    size = [recipe.size, recipe.size]
    crops = []
    for image, box, flip in zip(
        images, parameters.crops.tolist(), parameters.flip.tolist(), strict=True
    ):
        crop = F.resized_crop(image, *box, size=size, interpolation=mode, antialias=True)
        crops.append(F.horizontal_flip(crop) if flip else crop)
    return torch.stack(crops)


def coloured_by_torchvision(
    crops: Tensor, parameters: ViewParameters, recipe: ViewRecipe
) -> Tensor:
    jitters = [F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue]
    finished = []
    for i, image in enumerate(crops):
        view = image.clone()
        if recipe.jitter_position == "after_gray" and parameters.gray[i]:
            view = F.rgb_to_grayscale(view, num_output_channels=3)
        if parameters.jitter[i]:
            for operation in parameters.jitter_order[i].tolist():
                factor = float(parameters.jitter_factors[i, operation])
                view = jitters[operation](view, factor)
        if recipe.jitter_position == "before_gray" and parameters.gray[i]:
            view = F.rgb_to_grayscale(view, num_output_channels=3)
        if parameters.blur_sigma[i] > 0:
            taps = [recipe.kernel_size, recipe.kernel_size]
            view = F.gaussian_blur(view, taps, [float(parameters.blur_sigma[i])] * 2)
        if parameters.solarize[i]:
            view = F.solarize(view, 0.5)
        finished.append(F.normalize(view, list(recipe.mean), list(recipe.std)))
    return torch.stack(finished)


def computed(
    crops: Tensor, drawn: ViewParameters, recipe: ViewRecipe, fixed_shapes: bool
) -> Tensor:
    basis = _blur_basis(crops.shape[-1], recipe.kernel_size, crops.device)
    return _program(
        crops, photometric_plan(drawn, recipe, fixed_shapes=fixed_shapes), basis, recipe
    )


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("image_by_image", [False, True])
@settings(deadline=None, max_examples=15)
@given(
    height=st.integers(5, 90),
    width=st.integers(5, 90),
    size=st.integers(3, 40),
    rng_key=st.integers(0, 2**32),
)
def test_crops_equal_torchvision(
    height: int, width: int, size: int, rng_key: int, image_by_image: bool, interpolation: str
) -> None:
    # Source: torchvision.transforms.v2.functional.resized_crop(antialias=True) and horizontal_flip.
    recipe = ViewRecipe(
        size,
        crop_scale=(0.01, 1.0),
        crop_ratio=(0.3, 3.0),
        flip_probability=0.5,
        interpolation=interpolation,  # type: ignore[arg-type]
    )
    images = photographs(6, height, width)
    drawn = views.sample_parameters(recipe, rng_key, torch.arange(6), height, width)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cropping, "_DENSE_LIMIT", 0 if image_by_image else 2**60)
        ours = views.crop_resize(images, drawn, size, recipe.interpolation)
    # In the units of the pixels, because torch's own weights are scaled by their values.
    theirs = cropped_by_torchvision(images.float(), drawn, recipe).div(255).clamp(0, 1)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("height", "width", "size", "resize"),
    [(32, 32, 32, None), (40, 33, 32, 32), (60, 47, 32, 37), (21, 30, 16, 40), (301, 260, 64, 73)],
)
def test_the_centre_view_equals_torchvision(
    height: int, width: int, size: int, resize: int | None
) -> None:
    # Source: torchvision.transforms.v2.functional.resize(antialias=True) and center_crop.
    recipe = views.center(size, resize)
    images = photographs(4, height, width)
    ours = views.make_view(images, torch.arange(4), recipe, rng_key=0)
    resized = F.resize(images.float(), [resize or size], antialias=True) / 255
    theirs = F.normalize(F.center_crop(resized, [size, size]), list(recipe.mean), list(recipe.std))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-6)


@pytest.mark.parametrize("name", RECIPES)
def test_colours_equal_torchvision(name: str) -> None:
    # Source: torchvision.transforms.v2.functional, one operation and one sample at a time.
    recipe = replace(RECIPES[name], mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    crops = photographs(64, 32, 32).float() / 255
    drawn = views.sample_parameters(recipe, 5, torch.arange(64), 32, 32)
    ours = views.photometric(crops, drawn, recipe)
    torch.testing.assert_close(
        ours, coloured_by_torchvision(crops, drawn, recipe), rtol=0, atol=3e-6
    )


def test_large_views_in_pieces_and_bands_equal_torchvision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Source: torchvision.transforms.v2.functional, one operation and one sample at a time.
    recipe = replace(views.moco_v2(150), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    crops = photographs(9, 150, 150).float() / 255
    drawn = views.sample_parameters(recipe, 5, torch.arange(9), 150, 150)
    monkeypatch.setattr(colours, "_CPU_PIECE", 4 * 3 * 150 * 150)
    ours = views.photometric(crops, drawn, recipe)
    theirs = coloured_by_torchvision(crops, drawn, recipe)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=3e-6)


def test_the_normalisation_equals_torchvision() -> None:
    # Source: torchvision.transforms.v2.functional.normalize.
    recipe = replace(views.moco_v2(32), mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3))
    crops = photographs(16, 32, 32).float() / 255
    drawn = views.sample_parameters(recipe, 5, torch.arange(16), 32, 32)
    ours = views.photometric(crops, drawn, recipe)
    torch.testing.assert_close(
        ours, coloured_by_torchvision(crops, drawn, recipe), rtol=0, atol=3e-5
    )


@settings(deadline=None, max_examples=60)
@given(
    color=st.lists(st.integers(0, 255), min_size=3, max_size=3),
    shift=st.floats(-0.5, 0.5, width=32),
)
def test_any_hue_shift_of_any_colour_turns_its_hsv(color: list[int], shift: float) -> None:
    # Source: the standard library's colorsys in float64. torchvision's adjust_hue, with which whole
    # views are compared, is itself up to 9e-7 away from it.
    from retable.views.colours import _shift_hue

    pixel = torch.tensor(color).float().div(255).view(3, 1, 1, 1)
    turned = pixel.clone()
    _shift_hue(turned, torch.tensor([6 * shift]))
    hue, saturation, value = colorsys.rgb_to_hsv(*pixel.double().flatten().tolist())
    expected = torch.tensor(colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value))
    torch.testing.assert_close(turned.flatten(), expected, rtol=0, atol=1e-6)


def test_a_whole_view_equals_torchvisions_chain() -> None:
    # Source: torchvision's functional operations from crop to normalise.
    recipe = views.moco_v2(32)
    images = photographs(48, 57, 44)
    indices = torch.arange(1000, 1048)
    drawn = views.sample_parameters(recipe, 3, indices, 57, 44)
    crops = cropped_by_torchvision(images.float(), drawn, recipe) / 255
    theirs = coloured_by_torchvision(crops, drawn, recipe)
    ours = views.make_view(images, indices, recipe, rng_key=3)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)
    assert ours.is_contiguous()


def test_a_cut_crop_is_what_torchvision_cuts() -> None:
    # Source: torchvision.transforms.v2.functional on uint8.
    recipe = views.moco_v2(24)
    images = photographs(20, 61, 50)
    drawn = views.sample_parameters(recipe, 3, torch.arange(20), 61, 50)
    ours = torch.stack(
        [views.cut(image, drawn[i : i + 1], recipe) for i, image in enumerate(images)]
    )
    assert torch.equal(ours, cropped_by_torchvision(images, drawn, recipe))


@pytest.mark.parametrize("recipe", [views.crop_and_flip(24), views.center(24, 30)])
def test_finishing_cut_crops_differs_from_making_views_by_rounding_to_uint8_only(
    recipe: ViewRecipe,
) -> None:
    # Source: identity; a rounded crop is at most one grey level away (torch rounds its weights).
    images, indices = photographs(12, 61, 50), torch.arange(12)
    drawn = views.sample_parameters(recipe, 3, indices, 61, 50)
    cut = torch.stack(
        [views.cut(image, drawn[i : i + 1], recipe) for i, image in enumerate(images)]
    )
    finished = views.photometric(cut, drawn, recipe)
    made = views.make_view(images, indices, recipe, rng_key=3)
    torch.testing.assert_close(finished, made, rtol=0, atol=1.01 / 255 / min(recipe.std))


@pytest.mark.parametrize("name", RECIPES)
def test_a_schedule_with_fixed_shapes_computes_the_same(name: str) -> None:
    # Source: identity.
    recipe = RECIPES[name]
    crops = photographs(40, 32, 32).float() / 255
    drawn = views.sample_parameters(recipe, 5, torch.arange(40), 32, 32)
    fixed = computed(crops, drawn, recipe, fixed_shapes=True)
    torch.testing.assert_close(fixed, views.photometric(crops, drawn, recipe), rtol=0, atol=1e-5)


def test_the_program_with_fixed_shapes_is_one_graph_captured_once() -> None:
    # Source: torch.compile itself, asked to raise at a graph break or a second capture.
    recipe = RECIPES["everything"]
    crops = photographs(16, 32, 32).float() / 255
    basis = _blur_basis(32, recipe.kernel_size, crops.device)
    torch._dynamo.reset()  # else a capture by another test counts as the first
    compiled = torch.compile(_program, fullgraph=True, backend="eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for key in range(3):
            drawn = views.sample_parameters(recipe, key, torch.arange(16), 32, 32)
            result = compiled(
                crops, photometric_plan(drawn, recipe, fixed_shapes=True), basis, recipe
            )
            torch.testing.assert_close(
                result, views.photometric(crops, drawn, recipe), rtol=0, atol=1e-5
            )


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 29), min_size=1, max_size=12), st.integers(0, 2**32))
def test_an_image_gets_the_same_view_in_any_batch(rows: list[int], rng_key: int) -> None:
    # Source: identity.
    recipe, images, indices = RECIPES["everything"], photographs(30, 36, 36), torch.arange(30) * 7
    whole = views.make_view(images, indices, recipe, rng_key)
    part = views.make_view(images[rows], indices[rows], recipe, rng_key)
    torch.testing.assert_close(part, whole[rows], rtol=0, atol=1e-5)


def test_the_inputs_stay_as_they_were() -> None:
    # Source: identity.
    recipe = RECIPES["everything"]
    images = photographs(8, 32, 32)
    drawn = views.sample_parameters(recipe, 0, torch.arange(8), 32, 32)
    for crops in (images, images.float() / 255):
        before = crops.clone()
        for fixed_shapes in (False, True):
            computed(crops, drawn, recipe, fixed_shapes)
            assert torch.equal(crops, before)


def test_autocast_does_not_change_patches() -> None:
    # Source: identity; matrix products are what autocast would round to bfloat16.
    recipe, images, indices = RECIPES["moco_v2"], photographs(8, 40, 40), torch.arange(8)
    plain = views.make_view(images, indices, recipe, 0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(views.make_view(images, indices, recipe, 0), plain)


def test_an_empty_batch_gives_an_empty_batch() -> None:
    # Source: identity.
    images = torch.zeros(0, 3, 40, 40, dtype=torch.uint8)
    view = views.make_view(images, torch.arange(0), RECIPES["moco_v2"], 0)
    assert view.shape == (0, 3, 32, 32)


@pytest.mark.parametrize(
    ("picture", "sigma"),
    [
        *(("smooth", sigma) for sigma in (0.1, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0)),
        *(("noise", sigma) for sigma in (1.0, 1.5, 2.0)),
    ],
)
def test_blur_agrees_with_pil(picture: str, sigma: float) -> None:
    # Source: PIL.ImageFilter.GaussianBlur, which MoCo v2's official code blurs with.
    import numpy as np
    from PIL import Image, ImageFilter

    if picture == "smooth":
        coarse = torch.rand(1, 3, 9, 9, generator=random.generator(1)) * 255
        image = torch.nn.functional.interpolate(coarse, (64, 64), mode="bicubic")[0].clamp(0, 255)
    else:
        image = torch.rand(3, 64, 64, generator=random.generator(2)) * 255
    image = image.round().to(torch.uint8)
    recipe = replace(views.moco_v2(64), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    drawn = views.sample_parameters(ViewRecipe(64), 0, torch.arange(1), 64, 64)
    drawn = replace(drawn, blur_sigma=torch.tensor([sigma]))
    ours = views.photometric(image[None], drawn, recipe)[0] * 255
    pil = Image.fromarray(image.permute(1, 2, 0).numpy()).filter(ImageFilter.GaussianBlur(sigma))
    theirs = torch.from_numpy(np.array(pil)).permute(2, 0, 1)
    difference = (ours - theirs)[:, 7:-7, 7:-7]
    assert float(difference.abs().max()) < (4 if picture == "smooth" else 5)
    assert float(difference.square().mean().sqrt()) < (1 if picture == "smooth" else 1.2)
