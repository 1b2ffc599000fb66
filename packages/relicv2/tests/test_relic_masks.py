"""Masks of a folder of images: providers and the command."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("skimage")

import PIL.Image

from relicv2.masks import __main__ as command
from relicv2.masks.providers import Handcrafted, as_mask, reduced_to
from relicv2.saliency.handcrafted import handcrafted_mask
from retable.data.shapes.dataset import Shapes
from retable.data.sources import open_source

IMAGES = Shapes(8, size=48, split="test").images(torch.arange(8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        for number, image in enumerate(IMAGES):
            path = tmp_path / "images" / split / f"class{number % 2}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return tmp_path / "images"


def words(folder: Path, target: str) -> list[str]:
    return [str(folder), str(folder.parent / target), "--plain", "--quiet", "--workers", "2"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("[!.]*.*"))}


def test_a_provider_s_mask_is_that_of_the_maps() -> None:
    (found,) = Handcrafted(field=False).make([IMAGES[0]], ["a.png"], "cpu")
    assert torch.equal(found[0] > 0, handcrafted_mask(IMAGES[0]))
    assert (found.dtype, found.shape) == (torch.uint8, (1, 48, 48))


def test_larger_images_are_reduced_and_their_masks_enlarged() -> None:
    image = torch.randint(0, 256, (3, 100, 50), dtype=torch.uint8)
    assert reduced_to(image, 40).shape == (3, 40, 20)
    assert reduced_to(image, 100) is image
    probability = torch.zeros(40, 20)
    probability[:, 10:] = 1.0
    mask = as_mask(probability, image, 0.5)
    assert mask.shape == (1, 100, 50)
    assert torch.equal(mask[0], torch.where(torch.arange(50) >= 25, 255, 0).expand(100, 50))


def test_made_masks_are_the_layer_of_a_data_set(folder: Path) -> None:
    assert command.main(words(folder, "masks")) == 0
    source = open_source(f"imagefolder:{folder}?mask={folder.parent / 'masks'}", "test")
    sample = source.read_sample(0, ("mask",))
    assert torch.equal(sample.layers["mask"][0] > 0, handcrafted_mask(sample.image))


@pytest.mark.slow
def test_a_killed_command_continues_to_the_same_bits(folder: Path) -> None:
    module = [sys.executable, "-m", "relicv2.masks"]
    killed = subprocess.Popen([*module, *words(folder, "parts")])
    deadline = time.monotonic() + 120
    while not list((folder.parent / "parts").rglob("*.png")) and killed.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert 0 < len(list((folder.parent / "parts").rglob("*.png"))) < 16
    for target in ("parts", "whole"):
        assert command.main(words(folder, target)) == 0
    parts, whole = (contents(folder.parent / name) for name in ("parts", "whole"))
    assert parts == whole
    assert len(whole) == 16 + 1  # and the settings


def test_masks_of_other_settings_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([*words(folder, "masks"), "--side", "32"]) == 0
    assert command.main(words(folder, "masks")) == 2
    assert "must hold masks of this recipe" in capsys.readouterr().err
