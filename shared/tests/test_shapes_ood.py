"""Variants of the shapes data set: the same scenes, drawn or damaged as their names say."""

from __future__ import annotations

import functools

import pytest
import torch

from retable.data.shapes.corruptions import CORRUPTIONS, SEVERITIES, STYLES, corrupt, parse_variant
from retable.data.shapes.dataset import HUES, OOD_VARIANTS, Shapes
from retable.data.shapes.textures import FOREGROUND
from retable.errors import UserError

INDICES = torch.arange(48)
CLEAN = Shapes(48, split="test").images(INDICES)


def variant(name: str, *, count: int = 48, size: int = 32, classes: int = 64) -> Shapes:
    return Shapes(count, split="test", variant=name, size=size, classes=classes)


def test_there_are_fifteen_corruptions_at_five_severities_and_five_styles() -> None:
    assert len(CORRUPTIONS) == 15
    assert all(len(strengths) == 5 for _, strengths in CORRUPTIONS.values())
    assert len(OOD_VARIANTS) == len(set(OOD_VARIANTS)) == 15 * 5 + 5


def test_any_subset_of_a_variant_gives_the_same_pixels() -> None:
    chosen = torch.tensor([23, 3, 3, 20, 11])
    for name in (*STYLES, *(f"corrupted:{kind}:3" for kind in CORRUPTIONS)):
        shapes = variant(name)
        part = shapes.images(chosen)
        assert torch.equal(part, shapes.images(INDICES[:24])[chosen]), name
        assert torch.equal(shapes.images(chosen[:1]), part[:1]), name


def test_a_variant_keeps_labels_and_masks_and_changes_the_pixels() -> None:
    few, clean = INDICES[:8], variant("clean")
    masks = clean.masks(few)
    for name in OOD_VARIANTS:
        shapes = variant(name)
        assert torch.equal(shapes.labels, clean.labels), name
        assert torch.equal(shapes.masks(few), masks), name
        assert (shapes.images(few) != CLEAN[:8]).any(), name


def test_a_higher_severity_moves_images_further() -> None:
    few, clean = INDICES[:24], CLEAN[:24].float()
    for kind in CORRUPTIONS:
        distances = [
            (variant(f"corrupted:{kind}:{severity}").images(few).float() - clean).square().mean()
            for severity in SEVERITIES
        ]
        assert distances[0] > 0, kind
        assert distances == sorted(distances), kind


def test_corruptions_work_at_any_size() -> None:
    for kind in CORRUPTIONS:
        for size in (16, 45):
            images = variant(f"corrupted:{kind}:5", count=3, size=size).images(torch.arange(3))
            assert images.shape == (3, 3, size, size), kind


def test_moving_and_averaging_pixels_keeps_a_constant_image() -> None:
    images = torch.tensor([20, 130, 240], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 32, 32)
    for kind in ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic", "pixelate"):
        out = corrupt(images, kind, 5, rng_key=0, indices=torch.arange(2))
        assert (out.int() - images.int()).abs().max() <= 1, kind


def test_noise_has_the_stated_moments() -> None:
    # Reference: a Poisson count of mean m has variance m; Gaussian noise has its own deviation.
    level = 128
    images = torch.full((200, 3, 32, 32), level, dtype=torch.uint8)
    indices = torch.arange(200)
    for severity, photons in zip((1, 5), (200, 12), strict=True):
        shot = corrupt(images, "shot_noise", severity, rng_key=0, indices=indices).double() / 255
        mean = level / 255
        unclipped = (mean / photons) ** 0.5 < (1 - mean) / 4
        if unclipped:
            assert abs(shot.mean() - mean) < 0.002
            assert abs(shot.var() / (mean / photons) - 1) < 0.03
        assert shot.mean() < mean + 0.002
    noisy = corrupt(images, "gaussian_noise", 3, rng_key=0, indices=indices).double() / 255
    assert abs(noisy.std() - 0.10) < 0.001
    salted = corrupt(images, "impulse_noise", 5, rng_key=0, indices=indices)
    assert abs((salted == 0).double().mean() - 0.085) < 0.003
    assert abs((salted == 255).double().mean() - 0.085) < 0.003


