"""Every mistake of a user's ends with status 2 and one sentence, before anything is trained.

The list is that of the design's last section, each through the real command line.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from retable import cli
from retable.files import read_record
from retable.reproduce import Table, main
from retable.reproduce.command import load_table
from retable.reproduce.plan import TableSelection, plan_runs, resolve_rows
from retable.train.runs import RunDirectory

SCRIPT = Path(__file__).parents[1] / "reproductions" / "mochi" / "table1.py"
IMAGENET100 = Path(__file__).parents[1] / "shared/src/retable/data/imagenet100.txt"


@pytest.fixture(scope="module")
def table() -> Table:
    return load_table(SCRIPT)


@pytest.fixture(autouse=True)
def _no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make ImageNet-100's folders with two training images and one test image in each."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("imagenet")
    image = folder / "image.jpg"
    Image.new("RGB", (40, 30), (200, 30, 90)).save(image)
    for name in IMAGENET100.read_text().split():
        for split, count in (("train", 2), ("val", 1)):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                shutil.copyfile(image, folder / split / name / f"{number}.jpg")
    image.unlink()
    return folder


@pytest.fixture
def images(whole: Path, tmp_path: Path) -> Path:
    """Make a copy of the folders that a test may damage."""
    return Path(shutil.copytree(whole, tmp_path / "images"))


Refused = Callable[..., str]


def check_sentence(said: str) -> str:
    assert said.count("\n") == 1, said
    assert "Traceback" not in said
    assert len(re.findall(r"\.\s+\S", said)) <= 1, f"more than a fault and its remedy: {said}"
    return said


@pytest.fixture
def refused(table: Table, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Return a function that runs the command, checks how it ends, and returns the sentence."""

    def run(*words: object) -> str:
        runs = tmp_path / "runs"
        status = main(table, ["--runs", str(runs), "--quiet", *(str(word) for word in words)])
        assert status == 2
        assert not list(runs.rglob("metrics.jsonl")), "refused after training had begun"
        said = check_sentence(capsys.readouterr().err)
        assert said.startswith("error: ")
        return said

    return run


def paper(folder: Path, *words: str) -> list[object]:
    return ["--scale", "paper", "--data", f"imagefolder:{folder}", "--rows", "moco_v2", *words]


def smoke(row: str, *settings: str) -> list[object]:
    return ["--scale", "smoke", "--rows", row, *(w for s in settings for w in ("--set", s))]


def test_a_missing_data_set(refused: Refused, tmp_path: Path) -> None:
    said = refused(*paper(tmp_path / "nowhere"))
    assert "nowhere does not exist: expected DIR/train/CLASS/IMAGE" in said


def test_a_missing_saved_data_set(refused: Refused, tmp_path: Path) -> None:
    said = refused("--scale", "paper", "--data", f"arrow:{tmp_path / 'nowhere'}")
    assert "nowhere does not exist: use one that HF datasets' save_to_disk wrote" in said


def test_an_unknown_kind_of_data_set(refused: Refused) -> None:
    said = refused("--scale", "paper", "--data", "cifar10", "--rows", "moco_v2")
    assert "The data set 'cifar10' is unknown: use" in said


def test_a_folder_without_splits(refused: Refused, images: Path) -> None:
    shutil.rmtree(images / "train")
    assert "has no folder 'train': expected DIR/train/CLASS/IMAGE" in refused(*paper(images))


def test_a_folder_without_classes(refused: Refused, images: Path) -> None:
    shutil.rmtree(images / "val")
    (images / "val").mkdir()
    assert "val has no class folders: expected" in refused(*paper(images))


def test_a_class_that_is_not_found(refused: Refused, images: Path) -> None:
    shutil.rmtree(images / "train" / "n02869837")
    shutil.rmtree(images / "val" / "n02869837")
    said = refused(*paper(images))
    assert "lacks 1 of the 100 classes of the subset imagenet100" in said
    assert "n02869837" in said


def test_a_class_without_images(refused: Refused, images: Path) -> None:
    for image in (images / "train" / "n02869837").iterdir():
        image.unlink()
    assert "n02869837 holds no images" in refused(*paper(images))


def test_an_unreadable_image(refused: Refused, images: Path) -> None:
    broken = images / "val" / "n02869837" / "0.jpg"
    broken.write_bytes(b"no image")
    said = refused(*paper(images))
    assert f"The image {broken} is unreadable" in said
    assert "replace the file, or pass --skip-unreadable" in said


