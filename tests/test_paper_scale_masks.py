"""ReLICv2's recipe as it stands, on a folder with masks in ImageNet's layout: two steps."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from relicv2.masks import __main__ as masks
from reproductions.relicv2.table1 import TABLE
from retable.files import read_record
from retable.reproduce import main
from retable.train.metrics import MetricsLog

CLASSES = ("n01820546", "n02123045", "n02504458", "n03196217")
SMALL = [
    word
    for setting in (
        "pretrain.encoder.name=small_resnet8",
        "pretrain.batch=8",
        "pretrain.bn_group=8",
        "linear.batch=8",
    )
    for word in ("--set", setting)
]
"""For 16 training images; `test_paper_scale` steps the papers' encoders."""


def write_images(folder: Path, target: Path) -> None:
    """Write images of an ellipse, and their masks, in ImageNet's layout."""
    draw = random.Random(0)
    for split, count in (("train", 4), ("val", 1)):
        for name in CLASSES:
            for number in range(count):
                size = (draw.randint(120, 200), draw.randint(120, 200))
                box = (20, 20, size[0] - 40, size[1] - 30)
                image = Image.new("RGB", size, tuple(draw.choices(range(256), k=3)))
                ImageDraw.Draw(image).ellipse(box, fill=tuple(draw.choices(range(256), k=3)))
                mask = Image.new("L", size)
                ImageDraw.Draw(mask).ellipse(box, fill=255)
                for root, picture, end in ((folder, image, "JPEG"), (target, mask, "png")):
                    path = root / split / name / f"{name}_{number}.{end}"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    picture.save(path)


@pytest.fixture
def data(tmp_path: Path) -> str:
    write_images(tmp_path / "imagenet", tmp_path / "masks")
    return f"imagefolder:{tmp_path / 'imagenet'}?mask={tmp_path / 'masks'}"


@pytest.mark.slow
def test_two_steps_of_four_large_and_two_small_views_with_masks(
    data: str, reproduce: Any, tmp_path: Path
) -> None:
    options = ["--scale", "paper", "--data", data, "--max-steps", "2", "--seeds", "0"]
    options += ["--rows", "imagenet_p1", "--workers", "2", *SMALL]
    reproduce.run("table18", tmp_path / "runs", *options, package="relicv2")
    (directory,) = (tmp_path / "runs").glob("relicv2-*")
    recipe = read_record(directory / "recipe.json")["recipe"]["pretrain"]
    assert [view["size"] for view in recipe["views"]] == [224] * 4 + [96] * 2
    assert [view["mask"] for view in recipe["views"]] == ["mask"] * 4 + [""] * 2
    assert [view["mask_probability"] for view in recipe["views"]] == [1.0] * 4 + [0.0] * 2
    assert recipe["optimizer"]["name"] == "lars"
    assert (recipe["epochs"], recipe["method"]["negatives"]) == (300, 10)
    lines = [line for line in MetricsLog.of(directory).read() if line["kind"] == "steps"]
    assert [line["step"] for line in lines][-1] == 2
    assert all(math.isfinite(line["loss"]) for line in lines)
    (probe,) = directory.glob("evaluations/linear-*")
    assert math.isfinite(read_record(probe / "result.json")["metrics"]["train_loss"])


def run(data: str, tmp_path: Path) -> int:
    options = ["--scale", "paper", "--data", data, "--runs", str(tmp_path / "runs"), *SMALL]
    return main(TABLE, [*options, "--max-steps", "1", "--seeds", "0", "--quiet"])


def test_masks_that_are_missing_are_named_before_anything_is_trained(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = data.partition("?")[0]
    assert run(images, tmp_path) == 2
    assert "must be layers of the data set" in " ".join(capsys.readouterr().err.split())
    gone = next((tmp_path / "masks" / "train" / CLASSES[1]).iterdir())
    gone.unlink()
    assert run(data, tmp_path) == 2
    assert gone.stem in " ".join(capsys.readouterr().err.split())
    assert not list((tmp_path / "runs").glob("relicv2-*/metrics.jsonl"))


def test_the_command_makes_the_missing_masks(data: str, tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    for mask in (tmp_path / "masks" / "val").rglob("*.png"):
        mask.unlink()
    made = [str(tmp_path / "imagenet" / "val"), str(tmp_path / "made"), "--plain", "--quiet"]
    assert masks.main([*made, "--side", "64", "--workers", "1"]) == 0
    paths = sorted((tmp_path / "made").rglob("*.png"))
    assert len(paths) == len(CLASSES)
    for path in paths:
        name = path.relative_to(tmp_path / "made").with_suffix(".JPEG")
        with Image.open(path) as found, Image.open(tmp_path / "imagenet" / "val" / name) as image:
            assert (found.size, found.mode) == (image.size, "L")
            assert set(found.tobytes()) <= {0, 255}