def test_contrast_shrinks_towards_each_channels_mean() -> None:
    # Reference: the formula on each image alone, in float64.
    out = corrupt(CLEAN, "contrast", 3, rng_key=0, indices=INDICES)
    for image, result in zip(CLEAN.double(), out.double(), strict=True):
        mean = image.mean((1, 2), keepdim=True)
        assert ((image - mean) * 0.5 + mean - result).abs().max() <= 0.51


def test_brightness_raises_the_value_and_keeps_hue_and_saturation() -> None:
    # Reference: colorsys of the standard library.
    import colorsys

    colours = torch.tensor([[200, 100, 50], [10, 20, 90], [0, 0, 0], [240, 230, 10]])
    images = colours.to(torch.uint8).view(4, 3, 1, 1).expand(4, 3, 16, 16)
    out = corrupt(images, "brightness", 2, rng_key=0, indices=torch.arange(4))[:, :, 0, 0]
    for colour, result in zip(colours.tolist(), out.tolist(), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(x / 255 for x in colour))
        expected = colorsys.hsv_to_rgb(hue, saturation, min(1.0, value + 0.2))
        assert max(abs(e * 255 - r) for e, r in zip(expected, result, strict=True)) <= 1


def test_pixelate_at_half_the_side_averages_blocks() -> None:
    # Reference: avg_pool2d and repetition; severity 3 keeps half of the side.
    out = corrupt(CLEAN, "pixelate", 3, rng_key=0, indices=INDICES).float()
    blocks = torch.nn.functional.avg_pool2d(CLEAN.float(), 2)
    expected = blocks.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert (out - expected).abs().max() <= 0.51


def test_a_defocused_spot_spreads_over_a_disc() -> None:
    images = torch.zeros(1, 3, 65, 65, dtype=torch.uint8)
    images[:, :, 31:34, 31:34] = 255
    out = corrupt(images, "defocus_blur", 5, rng_key=0, indices=torch.arange(1))[0, 0].double()
    y, x = torch.meshgrid(torch.arange(65.0) - 32, torch.arange(65.0) - 32, indexing="ij")
    assert abs((out * x).sum() / out.sum()) < 0.3
    assert abs((out * y).sum() / out.sum()) < 0.3
    assert out[torch.hypot(x, y) > 0.085 * 65 + 3].max() == 0


def test_sketch_is_a_dark_line_along_the_outline_on_white() -> None:
    # Reference: the mask at eight times the size, widened and narrowed by 1.5 and by 0.3 pixels.
    def widened(mask: torch.Tensor, pixels: float) -> torch.Tensor:
        reach = round(8 * pixels)
        return torch.nn.functional.max_pool2d(mask, 2 * reach + 1, 1, reach)[:, 0, 4::8, 4::8] > 0

    some = INDICES[::3]
    images = variant("sketch").images(some)
    assert (images == images[:, :1]).all()
    inside = variant("clean", size=256).masks(some).float()[:, None]
    near = widened(inside, 1.5) & widened(1 - inside, 1.5)
    on_line = widened(inside, 0.3) & widened(1 - inside, 0.3)
    assert (images[:, 0][~near] == 255).all()
    assert images[:, 0][on_line].max() < 160
    assert images[:, 0][on_line].float().mean() < 60


def test_silhouette_is_the_mask_in_black_on_white() -> None:
    images, masks = variant("silhouette").images(INDICES), variant("clean").masks(INDICES)
    assert ((images[:, 0] < 128) == masks).double().mean() > 0.999
    assert (images[:, :1] == images).all()


def test_texture_swapped_shows_only_another_class_texture() -> None:
    for classes in (3, 10, 64):
        shapes = variant("texture_swapped", count=2000, classes=classes)
        factors = shapes.factors(torch.arange(2000))
        own = shapes.class_textures[shapes.labels]
        assert (factors["texture"] != own).all()
        assert set(factors["texture"].tolist()) <= set(shapes.class_textures.tolist())
        if classes >= len(FOREGROUND) + 2:
            assert len(set(factors["texture"].tolist())) == len(FOREGROUND)


