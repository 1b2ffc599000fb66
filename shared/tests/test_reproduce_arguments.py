from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from retable.errors import UserError
from retable.evaluate.data import EvalData
from retable.evaluate.knn import Knn
from retable.evaluate.ood import OutOfDistribution
from retable.evaluate.ood_sets import OodSet
from retable.evaluate.transfer.detection.evaluation import DetectionTransfer
from retable.evaluate.transfer.finetune import FineTuning
from retable.reproduce import Metric, Table, TableRow
from retable.reproduce.arguments import parse
from retable.reproduce.command import list_notes
from retable.reproduce.label_lists import LabelLists
from retable.reproduce.plan import resolve_rows
from retable.reproduce.results import Outcomes, compare_table
from retable.reproduce.table import Gain
from retable.tables import load_reference
from retable.train.options import RunOptions


def seeds(table: Table, *words: str) -> tuple[int, ...]:
    return parse(table, ["--seeds", *words])[0].seeds


def test_seeds_are_numbers_and_ranges_with_both_ends(table: Table) -> None:
    assert seeds(table, "3") == (3,)
    assert seeds(table, "0-2") == (0, 1, 2)
    assert seeds(table, "7", "0-2", "5") == (7, 0, 1, 2, 5)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["zero"], "`--seeds` must be numbers or ranges, got 'zero'"),
        (["1-"], "must be numbers or ranges, got '1-'"),
        (["2", "0-3"], "names a seed twice. Name each once"),
        (["4-1"], "`--seeds 4-1` names no seed. Write the lower one first"),
    ],
)
def test_what_is_no_seed_is_refused(table: Table, words: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        seeds(table, *words)


def test_each_scale_has_its_seeds(table: Table) -> None:
    assert parse(table, [])[0].seeds == (0,)
    paper, _ = parse(table, ["--scale", "paper", "--data", "imagefolder:x"])
    assert paper.seeds == (0, 1, 2)


def test_a_recording_has_five_seeds_none_of_them_the_tables(table: Table) -> None:
    recording, options = parse(table, ["--record"])
    assert options.record
    assert len(recording.seeds) >= 5
    assert not set(recording.seeds) & set(table.seeds["proxy"])
    assert parse(table, ["--record", "--seeds", "10-15"])[0].seeds == tuple(range(10, 16))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--scale", "smoke"], "--record stores references of the proxy scale"),
        (["--scale", "paper", "--data", "imagefolder:x"], "of the proxy scale"),
        (["--set", "pretrain.epochs=1"], "whole tables of unchanged recipes: leave out --set"),
        (["--rows", "contrastive"], "whole tables"),
        (["--max-steps", "3"], "whole tables"),
        (["--seeds", "0-1"], "--record needs at least 3 seeds, got 2"),
    ],
)
def test_only_whole_unchanged_tables_over_enough_seeds_are_recorded(
    table: Table, words: list[str], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        parse(table, ["--record", *words])


def test_seeds_are_added_to_a_recording_by_name(table: Table) -> None:
    selection, options = parse(table, ["--record", "--extend", "--seeds", "6"])
    assert (options.record, options.extend, selection.seeds) == (True, True, (6,))
    for words in (["--extend"], ["--extend", "--seeds", "6"], ["--record", "--extend"]):
        with pytest.raises(UserError, match="write --record --extend --seeds SEED"):
            parse(table, words)


def test_a_command_without_rows_trains_the_first_ones_at_proxy_scale(table: Table) -> None:
    short = dataclasses.replace(table, first_rows=("contrastive",))
    assert parse(short, [])[0].rows == ("contrastive",)
    assert parse(short, ["--rows", "all"])[0].rows == ()
    assert parse(short, ["--rows", "supervised"])[0].rows == ("supervised",)
    assert parse(short, ["--scale", "smoke"])[0].rows == ()
    assert parse(short, ["--record"])[0].rows == ()
    assert parse(table, [])[0].rows == ()
    with pytest.raises(UserError, match="`first_rows` must be rows of the table, got b"):
        dataclasses.replace(table, first_rows=("b",))


def test_paper_scale_needs_data_but_for_a_dry_run(table: Table) -> None:
    with pytest.raises(UserError, match="--scale paper needs the paper's images: add --data"):
        parse(table, ["--scale", "paper"])
    assert parse(table, ["--scale", "paper", "--dry-run"])[1].dry_run


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--scale", "huge"], r"Argument --scale: .*'huge'"),
        (["--speed"], "Unrecognized arguments: --speed"),
        (["--resume", "--fresh"], "not allowed with argument"),
        (["--processes", "0"], "--processes: must be an integer of at least 1, got 0"),
        (["--jobs", "-1"], "--jobs"),
        (["--max-steps", "few"], "must be an integer of at least 1, got few"),
        (["--accumulate", "0"], "must be an integer of at least 1, got 0"),
        (["--workers", "x"], "must be an integer of at least 0, got x"),
        (["--mixed-precision", "half"], "--mixed-precision"),
    ],
)
def test_wrong_usage_is_a_users_mistake_that_points_to_the_help(
    table: Table, words: list[str], said: str
) -> None:
    with pytest.raises(UserError, match=said) as mistake:
        parse(table, words)
    assert str(mistake.value).endswith("(see --help).")