@pytest.mark.slow
def test_an_unreadable_image_that_is_skipped_is_counted(
    table: Table, images: Path, tmp_path: Path
) -> None:
    (images / "train" / "n02869837" / "0.jpg").write_bytes(b"no image")
    settings = ["pretrain.encoder.name=small_resnet8", "pretrain.batch=8", "pretrain.bn_group=8",
                "linear.batch=8", "linear.epochs=1", "linear.milestones=[]"]  # fmt: skip
    words = [str(w) for w in paper(images)] + [w for s in settings for w in ("--set", s)]
    words += ["--seeds", "0", "--max-steps", "1", "--skip-unreadable", "--workers", "0", "--quiet"]
    assert main(table, ["--runs", str(tmp_path / "runs"), *words]) == 0
    (facts,) = (tmp_path / "runs").glob("moco-*/environment.json")
    data = read_record(facts)["data"]
    assert data["unreadable"] == 1
    assert data["images"] == 199


def test_a_batch_larger_than_the_data_set(refused: Refused, images: Path) -> None:
    said = refused(*paper(images, "--set", "pretrain.batch=256"))
    assert "The batch size 256 exceeds the 200 samples of the data set: choose" in said


def test_more_classes_than_the_supervised_row_knows(refused: Refused) -> None:
    said = refused(*smoke("supervised", "pretrain.method.classes=3"))
    assert "has 16 classes, the supervised row 3: name the data set of the table" in said


def change_recipe(table: Table, runs: Path, row: str, temperature: float) -> Path:
    """Leave a run directory whose recipe has another temperature than its name says."""
    selection = TableSelection(scale="smoke", rows=(row,))
    (run,) = plan_runs(resolve_rows(table, selection), [0])
    directory = RunDirectory(runs / run.name)
    method = dataclasses.replace(run.recipe.method, temperature=temperature)  # type: ignore[type-var]
    recipe = dataclasses.replace(run.recipe, method=method)
    claim = dataclasses.replace(run, recipe=recipe).claim({})
    directory.write_claim(claim)
    return directory.path


def test_a_recipe_changed_between_runs(refused: Refused, table: Table, tmp_path: Path) -> None:
    folder = change_recipe(table, tmp_path / "runs", "moco_v2", temperature=0.5)
    said = refused(*smoke("moco_v2"))
    assert f"{folder} holds a run of another recipe" in said
    assert "pretrain.method.temperature differ" in said
    assert "Use --fresh" in said


def test_a_changed_recipe_of_a_finished_run_is_noticed_too(
    refused: Refused, table: Table, tmp_path: Path
) -> None:
    folder = change_recipe(table, tmp_path / "runs", "moco_v2", temperature=0.5)
    (folder / "result.json").write_text('{"failed": "the loss is not finite"}')
    assert "holds a run of another recipe" in refused(*smoke("moco_v2"))


def test_a_damaged_claim_of_a_run(refused: Refused, table: Table, tmp_path: Path) -> None:
    (run,) = plan_runs(resolve_rows(table, TableSelection(scale="smoke", rows=("moco_v2",))), [0])
    directory = RunDirectory(tmp_path / "runs" / run.name)
    directory.write_claim(run.claim({}))
    directory.recipe.write_text('{"half": ')
    said = refused(*smoke("moco_v2"))
    assert "recipe.json is damaged: its content does not have its checksum. Use --fresh" in said


def test_more_hard_negatives_than_the_queue_has_rows(refused: Refused) -> None:
    said = refused(*smoke("mochi_1024_1024_128", "pretrain.method.n_hard=300"))
    assert "`n_hard` must be at least 1 and at most the queue's 256 rows, got 300" in said
    assert "Change n_hard or enlarge the queue" in said


def test_a_queue_smaller_than_the_batch(refused: Refused) -> None:
    said = refused(*smoke("moco_v2", "pretrain.method.queue=32"))
    assert "`queue` must be at least the batch of 64, got 32. Choose a larger queue" in said


def test_a_queue_that_is_no_multiple_of_the_batch_is_no_mistake(
    table: Table, tmp_path: Path
) -> None:
    # The design lists it among the errors; the queue wraps at any row, which is tested in
    # shared/tests/test_queues.py, so that nothing need be refused.
    words = [str(word) for word in smoke("moco_v2", "pretrain.method.queue=100")]
    assert main(table, ["--runs", str(tmp_path), "--quiet", "--max-steps", "4", *words]) == 0


def test_processes_that_do_not_divide_the_batch(refused: Refused) -> None:
    said = refused(*smoke("moco_v2"), "--processes", "3")
    assert "A batch of 64 images cannot be split over 3 processes. Choose a divisor" in said


def test_processes_that_do_not_fit_the_batch_norm_groups(refused: Refused) -> None:
    said = refused(*smoke("moco_v2", "pretrain.bn_group=48"))
    assert "`bn_group` must divide a process's 64 images or be a multiple of them, got 48." in said


