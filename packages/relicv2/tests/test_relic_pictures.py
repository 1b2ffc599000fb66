from pathlib import Path

import pytest
import torch

from relicv2 import pictures
from retable.data.sources import open_source

pytest.importorskip("matplotlib")

DATA = "shapes?test_count=4&size=48"


def test_a_row_shows_the_image_its_mask_and_four_views() -> None:
    source = open_source(DATA, "test")
    samples = [source.read_sample(index, ("mask",)) for index in (0, 1)]
    images, masks = [s.image for s in samples], [s.layers["mask"] for s in samples]
    figure = pictures.draw(images, masks, size=48, small_size=16)
    titles = [axes.get_title() for axes in figure.axes[:6]]
    assert titles == ["image", "mask", "large, odd", "large, even", "large, masked", "small"]
    for row in (0, 1):
        shown = [
            torch.as_tensor(axes.images[0].get_array())
            for axes in figure.axes[6 * row : 6 * row + 6]
        ]
        assert [picture.shape[0] for picture in shown] == [48, 48, 48, 48, 48, 16]
        inside = (masks[row] > 0)[0]
        assert torch.equal(shown[1][inside], shown[0][inside] / 255.0)
        assert not torch.equal(shown[1][~inside], shown[0][~inside] / 255.0)


def test_the_command_writes_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "views.png"
    words = ["--images", "1", "--size", "48", "--small-size", "16"]
    assert pictures.main(["--out", str(out), "--data", DATA, *words]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.strip() == str(out)


def test_photographs_have_handcrafted_masks(tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    out = tmp_path / "photographs.png"
    assert pictures.main(["--out", str(out), "--photographs", "--images", "1", "--size", "64"]) == 0


def test_data_without_masks_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import PIL.Image

    for split in ("train", "val"):
        (tmp_path / "images" / split / "a").mkdir(parents=True)
        PIL.Image.new("RGB", (8, 8)).save(tmp_path / "images" / split / "a" / "0.png")
    words = ["--out", str(tmp_path / "o.png"), "--data", f"imagefolder:{tmp_path / 'images'}"]
    assert pictures.main(words) == 2
    assert "`--data` must have masks of its test images" in capsys.readouterr().err
