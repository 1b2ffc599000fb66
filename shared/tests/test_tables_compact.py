"""What a command prints at its end: one table, each fact once, everything else with --full."""

from __future__ import annotations

import re

import pytest

from retable.tables import Comparison, Reference, compare, render_terminal
from retable.tables.phrases import summary


@pytest.fixture
def compared(paper: Reference) -> Comparison:
    measured = {
        "base": {"top1": {0: 78.0, 1: 78.4}, "error": {0: 22.0, 1: 23.0}},
        "ours": {"top1": {0: 84.0, 1: 84.5}, "error": {0: 16.0, 1: 15.0}},
    }
    return compare(paper, measured, scale="paper", notes=["A note about all runs."])


@pytest.mark.parametrize("width", [100, 80])
def test_a_row_and_its_numbers_are_on_one_line(width: int, compared: Comparison) -> None:
    text = render_terminal(compared, width=width, full=False)
    assert max(map(len, text.splitlines())) <= width
    numbers = r"  Method <1\|2>\s+79\.0 ± 0\.4\s+84\.2 ± 0\.4 \(2\)\s+\+5\.2 \[.*\]\s+miss"
    assert re.search(numbers, text), text


def test_each_column_has_its_name_once_and_rows_that_were_not_run_are_left_out(
    compared: Comparison,
) -> None:
    text = render_terminal(compared, width=100, full=False)
    lines = text.splitlines()
    assert lines.count("Top-1 (%)") == lines.count("Error (%)") == 1
    assert "AP (AP)" not in lines
    assert not any(line.startswith("  Cited") for line in lines)
    assert "Not run: AP, all rows: needs detection fine-tuning." in " ".join(text.split())


def test_a_reason_for_what_was_not_run_appears_once(paper: Reference) -> None:
    measured = {"base": {"top1": {0: 78.0}, "error": {0: 22.0}}}
    text = render_terminal(compare(paper, measured, scale="paper"), width=100, full=False)
    reasons = [line for line in text.splitlines() if "not requested in this run" in line]
    assert len(reasons) == 1


def test_notes_appear_once_and_name_their_column(compared: Comparison) -> None:
    text = " ".join(render_terminal(compared, width=100, full=False).split())
    assert text.count("A note about all runs.") == 1
    assert text.count("No verdict, no number in the paper for this cell") == 1
    assert "Method <1|2> (Error)" in text


def test_claims_that_were_tested_are_shown_and_all_are_counted(paper: Reference) -> None:
    compared = compare(paper, {"ours": {"top1": {0: 84.0, 1: 84.5}}}, scale="paper")
    text = render_terminal(compared, width=100, full=False)
    assert "far above what others had" in text
    assert "The method gains a point." not in text  # needs a row that was not run
    assert " ".join(summary(compared).split()) in " ".join(text.split())


def test_a_table_without_numbers_shows_what_is_printed(paper: Reference) -> None:
    text = render_terminal(compare(paper, {}, scale="paper"), width=100, full=False)
    assert re.search(r"  Method <1\|2>\s+79\.0 ± 0\.4\s+not run", text), text


def test_it_is_at_most_half_as_long_as_everything(compared: Comparison) -> None:
    short, whole = (
        len(render_terminal(compared, width=100, full=full).splitlines()) for full in (False, True)
    )
    assert short < 0.7 * whole