def test_more_processes_than_gpus(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    said = refused(*smoke("moco_v2"), "--processes", "4")
    assert "`--processes` must be at most the 2 GPUs of this machine, got 4" in said


def test_an_unknown_row(refused: Refused) -> None:
    said = refused("--scale", "smoke", "--rows", "moco_v3")
    assert "mochi-table1 has no row moco_v3. Choose from moco_t007, moco_t02, moco_v2" in said


def test_data_at_proxy_scale(refused: Refused) -> None:
    said = refused("--data", "imagefolder:/data")
    assert "--data imagefolder:/data belongs to --scale paper" in said


def test_paper_scale_without_data(refused: Refused) -> None:
    said = refused("--scale", "paper")
    assert "--scale paper needs the paper's images: add --data DIR (DIR/train" in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([*smoke("moco_v2"), "--accumulate", "2"], "`--accumulate` must be 1 for MoCo"),
        (smoke("moco_v2", "pretrain.epochs=many"), "must be an integer, got 'many'"),
        (smoke("moco_v2", "pretrain.method.n_hard=8"), "a field of MoCoRecipe, got 'n_hard'"),
        (smoke("moco_v2", "speed=8"), "must name a field of a row, one of pretrain.FIELD"),
        (smoke("moco_v2", "pretrain.precision=half"), "float32, bf16, fp16, got 'half'"),
        (smoke("moco_v2", "pretrain.encoder.name=vgg"), "vgg"),
        (
            smoke("moco_v2", "pretrain.data=shapes?size=4"),
            "`size` of shapes must be at least 16 pixels",
        ),
        (smoke("moco_v2", "pretrain.data=shapes?colour=4"), "has no parameter 'colour'"),
        (smoke("moco_v2", "pretrain.batch=0"), "`batch` must be at least 1, got 0"),
        ([*smoke("moco_v2"), "--resume"], "holds no run of these rows and seeds"),
        ([*smoke("moco_v2"), "--seeds", "first"], "must be numbers or ranges, got 'first'"),
        ([*smoke("moco_v2"), "--processes", "0"], "must be an integer of at least 1, got 0"),
        (["--record", "--seeds", "0"], "--record needs at least 3 seeds, got 1"),
        (["--record", "--scale", "smoke"], "--record stores references of the proxy scale"),
        (["--speed"], "Unrecognized arguments: --speed (see --help)"),
        (["--scale", "huge"], "invalid choice: 'huge'"),
    ],
)
def test_wrong_usage(words: list[object], sentence: str, refused: Refused) -> None:
    assert sentence in refused(*words)


@pytest.mark.slow
def test_a_mistake_that_only_the_processes_find_is_told_once(tmp_path: Path) -> None:
    words = paper(tmp_path / "nowhere", "--processes", "2", "--runs", str(tmp_path / "runs"))
    ended = subprocess.run(
        [sys.executable, SCRIPT, *(str(word) for word in words)], capture_output=True, text=True
    )
    assert ended.returncode == 2
    assert "nowhere does not exist" in check_sentence(ended.stderr)
    assert ended.stdout == ""


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere.pth"], "nowhere.pth"),
        (["untrained:vgg"], "vgg"),
        (["MODEL", "--data", "imagefolder:nowhere"], "nowhere does not exist: expected DIR/train"),
        (["MODEL", "--data", "cifar"], "The data set 'cifar' is unknown: use"),
        (["MODEL", "--data", "imagefolder:IMAGES", "--subset", "half"], "'half' is unknown: expec"),
        (["MODEL", "--data", "imagefolder:BROKEN"], "is unreadable"),
        (["MODEL", "--data", "imagefolder:LACKING", "--subset", "imagenet100"], "lacks 1 of the"),
        (["MODEL", "--set", "lr=fast"], "`lr` must be a number, got 'fast'"),
        (["MODEL", "--protocol", "ood", "--data", "imagefolder:IMAGES"], "has no variant"),
    ],
)
def test_the_same_mistakes_when_a_checkpoint_is_judged(
    words: list[str], sentence: str, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = " ".join(words)
    if "BROKEN" in name:
        (images / "train" / "n02869837" / "0.jpg").write_bytes(b"no image")
    if "LACKING" in name:
        for split in ("train", "val"):
            shutil.rmtree(images / split / "n02869837")
    places = {"MODEL": "untrained:small_resnet8"}
    words = [places.get(word, word) for word in words]
    words = [re.sub("IMAGES|BROKEN|LACKING", str(images), word) for word in words]
    assert cli.main(["evaluate", *words, "--device", "cpu"]) == 2
    said = check_sentence(capsys.readouterr().err)
    assert said.startswith("retable: ")
    assert sentence in said
