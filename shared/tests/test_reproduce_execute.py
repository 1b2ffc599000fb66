"""Runs carried out through the whole command, on the table of seconds."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from retable.evaluate.geometry import Geometry
from retable.evaluate.knn import Knn
from retable.evaluate.linear import LinearProbe
from retable.files import read_record, write_record
from retable.reproduce import (
    CollapseCriterion,
    FinishedRun,
    FinishedRuns,
    Gain,
    Metric,
    Table,
    TableRow,
    execute,
    main,
    results,
)
from retable.reproduce.arguments import parse
from retable.reproduce.plan import TableSelection, plan_runs, resolve_rows
from retable.reproduce.results import gather_outcomes
from retable.reproduce.run import read_runs
from retable.tables import Comparison
from retable.train.metrics import MetricsLog
from retable.train.optim import OptimizerRecipe
from retable.train.options import RunOptions
from retable.train.recipe import PretrainRecipe
from retable.train.traces import read_traces

Changed = Callable[..., PretrainRecipe]
Trained = Callable[..., None]
PROBE = LinearProbe(lr=1.0, batch=16, epochs=2, milestones=(1,))
DIVERGING = "pretrain.optimizer.lr=1e30"


def reproduce(table: Table, folder: Path, *words: str) -> int:
    return main(table, ["--runs", str(folder), "--quiet", "--jobs", "1", *words])


def contents(folder: Path) -> dict[str, Any]:
    """Return what must be equal between equal runs, by path."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        if path.name in ("result.json", "recipe.json", "encoder.safetensors"):
            found[str(path.relative_to(folder))] = path.read_bytes()
        elif path.name == "metrics.jsonl":
            lines = MetricsLog(path).read()
            for line in lines:
                line.pop("images_per_second", None)
                line.pop("utilisation", None)
            found[str(path.relative_to(folder))] = lines
    return found


def end_badly(run: Path, reason: str) -> None:
    """Turn a finished run into one that failed before its first epoch ended."""
    write_record(run / "result.json", run.name, {"failed": reason, "epochs": []})


def cells(folder: Path) -> dict[str, Any]:
    """Return the stored figures, row -> seed -> name -> value."""
    (path,) = folder.glob("tables/*/metrics.json")
    figures: dict[str, Any] = json.loads(path.read_text())
    return figures


def test_rows_that_share_a_pretraining_train_it_once_and_evaluate_it_each(
    table: Table, contrastive: Changed, trained: Trained, tmp_path: Path
) -> None:
    trained(table, tmp_path / "runs", ["contrastive"])
    rows = {
        "contrastive": TableRow(contrastive(), (Knn(k=5),)),
        "again": TableRow(contrastive(), (PROBE, Geometry())),
    }
    table = dataclasses.replace(table, rows=rows)
    assert reproduce(table, tmp_path / "runs", "--scale", "smoke") == 0
    (run,) = (tmp_path / "runs").glob("moco-*")
    names = sorted(p.name.partition("-")[0] for p in (run / "evaluations").iterdir())
    assert names == ["geometry", "knn", "linear"]
    figures = cells(tmp_path / "runs")
    assert figures["again"] == figures["contrastive"]
    assert {"knn.top1", "linear.top1", "geometry.uniformity", "pretrain.loss", "halfway.loss",
            "monitor.top1", "monitor_halfway.top1"} <= figures["again"]["0"].keys()  # fmt: skip


def test_methods_that_can_are_measured_on_test_images_in_a_run(
    table: Table, trained: Trained, tmp_path: Path
) -> None:
    trained(table, tmp_path / "runs")
    assert reproduce(table, tmp_path / "runs") == 0
    figures = {row: seeds["0"].keys() for row, seeds in cells(tmp_path / "runs").items()}
    names = {f"{when}.pretext_{name}" for when in ("monitor", "monitor_halfway")
             for name in ("loss", "accuracy")}  # fmt: skip
    assert names <= figures["supervised"]
    assert not any("pretext" in name for name in figures["contrastive"])
    assert "pretrain.accuracy" in figures["supervised"]


