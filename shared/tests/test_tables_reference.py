"""Reference files: the stored ones are sound, writing keeps everything, mistakes are named."""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from retable.errors import UserError
from retable.tables import (
    Measured,
    Provenance,
    Reference,
    load_reference,
    record_reference,
    write_reference,
)
from retable.tables.reading import parse_reference
from retable.tables.recording import reference_text
from retable.tables.reference import ColumnSpec, Value
from retable.tables.verdict import recorded_tolerances

STORED = sorted((Path(__file__).parents[2] / "reproductions").glob("*/*.toml"))

Printed = Callable[..., Reference]


def measured(seeds: Sequence[int] = range(5)) -> dict[str, dict[str, dict[int, float]]]:
    draw = random.Random(0)
    return {
        row: {"top1": {seed: 30.0 + draw.gauss(0, 1) for seed in seeds}}
        for row in ("base", "extra")
    }


def stored(reference: Reference, row: str, column: str) -> Value:
    value = reference.value(row, column)
    assert value is not None
    return value


def column_of(reference: Reference, key: str) -> ColumnSpec:
    column = reference.column(key)
    assert column is not None
    return column


def folder_and_name(path: Path) -> str:
    return f"{path.parent.name}-{path.stem}"


@pytest.mark.parametrize("path", STORED, ids=folder_and_name)
def test_a_stored_reference_is_sound_and_survives_being_written(path: Path, tmp_path: Path) -> None:
    reference = load_reference(path)
    assert reference.table.source
    for column in reference.columns:
        for stated in (column.tolerance, column.spread):
            assert stated is None or len(stated.reason) > 10
    for row in reference.rows:
        for key in row.values:
            column = column_of(reference, key)
            compared = not (row.unjudged or column.unjudged or row.origin == "cited")
            assert not compared or reference.tolerance_of(row.key, key) is not None, (row.key, key)
    write_reference(tmp_path / "copy.toml", reference)
    assert load_reference(tmp_path / "copy.toml") == reference
    if reference.recorded:  # recording again on the same numbers changes no byte
        assert (tmp_path / "copy.toml").read_bytes() == path.read_bytes()


def test_fields_are_read_as_written(printed: Printed) -> None:
    reference = printed({"value = 78.0": "value = 78.25", "value = 73.0": "value = 73"})
    value = stored(reference, "base", "top1")
    assert (value.value, value.std, value.runs) == (78.25, 0.2, 3)
    assert stored(reference, "cited", "top1").value == 73.0
    assert reference.value("cited", "nothing") is None
    assert reference.tolerance_of("base", "top1") == 1.25
    assert column_of(reference, "top1").decimals == 2  # as many as the stored values have
    assert not reference.recorded


def test_what_a_number_without_runs_proves(paper: Reference) -> None:
    assert stored(paper, "ours", "top1").runs_at_least == 2  # a std needs two
    spread = stored(paper, "ours", "top1").spread
    assert spread is not None
    assert spread.degrees == 1
    assert stored(paper, "cited", "top1").runs_at_least == 1
    assert stored(paper, "cited", "top1").spread is None


def test_strings_with_every_kind_of_character_survive(tmp_path: Path, paper: Reference) -> None:
    text = "quotes \" ' backslash \\ newline \n tab \t delete \x7f bell \x07 é 漢 \U0001d11e"
    rows = (replace(paper.rows[0], label=text), *paper.rows[1:])
    write_reference(tmp_path / "r.toml", replace(paper, rows=rows))
    assert load_reference(tmp_path / "r.toml").rows[0].label == text


