"""The recipes of non-semantic negatives as they stand, on folders in the published layouts."""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from nonsemantic_negatives.textures import __main__ as textures
from reproductions.nonsemantic_negatives.table8 import TABLE
from retable.data.imagenet_variants.corruptions import KINDS, SEVERITIES
from retable.data.subsets import imagenet100_ids
from retable.files import read_record
from retable.reproduce import main
from retable.train.metrics import MetricsLog

CLASSES = ("n01820546", "n02123045", "n02504458", "n03196217", "n07753275")
"""Lorikeet (in ImageNet-R), tabby (R, a cat), elephant, digital clock (a clock), pineapple (R)."""
RENDERED = (CLASSES[0], CLASSES[1], CLASSES[4])


CONFLICTS = (("cat", "clock"), ("clock", "elephant"), ("elephant", "bird"), ("bird", "cat"))
"""Shapes and textures of the four of the 16 categories that have a class above."""

SHRUNK = [
    word
    for setting in (
        "pretrain.encoder.name=small_resnet8",
        "pretrain.batch=16",
        "pretrain.bn_group=4",
        "ood.probe.batch=16",
    )
    for word in ("--set", setting)
]
"""For 20 training images, and 400 of 224 px that are classified."""


def write_image(path: Path, draw: random.Random, size: tuple[int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    corners = Image.frombytes("RGB", (2, 2), draw.randbytes(12))
    corners.resize(size, Image.Resampling.BILINEAR).save(path)


def write_classes(
    root: Path, classes: tuple[str, ...], count: int, size: tuple[int, int] | None = None
) -> Path:
    """Write JPEGs in a folder for each class; without ``size`` each has its own."""
    draw = random.Random(root.name)
    for name in classes:
        for number in range(count):
            own = size or (draw.randint(90, 300), draw.randint(90, 300))
            write_image(root / name / f"{name}_{number}.JPEG", draw, own)
    return root


def imagenet_c(root: Path) -> Path:
    one = write_classes(root.parent / f"{root.name}-part", CLASSES, 1, (224, 224))
    for kind in KINDS:
        for severity in SEVERITIES:
            shutil.copytree(one, root / kind / str(severity))
    return root


def cue_conflict(root: Path) -> Path:
    draw = random.Random(root.name)
    for shape, texture in CONFLICTS:
        write_image(root / shape / f"{shape}1-{texture}2.png", draw, (224, 224))
    return root


MADE: dict[str, Callable[[Path], Path]] = {
    "c": imagenet_c,
    "sketch": lambda root: write_classes(root, CLASSES, 2),
    "stylized": lambda root: write_classes(root, CLASSES, 2, (224, 224)),
    "r": lambda root: write_classes(root, RENDERED, 2),
    "texture": lambda root: write_classes(root, CLASSES, 2, (224, 224)),
    "cue_conflict": cue_conflict,
}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Write four training images and two for testing of five classes."""
    for split, count in (("train", 4), ("val", 2)):
        write_classes(tmp_path / "imagenet" / split, CLASSES, count)
    return tmp_path / "imagenet"


@pytest.mark.slow
def test_a_step_with_patches_and_all_shifted_sets(
    reproduce: Any, images: Path, tmp_path: Path
) -> None:
    options = ["--scale", "paper", "--data", str(images), "--max-steps", "1", "--seeds", "0"]
    options += ["--rows", "patch_a2_k16384", "--workers", "2"]
    options += SHRUNK
    for name, make in MADE.items():
        options += ["--ood", f"{name}={make(tmp_path / name)}"]
    reproduce.run("table8", tmp_path / "runs", *options, package="nonsemantic_negatives")

    (directory,) = (tmp_path / "runs").glob("mocons-*")
    method = read_record(directory / "recipe.json")["recipe"]["pretrain"]["method"]
    assert (method["queue"], method["alpha"], method["placement"]) == (16384, 2.0, "inside")
    assert (method["negatives"]["low"], method["negatives"]["high"]) == (16, 72)
    (line,) = (line for line in MetricsLog.of(directory).read() if line["kind"] == "steps")
    assert math.isfinite(line["loss"])
    assert line["nonsemantic_share"] > 0
    (evaluation,) = directory.glob("evaluations/ood-*")
    metrics = read_record(evaluation / "result.json")["metrics"]
    wanted = ["clean", "c", "c_mce", "c_fog:3", "sketch", "stylized", "r", "r_masked", "texture"]
    assert all(math.isfinite(metrics[name]) for name in wanted)
    assert metrics["cue_conflict_shape"] + metrics["cue_conflict_texture"] <= 100


@pytest.mark.slow
def test_a_step_with_the_texture_twins_of_a_folder(reproduce: Any, tmp_path: Path) -> None:
    folder, twins = tmp_path / "imagenet", tmp_path / "twins"
    for split in ("train", "val"):
        write_classes(folder / split, tuple(imagenet100_ids()), 1)
    making = [str(folder), str(twins), "--quiet", "--workers", "2"]
    assert textures.main([*making, "--size", "48", "--exemplar", "32", "--block", "12"]) == 0
    data = f"imagefolder:{folder}?companion={twins}"
    options = ["--scale", "paper", "--data", data, "--max-steps", "1", "--seeds", "0"]
    options += ["--rows", "texture_a2_k16384", "--workers", "2"]
    options += ["--set", "pretrain.batch=16", "--set", "pretrain.bn_group=4"]  # minutes otherwise
    reproduce.run("table1", tmp_path / "runs", *options, package="nonsemantic_negatives")

    (directory,) = (tmp_path / "runs").glob("mocons-*")
    recipe = read_record(directory / "recipe.json")["recipe"]["pretrain"]
    assert recipe["encoder"]["name"] == "resnet50"
    assert [view["size"] for view in recipe["views"]] == [224, 224]
    assert [view["layers"] for view in recipe["views"]] == [["companion"], []]
    (line,) = (line for line in MetricsLog.of(directory).read() if line["kind"] == "steps")
    assert line["nonsemantic_share"] > 0


def missing_kind(root: Path) -> Path:
    shutil.rmtree(imagenet_c(root) / "frost")
    return root


def uneven_kind(root: Path) -> Path:
    next((imagenet_c(root) / "snow" / "2" / CLASSES[3]).iterdir()).unlink()
    return root


def numbered(root: Path) -> Path:
    return write_classes(root, ("0", "1", "2"), 1)


def incomplete(root: Path) -> Path:
    return write_classes(root, CLASSES[:4], 1)


def misnamed(root: Path) -> Path:
    draw = random.Random(0)
    write_image(cue_conflict(root) / "cat" / "photo.png", draw, (224, 224))
    return root


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("c", missing_kind, "frost/1 is missing"),
        ("c", uneven_kind, "must have 1 images in every kind"),
        ("r", numbered, f"{CLASSES[0]} and 2 more are missing"),
        ("stylized", incomplete, f"{CLASSES[4]} is missing"),
        ("cue_conflict", misnamed, "such as cat1-clock2.png"),
        ("v2", incomplete, "a set of nonsemantic_negatives-table8, c, sketch"),
    ],
)
def test_mistakes_in_shifted_sets_are_named_before_anything_is_trained(
    name: str,
    make: Callable[[Path], Path],
    said: str,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--scale", "paper", "--data", str(images), "--runs", str(tmp_path / "runs")]
    options += ["--rows", "patch_a2_k16384", "--ood", f"{name}={make(tmp_path / 'set')}"]
    assert main(TABLE, [*options, *SHRUNK, "--max-steps", "1", "--quiet"]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not list((tmp_path / "runs").glob("mocons-*/metrics.jsonl"))