def test_a_finished_table_costs_nothing_and_says_the_same(
    table: Table,
    trained: Trained,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "runs"
    trained(table, folder)
    assert reproduce(table, folder) == 0
    first = capsys.readouterr().out
    assert first.partition("\n")[0].endswith(": 72 train and 32 test images of 4 classes")
    monkeypatch.setattr(execute, "execute_one", lambda run, options: pytest.fail("trained again"))
    assert reproduce(table, folder, "--resume") == 0
    assert capsys.readouterr().out == first


def test_an_evaluation_added_later_finds_the_encoder(
    table: Table,
    supervised: Changed,
    trained: Trained,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "runs"
    trained(table, folder, ["supervised"])
    rows = {"supervised": TableRow(supervised(), (Knn(k=5), Geometry()))}
    monkeypatch.setattr(execute, "pretrain", lambda *arguments: pytest.fail("trained again"))
    assert reproduce(dataclasses.replace(table, rows=rows), folder) == 0
    assert "geometry.uniformity" in cells(folder)["supervised"]["0"]


def test_fresh_forgets_these_runs_and_no_others(
    table: Table, trained: Trained, tmp_path: Path
) -> None:
    folder = tmp_path / "runs"
    trained(table, folder)
    before = contents(folder)
    marks = [next(folder.glob(f"{name}-*")) / "mark" for name in ("moco", "supervised")]
    for mark in marks:
        mark.touch()
    assert reproduce(table, folder, "--rows", "supervised", "--fresh") == 0
    assert marks[0].exists()
    assert not marks[1].exists()
    assert contents(folder) == before


@pytest.mark.slow
def test_runs_side_by_side_have_the_bits_of_runs_one_after_another(
    table: Table, trained: Trained, tmp_path: Path
) -> None:
    trained(table, tmp_path / "one")
    assert reproduce(table, tmp_path / "two", "--scale", "smoke", "--jobs", "2") == 0
    one = contents(tmp_path / "one")
    assert len(one) == 2 * 6  # recipe, result, encoder, log; recipe and result of the evaluation
    assert contents(tmp_path / "two") == one


def test_a_training_that_fails_misses_keeps_its_reason_and_ends_with_status_1(
    table: Table, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs"
    words = ["--rows", "supervised", "--set", DIVERGING]
    assert reproduce(table, folder, *words) == 1
    said = capsys.readouterr()
    assert "Training stopped at step 4: the loss is not finite" in said.err
    assert "Traceback" not in said.err
    assert "training stopped, the loss is not finite" in " ".join(said.out.split())
    (run,) = folder.glob("supervised-*")
    result = read_record(run / "result.json", run.name)
    assert (result.keys(), result["kind"]) == ({"failed", "kind", "epochs"}, "diverged")
    assert not (run / "encoder.safetensors").exists()
    assert reproduce(table, folder, *words) == 1  # nor does asking again mend it


def widen(table: Table) -> None:
    """Give the column a tolerance within which every finite accuracy matches."""
    wide = 'higher_is_better = true\n\n[columns.tolerance]\nvalue = 500.0\nreason = "wide"'
    text = table.reference.read_text()
    table.reference.write_text(text.replace("higher_is_better = true", wide))


def judged(table: Table, folder: Path, **changes: Any) -> Any:
    """Compare what lies in a folder at paper scale, where the table's numbers judge."""
    selection, _ = parse(table, ["--scale", "paper", "--data", "imagefolder:x", "--quiet"])
    small = dataclasses.replace(selection, scale="proxy", data=None, **changes)
    rows = resolve_rows(table, small)
    runs = read_runs(plan_runs(rows, small.seeds), folder)
    outcomes = gather_outcomes(table, rows, runs, "proxy")
    return results.compare_table(table, rows, outcomes, selection)


def test_one_failed_seed_makes_the_cell_a_miss_however_well_the_others_did(
    table: Table, trained: Trained, tmp_path: Path
) -> None:
    folder = tmp_path / "runs"
    widen(table)
    trained(table, folder, ["supervised"], range(3))
    sound = judged(table, folder, rows=("supervised",), seeds=(0, 1, 2))
    assert sound.counts() == {"match": 1, "not run": 1}
    end_badly(next(folder.glob("supervised-*")), "the embedding has collapsed")
    comparison = judged(table, folder, rows=("supervised",), seeds=(0, 1, 2))
    assert comparison.misses() == [("supervised", "top1")]
    assert comparison.exit_status == 1
    (cell,) = (r.cells["top1"] for r in comparison.rows if r.row.key == "supervised")
    assert "training stopped, the embedding has collapsed" in cell.reason
    assert len(cell.ours) == 2


@pytest.fixture
def side_by_side(table: Table, contrastive: Changed, supervised: Changed) -> Table:
    """Make a table whose rows print two trainings each, and share one of them."""
    shared = TableRow(contrastive(), (Knn(k=5),))
    column = '[[columns]]\nkey = "{}"\nlabel = "{}"\nunit = "%"\nhigher_is_better = true\n'
    column += 'tolerance = {{ value = 500.0, reason = "wide" }}\n'
    row = '[[rows]]\nkey = "{}"\nlabel = "{}"\norigin = "run"\nvalues = {{ '
    row += ", ".join(f"{key} = {{{{ value = 50.0, std = 1.0, runs = 3 }}}}" for key in "xy") + " }}"
    head = table.reference.read_text().partition("[[columns]]")[0]
    parts = [head, column.format("x", "X"), column.format("y", "Y"), row.format("a", "Row A")]
    table.reference.write_text("\n".join([*parts, row.format("b", "Row B")]))
    return dataclasses.replace(
        table,
        rows={
            "a": {"one": shared, "two": TableRow(supervised(), (Knn(k=5),))},
            "b": {"one": shared, "two": TableRow(supervised(batch=8), (Knn(k=5),))},
        },
        columns={
            "x": Metric("knn.top1", variant="one"),
            "y": Metric("knn.top1", variant="two"),
        },
    )


def test_trainings_of_a_row_fill_its_columns_and_equal_ones_are_trained_once(
    side_by_side: Table, trained: Trained, tmp_path: Path
) -> None:
    folder = tmp_path / "runs"
    trained(side_by_side, folder)
    assert reproduce(side_by_side, folder) == 0
    assert len(list(folder.glob("moco-*"))) == 1
    assert len(list(folder.glob("supervised-*"))) == 2
    figures = cells(folder)
    assert figures.keys() == {"a/one", "a/two", "b/one", "b/two"}
    assert figures["a/one"] == figures["b/one"]
    comparison = judged(side_by_side, folder, seeds=(0,))
    for compared in comparison.rows:
        for key, variant in (("x", "one"), ("y", "two")):
            own = figures[f"{compared.row.key}/{variant}"]["0"]["knn.top1"]
            assert compared.cells[key].ours == {0: own}


def test_a_failed_training_misses_only_the_cells_that_are_read_from_it(
    side_by_side: Table, trained: Trained, tmp_path: Path
) -> None:
    folder = tmp_path / "runs"
    trained(side_by_side, folder, ["a"])
    end_badly(next(folder.glob("supervised-*")), "the embedding has collapsed")
    comparison = judged(side_by_side, folder, rows=("a",), seeds=(0,))
    assert comparison.misses() == [("a", "y")]
    assert comparison.counts() == {"match": 1, "miss": 1, "not run": 2}
    cell = comparison.rows[0].cells["y"]
    assert cell.reason == "a/two, seed 0: training stopped, the embedding has collapsed"
    assert comparison.rows[1].cells["y"].reason == "left out, `--rows all` runs all rows"


def test_a_gain_over_a_row_that_failed_misses_where_it_was_asked_for(
    table: Table, trained: Trained, tmp_path: Path
) -> None:
    folder = tmp_path / "runs"
    widen(table)
    gain = Gain(Metric("knn.top1"), over="contrastive")
    table = dataclasses.replace(table, columns={"top1": gain})
    trained(table, folder)
    end_badly(next(folder.glob("moco-*")), "for a reason")
    assert judged(table, folder, seeds=(0,)).misses() == [
        ("contrastive", "top1"),
        ("supervised", "top1"),
    ]
    alone = judged(table, folder, rows=("contrastive",), seeds=(0,))
    assert alone.misses() == [("contrastive", "top1")]


def test_a_figure_that_is_no_number_is_kept_as_that_and_misses(
    table: Table, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "runs"
    widen(table)
    trained(table, folder, ["supervised"])
    shutil.rmtree(next(folder.glob("supervised-*")) / "evaluations")
    monkeypatch.setattr(Knn, "run", lambda *arguments, **options: {"top1": float("nan")})
    assert reproduce(table, folder, "--rows", "supervised") == 0  # nothing judges it here
    assert cells(folder)["supervised"]["0"]["knn.top1"] == "nan"
    comparison = judged(table, folder, rows=("supervised",), seeds=(0,))
    assert comparison.misses() == [("supervised", "top1")]


def test_a_training_that_diverges_as_expected_prints_collapse_and_ends_well(
    table: Table, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = table.reference.read_text()
    text = text.replace("values.top1 = { value = 60.0, std = 1.0, runs = 3 }", "values = {}")
    text = text.replace("values = {}", 'values = {}\nrecipe = { expected = "collapse" }')
    table.reference.write_text(text)
    diverging = table.trainings("supervised")["supervised"]
    optimizer = OptimizerRecipe(lr=1e30)
    pretrain = dataclasses.replace(diverging.pretrain, optimizer=optimizer)
    criterion = CollapseCriterion(
        ("supervised",), ("top1",), dict.fromkeys(("paper", "proxy", "smoke"), 1.0), "knn.top1"
    )
    table = dataclasses.replace(
        table,
        rows={"supervised": dataclasses.replace(diverging, pretrain=pretrain)},
        collapse=criterion,
    )
    assert reproduce(table, tmp_path / "runs") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Supervised collapse collapse (1) match" in said
    assert "Collapse, the loss is not finite (nan): Supervised (seed 0)." in said
    sound = dataclasses.replace(table, rows={"supervised": diverging})
    trained(sound, tmp_path / "runs")
    assert reproduce(sound, tmp_path / "runs") == 1
    assert "Miss, expected collapse: Supervised (Top1 %)." in " ".join(
        capsys.readouterr().out.split()
    )


def test_plots_get_the_epochs_and_the_folder_of_every_training_also_of_one_that_failed(
    side_by_side: Table, supervised: Changed, trained: Trained, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    found: dict[str, FinishedRuns] = {}

    def draw(comparison: Comparison, histories: FinishedRuns, folder: Path) -> None:
        found[comparison.table.id] = histories
        assert folder == tmp_path / "runs" / "tables" / "paper-unit-proxy"

    table = dataclasses.replace(side_by_side, plots=(draw,))
    optimizer = OptimizerRecipe(lr=1e30)
    diverging = TableRow(supervised(optimizer=optimizer), (Knn(k=5),))
    rows = {"a": {"one": table.trainings("a")["a/one"], "two": diverging}}
    trained(table, tmp_path / "runs", ["a/one"])
    assert reproduce(dataclasses.replace(table, rows=rows), tmp_path / "runs") == 1
    histories = found["unit"]
    assert histories.keys() == {"a/one", "a/two"}
    sound, failed = histories["a/one"][0], histories["a/two"][0]
    assert [line["epoch"] for line in sound.epochs] == [1, 2]
    assert failed.epochs == []
    assert len(read_traces(sound.folder)["positive_mean"].steps) == 8
    assert (failed.folder / "metrics.jsonl").exists()


def test_a_table_may_derive_figures_from_what_a_run_recorded_over_time(
    table: Table, trained: Trained, tmp_path: Path
) -> None:
    def derive(recipe: PretrainRecipe, history: FinishedRun) -> dict[str, float]:
        losses = [line["loss"] for line in history.epochs]
        return {"fall": losses[0] - losses[-1], "batch": recipe.batch}

    columns = {"top1": Metric("history.fall"), "batch": Metric("history.batch")}
    reference = table.reference.read_text().partition("[[columns]]")
    column = '[[columns]]\nkey = "batch"\nlabel = "B"\nunit = ""\nhigher_is_better = true\n\n'
    table.reference.write_text(reference[0] + column + "".join(reference[1:]))
    table = dataclasses.replace(table, columns=columns, derive=derive)
    trained(table, tmp_path / "runs", ["supervised"])
    assert reproduce(table, tmp_path / "runs", "--rows", "supervised") == 0
    found = cells(tmp_path / "runs")["supervised"]["0"]
    assert found["history.batch"] == 16
    (log,) = (tmp_path / "runs").glob("supervised-*/metrics.jsonl")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    first, last = (line["loss"] for line in lines if line["kind"] == "epoch")
    assert found["history.fall"] == first - last


def test_a_run_cut_inside_its_first_epoch_still_shows_its_evaluation(
    table: Table, tmp_path: Path
) -> None:
    folder = tmp_path / "runs"
    assert reproduce(table, folder, "--rows", "supervised", "--max-steps", "2") == 0
    assert cells(folder)["supervised"]["0"].keys() >= {"knn.top1"}


def test_a_second_process_on_the_same_run_is_refused(
    table: Table, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs"
    (run,) = plan_runs(resolve_rows(table, TableSelection(rows=("supervised",))), [0])
    hold = (
        "import fcntl, sys, time; lock = open(sys.argv[1] + '/lock', 'w')\n"
        "fcntl.flock(lock, fcntl.LOCK_EX); print('held', flush=True); time.sleep(600)"
    )
    (folder / run.name).mkdir(parents=True)
    owner = subprocess.Popen(
        [sys.executable, "-c", hold, str(folder / run.name)], stdout=subprocess.PIPE, text=True
    )
    with owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "held\n"
        assert reproduce(table, folder, "--rows", "supervised") == 2
        owner.kill()
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "is being trained by another process. Wait for it to end" in said
    assert reproduce(table, folder, "--rows", "supervised") == 0


def test_resume_insists_on_something_to_continue(
    table: Table, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduce(table, tmp_path / "runs", "--resume") == 2
    assert "holds no run of these rows and seeds. Leave out --resume" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_trains_nothing(
    table: Table, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduce(table, tmp_path / "runs", "--dry-run") == 0
    assert "2 runs on 72 training images" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_at_paper_scale_needs_no_images(
    table: Table, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = dataclasses.replace(table, images=1600)
    assert reproduce(table, tmp_path / "runs", "--dry-run", "--scale", "paper") == 0
    assert "6 runs on 1,600 training images" in capsys.readouterr().out


def test_an_overridden_recipe_is_a_run_of_its_own_and_compares_with_nothing(
    table: Table, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs"
    assert reproduce(table, folder, "--rows", "supervised", "--set", "pretrain.epochs=1") == 0
    assert reproduce(table, folder, "--rows", "supervised", "--set", "pretrain.batch=8") == 0
    assert len(list(folder.glob("supervised-*"))) == 2
    assert "the recipe was changed by --set pretrain.batch=8" in capsys.readouterr().out


def test_a_recording_refuses_to_store_a_table_with_a_gap(
    table: Table,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(execute, "execute", lambda runs, options: None)
    assert reproduce(table, tmp_path / "runs", "--record") == 2
    assert "Nothing was recorded: contrastive (seed 1)" in capsys.readouterr().err
    assert not table.proxy_reference.exists()


@pytest.mark.slow
def test_what_was_recorded_judges_the_next_run(
    table: Table, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs"
    trained(table, folder, seeds=range(1, 6))
    assert reproduce(table, folder, "--record") == 0
    assert table.proxy_reference.exists()
    shutil.rmtree(folder / "tables")
    capsys.readouterr()
    assert reproduce(table, folder, "--seeds", "1", "2", "3") == 0
    assert "match" in capsys.readouterr().out
    edited = table.proxy_reference.read_text().replace("value = ", "value = 9", 1)
    table.proxy_reference.write_text(edited)


def test_threads_of_a_run_are_those_of_the_setting(
    table: Table, supervised: Changed, tmp_path: Path
) -> None:
    (run,) = plan_runs({"a": TableRow(supervised(max_steps=1), ())}, [0])
    execute.execute([run], RunOptions(tmp_path, threads=1))
    assert torch.get_num_threads() == 1