SECTION = (
    r"^table9\.toml: `table` is missing\. "
    r"Add a section \[table\] with id, title, paper, source, dataset\.$"
)
"""Whole line about a file without the section."""


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('id = "table9"\n', "", r"\[table\]: `id` must be a string, got nothing"),
        ('id = "table9"', 'idd = "table9"\nid = "a"', "`idd` must be one of the fields id, title"),
        ("value = 78.0", 'value = "78"', "row 'base', column 'top1': `value` must be a number"),
        ("value = 78.0", "value = nan", "`value` must be finite, got nan"),
        ("value = 78.0", "value = true", "`value` must be a number, got True"),
        ("std = 0.2, runs", "std = -0.2, runs", "`std` must be 0 or more, got -0.2"),
        ("runs = 3", "runs = 0", "row 'base', column 'top1': `runs` must be at least 1, got 0"),
        ("runs = 3", "runs = 3, per_seed = [1, 2]", "`runs` must be the 2 of per_seed, got 3"),
        ("runs = 3", "per_seed = [1, 'x']", r"`per_seed\[1\]` must be a number, got 'x'"),
        ("runs = 3", "trials = 3", "column 'top1': `trials` must be one of the fields value, std"),
        ("{ top1 = { value = 73", "{ top2 = { value = 73", "row 'cited': `values` must name colum"),
        ('origin = "run"', 'origin = "guess"', "row 'ours': `origin` must be one of 'cited', 're"),
        ('key = "ours"', 'key = "base"', "row 'base': `key` must be unique, but appears twice"),
        ('key = "ours"\n', "", "row 3: `key` must be a string, got nothing"),
        ('than = "base"', 'than = "c"', "claim 1: `than` must be a key of the rows, got 'c'"),
        (
            "value = 1.25",
            "value = -1",
            "column 'top1', tolerance: `value` must be 0 or more, got -1",
        ),
        ("degrees = 4", "degrees = 0", "column 'top1', spread: `degrees` must be positive"),
        ("[table]", "[tabel]", SECTION),
        ("[table]", "table = 3\n[tabel]", "`table` must be a table with id, title, .*, got 3"),
        ("[table]", "[provenance]\n[table]", r"\[provenance\]: `seeds` must be a list, each item"),
        ("[table]", "[table", "not valid TOML"),
        ("[[claims]]", "[[claim]]", "`claim` must be one of the fields table, columns, rows"),
        ("better = false", "better = 0", "`higher_is_better` must be true or false or null, got 0"),
    ],
)
def test_a_malformed_file_is_refused_by_file_place_and_field(
    old: str, new: str, sentence: str, printed: Printed
) -> None:
    with pytest.raises(UserError, match=f"(?m){sentence}") as error:
        printed({old: new})
    for line in str(error.value).splitlines():
        assert line.startswith("table9.toml: ")
        assert line.endswith(".")


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            "runs = 3",
            "runs = 2, per_seed = [78.0, 78.4]",
            "`value` must be 78.2 as in per_seed, got 78.0",
        ),
        (
            "std = 0.2, runs = 3",
            "std = 0.9, runs = 3, per_seed = [77.8, 78.0, 78.2]",
            "`std` must be 0.2 as in per_seed, got 0.9",
        ),
        ('label = "Cited [7]"', 'label = " "', "`label` must be a text that is not empty, got ' '"),
        (
            "value = 78.0",
            f"value = {'9' * 400}",
            "`value` must be a number, got an integer of more than",
        ),
        ("value = 78.0", "value = 1e308", "`value` must be finite, at most 1e"),
        ('unit = "%"', 'unit = "%"\ndecimals = -1', "`decimals` must be at least 0, got -1"),
        ('unit = "%"', 'unit = "%"\ndecimals = 400', "`decimals` must be at most 10, got 400"),
        ("margin = 6.0", "margin = inf", "`margin` must be finite, at most 1e"),
        ('than = "base"', 'than = "ours"', "`better` and `than` must be two rows, got 'ours' twic"),
        (
            'key = "base"',
            'recipe = { on = 2020-01-01 }\nkey = "base"',
            "`recipe` must hold text, f",
        ),
        ('key = "base"', 'recipe = { lr = nan }\nkey = "base"', "`recipe` must hold text, finite"),
        ('key = "top1"', "key = [1]", "`key` must be a string"),
        ("[table]", "x = " + "[" * 3000 + "\n[table]", "not valid TOML"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(
    old: str, new: str, sentence: str, printed: Printed
) -> None:
    with pytest.raises(UserError, match=f"(?m){sentence}"):
        printed({old: new})


def test_every_mistake_of_a_file_is_reported_at_once(printed: Printed) -> None:
    changes = {"value = 78.0": "value = '78'", "degrees = 4": "degrees = 0", "margin = 6.0\n": ""}
    with pytest.raises(UserError) as error:
        printed({**changes, 'than = "base"': 'than = "c"'})
    assert str(error.value).splitlines() == [
        "table9.toml: column 'top1', spread: `degrees` must be positive, got 0.0.",
        "table9.toml: row 'base', column 'top1': `value` must be a number, got '78'.",
        "table9.toml: claim 2: `margin` must be a number, got nothing.",
        "table9.toml: claim 1: `than` must be a key of the rows, got 'c'.",
    ]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "none.toml"))):
        load_reference(tmp_path / "none.toml")


def test_recording_keeps_every_run_and_states_tolerances_with_their_reason(
    tmp_path: Path, paper: Reference, provenance: Provenance
) -> None:
    runs = measured()
    reference = record_reference(paper, runs, provenance)
    write_reference(tmp_path / "r.toml", reference)
    reference = load_reference(tmp_path / "r.toml")
    assert reference.recorded
    assert reference.provenance == provenance
    assert [row.key for row in reference.rows] == ["base", "extra"]
    for row, cells in runs.items():
        value = stored(reference, row, "top1")
        assert value.per_seed == pytest.approx(tuple(cells["top1"].values()), rel=1e-7)
        assert value.value == pytest.approx(sum(cells["top1"].values()) / 5, rel=1e-7)
        own = reference.tolerance_of(row, "top1")
        assert own is not None
        assert own > 0
    tolerance = column_of(reference, "top1").tolerance
    assert tolerance is not None
    assert "99 of 100" in tolerance.reason


