"""Views in the terms of DeepMind's code of BYOL, one image at a time; replaced backgrounds."""

import colorsys
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from retable import random, views
from retable.data.loader import Loader
from retable.data.sampler import Sampler
from retable.data.source import Sample, Source
from retable.errors import UserError
from retable.views import ViewParameters, ViewRecipe, sample_parameters
from retable.views.colours import _blur_basis, _program
from retable.views.masks import register_mask_change
from retable.views.photometric_plan import photometric_plan

SIZE, COUNT = 20, 24

RECIPE = ViewRecipe(
    SIZE,
    crop_scale=(0.08, 1.0),
    crop_sampling="deepmind",
    interpolation="bicubic",
    flip_probability=0.5,
    jitter=(0.4, 0.4, 0.2, 0.1),
    jitter_probability=0.8,
    jitter_terms="deepmind",
    gray_probability=0.2,
    blur_probability=0.5,
    blur_kernel=5,
    blur_padding="zeros",
    solarize_probability=0.3,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
)


def pictures(count: int = COUNT, size: int = SIZE) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 5, 5, generator=generator)
    smooth = F.interpolate(coarse, (size, size), mode="bilinear")
    return (smooth + 0.2 * torch.rand(smooth.shape, generator=generator) - 0.1).clamp(0, 1)


def by_hsv(image: Tensor, hue: float = 0.0, saturation: float = 1.0) -> Tensor:
    """Source: the standard library's colorsys, pixel by pixel."""
    colours = []
    for red, green, blue in image.double().flatten(1).T.tolist():
        h, s, v = colorsys.rgb_to_hsv(red, green, blue)
        colours.append(colorsys.hsv_to_rgb((h + hue) % 1, min(1.0, s * saturation), v))
    return torch.tensor(colours, dtype=torch.float64).T.view(image.shape)


def blurred(image: Tensor, sigma: float, taps: int) -> Tensor:
    """Source: a separable convolution with a normalised Gaussian and zeros beyond the border."""
    places = torch.arange(taps, dtype=torch.float64) - taps // 2
    weights = torch.exp(-(places**2) / (2 * sigma**2))
    weights /= weights.sum()
    padding = taps // 2
    down = F.conv2d(image[:, None], weights.view(1, 1, -1, 1), padding=(padding, 0))
    return F.conv2d(down, weights.view(1, 1, 1, -1), padding=(0, padding))[:, 0]


def one_by_one(crops: Tensor, drawn: ViewParameters, recipe: ViewRecipe) -> Tensor:
    """Source: google-deepmind/deepmind-research, byol/utils/augmentations.py, as described."""
    found = []
    for number, crop in enumerate(crops):
        image = crop.double()
        if drawn.jitter[number]:
            for operation in drawn.jitter_order[number].tolist():
                value = float(drawn.jitter_factors[number, operation])
                if operation == 0:
                    image = image + value
                elif operation == 1:
                    mean = image.mean(dim=(1, 2), keepdim=True)
                    image = (image - mean) * value + mean
                elif operation == 2:
                    image = by_hsv(image, saturation=value)
                else:
                    image = by_hsv(image, hue=value)
                image = image.clamp(0, 1)
        if drawn.gray[number]:
            weights = torch.tensor([0.2989, 0.5870, 0.1140], dtype=torch.float64)
            image = (image * weights[:, None, None]).sum(dim=0).expand(3, -1, -1)
        if drawn.blur_sigma[number] > 0:
            assert recipe.blur_kernel is not None
            image = blurred(image, float(drawn.blur_sigma[number]), recipe.blur_kernel)
        if drawn.solarize[number]:
            image = torch.where(image < 0.5, image, 1 - image)
        found.append(image.clamp(0, 1))
    return torch.stack(found)


def drawn_for(recipe: ViewRecipe, rng_key: int = 0, count: int = COUNT) -> ViewParameters:
    return sample_parameters(recipe, rng_key, torch.arange(count), SIZE, SIZE)


