"""Outcomes of runs, read from their files: numbers, collapses, failures."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from retable.evaluate.knn import Knn
from retable.files import write_record
from retable.reproduce import (
    CollapseCriterion,
    Gain,
    Metric,
    Table,
    TableRow,
    execute,
    main,
    results,
)
from retable.reproduce.plan import TableSelection, plan_runs, resolve_rows
from retable.reproduce.results import Outcomes, failed_unexpectedly, gather_outcomes
from retable.reproduce.run import FinishedRuns, Run, evaluation_owner, read_runs
from retable.tables import Comparison, load_reference, record_reference, write_reference
from retable.tables.reference import Collapse, Provenance, Value
from retable.train.options import RunOptions
from retable.train.recipe import PretrainRecipe

Changed = Callable[..., PretrainRecipe]

OFF = """
[[columns]]
key = "loss"
label = "Loss"
unit = ""
higher_is_better = false

[[rows]]
key = "off"
label = "Without the sphere"
origin = "run"
recipe = { expected = "collapse" }
values = {}

"""

CHANCE = {"paper": 10.0, "proxy": 10.0, "smoke": 10.0}


@pytest.fixture
def judged_table(table: Table, contrastive: Changed, supervised: Changed) -> Table:
    """Make a table of three rows, two of them judged for collapse, one expected to."""
    text = table.reference.read_text()
    table.reference.write_text(text.replace("[[rows]]", OFF.lstrip() + "[[rows]]", 1))
    return dataclasses.replace(
        table,
        rows={
            "off": TableRow(contrastive(batch=8), (Knn(k=5),)),
            "contrastive": TableRow(contrastive(), (Knn(k=5),)),
            "supervised": TableRow(supervised(), (Knn(k=5),)),
        },
        columns={"top1": Metric("knn.top1"), "loss": Metric("pretrain.loss")},
        collapse=CollapseCriterion(("off", "contrastive"), ("top1",), CHANCE, probe="knn.top1"),
    )


ENVIRONMENT: dict[str, Any] = {
    "versions": {"torch": "2"},
    "commit": "c",
    "processor": "p",
    "instructions": "AVX512",
    "cores": 2,
}

Left = float | dict[str, str]
"""Result of a run: an accuracy, or the reason and kind of its failure."""


def leave(run: Run, folder: Path, found: Left) -> None:
    directory = run.directory(folder)
    directory.write_claim(run.claim({}))
    ended = {"epochs": [{"epoch": 1, "loss": 2.0}], "monitor": []}
    write_record(directory.result, run.name, ended | (found if isinstance(found, dict) else {}))
    write_record(directory.environment, run.name, ENVIRONMENT)
    if not isinstance(found, dict):
        evaluation = run.evaluation_folder(run.evaluations[0], folder)
        evaluation.mkdir(parents=True)
        write_record(
            evaluation / "result.json",
            evaluation_owner(evaluation),
            {"metrics": {"top1": found}, "recipe": {}, "data": {}, "code": ""},
        )


DIVERGED = {"failed": "the loss is not finite (nan)", "kind": "diverged"}
FLAT = {"failed": "the embedding has collapsed", "kind": "collapse"}
BROKEN = {"failed": "for another reason", "kind": "other"}


def outcome(
    table: Table, folder: Path, left: Mapping[str, Mapping[int, Left]], scale: str = "proxy"
) -> tuple[Outcomes, FinishedRuns, Comparison]:
    """Leave an accuracy or an early end for each row and seed, and compare at a scale."""
    seeds = tuple(dict.fromkeys(seed for by_seed in left.values() for seed in by_seed))
    selection = TableSelection(scale, rows=tuple(left), seeds=seeds)
    rows = resolve_rows(table, selection)
    runs = [run for run in plan_runs(rows, seeds) if run.seed in left[run.rows[0]]]
    for run in runs:
        leave(run, folder, left[run.rows[0]][run.seed])
    finished = read_runs(runs, folder)
    outcomes = gather_outcomes(table, rows, finished, scale)
    return outcomes, finished, results.compare_table(table, rows, outcomes, selection)


@pytest.mark.parametrize("end", [DIVERGED, FLAT])
def test_a_training_that_ended_in_a_collapse_is_one_where_the_table_judges_so(
    end: dict[str, str], judged_table: Table, tmp_path: Path
) -> None:
    left: dict[str, dict[int, Left]] = {
        "off": {0: end},
        "contrastive": {0: 90.0},
        "supervised": {0: end},
    }
    outcomes, runs, comparison = outcome(judged_table, tmp_path, left)
    assert outcomes.collapsed == {"off": {"top1": {0: end["failed"]}}}
    assert outcomes.measured["contrastive"] == {"top1": {0: 90.0}, "loss": {0: 2.0}}
    # Another column has no number and no collapse to say: the training is missing there.
    assert outcomes.failed["off"] == {"loss": f"seed 0: training stopped, {end['failed']}"}
    assert outcomes.failed["supervised"].keys() == {"top1", "loss"}
    (off, *_) = comparison.rows
    assert off.cells["top1"].verdict == "match"
    assert failed_unexpectedly(judged_table, runs, comparison)  # the row that is not judged


def test_notes_about_the_runs_come_with_the_comparison(judged_table: Table, tmp_path: Path) -> None:
    outcomes, runs, _ = outcome(judged_table, tmp_path, {"off": {0: 50.0}})
    selection = TableSelection("proxy", rows=("off",), seeds=(0,))
    rows = resolve_rows(judged_table, selection)
    said = ["1 of 1 runs was made by other code."]
    comparison = results.compare_table(judged_table, rows, outcomes, selection, runs, notes=said)
    assert comparison.notes == tuple(said)


@pytest.mark.parametrize(
    ("other", "pairing"),
    [
        ({}, "repeated"),
        ({"processor": "q"}, "paired"),
        # Processors of one name differ in their instructions, and so in the last digits.
        ({"instructions": "AVX2"}, "paired"),
        ({"cores": 4}, "paired"),
        ({"versions": {"torch": "3"}}, "paired"),
        ({"gpus": ["a"]}, "paired"),
    ],
)
def test_a_recorded_seed_must_repeat_with_the_same_instructions_and_versions_alone(
    other: dict[str, Any], pairing: str, judged_table: Table, tmp_path: Path
) -> None:
    numbers = {0: 50.0, 1: 51.0, 2: 49.0}
    _, runs, _ = outcome(judged_table, tmp_path, {"contrastive": dict(numbers)})
    measured = {"contrastive": {"top1": numbers}}
    hardware = results.hardware_of(ENVIRONMENT)
    made = Provenance("record", (0, 1, 2), "c", "d", hardware, ENVIRONMENT["versions"])
    recorded = record_reference(load_reference(judged_table.reference), measured, made)
    write_reference(judged_table.proxy_reference, recorded)
    there = {
        row: {
            seed: dataclasses.replace(run, environment=ENVIRONMENT | other)
            for seed, run in by_seed.items()
        }
        for row, by_seed in runs.items()
    }
    selection = TableSelection("proxy", rows=("contrastive",), seeds=(0, 1, 2))
    rows = resolve_rows(judged_table, selection)
    outcomes = gather_outcomes(judged_table, rows, there, "proxy")
    comparison = results.compare_table(judged_table, rows, outcomes, selection, there)
    assert comparison.pairing == pairing


def test_a_training_that_ended_otherwise_has_failed(judged_table: Table, tmp_path: Path) -> None:
    outcomes, runs, comparison = outcome(judged_table, tmp_path, {"off": {0: BROKEN}})
    assert not outcomes.collapsed
    assert comparison.rows[0].cells["top1"].verdict != "match"
    assert failed_unexpectedly(judged_table, runs, comparison)


def test_a_collapse_that_the_figures_show_replaces_the_number_it_is_judged_in(
    judged_table: Table, tmp_path: Path
) -> None:
    left: dict[str, dict[int, Left]] = {"off": {0: 12.0, 1: 80.0}, "supervised": {0: 12.0}}
    outcomes, runs, comparison = outcome(judged_table, tmp_path, left)
    assert outcomes.collapsed["off"]["top1"].keys() == {0}
    assert outcomes.measured["off"] == {"top1": {1: 80.0}, "loss": {0: 2.0, 1: 2.0}}
    assert outcomes.measured["supervised"]["top1"] == {0: 12.0}
    assert comparison.rows[0].cells["top1"].verdict == "inconclusive"
    assert not failed_unexpectedly(judged_table, runs, comparison)


@pytest.mark.parametrize("scale", ["proxy", "smoke"])
def test_only_an_expected_collapse_ends_well(
    scale: str, judged_table: Table, tmp_path: Path
) -> None:
    _, runs, comparison = outcome(judged_table, tmp_path / "a", {"off": {0: DIVERGED}}, scale)
    assert not failed_unexpectedly(judged_table, runs, comparison)
    left: dict[str, dict[int, Left]] = {"contrastive": {0: DIVERGED}}
    _, runs, comparison = outcome(judged_table, tmp_path / "b", left, scale)
    assert failed_unexpectedly(judged_table, runs, comparison)


def test_a_table_without_stored_numbers_may_expect_a_collapse_too(
    judged_table: Table, tmp_path: Path
) -> None:
    text = judged_table.reference.read_text()
    judged_table.reference.write_text(re.sub(r"(?m)^values.top1 = .*$", "values = {}", text))
    _, runs, comparison = outcome(judged_table, tmp_path, {"off": {0: DIVERGED}}, "smoke")
    assert not failed_unexpectedly(judged_table, runs, comparison)


def test_a_collapse_expected_and_absent_is_a_miss_with_its_number(
    judged_table: Table, tmp_path: Path
) -> None:
    _, _, comparison = outcome(judged_table, tmp_path, {"off": {0: 80.0}})
    cell = comparison.rows[0].cells["top1"]
    assert (cell.verdict, cell.reason, cell.ours) == ("miss", "expected collapse", {0: 80.0})


def test_a_cell_read_from_two_trainings_collapses_with_either(
    judged_table: Table, tmp_path: Path
) -> None:
    gain = Gain(Metric("knn.top1"), over="off")
    table = dataclasses.replace(judged_table, columns={**judged_table.columns, "top1": gain})
    left: dict[str, dict[int, Left]] = {"off": {0: DIVERGED}, "contrastive": {0: 90.0}}
    outcomes, _, _ = outcome(table, tmp_path, left)
    assert outcomes.collapsed["contrastive"]["top1"] == {0: "off, the loss is not finite (nan)"}


def test_a_variant_collapses_alone(
    judged_table: Table, contrastive: Changed, tmp_path: Path
) -> None:
    rows = {
        "off": {
            "a": TableRow(contrastive(batch=8), (Knn(k=5),)),
            "b": TableRow(contrastive(batch=4), (Knn(k=5),)),
        }
    }
    table = dataclasses.replace(
        judged_table,
        rows=rows,
        columns={"top1": Metric("knn.top1", variant="a"), "loss": Metric("knn.top1", variant="b")},
        collapse=CollapseCriterion(("off",), ("top1", "loss"), CHANCE, probe="knn.top1"),
    )
    runs = plan_runs(table.trainings("off"), [0])
    leave(runs[0], tmp_path, FLAT)
    leave(runs[1], tmp_path, 80.0)
    found = gather_outcomes(table, table.trainings("off"), read_runs(runs, tmp_path), "proxy")
    assert found.collapsed == {"off": {"top1": {0: "off/a, the embedding has collapsed"}}}
    assert found.measured["off"]["loss"] == {0: 80.0}
    assert not found.failed


@pytest.mark.parametrize(("others", "count"), [(11.0, 5), (70.0, 2)])
def test_a_recording_keeps_which_rows_collapsed(
    others: float, count: int, judged_table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fake(runs: list[Run], options: RunOptions) -> None:
        for run in runs:
            # Seeds 1 and 2 of the row do not even end, its others stay at chance, or learn.
            collapsed: Left = DIVERGED if run.seed < 3 else others
            leave(run, options.folder, collapsed if run.rows == ("off",) else 80.0 + run.seed)

    monkeypatch.setattr(execute, "execute", fake)
    assert main(judged_table, ["--runs", str(tmp_path), "--quiet", "--record"]) == 0
    recorded = load_reference(judged_table.proxy_reference)
    assert recorded.stored("off", "top1") == Collapse(count, 5)
    assert recorded.stored("off", "loss") is None  # two of its seeds have no number
    value = recorded.stored("supervised", "top1")
    assert isinstance(value, Value)
    assert value.per_seed == (81.0, 82.0, 83.0, 84.0, 85.0)
    # The next run is judged by it.
    left: dict[str, dict[int, Left]] = {"off": {9: FLAT}, "supervised": {9: 83.0}}
    _, _, comparison = outcome(judged_table, tmp_path / "next", left)
    verdicts = {row.row.key: row.cells["top1"].verdict for row in comparison.rows}
    assert verdicts == {"off": "match", "contrastive": "not run", "supervised": "match"}


def test_further_seeds_are_recorded_where_they_agree_with_the_stored(
    judged_table: Table,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def command(higher: float, *words: str) -> int:
        def fake(runs: list[Run], options: RunOptions) -> None:
            for run in runs:
                collapsed = run.rows == ("off",)
                leave(run, options.folder, 11.0 if collapsed else 80.0 + run.seed + higher)

        monkeypatch.setattr(execute, "execute", fake)
        return main(judged_table, ["--runs", str(tmp_path / str(higher)), "--quiet", *words])

    def stored() -> tuple[float, ...]:
        value = load_reference(judged_table.proxy_reference).stored("supervised", "top1")
        assert isinstance(value, Value)
        return value.per_seed

    assert command(0.0, "--record", "--extend", "--seeds", "4") == 2
    assert "has none. Use --record alone" in capsys.readouterr().err
    assert command(0.0, "--record", "--seeds", "1-3") == 0
    assert command(0.0, "--record", "--extend", "--seeds", "3-4") == 2
    assert "`--seeds` must name seeds that are not recorded, got 3" in capsys.readouterr().err
    assert command(90.0, "--record", "--extend", "--seeds", "4-5") == 2
    assert "supervised.top1" in (said := capsys.readouterr().err)
    assert "miss the stored numbers" in said
    assert stored() == (81.0, 82.0, 83.0)
    assert command(0.0, "--record", "--extend", "--seeds", "4-5") == 0
    assert stored() == (81.0, 82.0, 83.0, 84.0, 85.0)
    provenance = load_reference(judged_table.proxy_reference).provenance
    assert provenance is not None
    first, second = provenance.command.split("; ")
    assert first.endswith("-- --record --seeds 1 2 3")
    assert second.endswith("-- --record --extend --seeds 4 5")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": ("on",)}, "`collapse` must name rows and columns of the table, got on"),
        ({"columns": ("top5",)}, "rows and columns of the table, got top5"),
        (
            {"chance": {"paper": 1.0}},
            "`collapse.chance` must have every scale, but lacks proxy, smoke",
        ),
    ],
)
def test_a_criterion_of_what_is_not_there_is_a_mistake_of_the_script(
    change: dict[str, Any], said: str, judged_table: Table
) -> None:
    assert judged_table.collapse is not None
    criterion = dataclasses.replace(judged_table.collapse, **change)
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(judged_table, collapse=criterion)
