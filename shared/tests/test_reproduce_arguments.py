from __future__ import annotations

from pathlib import Path

import pytest

from retable.errors import UserError
from retable.reproduce import Table
from retable.reproduce.arguments import Command, parse


def seeds(table: Table, *words: str) -> tuple[int, ...]:
    return parse(table, ["--seeds", *words]).request.seeds


def test_seeds_are_numbers_and_ranges_with_both_ends(table: Table) -> None:
    assert seeds(table, "3") == (3,)
    assert seeds(table, "0-2") == (0, 1, 2)
    assert seeds(table, "7", "0-2", "5") == (7, 0, 1, 2, 5)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["zero"], "--seeds zero is no seed: write numbers or ranges"),
        (["1-"], "--seeds 1- is no seed"),
        (["2", "0-3"], "names a seed twice: name each once"),
        (["4-1"], "--seeds 4-1 names no seed: write the lower one first"),
    ],
)
def test_what_is_no_seed_is_refused(table: Table, words: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        seeds(table, *words)


def test_each_scale_has_its_seeds(table: Table) -> None:
    assert parse(table, []).request.seeds == (0,)
    paper = parse(table, ["--scale", "paper", "--data", "imagefolder:x"])
    assert paper.request.seeds == (0, 1, 2)


def test_a_recording_has_five_seeds_none_of_them_the_tables(table: Table) -> None:
    recording = parse(table, ["--record"])
    assert recording.record
    assert len(recording.request.seeds) >= 5
    assert not set(recording.request.seeds) & set(table.seeds["proxy"])
    assert parse(table, ["--record", "--seeds", "10-15"]).request.seeds == tuple(range(10, 16))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--scale", "smoke"], "--record stores references of the proxy scale"),
        (["--scale", "paper", "--data", "imagefolder:x"], "of the proxy scale"),
        (["--set", "pretrain.epochs=1"], "whole tables of unchanged recipes: leave out --set"),
        (["--rows", "contrastive"], "whole tables"),
        (["--max-steps", "3"], "whole tables"),
        (["--seeds", "0-3"], "--record needs at least 5 seeds, got 4"),
    ],
)
def test_only_whole_unchanged_tables_over_enough_seeds_are_recorded(
    table: Table, words: list[str], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        parse(table, ["--record", *words])


def test_paper_scale_needs_data_but_for_a_dry_run(table: Table) -> None:
    with pytest.raises(UserError, match="--scale paper needs the paper's images: add --data"):
        parse(table, ["--scale", "paper"])
    assert parse(table, ["--scale", "paper", "--dry-run"]).dry_run


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--scale", "huge"], r"Argument --scale: .*'huge'"),
        (["--speed"], "Unrecognized arguments: --speed"),
        (["--resume", "--fresh"], "not allowed with argument"),
        (["--processes", "0"], "--processes: 0 is no whole number of at least 1"),
        (["--jobs", "-1"], "--jobs"),
        (["--max-steps", "few"], "few is no whole number of at least 1"),
        (["--accumulate", "0"], "0 is no whole number of at least 1"),
        (["--workers", "x"], "x is no whole number, expected 0 or more"),
        (["--mixed-precision", "half"], "--mixed-precision"),
    ],
)
def test_wrong_usage_is_a_users_mistake_that_points_to_the_help(
    table: Table, words: list[str], said: str
) -> None:
    with pytest.raises(UserError, match=said) as mistake:
        parse(table, words)
    assert str(mistake.value).endswith("(see --help).")


def parsed(table: Table, *words: str) -> Command:
    return parse(table, words)


def test_options_reach_request_and_setting(table: Table) -> None:
    command = parsed(
        table, "--rows", "supervised", "--set", "pretrain.epochs=1", "--set", "knn.k=3",
        "--mixed-precision", "bf16", "--max-steps", "5", "--runs", "elsewhere", "--quiet",
        "--accumulate", "2", "--skip-unreadable", "--workers", "0",
    )  # fmt: skip
    assert command.request.rows == ("supervised",)
    assert command.request.overrides == ("pretrain.epochs=1", "knn.k=3")
    assert command.request.precision == "bf16"
    assert command.request.max_steps == 5
    assert command.setting.folder == Path("elsewhere")
    assert command.setting.execution.quiet
    assert command.setting.execution.accumulate == 2
    assert command.setting.execution.workers == 0
    assert command.setting.skip_unreadable


def test_runs_lie_side_by_side_only_where_one_process_trains_each(table: Table) -> None:
    assert parsed(table, "--jobs", "3").setting.jobs == 3
    assert parsed(table, "--processes", "2").setting.jobs == 1
    assert parsed(table, "--scale", "paper", "--data", "imagefolder:x").setting.jobs == 1


def test_small_scales_use_one_thread_so_that_figures_do_not_depend_on_the_machine(
    table: Table,
) -> None:
    assert parsed(table).setting.threads == 1
    assert parsed(table, "--scale", "smoke").setting.threads == 1
