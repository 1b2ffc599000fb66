"""The shapes data set: pixels are a function of the index, factors are what they say."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retable.data.shapes.dataset import HUES, LUMINANCE, RADIUS, ROTATION, Shapes, tones
from retable.data.shapes.geometry import box, cut, disc, polygon
from retable.data.shapes.outlines import TABLE_EXTENT, TABLE_SIDE, catalogue, distance_tables
from retable.data.shapes.textures import BACKGROUND, FOREGROUND, bilinear
from retable.errors import UserError

EVERYTHING = Shapes(600)
PIXELS = EVERYTHING.images(torch.arange(600))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 599), min_size=1, max_size=40))
def test_any_subset_in_any_order_gives_the_same_pixels(indices: list[int]) -> None:
    chosen = torch.tensor(indices)
    assert torch.equal(EVERYTHING.images(chosen), PIXELS[chosen])


def test_an_image_does_not_depend_on_the_count() -> None:
    assert torch.equal(Shapes(1000).images(torch.arange(600)), PIXELS)


def test_resident_holds_all_images_and_serves_later_requests() -> None:
    shapes = Shapes(600)
    pool = shapes.resident()
    assert torch.equal(pool, PIXELS)
    assert shapes.resident() is pool
    assert torch.equal(shapes.images(torch.tensor([5, 3])), PIXELS[[5, 3]])


def test_splits_and_seeds_are_different_draws() -> None:
    indices = torch.arange(64)
    for other in (Shapes(600, split="test"), Shapes(600, split="val"), Shapes(600, seed=1)):
        same = (other.images(indices) == PIXELS[:64]).flatten(1).all(1)
        assert not same.any()
        assert torch.equal(other.labels, EVERYTHING.labels)


def test_factors_do_not_depend_on_the_size() -> None:
    indices = torch.arange(50)
    small, large = Shapes(50).factors(indices), Shapes(50, size=64).factors(indices)
    for name, values in small.items():
        assert torch.equal(values, large[name]), name


@pytest.mark.parametrize("size", [16, 33, 64, 224])
def test_images_masks_and_labels_have_the_promised_shapes(size: int) -> None:
    shapes = Shapes(7, size=size, classes=5)
    assert shapes.images(torch.arange(7)).shape == (7, 3, size, size)
    assert shapes.images(torch.arange(7)).dtype == torch.uint8
    assert shapes.masks(torch.arange(7)).shape == (7, size, size)
    assert shapes.masks(torch.arange(7)).dtype == torch.bool
    assert shapes.labels.tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert len(shapes) == 7
    assert len(shapes.class_names) == shapes.num_classes == 5


def test_no_indices_give_no_images() -> None:
    none = torch.arange(0)
    assert EVERYTHING.images(none).shape == (0, 3, 32, 32)
    assert EVERYTHING.masks(none).shape == (0, 32, 32)


def test_classes_are_balanced_and_are_the_outline_factor() -> None:
    counts = torch.bincount(Shapes(1000, classes=64).labels)
    assert counts.max() - counts.min() <= 1
    assert torch.equal(EVERYTHING.factors(torch.arange(600))["outline"], EVERYTHING.labels)


@pytest.mark.parametrize("rho", [0.0, 0.7, 1.0])
def test_the_texture_agrees_with_the_class_as_often_as_rho_says(rho: float) -> None:
    n = 20_000
    shapes = Shapes(n, rho=rho)
    texture = shapes.factors(torch.arange(n))["texture"]
    expected = rho + (1 - rho) / len(FOREGROUND)
    share = (texture == shapes.class_textures[shapes.labels]).double().mean().item()
    assert abs(share - expected) <= 4 * math.sqrt(expected * (1 - expected) / n)


def test_the_background_agrees_with_the_class_when_asked_to() -> None:
    n = 20_000
    for rho in (0.0, 0.9):
        shapes = Shapes(n, background_rho=rho)
        factors = shapes.factors(torch.arange(n))
        shown = factors["background"] + HUES * factors["background_texture"]
        share = (shown == shapes.class_backgrounds[shapes.labels]).double().mean().item()
        expected = rho + (1 - rho) / (HUES * len(BACKGROUND))
        assert abs(share - expected) <= 4 * math.sqrt(expected * (1 - expected) / n)


def test_all_other_factors_are_independent_of_the_class_and_of_each_other() -> None:
    # Reference: the chi-squared statistic of a table of independent factors has mean (r-1)(c-1),
    # variance 2 (r-1)(c-1) and a heavier tail than the normal distribution, hence the 12 on top.
    n = 40_000
    shapes = Shapes(n, rho=0.0, classes=16)
    factors = shapes.factors(torch.arange(n))
    middle = (factors["centre_row"] > 0.5).long(), (factors["radius"] > sum(RADIUS) / 2).long()
    columns = {
        **{name: values for name, values in factors.items() if values.dtype == torch.int64},
        "below": middle[0],
        "large": middle[1],
        "clockwise": (factors["rotation"] > 0).long(),
    }
    names = list(columns)
    for i, first in enumerate(names):
        for second in names[:i]:
            if {first, second} == {"foreground", "background"}:
                continue  # they differ by construction
            a, b = columns[first], columns[second]
            rows, cols = int(a.max()) + 1, int(b.max()) + 1
            table = torch.bincount(a * cols + b, minlength=rows * cols).view(rows, cols).double()
            expected = table.sum(1, keepdim=True) * table.sum(0) / n
            statistic = ((table - expected) ** 2 / expected).sum().item()
            freedom = (rows - 1) * (cols - 1)
            assert statistic < freedom + 5 * math.sqrt(2 * freedom) + 12, (first, second)


def test_object_and_background_never_share_a_hue() -> None:
    factors = Shapes(5000).factors(torch.arange(5000))
    assert not (factors["foreground"] == factors["background"]).any()


def test_every_tone_has_the_luminance_of_its_side() -> None:
    weights = torch.tensor([0.299, 0.587, 0.114])
    for shift in (0.0, 0.5 / HUES):
        luminance = tones(shift) @ weights
        expected = torch.tensor(LUMINANCE)[:, None].expand_as(luminance)
        torch.testing.assert_close(luminance, expected, atol=1e-6, rtol=0)


def test_hues_are_those_of_the_colour_circle() -> None:
    # Reference: colorsys of the standard library.
    import colorsys

    for shift in (0.0, 0.5 / HUES):
        for tone in tones(shift):
            for i, colour in enumerate(tone.tolist()):
                hue = colorsys.rgb_to_hsv(*colour)[0]
                assert abs((hue - i / HUES - shift + 0.5) % 1 - 0.5) < 1e-5


def test_the_object_lies_inside_the_image_and_within_its_radius() -> None:
    shapes = Shapes(1000, size=64)
    indices = torch.arange(1000)
    factors, masks = shapes.factors(indices), shapes.masks(indices)
    centres = (torch.arange(64) + 0.5) / 64
    down = centres[None, :, None] - factors["centre_row"][:, None, None]
    right = centres[None, None, :] - factors["centre_column"][:, None, None]
    distance = torch.hypot(down, right)
    farthest = torch.where(masks, distance, 0.0).amax((1, 2))
    assert (farthest <= 1.03 * factors["radius"]).all()
    assert (farthest >= 0.85 * factors["radius"]).all()
    for centre in (factors["centre_row"], factors["centre_column"]):
        assert (centre - factors["radius"] >= -1e-6).all()
        assert (centre + factors["radius"] <= 1 + 1e-6).all()
    assert factors["rotation"].abs().max() <= ROTATION


def test_a_mask_is_its_class_outline_moved_turned_and_scaled() -> None:
    # Reference: each pixel centre taken back into the outline's frame and looked up one at a time.
    shapes = Shapes(40, size=48)
    indices = torch.arange(0, 40, 7)
    factors, masks = shapes.factors(indices), shapes.masks(indices)
    tables = distance_tables()
    for k in range(len(indices)):
        angle, radius = factors["rotation"][k].item(), factors["radius"][k].item()
        for row in range(0, 48, 5):
            for column in range(0, 48, 5):
                y = (row + 0.5) / 48 - factors["centre_row"][k].item()
                x = (column + 0.5) / 48 - factors["centre_column"][k].item()
                # A picture turned clockwise by `angle`: the point came from the other way round.
                u = (x * math.cos(angle) + y * math.sin(angle)) / radius
                v = (y * math.cos(angle) - x * math.sin(angle)) / radius
                i, j = (
                    round((w + TABLE_EXTENT) / (2 * TABLE_EXTENT) * (TABLE_SIDE - 1))
                    for w in (v, u)
                )
                if not (0 <= i < TABLE_SIDE and 0 <= j < TABLE_SIDE):
                    assert not masks[k, row, column]
                    continue
                distance = tables[factors["outline"][k], i, j].item()
                if abs(distance) > 0.04:
                    assert masks[k, row, column].item() == (distance < 0)


def test_object_pixels_are_light_on_dark_or_dark_on_light_even_in_gray() -> None:
    indices = torch.arange(600)
    gray = (PIXELS.double() * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1) / 255
    masks, polarity = EVERYTHING.masks(indices), EVERYTHING.factors(indices)["polarity"]
    for k in range(600):
        front, back = gray[k][masks[k]].mean(), gray[k][~masks[k]].mean()
        assert (front - back) * (1 - 2 * polarity[k]) > 0.12


def test_labels_are_hard_to_see_for_a_linear_model_of_pixels() -> None:
    # Reference: least squares on the pixels, the best a linear model does for squared error.
    train, test = Shapes(4000, size=16), Shapes(1000, size=16, split="test")
    inputs, tests = (s.resident().flatten(1).double() / 255 - 0.5 for s in (train, test))
    targets = torch.nn.functional.one_hot(train.labels).double()
    gram = inputs.T @ inputs + 100.0 * torch.eye(inputs.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(gram, inputs.T @ (targets - targets.mean(0)))
    accuracy = ((tests @ weights).argmax(1) == test.labels).double().mean().item()
    assert accuracy < 0.2


# The outlines.


def overlap(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return intersection over union of every mask of ``a`` with every mask of ``b``."""
    a, b = a.flatten(1).float(), b.flatten(1).float()
    both = a @ b.T
    return both / (a.sum(1)[:, None] + b.sum(1) - both)


