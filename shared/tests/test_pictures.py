"""Rows of images: the picture, its command, photographs."""

import importlib.util
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from retable import views
from retable.data.photographs import photographs
from retable.errors import UserError
from retable.plots.pictures import draw_rows, picture_parser, run_picture, without_normalisation

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def test_photographs_are_those_of_scikit_image() -> None:
    pytest.importorskip("skimage")
    found = photographs(9)
    assert [tuple(photograph.shape) for photograph in found] == [
        (3, 300, 451),
        (3, 400, 600),
        (3, 512, 512),
        (3, 427, 640),
    ]
    assert {photograph.dtype for photograph in found} == {torch.uint8}
    assert len(photographs(1)) == 1


def test_photographs_without_scikit_image_end_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "skimage" else find(name)
    )
    with pytest.raises(UserError, match="Drawing photographs needs skimage"):
        photographs(1)


def test_a_view_without_its_normalisation_has_the_values_that_were_normalised() -> None:
    recipe = views.moco_v2(8)
    pictures = torch.rand(2, 3, 8, 8)
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (recipe.mean, recipe.std))
    shown = without_normalisation((pictures - mean) / std, recipe)
    torch.testing.assert_close(shown, pictures)
    assert without_normalisation(9 + pictures, recipe).max() == 1


def test_titles_stand_above_the_first_row_alone() -> None:
    pytest.importorskip("matplotlib")
    pictures = torch.rand(4, 3, 5, 7)
    rows = [list(zip("ab", pictures[:2], strict=True)), list(zip("ab", pictures[2:], strict=True))]
    figure = draw_rows(rows)
    assert [axes.get_title() for axes in figure.axes] == ["a", "b", "", ""]
    for axes, picture in zip(figure.axes, pictures, strict=True):
        drawn = torch.as_tensor(axes.images[0].get_array()).permute(2, 0, 1)
        assert torch.equal(drawn.float(), picture)


def command(words: list[str]) -> int:
    def draw(options: Namespace) -> "Figure":
        return draw_rows([[("", torch.zeros(3, options.size, options.size))] * options.images])

    parser = picture_parser("pictures", "Draw.", data="shapes", images=2, size=8, photographs=True)
    return run_picture(parser, draw, words)


def test_a_command_writes_a_picture_and_prints_its_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "picture.png"
    assert command(["--out", str(out)]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.strip() == str(out)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--out", "picture.bmp"], "error: The name of a picture must end with .png, .svg or .pdf"),
        ([], "--out"),
        (["--out", "a.png", "--images", "0"], "must be an integer of at least 1, got 0"),
        (["--out", "a.png", "--photographs", "--data", "arrow:a"], "not allowed with"),
        (["--out", "nowhere/a.png/b.png"], "--out"),
    ],
)
def test_a_wrong_command_line_ends_with_a_sentence(
    words: list[str],
    sentence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nowhere").write_text("a file")
    assert command(words) == 2
    assert sentence in capsys.readouterr().err


def test_a_command_without_matplotlib_names_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name)
    )
    assert command(["--out", str(tmp_path / "a.png")]) == 2
    assert "matplotlib" in capsys.readouterr().err