def test_the_help_has_the_rows_with_their_labels_and_the_fields_of_each_part(
    table: Table, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(table, ["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    labels = {row.key: row.label for row in load_reference(table.reference).rows}
    for name in table.rows:
        assert re.search(rf"^  {re.escape(name)} +{re.escape(labels[name])}$", said, re.M)
    assert re.search(r"^  pretrain: batch, .*epochs", said, re.M)
    assert "FIELDs of optimizer (OptimizerRecipe)" in said


def test_options_say_what_to_run_and_how(table: Table) -> None:
    selection, options = parse(table, [
        "--rows", "supervised", "--set", "pretrain.epochs=1", "--set", "knn.k=3",
        "--mixed-precision", "bf16", "--max-steps", "5", "--runs", "elsewhere", "--quiet",
        "--accumulate", "2", "--skip-unreadable", "--workers", "0",
    ])  # fmt: skip
    assert selection.rows == ("supervised",)
    assert selection.overrides == ("pretrain.epochs=1", "knn.k=3")
    assert selection.precision == "bf16"
    assert selection.max_steps == 5
    assert options.folder == Path("elsewhere")
    assert options.quiet
    assert options.accumulate == 2
    assert options.workers == 0
    assert options.skip_unreadable


def options_of(table: Table, *words: str) -> RunOptions:
    return parse(table, words)[1]


def test_runs_lie_side_by_side_only_where_one_process_trains_each(table: Table) -> None:
    assert options_of(table, "--jobs", "3").jobs == 3
    assert options_of(table, "--processes", "2").jobs == 1
    assert options_of(table, "--scale", "paper", "--data", "imagefolder:x").jobs == 1


def test_small_scales_use_one_thread_so_that_numbers_do_not_depend_on_the_machine(
    table: Table,
) -> None:
    assert options_of(table).threads == 1
    assert options_of(table, "--scale", "smoke").threads == 1


def test_folders_of_shifted_sets_are_options_of_tables_that_evaluate_on_them(table: Table) -> None:
    evaluation = OutOfDistribution(sets=(OodSet("c"), OodSet("sketch")))
    rows = {
        row: dataclasses.replace(found, evaluations=(*found.evaluations, evaluation))
        for row, found in table.rows.items()
        if isinstance(found, TableRow)
    }
    shifted = dataclasses.replace(table, rows=rows)
    assert shifted.ood_sets == ("c", "sketch")
    assert table.ood_sets == ()
    paper = ["--scale", "paper", "--data", "imagefolder:x"]
    selection, _ = parse(shifted, [*paper, "--ood", "sketch=/data/sketch"])
    assert selection.other_data == (("ood:sketch", "/data/sketch"),)
    resolved = next(iter(resolve_rows(shifted, selection).values()))
    found = next(e for e in resolved.evaluations if isinstance(e, OutOfDistribution))
    assert found.sets == (OodSet("sketch", "/data/sketch"),)
    with pytest.raises(UserError, match=r"must be NAME=DIR with a set of .*, c, sketch, got r"):
        parse(shifted, [*paper, "--ood", "r=/data/r"])
    with pytest.raises(UserError, match="got sketch"):
        parse(shifted, [*paper, "--ood", "sketch"])
    with pytest.raises(UserError, match="--ood sketch=/data/sketch belongs to --scale paper"):
        resolve_rows(shifted, parse(shifted, ["--ood", "sketch=/data/sketch"])[0])
    with pytest.raises(UserError, match="Unrecognized arguments: --ood"):
        parse(table, ["--ood", "c=/data/c"])


def test_what_needs_data_that_are_not_given_is_left_out_and_its_columns_say_so(
    table: Table, tmp_path: Path
) -> None:
    detection = DetectionTransfer(data=EvalData("voc"), name="detection")
    rows = {
        row: dataclasses.replace(found, evaluations=(*found.evaluations, detection))
        for row, found in table.rows.items()
        if isinstance(found, TableRow)
    }
    columns = {"top1": Gain(Metric("detection.ap"), "supervised")}
    wide = dataclasses.replace(table, rows=rows, columns=columns, optional_data={"voc": "VOC"})
    assert wide.columns_of("voc") == {"top1"}
    assert table.columns_of("voc") == set()
    paper = ["--scale", "paper", "--data", "imagefolder:x"]
    without, _ = parse(wide, paper)
    resolved = resolve_rows(wide, without)
    assert all(row.evaluations == (Knn(k=5),) for row in resolved.values())
    cells = compare_table(wide, resolved, Outcomes(), without).cells
    assert {cell.reason for cell in cells} == {"needs --voc DIR (VOC)"}
    given, _ = parse(wide, [*paper, "--voc", str(tmp_path)])
    assert given.other_data == (("voc", f"voc:{tmp_path}"),)
    found = resolve_rows(wide, given)["contrastive"].evaluations[1]
    assert found.data.source == f"voc:{tmp_path}"
    assert "voc" not in str(compare_table(wide, resolved, Outcomes(), given).cells)


def listed(table: Table) -> Table:
    """Return the table with an evaluation on a share of the labels and lists for it."""
    few = FineTuning(name="finetune_1", data=EvalData(labels=0.01, balanced=True))
    rows = {
        name: dataclasses.replace(row, evaluations=(few, Knn(k=5)))
        for name, row in table.rows.items()
        if isinstance(row, TableRow)
    }
    lists = LabelLists("published-lists", "those of the paper", {"finetune_1": "1percent.txt"})
    return dataclasses.replace(table, rows=rows, label_lists=lists)


def test_published_lists_take_the_place_of_a_drawn_share_of_the_labels(table: Table) -> None:
    words = ["--scale", "paper", "--data", "imagefolder:x"]
    few = listed(table)
    drawn, _ = parse(few, words)
    for row in resolve_rows(few, drawn).values():
        assert row.evaluations[0].data == EvalData(labels=0.01, balanced=True)
    (note,) = list_notes(few, drawn)
    assert "finetune_1: the labels are a share of each class that was drawn here" in note
    assert "--published-lists DIR reads 1percent.txt" in note

    given, _ = parse(few, [*words, "--published-lists", "/lists"])
    for row in resolve_rows(few, given).values():
        assert row.evaluations[0].data == EvalData(files="/lists/1percent.txt")
        assert row.evaluations[1].data == EvalData()
    assert not list_notes(few, given)
    assert not list_notes(few, parse(few, [])[0])  # at proxy scale there is nothing to list


def test_lists_belong_to_the_paper_s_scale(table: Table) -> None:
    selection, _ = parse(listed(table), ["--published-lists", "/lists"])
    with pytest.raises(UserError, match="--published-lists /lists belongs to --scale paper"):
        resolve_rows(listed(table), selection)
