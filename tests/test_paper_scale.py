"""The papers' recipes as they stand, on a folder in ImageNet's layout: one step of each part.

ResNet-50 at 224 px, batch 128, the queue of 16384: minutes of two cores and 12 GiB of memory.
"""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest

from reproductions.check_tables import find_scripts
from retable.data.subsets import imagenet100_ids
from retable.files import read_record
from retable.reproduce.command import load_table, main
from retable.train.metrics import MetricsLog

SCRIPTS = find_scripts()
FULL_SIZE = ('"name": "resnet50"', '"name": "resnet18"', '"root_kernel": 7', '"VggRecipe"')
"""Encoders of the papers, as a dry run writes them."""
OTHERS = ("n01440764", "n01443537", "n02114548", "n13054560")  # not in the subset


def write_jpeg(path: Path, draw: random.Random) -> None:
    """Make an image of its own size and colours."""
    from PIL import Image

    corners = Image.frombytes("RGB", (2, 2), draw.randbytes(12))
    size = (draw.randint(90, 400), draw.randint(90, 400))
    corners.resize(size, Image.Resampling.BILINEAR).save(path, "JPEG")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write three training images and one for testing of each class."""
    folder = tmp_path_factory.mktemp("imagenet")
    draw = random.Random(0)
    for split, count in (("train", 3), ("val", 1)):
        for name in (*imagenet100_ids(), *OTHERS):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                write_jpeg(folder / split / name / f"{name}_{number}.JPEG", draw)
    return folder


@pytest.mark.slow
def test_a_step_of_the_paper_s_recipe(reproduce: Any, images: Path, tmp_path: Path) -> None:
    options = ("--scale", "paper", "--data", f"imagefolder:{images}", "--max-steps", "1")
    ended = reproduce.run(
        "table1", tmp_path, *options, "--rows", "moco_v2", "--seeds", "0", "--workers", "2"
    )

    (directory,) = tmp_path.glob("moco-*")
    recipe = read_record(directory / "recipe.json")["recipe"]["pretrain"]
    assert [view["size"] for view in recipe["views"]] == [224, 224]
    assert recipe["encoder"]["name"] == "resnet50"
    assert recipe["method"]["queue"] == 16384
    assert (recipe["batch"], recipe["bn_group"], recipe["epochs"]) == (128, 32, 200)
    assert recipe["subset"] == "imagenet100"

    facts = read_record(directory / "environment.json")["data"]
    assert (facts["images"], facts["classes"]) == (300, 100)
    lines = MetricsLog.of(directory).read()
    assert {line["step"] for line in lines} == {1}
    assert math.isfinite(lines[0]["loss"])
    assert lines[0]["chance_loss"] == pytest.approx(math.log(1 + 16384))

    (probe,) = directory.glob("evaluations/linear-*")
    protocol = read_record(probe / "result.json")["recipe"]
    assert (protocol["lr"], protocol["epochs"], protocol["batch"]) == (10.0, 60, 128)
    assert (protocol["train_view"]["size"], protocol["test_view"]["size"]) == (224, 224)
    figures = read_record(probe / "result.json")["metrics"]
    assert math.isfinite(figures["train_loss"])

    said = " ".join(ended.stdout.split())
    assert "stopped after 1 steps by --max-steps" in said
    assert "0 match, 0 miss, 0 inconclusive" in said
    assert "0 supported, 0 contradicted" in said


@pytest.mark.slow
def test_a_saved_data_set_takes_the_place_of_a_folder(
    reproduce: Any, images: Path, tmp_path: Path
) -> None:
    from datasets.arrow_dataset import Dataset
    from datasets.dataset_dict import DatasetDict
    from datasets.features import ClassLabel, Features, Image

    names = sorted((*imagenet100_ids(), *OTHERS))
    columns: Any = {"image": Image(), "label": ClassLabel(names=names)}
    features = Features(columns)  # type: ignore[no-untyped-call]
    splits = {}
    for split, folder in (("train", "train"), ("validation", "val")):
        files = [images / folder / name / f"{name}_0.JPEG" for name in names]
        cells = [{"bytes": file.read_bytes(), "path": None} for file in files]
        rows = {"image": cells, "label": list(range(len(names)))}
        splits[split] = Dataset.from_dict(rows, features=features)
    DatasetDict(splits).save_to_disk(tmp_path / "saved")

    # Where the images come from is what differs from the test above: the rest is shrunk.
    shrunk = ["pretrain.encoder.name=small_resnet8", "pretrain.method.queue=64"]
    shrunk += ["pretrain.batch=16", "pretrain.bn_group=4", "linear.batch=16"]
    options = ["--scale", "paper", "--data", f"arrow:{tmp_path / 'saved'}", "--max-steps", "1"]
    options += ["--rows", "moco_v2", "--seeds", "0", "--workers", "1"]
    options += [word for setting in shrunk for word in ("--set", setting)]
    reproduce.run("table1", tmp_path / "runs", *options)
    (facts,) = (tmp_path / "runs").glob("moco-*/environment.json")
    data = read_record(facts)["data"]
    assert (data["images"], data["classes"]) == (100, 100)
    assert list((tmp_path / "runs").glob("moco-*/evaluations/linear-*/result.json"))


@pytest.mark.slow
def test_a_step_of_transformed_moco_as_the_paper_trains_it_but_for_the_batch(
    reproduce: Any, images: Path, tmp_path: Path
) -> None:
    options = ["--scale", "paper", "--data", f"imagefolder:{images}", "--max-steps", "1"]
    options += ["--rows", "start_0", "--seeds", "0", "--workers", "2"]
    # Instead of 256 images in groups of 64, so that the run ends within its first epoch.
    options += ["--set", "pretrain.batch=64", "--set", "pretrain.bn_group=16"]
    reproduce.run("figure3", tmp_path, *options, package="feature_transform")

    (directory,) = tmp_path.glob("mocoft-*")
    recipe = read_record(directory / "recipe.json")["recipe"]["pretrain"]
    assert [view["size"] for view in recipe["views"]] == [224, 224]
    assert recipe["encoder"]["name"] == "resnet18"
    assert (recipe["method"]["queue"], recipe["method"]["momentum"]) == (65536, 0.99)
    assert (recipe["batch"], recipe["bn_group"], recipe["epochs"]) == (64, 16, 100)
    lines = MetricsLog.of(directory).read()
    (trace,) = (line for line in lines if line["kind"] == "trace")
    (raw,), (transformed,) = trace["negative_mean"], trace["transformed_negative_mean"]
    assert math.isfinite(raw)
    assert math.isfinite(transformed)
    assert trace["transformed_positive_mean"][0] < trace["positive_mean"][0]


@pytest.mark.slow
def test_a_step_of_simsiam_as_its_paper_trains_it_but_for_the_batch(
    reproduce: Any, images: Path, tmp_path: Path
) -> None:
    options = ["--scale", "paper", "--data", f"imagefolder:{images}", "--max-steps", "1"]
    options += ["--rows", "pos_ex", "--seeds", "0", "--workers", "2"]
    # 512 images of 224 px through ResNet-50 take 60 GiB; BYOL's 4096 is shrunk with them.
    options += ["--set", "pretrain.batch=8", "--set", "pretrain.bn_group=8"]
    options += ["--set", "linear.batch=8"]
    reproduce.run("table4", tmp_path, *options, package="feature_transform")

    (directory,) = tmp_path.glob("simsiamft-*")
    recipe = read_record(directory / "recipe.json")["recipe"]["pretrain"]
    encoder = recipe["encoder"]
    assert (encoder["name"], encoder["zero_init_residual"]) == ("resnet50", True)
    assert recipe["optimizer"]["constant_rate"] == ["predictor"]
    assert (recipe["method"]["dim"], recipe["method"]["predictor_hidden_dim"]) == (2048, 512)
    (line,) = (line for line in MetricsLog.of(directory).read() if line["kind"] == "steps")
    assert math.isfinite(line["loss"])
    (probe,) = directory.glob("evaluations/linear-*")
    assert math.isfinite(read_record(probe / "result.json")["metrics"]["train_loss"])


@pytest.fixture
def few_images(tmp_path: Path) -> Path:
    """Write five training images and two for testing of each of four classes."""
    draw = random.Random(1)
    for split, count in (("train", 5), ("val", 2)):
        for name in OTHERS:
            (tmp_path / "few" / split / name).mkdir(parents=True)
            for number in range(count):
                write_jpeg(tmp_path / "few" / split / name / f"{number}.JPEG", draw)
    return tmp_path / "few"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "side", "rows", "head"),
    [("rotation", 224, 4, None), ("jigsaw", 255, 16, 4096)],
)
def test_a_step_of_a_pretext_task_as_the_paper_trains_it_but_for_the_batch(
    task: str, side: int, rows: int, head: int | None, reproduce: Any, few_images: Path
) -> None:
    runs = few_images.parent / "runs"
    options = ["--scale", "paper", "--data", str(few_images), "--max-steps", "1", "--seeds", "0"]
    options += ["--rows", f"resnet50_v1/{task}_4x", "--workers", "1"]
    # 1024 images are 4096 of 224 px, or 9216 patches of 64, for 128 and 32 devices.
    options += ["--set", "pretrain.batch=8", "--set", "pretrain.bn_group=4"]
    reproduce.run("table2", runs, *options, package="revisiting_ssl")

    (directory,) = runs.glob(f"{task}-*")
    recipe = read_record(directory / "recipe.json")["recipe"]["pretrain"]
    encoder, (view,) = recipe["encoder"], recipe["views"]
    assert (encoder["version"], encoder["widening"], encoder["units"]) == ("v1", 4, [3, 4, 6, 3])
    assert encoder["strides"] == ([1, 2, 2, 2] if task == "rotation" else [1, 2, 2, 1])
    assert (view["size"], recipe["epochs"], recipe["validation_images"]) == (side, 35, 50046)
    assert recipe["method"].get("hidden_dim") == head
    (line,) = (line for line in MetricsLog.of(directory).read() if line["kind"] == "steps")
    assert math.isfinite(line["loss"])
    assert line["accuracy"] * 8 * rows == pytest.approx(round(line["accuracy"] * 8 * rows))
    facts = read_record(directory / "environment.json")["data"]
    assert facts["images"] == 20 - 2  # of a set so small a tenth is held out
    for name in ("imagenet", "imagenet_10"):
        (probe,) = directory.glob(f"evaluations/{name}-*")
        protocol = read_record(probe / "result.json")["recipe"]
        assert (protocol["penalty"], protocol["strength"]) == ("rule", 100.0)
        assert math.isfinite(read_record(probe / "result.json")["metrics"]["objective"])


@pytest.mark.parametrize(
    "script", SCRIPTS, ids=lambda script: f"{script.parent.name}-{script.stem}"
)
def test_a_dry_run_prices_every_training(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = load_table(script)
    assert main(table, ["--dry-run", "--full", "--scale", "paper"]) == 0
    said = capsys.readouterr().out
    heads = [line.partition("  seed ")[0].split(", ") for line in said.splitlines()]
    for row in table.rows:
        for name, stated in table.trainings(row).items():
            assert sum(name in names for names in heads) == len(table.seeds["paper"]), name
            queue = getattr(stated.pretrain.method, "queue", None)
            assert queue is None or f'"queue": {queue}' in said or f"queue={queue}" in said
    blocks = said.split("\n\n")[1:-1]
    assert blocks
    for block in blocks:
        if "\n  as " not in block:
            assert '"size": 224' in block or '"size": 255' in block
            assert any(word in block for word in FULL_SIZE)
        images, operations = block.split(": ", 1)[1].split("\n")[0].split(" images, ")
        assert int(images.replace(",", "")) > 0
        sizes = ("0.0 GFLOP",) if block.startswith("untrained ") else ("EFLOP", "PFLOP")
        assert any(size in operations for size in sizes)