@pytest.mark.parametrize("rng_key", range(4))
def test_colours_equal_those_of_one_image_at_a_time(rng_key: int) -> None:
    crops, drawn = pictures(), drawn_for(RECIPE, rng_key)
    found = views.photometric(crops, drawn, RECIPE)
    expected = one_by_one(crops, drawn, RECIPE)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-6)


def test_fixed_shapes_compute_the_same() -> None:
    recipe = replace(RECIPE, mask="mask", mask_probability=0.5)
    crops, drawn = pictures(), drawn_for(recipe)
    masks = torch.rand(COUNT, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) < 0.5
    basis = _blur_basis(SIZE, recipe.kernel_size, crops.device, zeros=True)
    plan = photometric_plan(drawn, recipe, fixed_shapes=True)
    found = _program(crops, plan, basis, recipe, masks)
    expected = views.photometric(crops, drawn, recipe, masks=masks)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_the_brightness_is_added_and_the_other_draws_are_those_of_torchvisions_terms() -> None:
    drawn = drawn_for(RECIPE, count=4000)
    other = drawn_for(replace(RECIPE, jitter_terms="torchvision"), count=4000)
    assert torch.equal(drawn.jitter_factors[:, 1:], other.jitter_factors[:, 1:])
    shift = drawn.jitter_factors[:, 0]
    torch.testing.assert_close(shift, other.jitter_factors[:, 0] - 1, rtol=0, atol=1e-6)
    assert float(shift.abs().max()) < 0.4


def test_crops_have_drawn_area_and_aspect_cut_to_the_image() -> None:
    recipe = replace(RECIPE, crop_scale=(0.05, 1.0), crop_ratio=(0.5, 2.0))
    drawn = sample_parameters(recipe, 0, torch.arange(4000), 300, 200)
    top, left, height, width = drawn.crops.T.double()
    assert (height <= 300).all()
    assert (width <= 200).all()
    assert ((top >= 0) & (top + height <= 300) & (left >= 0) & (left + width <= 200)).all()
    free = (height < 300) & (width < 200)
    assert 0.5 < float(free.double().mean()) < 0.95  # the others are cut to the image
    area, aspect = (height * width / 60_000)[free], (width / height)[free]
    assert float(area.min()) == pytest.approx(0.05, abs=0.003)
    assert float(aspect.min()) == pytest.approx(0.5, abs=0.01)
    assert float(aspect.max()) == pytest.approx(2.0, abs=0.04)
    # No attempt is made again: where one draw fits, it is torchvision's first.
    others = sample_parameters(
        replace(recipe, crop_sampling="torchvision"), 0, torch.arange(4000), 300, 200
    )
    assert torch.equal(drawn.crops[free], others.crops[free])


def test_solarised_views_stay_below_a_half_and_change_no_more() -> None:
    recipe = replace(RECIPE, jitter_probability=0.0, blur_probability=0.0, gray_probability=0.0)
    recipe = replace(recipe, solarize_probability=1.0)
    once = views.photometric(pictures(), drawn_for(recipe), recipe)
    assert float(once.max()) <= 0.5
    assert torch.equal(views.photometric(once, drawn_for(recipe), recipe), once)


# Backgrounds.


class Masked(Source):
    """Pictures with a mask of a filled square each; the first has hardly any foreground."""

    layers = {"mask": "map"}  # noqa: RUF012

    def __init__(self, count: int = 12) -> None:
        super().__init__(torch.zeros(count, dtype=torch.int64), ["thing"])
        self.images = (pictures(count, 24) * 255).round().to(torch.uint8)
        self.masks = torch.zeros(count, 1, 24, 24, dtype=torch.uint8)
        for number in range(count):
            self.masks[number, :, 4:20, 4 : 20 - number % 4] = 255
        self.masks[0] = 0
        self.masks[0, :, :3, :3] = 255

    def image(self, index: int) -> Tensor:
        return self.images[index]

    def layer(self, index: int, name: str) -> Tensor:
        return self.masks[index]

    def resident(self, *, decode: bool = False) -> Tensor | None:
        return self.images if decode else None