def test_what_is_not_judged_is_recorded_without_tolerance_and_costs_none(
    provenance: Provenance, printed: Printed
) -> None:
    paper = printed({'unit = "%"': 'unit = "%"\nunjudged = "derived"'})
    reference = record_reference(paper, measured(), provenance)
    assert reference.tolerance_of("base", "top1") is None
    assert len(stored(reference, "base", "top1").per_seed) == 5


@pytest.mark.parametrize("count", [1, 2])
def test_seeds_that_are_added_give_the_recording_of_all_at_once(
    count: int, paper: Reference
) -> None:
    kept, added = tuple(range(5 - count)), tuple(range(5 - count, 5))
    first = Provenance("record", kept, "c", "2026-01-02", "h", {"torch": "2"})
    more = Provenance("extend", added, "c2", "2026-01-01", "h", {"torch": "3", "a": "1"})
    runs = measured()
    earlier = record_reference(paper, measured_of(runs, first.seeds), first)
    extended = record_reference(paper, measured_of(runs, more.seeds), more, earlier=earlier)
    whole = Provenance("record", (0, 1, 2, 3, 4), "c", "d", "h", {})
    at_once = record_reference(paper, runs, whole)
    assert replace(extended, provenance=whole) == at_once
    assert extended.provenance == Provenance(
        command="record; extend",
        seeds=(0, 1, 2, 3, 4),
        commit="c; c2",
        date="2026-01-02",
        hardware="h",
        versions={"torch": "2; 3", "a": "none; 1"},
    )


def measured_of(runs: Measured, seeds: Sequence[int]) -> Measured:
    return {
        row: {key: {seed: by_seed[seed] for seed in seeds} for key, by_seed in cells.items()}
        for row, cells in runs.items()
    }


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"new": {"top1": {8: 1.0, 9: 1.0}}}, "only it or only these seeds have row 'new'"),
        ({"base": {}}, "have row 'base', column 'top1'"),
    ],
)
def test_seeds_of_other_cells_cannot_be_added(
    change: Measured, sentence: str, paper: Reference, provenance: Provenance
) -> None:
    earlier = record_reference(paper, measured(), provenance)
    more = replace(provenance, seeds=(8, 9))
    with pytest.raises(UserError, match=sentence):
        record_reference(paper, {**measured((8, 9)), **change}, more, earlier=earlier)


@pytest.mark.parametrize(
    ("seeds", "change", "sentence"),
    [
        ((0, 1), {}, "at least 3 different seeds, not 2"),
        ((0, 1, 1), {}, "at least 3 different seeds, not 2"),
        ((0, 1, 2, 3, 9), {}, "row 'base', column 'top1', seed 9 is missing"),
        ((0, 1, 2, 3, 4), {"base": {"top1": {0: float("nan")}}}, "seed 0 is nan"),
        ((0, 1, 2, 3, 4), {"base": {"knn": {}}}, "no column 'knn' to record"),
    ],
)
def test_an_incomplete_recording_is_refused(
    seeds: tuple[int, ...], change: Measured, sentence: str, paper: Reference
) -> None:
    of_seeds = Provenance("x", seeds, "c", "d", "h", {})
    with pytest.raises(UserError, match=sentence):
        record_reference(paper, {**measured(), **change}, of_seeds)


def test_a_recorded_file_whose_seeds_do_not_fit_is_refused(
    paper: Reference, provenance: Provenance
) -> None:
    reference = record_reference(paper, measured(), provenance)
    text = reference_text(reference).replace("seeds = [0, 1, 2, 3, 4]", "seeds = [0, 1, 2, 3]")
    with pytest.raises(
        UserError, match="column 'top1': `per_seed` must hold the 4 recorded seeds, got 5"
    ):
        parse_reference(text, Path("t.toml"))


@pytest.mark.parametrize("spread", range(1, 11))
def test_recorded_tolerances_are_rounded_up_and_a_columns_is_its_smallest(
    spread: int, paper: Reference, provenance: Provenance
) -> None:
    numbers = {
        row: {"top1": {seed: spread * value**power for seed, value in cells["top1"].items()}}
        for (row, cells), power in zip(measured().items(), (1, 2), strict=True)
    }
    reference = record_reference(paper, numbers, provenance)
    runs = {row: {"top1": stored(reference, row, "top1").per_seed} for row in numbers}
    _, exact = recorded_tolerances(runs)
    assert exact["base"]["top1"] != exact["extra"]["top1"]
    for row, cells in exact.items():
        stated = reference.tolerance_of(row, "top1")
        assert stated is not None
        assert cells["top1"] <= stated <= 1.01 * cells["top1"]
    common = column_of(reference, "top1").tolerance
    assert common is not None
    smallest = min(cells["top1"] for cells in exact.values())
    assert smallest <= common.value <= 1.01 * smallest
