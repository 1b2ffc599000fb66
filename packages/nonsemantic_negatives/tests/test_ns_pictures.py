from pathlib import Path

import pytest
import torch

from nonsemantic_negatives import pictures
from nonsemantic_negatives.textures import cut_exemplars
from retable.data.photographs import photographs
from retable.random import derive_key

pytest.importorskip("matplotlib")

DATA = "shapes?test_count=4&size=48"


def test_a_row_shows_the_image_its_view_three_negatives_and_a_texture() -> None:
    figure = pictures.draw(pictures.images_of(DATA, 2), size=48, exemplar=16)
    assert len(figure.axes) == 12
    titles = [axes.get_title() for axes in figure.axes[:6]]
    assert titles == ["image", "query's view", "3 px", "9 px", "15 px", "texture"]
    for row in (0, 1):
        image, view, *negatives, texture = (
            torch.as_tensor(axes.images[0].get_array())
            for axes in figure.axes[6 * row : 6 * row + 6]
        )
        pixels = {tuple(pixel) for pixel in view.flatten(0, 1).tolist()}
        for negative in negatives:
            assert {tuple(pixel) for pixel in negative.flatten(0, 1).tolist()} <= pixels
        colours = {tuple(pixel) for pixel in image.flatten(0, 1).tolist()}
        assert {tuple(pixel) for pixel in texture.flatten(0, 1).tolist()} <= colours


def test_the_command_writes_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "negatives.png"
    words = ["--data", DATA, "--images", "1", "--size", "48", "--exemplar", "16"]
    assert pictures.main(["--out", str(out), *words]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.strip() == str(out)


def test_textures_of_photographs_have_pixels_of_two_patches_and_no_object(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("skimage")
    (cat,) = photographs(1)
    figure = pictures.draw([cat], size=96, exemplar=96)
    texture = torch.as_tensor(figure.axes[5].images[0].get_array()).flatten(0, 1)
    exemplars = cut_exemplars(cat, derive_key(0, 0), side=96)
    known = {tuple(pixel) for pixel in exemplars.permute(0, 2, 3, 1).flatten(0, 2).tolist()}
    assert {tuple(pixel) for pixel in texture.tolist()} <= known
    out = tmp_path / "photographs.png"
    words = ["--photographs", "--images", "1", "--size", "48", "--exemplar", "48"]
    assert pictures.main(["--out", str(out), *words]) == 0
    assert out.exists()
    assert pictures.main(["--out", str(out), "--photographs", "--data", DATA]) == 2
    assert "not allowed with" in capsys.readouterr().err


def test_wrong_usage_ends_with_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pictures.main(["--out", str(tmp_path / "negatives.bmp"), "--data", DATA]) == 2
    assert "must end with .png, .svg or .pdf" in capsys.readouterr().err
    assert pictures.main(["--data", DATA]) == 2