@pytest.mark.parametrize("quarters", [1, 2, 3])
@pytest.mark.parametrize("mirrored", [False, True])
def test_no_outline_looks_like_itself_turned(quarters: int, mirrored: bool) -> None:
    inside = distance_tables() <= 0
    turned = torch.rot90(inside, quarters, (1, 2))
    if mirrored:
        turned = turned.flip(2)
    assert overlap(inside, turned).diagonal().max() < 0.86


def test_no_two_outlines_look_alike_even_mirrored() -> None:
    inside = distance_tables() <= 0
    for other in (inside, inside.flip(2)):
        alike = overlap(inside, other).fill_diagonal_(0)
        assert alike.max() < 0.88


def test_outlines_are_centred_and_touch_the_unit_circle() -> None:
    grid = torch.linspace(-TABLE_EXTENT, TABLE_EXTENT, TABLE_SIDE)
    y, x = torch.meshgrid(grid, grid, indexing="ij")
    for table in distance_tables():
        inside = table <= 0
        assert 0.95 < torch.hypot(x[inside], y[inside]).max() < 1.03
        assert abs(x[inside].min() + x[inside].max()) < 0.05
        assert abs(y[inside].min() + y[inside].max()) < 0.05


def test_the_first_classes_spread_over_the_families() -> None:
    families = [name.split()[0] for name in catalogue()]
    assert len(families) == 76
    assert len(set(families[:19])) == 19