def plain(**options: object) -> ViewRecipe:
    recipe = ViewRecipe(24, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return replace(recipe, mask="mask", layers=("mask",), **options)  # type: ignore[arg-type]


def batch_of(recipe: ViewRecipe, *, resident: bool = False) -> tuple[Tensor, Tensor]:
    """Return views and their masks, in the order of the data set."""
    sampler = Sampler(12, 12, seed=3)
    loader = Loader(Masked(), sampler, (recipe,), resident=resident)
    (batch,) = loader.batches(0, 1)
    order = batch.indices.argsort()
    return batch.views[0][order], batch.layers[0]["mask"][order] > 0


@pytest.mark.parametrize("resident", [False, True])
def test_the_background_becomes_one_grey_level_and_the_foreground_stays(resident: bool) -> None:
    recipe = plain(mask_probability=1.0, least_foreground=0.05, crop_scale=(0.3, 1.0))
    found, masks = batch_of(recipe, resident=resident)
    untouched, _ = batch_of(replace(recipe, mask_probability=0.0), resident=resident)
    for view, plain_view, mask in zip(found, untouched, masks, strict=True):
        inside = mask.expand_as(view)
        assert torch.equal(view[inside], plain_view[inside])
    assert torch.equal(found[0], untouched[0])  # too little foreground: nothing is replaced
    grey = [view[~mask.expand_as(view)] for view, mask in zip(found[1:], masks[1:], strict=True)]
    assert all(len(set(values.tolist())) <= 1 for values in grey)
    drawn = torch.tensor([float(values[0]) for values in grey if len(values)])
    assert len(set(drawn.tolist())) > 5
    assert ((drawn > 0) & (drawn < 1)).all()


def test_workers_and_memory_replace_the_same_backgrounds() -> None:
    recipe = plain(mask_probability=0.5, crop_scale=(0.3, 1.0), jitter=(0.4,) * 4)
    recipe = replace(recipe, jitter_probability=0.8)
    by_workers, masks = batch_of(recipe)
    in_memory, others = batch_of(recipe, resident=True)
    assert torch.equal(masks, others)
    torch.testing.assert_close(by_workers, in_memory, rtol=0, atol=0.02)  # crops of 8 bits


def test_the_grey_comes_before_the_colours() -> None:
    recipe = plain(mask_probability=1.0, solarize_probability=1.0)
    found, masks = batch_of(recipe)
    assert float(found.max()) <= 0.5
    grey = torch.stack([v[~m.expand_as(v)][0] for v, m in zip(found[1:], masks[1:], strict=True)])
    assert len(set(grey.tolist())) > 5


def test_without_probability_or_background_nothing_changes() -> None:
    plain_views, _ = batch_of(plain())
    assert torch.equal(plain_views, batch_of(ViewRecipe(**(vars(plain()) | {"mask": ""})))[0])
    crops = pictures()
    recipe = replace(RECIPE, mask="mask", mask_probability=1.0)
    everything = torch.ones(COUNT, 1, SIZE, SIZE, dtype=torch.bool)
    found = views.photometric(crops, drawn_for(recipe), recipe, masks=everything)
    assert torch.equal(found, views.photometric(crops, drawn_for(RECIPE), RECIPE))


def test_the_share_of_replaced_backgrounds_is_the_probability() -> None:
    drawn = drawn_for(replace(RECIPE, mask="mask", mask_probability=0.1), count=20_000)
    assert float(drawn.masked.double().mean()) == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / 2e4))


def test_a_probability_needs_a_mask() -> None:
    with pytest.raises(UserError, match="`mask` of a view must be a layer of the data set"):
        ViewRecipe(24, mask_probability=0.1)
    recipe = plain(mask_probability=1.0)
    with pytest.raises(ValueError, match="`masks` must be given"):
        views.photometric(pictures(), drawn_for(recipe), recipe)


def test_a_mask_that_the_data_set_lacks_is_named() -> None:
    recipe = replace(plain(mask_probability=1.0), mask="saliency", layers=())
    with pytest.raises(UserError, match=r"layers of the data set \(mask\), got 'saliency'"):
        Loader(Masked(), Sampler(12, 12, seed=3), (recipe,))


