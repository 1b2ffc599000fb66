"""Labels of the shapes data set: other classes of the same images."""

from __future__ import annotations

import math

import pytest
import torch

from retable.data.shapes.corruptions import STYLES
from retable.data.shapes.dataset import HUES, Shapes
from retable.data.shapes.factors import HUE_NAMES, LABELLINGS, Labelling, names_of
from retable.data.shapes.textures import BACKGROUND, FOREGROUND
from retable.data.sources import open_source
from retable.errors import UserError

OTHERS: tuple[Labelling, ...] = ("texture", "foreground", "background", "scene")


def test_no_pixel_and_no_factor_depends_on_the_labels() -> None:
    indices = torch.arange(40)
    pixels, factors = Shapes(40).images(indices), Shapes(40).factors(indices)
    for labelling in OTHERS:
        other = Shapes(40, labels=labelling)
        assert torch.equal(other.images(indices), pixels)
        for name, values in other.factors(indices).items():
            assert torch.equal(values, factors[name]), name


@pytest.mark.parametrize("rho", [0.0, 1.0])
def test_each_labelling_tells_its_factors_and_nothing_else(rho: float) -> None:
    count = 500
    factors = Shapes(count, rho=rho).factors(torch.arange(count))
    on_progress = {
        "outline": ("outline",),
        "texture": ("texture",),
        "foreground": ("foreground",),
        "background": ("background", "background_texture"),
        "scene": ("background", "background_texture", "polarity"),
    }
    for labelling in LABELLINGS:
        labels = Shapes(count, rho=rho, labels=labelling).labels
        shown = list(zip(*(factors[name].tolist() for name in on_progress[labelling]), strict=True))
        # One label for each combination and one combination for each label.
        pairs = set(zip(labels.tolist(), shown, strict=True))
        assert len(pairs) == len(set(labels.tolist())) == len(set(shown))
        assert labels.dtype == torch.int64


def test_every_label_has_its_name_and_every_name_its_label() -> None:
    sizes = {"outline": 16, "texture": 8, "foreground": 3, "background": 12, "scene": 24}
    for labelling in LABELLINGS:
        shapes = Shapes(4000, classes=16, labels=labelling)
        names = shapes.class_names
        assert len(names) == len(set(names)) == sizes[labelling]
        assert sorted(set(shapes.labels.tolist())) == list(range(len(names)))


def test_names_say_what_is_seen() -> None:
    shapes = Shapes(300, labels="scene")
    factors = shapes.factors(torch.arange(300))
    textures = list(BACKGROUND)
    for index, label in enumerate(shapes.labels.tolist()):
        texture = textures[int(factors["background_texture"][index])]
        hue = HUE_NAMES[int(factors["background"][index])]
        # Polarity 1 is a dark object on a light ground.
        tone = ("dark", "light")[int(factors["polarity"][index])]
        assert shapes.class_names[label] == f"{texture} {hue}, {tone}"
    assert names_of("background", 64) == [f"{t} {h}" for t in BACKGROUND for h in HUE_NAMES]
    assert names_of("texture", 64) == list(FOREGROUND)


def test_a_scene_is_light_where_its_name_says_so() -> None:
    shapes = Shapes(200, labels="scene", variant="background_only")
    gray = shapes.images(torch.arange(200)).float().mean(dim=(1, 2, 3))
    light = torch.tensor([name.endswith("light") for name in shapes.class_names])[shapes.labels]
    assert gray[light].min() > gray[~light].max()


def test_the_first_colours_name_is_the_hue_that_is_seen() -> None:
    assert len(HUE_NAMES) == HUES
    shapes = Shapes(200, labels="background", variant="background_only")
    images = shapes.images(torch.arange(200)).float().mean(dim=(2, 3))
    for image, label in zip(images, shapes.labels.tolist(), strict=True):
        hue = shapes.class_names[label].rpartition(" ")[2]
        assert HUE_NAMES[int(image.argmax())] == hue


@pytest.mark.parametrize("labelling", OTHERS)
def test_classes_are_as_likely_as_documented(labelling: Labelling) -> None:
    n = 20_000
    shapes = Shapes(n, rho=0.7, classes=64, labels=labelling)
    counts = torch.bincount(shapes.labels, minlength=len(shapes.class_names))
    share = 1 / len(shapes.class_names)
    assert (counts - n * share).abs().max() <= 4.5 * math.sqrt(n * share * (1 - share))


def test_variants_keep_the_labels_of_their_scenes_whatever_these_tell() -> None:
    for labelling in LABELLINGS:
        clean = Shapes(60, split="test", labels=labelling)
        for style in (*STYLES, "corrupted:fog:3", "background_only"):
            other = Shapes(60, split="test", labels=labelling, variant=style)
            assert other.class_names == clean.class_names
            if (labelling, style) != ("texture", "texture_swapped"):
                assert torch.equal(other.labels, clean.labels), style


def test_a_swapped_texture_is_labelled_as_what_is_seen() -> None:
    swapped = Shapes(60, split="test", labels="texture", variant="texture_swapped")
    assert torch.equal(swapped.labels, swapped.factors(torch.arange(60))["texture"])
    assert not torch.equal(swapped.labels, Shapes(60, split="test", labels="texture").labels)


def test_an_unknown_labelling_is_refused() -> None:
    with pytest.raises(UserError, match=r"`labels` of shapes must be one of outline, .*, got 'col"):
        open_source("shapes?labels=colour", "train")


def test_a_source_is_named_with_its_labels_and_told_apart_by_them() -> None:
    spec = "shapes?count=24&size=16&classes=4"
    sources = {name: open_source(f"{spec}&labels={name}", "train") for name in LABELLINGS}
    plain = open_source(spec, "train")
    assert plain.description["checksum"] == sources["outline"].description["checksum"]
    assert len({source.description["checksum"] for source in sources.values()}) == 5
    scenes = sources["scene"]
    assert (scenes.description["classes"], scenes.description["outlines"]) == (24, 4)
    assert scenes.description["labels"] == "scene"
    assert torch.equal(scenes.labels, Shapes(24, size=16, classes=4, labels="scene").labels)
    assert torch.equal(scenes.image(5), plain.image(5))
    fewer = open_source("shapes?count=24&size=16&classes=3&labels=scene", "train")
    assert torch.equal(fewer.labels, scenes.labels)
    assert fewer.description["checksum"] != scenes.description["checksum"]
