"""Runs show their own numbers or none: damaged, foreign and outdated files of runs."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image

from retable import code
from retable.evaluate import data as evaluation_data
from retable.evaluate.knn import Knn
from retable.evaluate.linear import LinearProbe
from retable.files import read_record
from retable.reproduce import Table, TableRow, main
from retable.reproduce import run as run_module
from retable.reproduce.command import load_table
from retable.reproduce.execute import execute
from retable.reproduce.plan import TableSelection, plan_runs, resolve_rows
from retable.train.metrics import MetricsLog
from retable.train.options import RunOptions
from retable.train.recipe import PretrainRecipe
from retable.train.recorder import Recorder
from retable.train.traces import read_traces

PROBE = LinearProbe(epochs=2, lr=1.0, batch=16)

Trained = Callable[..., None]
Changed = Callable[..., PretrainRecipe]


def reproduce(table: Table, folder: Path, *words: str) -> int:
    return main(table, ["--runs", str(folder), "--quiet", "--jobs", "1", *words])


def numbers(folder: Path, variant: str = "") -> dict[str, Any]:
    """Return what the table shows: row -> seed -> metric -> value."""
    path = folder / "tables" / f"paper-unit-proxy{variant}" / "metrics.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.fixture
def probed(table: Table) -> Table:
    """Make a table whose rows have a probe with states and a curve."""
    rows = {
        name: dataclasses.replace(row, evaluations=(Knn(k=5), PROBE))
        for name, row in table.rows.items()
        if isinstance(row, TableRow)
    }
    return dataclasses.replace(table, rows=rows)


def flip(path: Path, _: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path, _: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path, _: Path) -> None:
    path.write_bytes(b"")


def remove(path: Path, _: Path) -> None:
    path.unlink()


def exchange(path: Path, other: Path) -> None:
    shutil.copy(other, path)


FILES = {
    "result": "result.json",
    "facts": "environment.json",
    "encoder": "encoder.safetensors",
    "log": "metrics.jsonl",
    "state": "checkpoints/step-000000008.pt",
    "probe": "evaluations/linear-*/result.json",
    "knn": "evaluations/knn-*/result.json",
}


@pytest.mark.parametrize("damage", [flip, truncate, empty, remove, exchange])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_foreign_or_missing_file_never_changes_a_number(
    name: str,
    damage: Callable[[Path, Path], None],
    probed: Table,
    trained: Trained,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "runs"
    trained(probed, folder, ["contrastive"], (0, 1))
    assert reproduce(probed, folder, "--rows", "contrastive", "--seeds", "0", "1") == 0
    before = numbers(folder)
    one, other = sorted(folder.glob("moco-*"))
    (path,), (twin,) = one.glob(FILES[name]), other.glob(FILES[name])
    damage(path, twin)
    capsys.readouterr()
    assert reproduce(probed, folder, "--rows", "contrastive", "--seeds", "0", "1") == 0
    assert numbers(folder) == before
    if damage is not remove and name not in ("log", "state"):
        assert str(path) in capsys.readouterr().err


@pytest.mark.parametrize("damage", [flip, truncate, empty, exchange, remove])
def test_a_damaged_or_missing_claim_is_refused_with_the_remedy(
    damage: Callable[[Path, Path], None],
    table: Table,
    trained: Trained,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, words = tmp_path / "runs", ("--rows", "supervised")
    trained(table, folder, ["supervised"], (0, 1))
    assert reproduce(table, folder, *words) == 0
    before = numbers(folder)
    run, other = sorted(folder.glob("supervised-*"))
    if read_record(run / "recipe.json")["recipe"]["seed"] == 1:
        run, other = other, run
    damage(run / "recipe.json", other / "recipe.json")
    assert reproduce(table, folder, *words) == 2
    said = capsys.readouterr().err
    assert f"{run / 'recipe.json'} " in said
    assert "Use --fresh to train it again" in said
    assert reproduce(table, folder, *words, "--fresh") == 0
    assert numbers(folder)["supervised"]["0"] == before["supervised"]["0"]


@pytest.mark.parametrize("rename", ["seed", "step"])
def test_a_state_of_another_seed_or_step_is_named_and_not_continued(
    rename: str,
    table: Table,
    trained: Trained,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, words = tmp_path / "runs", ("--rows", "contrastive")
    trained(table, folder, ["contrastive"], (0, 1))
    assert reproduce(table, folder, *words) == 0
    before = numbers(folder)
    runs = {
        read_record(path)["recipe"]["seed"]: path.parent
        for path in folder.glob("moco-*/recipe.json")
    }
    state = runs[0] / "checkpoints" / "step-000000008.pt"
    earlier = runs[0] / "checkpoints" / "step-000000004.pt"
    shutil.copy(runs[1] / "checkpoints" / state.name if rename == "seed" else earlier, state)
    for path in (runs[0] / "result.json", runs[0] / "encoder.safetensors"):
        path.unlink()
    capsys.readouterr()
    assert reproduce(table, folder, *words) == 0
    reason = "belongs to another training" if rename == "seed" else "was written after 4, not 8"
    assert f"{state} {reason}. Using the checkpoint before it" in capsys.readouterr().err
    assert numbers(folder)["contrastive"]["0"] == before["contrastive"]["0"]


@pytest.mark.parametrize("lines", [1, 3])
def test_an_interrupted_run_whose_log_lost_lines_ends_with_the_same_numbers(
    lines: int, table: Table, trained: Trained, tmp_path: Path
) -> None:
    folder, words = tmp_path / "runs", ("--rows", "contrastive")
    trained(table, folder, ["contrastive"])
    assert reproduce(table, folder, *words) == 0
    before = numbers(folder)
    (run,) = folder.glob("moco-*")
    whole = MetricsLog.of(run).read("epoch")
    texts = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(texts[:-lines]))
    (run / "result.json").unlink()
    assert reproduce(table, folder, *words) == 0
    assert numbers(folder) == before
    assert MetricsLog.of(run).read("epoch") == whole


def test_curves_are_not_read_from_a_log_that_lost_its_end(
    table: Table, trained: Trained, tmp_path: Path
) -> None:
    trained(table, tmp_path, ["contrastive"])
    (run,) = tmp_path.glob("moco-*")
    assert read_traces(run)
    texts = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(texts[:-1]))
    with pytest.raises(ValueError, match="its last lines are missing"):
        read_traces(run)


def picture_folder(folder: Path, per_class: int = 20) -> Path:
    """Write images of two classes; each has its own values."""
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", per_class), ("val", 8)):
        for name in ("cat", "dog"):
            place = folder / split / name
            place.mkdir(parents=True)
            for number in range(count):
                pixels = torch.randint(256, (16, 16, 3), generator=generator, dtype=torch.uint8)
                Image.fromarray(pixels.numpy()).save(place / f"{number:03}.png")
    return folder


@pytest.fixture
def of_files(table: Table, contrastive: Changed, tmp_path: Path) -> Table:
    """Make a table of one row over a folder of images."""
    recipe = contrastive(data=f"imagefolder:{picture_folder(tmp_path / 'images')}")
    return dataclasses.replace(table, rows={"contrastive": TableRow(recipe, (Knn(k=5), PROBE))})


def add_an_image(images: Path) -> None:
    shutil.copy(images / "train" / "cat" / "000.png", images / "train" / "cat" / "new.png")


def change_an_image(images: Path) -> None:
    shutil.copy(images / "train" / "cat" / "000.png", images / "train" / "cat" / "001.png")


def move_an_image(images: Path) -> None:
    (images / "train" / "cat" / "000.png").rename(images / "train" / "dog" / "000b.png")


@pytest.mark.parametrize("change", [add_an_image, change_an_image, move_an_image])
@pytest.mark.parametrize("finished", [True, False])
def test_a_run_of_data_that_changed_is_neither_shown_nor_continued(
    finished: bool,
    change: Callable[[Path], None],
    of_files: Table,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "runs"
    assert reproduce(of_files, folder) == 0
    (run,) = folder.glob("moco-*")
    if not finished:
        (run / "result.json").unlink()
    change(tmp_path / "images")
    evaluation_data._open_once.cache_clear()
    assert reproduce(of_files, folder) == 2
    said = capsys.readouterr().err
    assert f"{run} holds a run of other data (" in said
    assert "Use --fresh to train it again" in said
    assert reproduce(of_files, folder, "--accept-other", "data") == 0
    assert reproduce(of_files, folder, "--fresh") == 0
    assert reproduce(of_files, folder) == 0


@pytest.mark.parametrize("finished", [True, False])
def test_an_evaluation_whose_images_changed_is_made_again(
    finished: bool, of_files: Table, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs"
    assert reproduce(of_files, folder) == 0
    (encoder,) = folder.glob("moco-*/encoder.safetensors")
    before = encoder.stat().st_mtime_ns
    (result,) = folder.glob("moco-*/evaluations/linear-*/result.json")
    if not finished:
        result.unlink()
    for path in (tmp_path / "images" / "val" / "cat").glob("00[0-4].png"):
        path.unlink()
    evaluation_data._open_once.cache_clear()
    capsys.readouterr()
    assert reproduce(of_files, folder) == 0
    assert f"{result.parent} is damaged, or of other data or code" in capsys.readouterr().err
    assert read_record(result)["data"]["test"]["images"] == 11
    assert encoder.stat().st_mtime_ns == before


def test_runs_of_other_code_are_shown_only_where_they_are_accepted(
    table: Table,
    trained: Trained,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "runs"
    trained(table, folder)
    assert reproduce(table, folder) == 0
    before = numbers(folder)
    monkeypatch.setattr(run_module, "_code_of", lambda recipe: "another digest")
    capsys.readouterr()
    assert reproduce(table, folder) == 2
    assert "holds a run made by other code. Use --fresh" in capsys.readouterr().err
    assert reproduce(table, folder, "--accept-other", "code") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "2 of 2 runs were made by other code than the present, kept by --accept-other" in said
    assert numbers(folder) == before


def test_a_part_of_a_table_is_shown_beside_the_rows_that_ran_before(
    table: Table, trained: Trained, tmp_path: Path
) -> None:
    folder = tmp_path / "runs"
    trained(table, folder, ["contrastive"], (0, 1))
    assert reproduce(table, folder, "--rows", "supervised") == 0
    found = numbers(folder)
    assert {row: sorted(seeds) for row, seeds in found.items()} == {
        "contrastive": ["0", "1"],
        "supervised": ["0"],
    }
    assert reproduce(table, folder, "--rows", "supervised", "--set", "pretrain.epochs=1") == 0
    assert numbers(folder) == found
    (changed,) = (folder / "tables").glob("paper-unit-proxy-*")
    assert json.loads((changed / "metrics.json").read_text()).keys() == {"supervised"}


def test_a_script_that_extends_a_table_has_a_report_of_its_own(
    table: Table, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "runs"
    trained(table, folder)
    assert reproduce(table, folder) == 0
    rows = {"contrastive": table.rows["contrastive"]}
    monkeypatch.setattr("sys.argv", [str(tmp_path / "mine.py"), "--runs", str(folder), "--quiet"])
    assert main(dataclasses.replace(table, rows=rows)) == 0
    assert numbers(folder).keys() == {"contrastive", "supervised"}
    assert numbers(folder, "-mine").keys() == {"contrastive"}


def test_fresh_removes_what_was_there_and_not_what_another_command_has_made_since(
    table: Table, tmp_path: Path
) -> None:
    runs = plan_runs(resolve_rows(table, TableSelection(rows=("supervised",))), [0])
    began = time.time()
    execute(runs, RunOptions(tmp_path, quiet=True))
    result = tmp_path / runs[0].name / "result.json"
    before = result.stat().st_mtime_ns
    execute(runs, RunOptions(tmp_path, quiet=True, fresh=began))
    assert result.stat().st_mtime_ns == before
    execute(runs, RunOptions(tmp_path, quiet=True, fresh=time.time()))
    assert result.stat().st_mtime_ns > before


def test_a_run_whose_folder_is_removed_while_it_trains_ends_with_a_sentence(
    table: Table,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "runs"
    assert reproduce(table, folder, "--rows", "supervised") == 0
    before = numbers(folder)
    shutil.rmtree(folder)
    write_epoch = Recorder.write_epoch

    def removing(self: Recorder, step: int, epoch: int, *rest: Any) -> Any:
        if epoch == 1:
            shutil.rmtree(self.log.path.parent)
        return write_epoch(self, step, epoch, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "write_epoch", removing)
        assert reproduce(table, folder, "--rows", "supervised") == 2
    assert "was removed while its run was trained" in capsys.readouterr().err
    assert reproduce(table, folder, "--rows", "supervised") == 0
    assert numbers(folder) == before


SCRIPT = """
from dataclasses import dataclass, replace
from pathlib import Path

