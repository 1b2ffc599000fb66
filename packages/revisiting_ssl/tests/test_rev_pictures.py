"""Pictures show what the encoder is given, by the code that trains."""

import re
from pathlib import Path

import pytest
import torch

from retable.errors import UserError
from revisiting_ssl import Jigsaw, RelativePatchLocation, pictures, rotations
from revisiting_ssl.recording import TASKS, recipes, record_step

DATA = "shapes?count=8&test_count=8&size=36&classes=4"
README = Path(__file__).parents[1] / "README.md"


@pytest.mark.parametrize(
    ("task", "shape"),
    [
        ("rotation", (3, 4, 3, 36, 36)),
        ("exemplar", (3, 8, 3, 36, 36)),
        ("jigsaw", (3, 9, 3, 9, 9)),
        ("relative_patch_location", (3, 9, 3, 9, 9)),
    ],
)
def test_what_is_drawn_is_what_the_encoder_was_given(task: str, shape: tuple[int, ...]) -> None:
    step = record_step(task, DATA, images=3, size=36)
    assert step.inputs.shape == shape
    assert len(step.originals) == 3
    assert all(image.dtype == torch.uint8 for image in step.originals)
    if task == "rotation":
        expected = rotations(step.batch.views[0])
    elif task == "exemplar":
        expected = torch.stack(step.batch.views, dim=1).flatten(0, 1)
    else:
        assert isinstance(step.method, Jigsaw | RelativePatchLocation)
        expected = step.method.cut(step.batch).flatten(0, 1)
    assert torch.equal(step.inputs.flatten(0, 1), expected[: 3 * shape[1]])


def test_at_full_size_the_patches_are_the_papers() -> None:
    step = record_step("jigsaw", "shapes?count=2&size=300", images=1, size=255)
    assert step.inputs.shape == (1, 9, 3, 64, 64)
    assert recipes("jigsaw", 255)[1][0].resize == 292


@pytest.mark.parametrize("task", TASKS)
def test_a_picture_has_a_line_for_each_image(task: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "picture.png"
    arguments = ["--task", task, "--data", DATA, "--size", "36", "--images", "2", "--out", str(out)]
    assert pictures.main(arguments) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    columns = {"rotation": 5, "exemplar": 9, "jigsaw": 6, "relative_patch_location": 10}
    figure = pictures.draw(task, DATA, images=2, size=36)
    assert len(figure.axes) == 2 * columns[task]
    assert all(len(axes.images) == 1 for axes in figure.axes)


def test_patches_carry_their_numbers_in_the_order_in_which_they_are_joined() -> None:
    pytest.importorskip("matplotlib")
    figure = pictures.draw("jigsaw", DATA, images=1, size=36)
    step = record_step("jigsaw", DATA, images=1, size=36)
    assert isinstance(step.method, Jigsaw)
    for axes in figure.axes[2:]:
        (label,) = re.findall(r"class (\d+)", axes.get_xlabel())
        numbers = [int(text.get_text()) for text in axes.texts if text.get_text().isdigit()]
        assert numbers == step.method.permutations[int(label)].tolist()


def test_neighbours_stand_above_the_centre_under_their_class() -> None:
    pytest.importorskip("matplotlib")
    figure = pictures.draw("relative_patch_location", DATA, images=1, size=36)
    numbers = [[text.get_text() for text in axes.texts] for axes in figure.axes[2:]]
    assert numbers == [[str(i), "4"] for i in (0, 1, 2, 3, 5, 6, 7, 8)]
    titles = [axes.get_title() for axes in figure.axes[2:]]
    assert titles[0] == "↖\nclass 0"
    assert titles[7] == "↘\nclass 7"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"--out": "picture.jpeg"}, "must end with .png, .svg or .pdf, got picture.jpeg"),
        ({"--data": "shapez"}, "'shapez' is unknown"),
        ({"--images": "0"}, "must be an integer of at least 1, got 0"),
        ({"--images": "9"}, "exceeds the 8 samples"),
        ({"--size": "2"}, "`cell` must be at least 1, got 0"),
    ],
)
def test_a_wrong_command_line_ends_with_a_sentence(
    change: dict[str, str], sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    given = {"--task": "jigsaw", "--data": DATA, "--out": str(tmp_path / "a.png"), "--size": "36"}
    arguments = [word for pair in {**given, **change}.items() for word in pair]
    assert pictures.main(arguments) == 2
    assert sentence in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(UserError, match=r"must be one of rotation, .*got 'colours'"):
        pictures.draw("colours", DATA)


def test_the_readme_shows_all_four() -> None:
    text = README.read_text(encoding="utf-8")
    for task in TASKS:
        assert f"({task}.png)" in text
        assert (README.parent / f"{task}.png").stat().st_size < 150_000