def test_texture_swapped_leaves_the_background_alone() -> None:
    images, masks = variant("texture_swapped").images(INDICES), variant("clean").masks(INDICES)
    grown = torch.nn.functional.max_pool2d(masks.float()[:, None], 5, 1, 2).expand_as(images) > 0
    assert torch.equal(images[~grown], CLEAN[~grown])
    changed = (images != CLEAN).flatten(1).any(1)
    assert changed.double().mean() > 0.5


def test_recoloured_uses_hues_between_those_of_the_clean_images() -> None:
    # Reference: colorsys of the standard library, on the plain backgrounds of clean and recoloured.
    import colorsys

    for name, offset in (("clean", 0.0), ("recoloured", 0.5)):
        shapes = variant(name, count=300)
        indices = torch.arange(300)
        plain = indices[shapes.factors(indices)["background_texture"] == 0]
        corner = shapes.images(plain)[:, :, 0, 0]
        background = shapes.factors(plain)["background"]
        for colour, number in zip(corner.tolist(), background.tolist(), strict=True):
            hue = colorsys.rgb_to_hsv(*(x / 255 for x in colour))[0] * HUES
            assert abs((hue - offset - number + HUES / 2) % HUES - HUES / 2) < 0.05


def test_texture_only_and_background_only_show_no_outline() -> None:
    # An image without an outline is the same whatever the class: change the classes, keep the rest.
    for name in ("texture_only", "background_only"):
        many = Shapes(60, split="test", variant=name, classes=76, rho=0.0)
        few = Shapes(60, split="test", variant=name, classes=5, rho=0.0)
        assert torch.equal(many.images(torch.arange(60)), few.images(torch.arange(60)))


def test_background_only_is_the_clean_image_without_its_object() -> None:
    images, masks = variant("background_only").images(INDICES), variant("clean").masks(INDICES)
    grown = torch.nn.functional.max_pool2d(masks.float()[:, None], 5, 1, 2).expand_as(images) > 0
    assert torch.equal(images[~grown], CLEAN[~grown])


def test_shuffled_backgrounds_agree_with_no_class_and_leave_the_outlines() -> None:
    indices = torch.arange(2000)
    scenes = functools.partial(Shapes, classes=8, rho=0.7, background_rho=0.9, split="test")
    agreeing, shuffled = scenes(2000), scenes(2000, variant="background_shuffled")
    before, after = agreeing.factors(indices), shuffled.factors(indices)
    backgrounds = {"background", "background_texture", "foreground"}  # hues differ in an image
    for name, values in before.items():
        assert torch.equal(values, after[name]) is (name not in backgrounds), name
    assert torch.equal(agreeing.masks(indices), shuffled.masks(indices))

    def share(factors: dict[str, torch.Tensor]) -> float:
        found = factors["background"] + HUES * factors["background_texture"]
        return float((found == agreeing.class_backgrounds[factors["outline"]]).float().mean())

    kinds = int(agreeing.class_backgrounds.max()) + 1
    assert share(before) > 0.9
    assert share(after) == pytest.approx(1 / max(kinds, 8), abs=0.08)


def test_backgrounds_that_agree_with_no_class_are_shuffled_already() -> None:
    assert torch.equal(variant("background_shuffled").images(INDICES), CLEAN)


def test_unknown_variants_are_refused_with_a_suggestion() -> None:
    with pytest.raises(UserError, match="did you mean corrupted:fog:5"):
        parse_variant("corrupted:fog:6")
    with pytest.raises(UserError, match="did you mean recoloured"):
        parse_variant("recolored")
    with pytest.raises(UserError, match="no corruption 'rain'"):
        corrupt(CLEAN, "rain", 1, rng_key=0, indices=INDICES)
    with pytest.raises(UserError, match="severity 0"):
        corrupt(CLEAN, "fog", 0, rng_key=0, indices=INDICES)