from base_table import TABLE, contrastive
from retable.methods import MoCo, MoCoRecipe
from retable.reproduce import TableRow


@dataclass(frozen=True)
class MineRecipe(MoCoRecipe):
    def build(self, encoder, rng_key):
        return Mine(encoder, self, rng_key)


class Mine(MoCo):
    def logits(self, queries, keys, batch):
        return super().logits(queries, keys, batch) * {scale}


method = MineRecipe(queue=48, dim=8, momentum=0.9)
row = TableRow(replace(contrastive, method=method), TABLE.rows["contrastive"].evaluations)
TABLE = replace(TABLE, rows={{"contrastive": row}}, script=Path(__file__))
"""


def load(script: Path, table: Table, scale: float) -> Table:
    """Write and load a script with a row of its own beside a module with the table's."""
    row = table.rows["contrastive"]
    assert isinstance(row, TableRow)
    base = ModuleType("base_table")
    vars(base).update(TABLE=table, contrastive=row.pretrain)
    script.write_text(SCRIPT.format(scale=scale))
    shutil.copy(table.reference, script.with_suffix(".toml"))
    code._digest_of_file.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "base_table", base)
        return load_table(script)


def test_a_row_of_a_script_is_not_shown_after_an_edit_of_its_class(
    table: Table, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, script = tmp_path / "runs", tmp_path / "mine.py"
    assert reproduce(load(script, table, 1.0), folder) == 0
    before = [path.name for path in folder.glob("mine-*")]
    assert reproduce(load(script, table, 1.0), folder) == 0
    capsys.readouterr()
    assert reproduce(load(script, table, 0.5), folder) == 2
    assert "holds a run made by other code. Use --fresh" in capsys.readouterr().err
    assert reproduce(load(script, table, 0.5), folder, "--fresh") == 0
    assert [path.name for path in folder.glob("mine-*")] == before


def test_equal_classes_of_two_scripts_have_runs_of_their_own(table: Table, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        script = tmp_path / name / "mine.py"
        assert reproduce(load(script, table, 1.0), tmp_path / "runs") == 0
    assert len(list((tmp_path / "runs").glob("mine-*"))) == 2
