"""A command says what it will run, and after each run how long the others will take."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from retable.reproduce import Table, announcements, main
from retable.reproduce.announcements import Announcements
from retable.reproduce.plan import TableSelection, plan_runs, resolve_rows
from retable.reproduce.pricing import price
from retable.reproduce.run import Run
from retable.train.options import RunOptions

Trained = Callable[..., None]


def runs_of(table: Table, folder: Path, trained: Trained, seeds: tuple[int, ...]) -> list[Run]:
    trained(table, folder, seeds=seeds)
    return plan_runs(resolve_rows(table, TableSelection()), seeds)


def test_each_ended_run_says_how_many_are_left_and_how_long_they_take(
    table: Table,
    trained: Trained,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = runs_of(table, tmp_path, trained, (0,))
    now = iter((0.0, 1200.0))
    clock = SimpleNamespace(monotonic=lambda: next(now))
    monkeypatch.setattr(announcements, "time", clock)
    said = Announcements(runs, runs, RunOptions(tmp_path))
    said.begin()
    first, second = runs
    said.end_of(first)
    said.end_of(second)
    begin, one, two = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"2 runs of \d+ steps, .*FLOP in the encoders", begin)
    cost = {run: price(run.recipe, 72).flops for run in runs}
    left = 1200 * cost[second] / cost[first] / 60
    assert re.fullmatch(
        rf"contrastive seed 0: knn\.top1 .* \({first.name}\); 1 of 2 runs, about {left:.0f} min "
        "left",
        one,
    )
    assert re.fullmatch(rf"supervised seed 0: knn\.top1 .* \({second.name}\); 2 of 2 runs", two)


def test_complete_runs_are_counted_and_are_no_part_of_the_rest(
    table: Table, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = runs_of(table, tmp_path, trained, (0,))
    said = Announcements(runs, runs[1:], RunOptions(tmp_path))
    said.begin()
    said.end_of(runs[1])
    begin, end = capsys.readouterr().err.splitlines()
    assert begin.endswith(", 1 of them complete")
    assert end.endswith(f"({runs[1].name})")


@pytest.mark.parametrize(
    ("seconds", "said"), [(3, "3 s"), (99, "99 s"), (120, "2 min"), (7200, "2 h")]
)
def test_a_time_is_said_in_its_unit(seconds: float, said: str) -> None:
    assert announcements._rounded(seconds) == said


def test_runs_side_by_side_are_announced_by_the_command_that_waits_for_them(
    table: Table, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    main(table, ["--runs", str(tmp_path), "--jobs", "2"])
    ends = re.findall(r"seed 0: knn\.top1 .*; (\d) of 2 runs", capfd.readouterr().err)
    assert ends == ["1", "2"]