def test_distance_to_a_polygon_is_that_to_its_nearest_edge_point() -> None:
    # Reference: the nearest of many points on the boundary; inside by the cross products' signs.
    corners = [(0.0, 0.9), (0.8, -0.5), (-0.7, -0.6)]
    steps = torch.linspace(0, 1, 2001, dtype=torch.float64)[:, None]
    ring = torch.tensor([*corners, corners[0]], dtype=torch.float64)
    boundary = torch.cat([a + (b - a) * steps for a, b in pairwise(ring)])
    points = torch.rand(200, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    points = points * 2 - 1
    nearest = torch.cdist(points, boundary).amin(1)
    cross = torch.stack(
        [
            (b[0] - a[0]) * (points[:, 1] - a[1]) - (b[1] - a[1]) * (points[:, 0] - a[0])
            for a, b in pairwise(ring)
        ]
    )
    inside = (cross < 0).all(0)
    signed = polygon(*corners)(points[:, 0], points[:, 1])
    torch.testing.assert_close(signed, torch.where(inside, -nearest, nearest), atol=1e-3, rtol=0)


def test_a_hole_is_outside() -> None:
    shape = cut(box(-1, -1, 1, 1), disc(0, 0, 0.5))
    x = torch.tensor([0.0, 0.7, 1.5], dtype=torch.float64)
    torch.testing.assert_close(
        shape(x, torch.zeros_like(x)), torch.tensor([0.5, -0.2, 0.5], dtype=torch.float64)
    )


# The textures.


def test_bilinear_reading_equals_grid_sample() -> None:
    # Reference: torch.nn.functional.grid_sample with border padding and aligned corners.
    generator = torch.Generator().manual_seed(0)
    tables = torch.rand(3, 7, 9, generator=generator)
    which = torch.tensor([2, 0, 2, 1])
    rows = torch.rand(4, 50, generator=generator) * 9 - 1
    columns = torch.rand(4, 50, generator=generator) * 11 - 1
    grid = torch.stack([columns / 8 * 2 - 1, rows / 6 * 2 - 1], -1)[:, None]
    expected = torch.nn.functional.grid_sample(
        tables[which][:, None], grid, padding_mode="border", align_corners=True
    )[:, 0, 0]
    torch.testing.assert_close(bilinear(tables, which, rows, columns), expected, atol=2e-6, rtol=0)


def test_textures_have_no_preferred_direction() -> None:
    # A rotation must not be readable from texture: gradients along both axes are equally strong.
    shapes = Shapes(4000, variant="texture_only")
    images = shapes.images(torch.arange(4000)).float().mean(1)
    down = images.diff(dim=1).square().mean((1, 2))
    right = images.diff(dim=2).square().mean((1, 2))
    texture = shapes.factors(torch.arange(4000))["texture"]
    for kind in range(1, len(FOREGROUND)):
        difference = (down - right)[texture == kind].double()
        scale = (down + right)[texture == kind].double().mean()
        error = difference.std() / math.sqrt(len(difference))
        assert difference.mean().abs() < 4 * error + 1e-3 * scale, list(FOREGROUND)[kind]


# Invalid values.


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"count": 0}, "`count` of shapes must be at least 1, got 0"),
        (
            {"count": 10, "split": "dev"},
            "`split` of shapes must be one of train, val, test, got 'dev'",
        ),
        ({"count": 10, "size": 8}, "`size` of shapes must be at least 16 pixels, got 8"),
        ({"count": 10, "classes": 1}, "must be 2 to 76, got 1"),
        ({"count": 10, "classes": 77}, "2 to 76"),
        ({"count": 10, "rho": 1.5}, "`rho` of shapes must be a probability, got 1.5"),
        ({"count": 10, "background_rho": -0.1}, "`background_rho` of shapes"),
        ({"count": 10, "variant": "sketchy"}, "did you mean sketch"),
    ],
)
def test_wrong_values_are_refused_with_one_sentence(
    arguments: dict[str, object], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        Shapes(**arguments)  # type: ignore[arg-type]


def test_an_index_outside_the_data_set_is_refused() -> None:
    for index in (-1, 600):
        with pytest.raises(IndexError, match="600 images"):
            EVERYTHING.images(torch.tensor([index]))
