"""Transfer as papers do it, on folders in the official layouts: one step of each training."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from retable.files import read_record

SHRUNK = [
    word
    for setting in (
        "pretrain.encoder.name=small_resnet8",
        "pretrain.batch=8",
        "pretrain.bn_group=4",
        "pretrain.method.queue=16",
        "pretrain.method.transform.draw_group=4",
        "aircraft.batch=4",
        "aircraft.bn_group=4",
    )
    for word in ("--set", setting)
]
"""For 16 training images; `test_paper_scale` steps the papers' encoders."""


def write_image(path: Path, draw: random.Random) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    corners = Image.frombytes("RGB", (2, 2), draw.randbytes(12))
    size = (draw.randint(120, 300), draw.randint(120, 300))
    corners.resize(size, Image.Resampling.BILINEAR).save(path)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Write a folder in ImageNet's layout and one of FGVC-Aircraft with two variants."""
    draw = random.Random(0)
    for split, count in (("train", 4), ("val", 1)):
        for name in ("n01440764", "n01443537", "n02114548", "n13054560"):
            for number in range(count):
                write_image(tmp_path / "imagenet" / split / name / f"{number}.jpg", draw)
    data = tmp_path / "aircraft/fgvc-aircraft-2013b/data"
    lists = {"train": (1, 2), "val": (3, 4), "trainval": (1, 2, 3, 4), "test": (5, 6, 7)}
    for split, numbers in lists.items():
        for number in numbers:
            write_image(data / f"images/{number}.jpg", draw)
        lines = [f"{number} {('707-320', 'A300B4')[number % 2]}" for number in numbers]
        (data / f"images_variant_{split}.txt").write_text("\n".join(lines) + "\n")
    (data / "variants.txt").write_text("707-320\nA300B4\n")
    return tmp_path / "imagenet", tmp_path / "aircraft"


@pytest.mark.slow
def test_a_step_of_fine_tuning_on_fine_grained_images(
    folders: tuple[Path, Path], reproduce: Any, tmp_path: Path
) -> None:
    imagenet, aircraft = folders
    options = ["--scale", "paper", "--data", str(imagenet), "--rows", "moco_v1_ft", "--seeds", "0"]
    options += ["--aircraft", f"aircraft:{aircraft}?complete=false", "--workers", "1"]
    options += ["--max-steps", "1", *SHRUNK]
    ended = reproduce.run("fine_grained", tmp_path / "runs", *options, package="feature_transform")
    (result,) = (tmp_path / "runs").glob("mocoft-*/evaluations/aircraft-*/result.json")
    found = read_record(result)
    assert found["metrics"]["images"] == 4
    assert 0 <= found["metrics"]["mean_per_class"] <= 100
    recipe = found["recipe"]
    assert (recipe["lr"], recipe["epochs"], recipe["schedule"]) == (5e-3, 100, "cosine")
    assert recipe["train_view"]["size"] == 224
    said = " ".join(ended.stdout.split())
    assert "needs --cub200 DIR (CUB-200-2011 in a folder with CUB_200_2011" in said
    assert "stopped after 1 steps by --max-steps" in said