def inverted(masks: Tensor, indices: Tensor, number: float) -> Tensor:
    """Turn the masks of the images before a position round."""
    return masks ^ (indices < number)[:, None, None]


@pytest.mark.parametrize("resident", [False, True])
def test_a_registered_change_makes_the_foreground_of_the_mask(resident: bool) -> None:
    register_mask_change("inverted", inverted)
    recipe = plain(mask_probability=1.0, least_foreground=0.05, mask_change=("inverted", 4.0))
    found, masks = batch_of(recipe, resident=resident)
    untouched, _ = batch_of(replace(recipe, mask_probability=0.0), resident=resident)
    assert torch.equal(found[0], untouched[0])  # the share is that of the mask itself
    for number in range(1, 12):
        inside = (masks[number] ^ (number < 4)).expand_as(found[number])
        assert torch.equal(found[number][inside], untouched[number][inside])
        assert len(set(found[number][~inside].tolist())) == 1


def test_views_made_at_once_have_the_loader_s_backgrounds() -> None:
    recipe = plain(mask_probability=0.7, crop_scale=(0.3, 1.0), flip_probability=0.5)
    loader = Loader(Masked(), Sampler(12, 12, seed=3), (recipe,), resident=True)
    (batch,) = loader.batches(0, 1)
    source, order = Masked(), batch.indices
    rng_key = random.derive_key(3, "views", 0, 0)  # see test_loader
    images, masks = source.images[order], source.masks[order]
    made = views.make_view(images, order, recipe, rng_key, masks=masks)
    assert torch.equal(made, batch.views[0])
    unmasked = replace(recipe, mask_probability=0.0)
    assert not torch.equal(made, views.make_view(images, order, unmasked, rng_key))


@pytest.mark.parametrize("masks", [None, torch.ones(12, 1, 48, 48), torch.ones(12, 2, 24, 24)])
def test_masks_that_do_not_fit_their_images_are_refused(masks: Tensor | None) -> None:
    images, recipe = Masked().images, plain(mask_probability=1.0)
    with pytest.raises(UserError, match=r"`masks` must be \(12, 1, 24, 24\)"):
        views.make_view(images, torch.arange(12), recipe, 0, masks=masks)


def test_an_empty_mask_replaces_nothing() -> None:
    source = Masked()
    source.masks[5] = 0
    recipe = plain(mask_probability=1.0)
    arguments = (source.images, torch.arange(12))
    made = views.make_view(*arguments, recipe, 0, masks=source.masks)
    untouched = views.make_view(*arguments, replace(recipe, mask_probability=0.0), 0)
    assert torch.equal(made[5], untouched[5])
    assert not torch.equal(made[4], untouched[4])


class Unfit(Masked):
    """Layers that are no masks of one channel."""

    layers = {"boxes": "boxes", "twin": "image", "dense": "map"}  # noqa: RUF012

    def layer(self, index: int, name: str) -> Tensor:
        return torch.zeros(1, 4) if name == "boxes" else self.masks[index].expand(2, -1, -1)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("boxes", "must be a map, got 'boxes', which has boxes"),
        ("twin", "must be a map, got 'twin', which has image"),
        ("dense", "must be a layer of one channel, got 2"),
    ],
)
def test_a_layer_that_is_no_mask_is_refused(name: str, sentence: str) -> None:
    recipe = replace(plain(mask_probability=1.0), mask=name, layers=())
    with pytest.raises(UserError, match=sentence):
        next(iter(Loader(Unfit(), Sampler(12, 12, seed=3), (recipe,)).batches(0, 1)))


def test_an_unknown_change_is_named() -> None:
    recipe = plain(mask_probability=1.0, mask_change=("eroded", 1.0))
    with pytest.raises(UserError, match="`mask_change` must name a registered change"):
        batch_of(recipe)


def test_a_mask_is_not_an_output() -> None:
    recipe = replace(plain(mask_probability=1.0), layers=())
    loader = Loader(Masked(), Sampler(12, 12, seed=3), (recipe,))
    (batch,) = loader.batches(0, 1)
    assert not any(batch.layers)
    assert isinstance(Masked().sample(0, ("mask",)), Sample)
