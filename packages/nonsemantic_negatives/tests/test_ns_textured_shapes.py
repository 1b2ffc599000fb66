import subprocess
import sys

import pytest
import torch

from nonsemantic_negatives.textured_shapes import NAME, TexturedShapes
from retable.data.shapes.dataset import Shapes
from retable.data.sources import open_source
from retable.errors import UserError

OPTIONS = "count=12&test_count=8&classes=4&rho=0.9"


def test_images_labels_and_masks_are_those_of_shapes() -> None:
    textured, plain = (open_source(f"{name}?{OPTIONS}", "test") for name in (NAME, "shapes"))
    assert torch.equal(textured.labels, plain.labels)
    for index in range(8):
        assert torch.equal(textured.image(index), plain.image(index))
        assert torch.equal(textured.layer(index, "mask"), plain.layer(index, "mask"))
    assert dict(textured.layers) == {"mask": "map", "companion": "image"}


def test_a_twin_is_made_of_pixels_of_the_image_at_twice_its_size() -> None:
    textured = open_source(f"{NAME}?{OPTIONS}", "train")
    large = open_source(f"shapes?{OPTIONS}&size=64", "train")
    for index in range(12):
        twin = textured.layer(index, "companion")
        assert twin.shape == (3, 32, 32)
        colours = {tuple(pixel) for pixel in large.image(index).flatten(1).T.tolist()}
        assert {tuple(pixel) for pixel in twin.flatten(1).T.tolist()} <= colours


def test_the_oracle_is_the_object_s_texture_over_the_whole_image() -> None:
    textured = open_source(f"{NAME}?{OPTIONS}&twins=oracle", "test")
    expected = open_source(f"shapes?{OPTIONS}&variant=texture_only", "test")
    for index in range(8):
        assert torch.equal(textured.layer(index, "companion"), expected.image(index))


@pytest.mark.parametrize("twins", ["quilting", "oracle"])
def test_twins_do_not_depend_on_when_they_are_made(twins: str) -> None:
    source, again = (open_source(f"{NAME}?{OPTIONS}&twins={twins}", "train") for _ in range(2))
    alone = source.layer(7, "companion")
    together = again.resident_layer("companion")
    assert isinstance(together, torch.Tensor)
    assert torch.equal(together[7], alone)
    assert torch.equal(again.layer(7, "companion"), alone)
    masks = again.resident_layer("mask")
    assert isinstance(masks, torch.Tensor)
    assert masks.shape == (12, 1, 32, 32)


def test_descriptions_tell_twins_apart() -> None:
    quilted, oracle = (
        open_source(f"{NAME}?{OPTIONS}&twins={twins}", "test") for twins in ("quilting", "oracle")
    )
    assert quilted.description["companion"] != oracle.description["companion"]
    assert quilted.description["pixels"] == oracle.description["pixels"]
    assert isinstance(quilted, Shapes)


def test_wrong_parameters_are_named() -> None:
    with pytest.raises(UserError, match="`twins` must be 'quilting' or 'oracle', got 'neural'"):
        TexturedShapes(4, twins="neural")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="has no parameter 'twin'"):
        open_source(f"{NAME}?twin=oracle", "test")
    with pytest.raises(UserError, match="is unknown: use 'shapes-textures"):
        open_source(f"{NAME}:folder", "test")


@pytest.mark.wheel
def test_the_installed_package_need_not_be_imported() -> None:
    opened = f"open_source('{NAME}', 'test')"
    program = f"from retable.data.sources import open_source; print(len({opened}))"
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "2000"
