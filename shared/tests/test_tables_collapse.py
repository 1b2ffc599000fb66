"""Collapses in place of values: compared with the expectation, shown, stored, recorded."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from retable.errors import UserError
from retable.tables import (
    Collapsed,
    Comparison,
    Measured,
    Provenance,
    Reference,
    compare,
    load_reference,
    record_reference,
    render_json,
    render_markdown,
    render_terminal,
    write_reference,
)
from retable.tables.comparison import ComparedCell, Scale
from retable.tables.document import document
from retable.tables.page import write_html
from retable.tables.phrases import remarks, summary
from retable.tables.reference import Collapse
from retable.tables.storage import parse_comparison
from retable.tables.verdict import ClaimVerdict, Verdict

Printed = Callable[..., Reference]

EXPECTED = """[[rows]]
key = "off"
label = "Without the sphere"
origin = "run"
recipe = { expected = "collapse" }
values = {}

[[claims]]"""

NAN = "the loss is not finite (nan)"


@pytest.fixture
def paper(printed: Printed) -> Reference:
    """Make a paper's table with a row that prints no number but that it collapses."""
    return printed({"[[claims]]": EXPECTED})


def gone(*seeds: int) -> dict[str, dict[int, str]]:
    return {"top1": dict.fromkeys(seeds, NAN)}


def left(*seeds: int) -> dict[str, dict[int, float]]:
    return {"top1": {seed: 20.0 + 0.1 * seed for seed in seeds}}


def cell(
    reference: Reference,
    measured: Measured,
    collapsed: Collapsed,
    scale: Scale = "paper",
    *,
    row: str = "off",
    paper: Reference | None = None,
) -> ComparedCell:
    compared = compare(reference, measured, paper, scale, collapsed=collapsed)
    return next(line.cells["top1"] for line in compared.rows if line.row.key == row)


@pytest.mark.parametrize(
    ("collapsed", "numbers", "verdict", "reason"),
    [
        ((0,), (), Verdict.MATCH, ""),
        ((0, 1, 2), (), Verdict.MATCH, ""),
        ((0, 2), (1,), Verdict.INCONCLUSIVE, "2 of 3 seeds collapsed, all should"),
        ((), (0,), Verdict.MISS, "expected collapse"),
        ((), (0, 1, 2), Verdict.MISS, "expected collapse"),
    ],
)
@pytest.mark.parametrize("scale", ["paper", "proxy"])
def test_an_expected_collapse_matches_where_every_seed_collapsed(
    collapsed: tuple[int, ...],
    numbers: tuple[int, ...],
    verdict: Verdict,
    reason: str,
    scale: Scale,
    paper: Reference,
) -> None:
    # The paper's own expectation holds at proxy scale too, before anything was recorded.
    found = cell(paper, {"off": left(*numbers)}, {"off": gone(*collapsed)}, scale)
    assert (found.verdict, found.reason) == (verdict, reason)


@pytest.mark.parametrize(("collapsed", "numbers"), [((0,), ()), ((1,), (0, 2))])
def test_an_unexpected_collapse_is_a_miss_however_good_other_seeds_are(
    collapsed: tuple[int, ...], numbers: tuple[int, ...], paper: Reference
) -> None:
    fine = {"ours": {"top1": dict.fromkeys(numbers, 79.0)}}
    found = cell(paper, fine, {"ours": gone(*collapsed)}, row="ours")
    assert found.verdict is Verdict.MISS
    assert found.reason.endswith("seeds collapsed, no collapse was expected")
    assert found.interval is None


def test_a_collapse_is_expected_only_where_other_rows_print_numbers(paper: Reference) -> None:
    assert paper.stored("off", "top1") == Collapse()
    assert paper.stored("off", "ap") == Collapse()
    assert paper.stored("off", "error") is None
    assert paper.value("off", "top1") is None


def test_an_expected_collapse_that_was_not_run_is_no_match(paper: Reference) -> None:
    found = cell(paper, {}, {})
    assert (found.verdict, found.paper) == (Verdict.NOT_RUN, Collapse())


@pytest.mark.parametrize("collapsed", [(0,), ()])
def test_unfinished_runs_claim_no_collapse(collapsed: tuple[int, ...], paper: Reference) -> None:
    found = cell(paper, {"off": left(1)}, {"off": gone(*collapsed)}, "smoke")
    assert found.verdict is None
    assert "claims nothing" in found.reason


def test_a_failure_that_is_no_collapse_misses_before_anything_else(paper: Reference) -> None:
    failed = {"off": {"top1": "seed 1: training stopped, for a reason"}}
    compared = compare(paper, {}, scale="paper", failed=failed, collapsed={"off": gone(0)})
    assert ("off", "top1") in compared.misses()


def test_a_claim_about_a_row_that_collapsed_is_unresolved(paper: Reference) -> None:
    numbers = {"base": {"top1": {0: 78.0, 1: 78.0}}, "ours": {"top1": {0: 79.0}}}
    compared = compare(paper, numbers, scale="paper", collapsed={"ours": gone(1)})
    claim = compared.claims[0]
    assert claim.verdict is ClaimVerdict.UNRESOLVED
    assert claim.reason == "'ours' collapsed in 1 of 2 seeds"
    assert claim.differences == {0: 1.0}


def test_a_row_is_above_one_that_collapsed_in_every_seed(
    paper: Reference, provenance: Provenance
) -> None:
    numbers = {"ours": {"top1": dict.fromkeys(range(5), 79.0)}}
    for collapsed, verdict in (
        (gone(*range(5)), ClaimVerdict.SUPPORTED),
        (gone(0, 1), ClaimVerdict.SUPPORTED),
    ):
        claim = compare(paper, numbers, scale="paper", collapsed={"base": collapsed}).claims[0]
        assert claim.verdict is verdict
    some = {**numbers, "base": {"top1": {1: 70.0}}}
    claim = compare(paper, some, scale="paper", collapsed={"base": gone(0)}).claims[0]
    assert claim.verdict is ClaimVerdict.UNRESOLVED
    recorded = record_reference(paper, numbers, provenance, collapsed={"base": gone(*range(5))})
    claim = compare(recorded, {}, paper, "proxy").claims[0]
    assert claim.recorded is ClaimVerdict.SUPPORTED


# What was recorded.


def recording(
    paper: Reference, provenance: Provenance, *collapsed: int, earlier: Reference | None = None
) -> Reference:
    """Record the row ``off`` with some of the seeds collapsed, and another with a number each."""
    seeds = provenance.seeds
    numbers = {
        "ours": {"top1": {seed: 79.0 + 0.1 * seed for seed in seeds}},
        "off": left(*(seed for seed in seeds if seed not in collapsed)),
    }
    return record_reference(
        paper, numbers, provenance, collapsed={"off": gone(*collapsed)}, earlier=earlier
    )


def test_a_recording_counts_the_seeds_that_collapsed_and_survives_being_written(
    paper: Reference, provenance: Provenance, tmp_path: Path
) -> None:
    for collapsed in ((0, 1, 2, 3, 4), (1, 3)):
        recorded = recording(paper, provenance, *collapsed)
        assert recorded.stored("off", "top1") == Collapse(len(collapsed), 5)
        write_reference(tmp_path / "r.toml", recorded)
        assert load_reference(tmp_path / "r.toml") == recorded
        text = (tmp_path / "r.toml").read_text()
        assert f"values.top1 = {{ collapsed = {len(collapsed)}, runs = 5 }}" in text


def test_collapses_of_added_seeds_are_counted_with_the_stored(
    paper: Reference, provenance: Provenance
) -> None:
    more = replace(provenance, seeds=(7, 8, 9))
    for before, after, wanted in (((1, 3), (8,), 3), ((), (8,), 1), ((1,), (), 1)):
        earlier = recording(paper, provenance, *before)
        extended = recording(paper, more, *after, earlier=earlier)
        assert extended.stored("off", "top1") == Collapse(wanted, 8)
        value = extended.value("ours", "top1")
        assert value is not None
        assert value.runs == 8


def test_a_collapsed_cell_takes_no_part_in_the_tolerances_of_the_others(
    paper: Reference, provenance: Provenance
) -> None:
    with_collapse = recording(paper, provenance, *provenance.seeds)
    alone = record_reference(
        paper, {"ours": {"top1": {s: 79.0 + 0.1 * s for s in provenance.seeds}}}, provenance
    )
    assert with_collapse.tolerance_of("ours", "top1") == alone.tolerance_of("ours", "top1")


def test_a_seed_that_neither_ended_nor_collapsed_cannot_be_recorded(
    paper: Reference, provenance: Provenance
) -> None:
    with pytest.raises(UserError, match="row 'off', column 'top1', seed 2 is missing"):
        record_reference(paper, {"off": left(0, 1)}, provenance, collapsed={"off": gone(3, 4)})


@pytest.mark.parametrize(
    ("recorded", "collapsed", "numbers", "verdict"),
    [
        ((0, 1, 2, 3, 4), (9,), (), Verdict.MATCH),
        ((0, 1, 2, 3, 4), (), (9,), Verdict.MISS),
        ((), (9,), (), Verdict.MISS),  # the recording has a number
        ((), (), (2,), Verdict.MATCH),
        ((0, 1), (9,), (), Verdict.INCONCLUSIVE),  # it collapses for some seeds
        ((0, 1), (), (9,), Verdict.INCONCLUSIVE),
    ],
)
def test_the_recording_states_the_expectation_if_the_paper_states_none(
    recorded: tuple[int, ...],
    collapsed: tuple[int, ...],
    numbers: tuple[int, ...],
    verdict: Verdict,
    printed: Printed,
    provenance: Provenance,
) -> None:
    paper = printed({"[[claims]]": EXPECTED.replace('expected = "collapse"', "")})
    reference = recording(paper, provenance, *recorded)
    measured = {"off": left(*numbers)}
    found = cell(reference, measured, {"off": gone(*collapsed)}, "proxy", paper=paper)
    assert found.verdict is verdict


def test_a_collapse_that_the_paper_expects_is_missed_though_the_recording_has_a_number(
    paper: Reference, provenance: Provenance
) -> None:
    reference = recording(paper, provenance)
    found = cell(reference, {"off": left(2)}, {}, "proxy", paper=paper)
    assert (found.verdict, found.reason) == (Verdict.MISS, "expected collapse")


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('expected = "collapse"', 'expected = "colapse"', "`recipe.expected` must be 'collapse'"),
        ("values = {}", "values = { top1 = { value = 1.0 } }", "in a row without values"),
    ],
)
def test_a_malformed_expectation_is_refused(
    old: str, new: str, sentence: str, printed: Printed
) -> None:
    with pytest.raises(UserError, match=sentence):
        printed({"[[claims]]": EXPECTED.replace(old, new)})


@pytest.mark.parametrize("counts", ["collapsed = 6, runs = 5", "collapsed = 0, runs = 5"])
def test_a_count_of_collapses_that_cannot_be_is_refused(counts: str, printed: Printed) -> None:
    with pytest.raises(
        UserError, match=r"column 'top1': `collapsed` must be (from 1 to runs = 5|at least 1)"
    ):
        printed({"{ value = 78.0, std = 0.2, runs = 3 }": f"{{ {counts} }}"})


def test_a_recording_with_another_number_of_runs_is_refused(
    paper: Reference, provenance: Provenance, tmp_path: Path
) -> None:
    write_reference(tmp_path / "r.toml", recording(paper, provenance, 1, 3))
    text = (tmp_path / "r.toml").read_text()
    (tmp_path / "r.toml").write_text(text.replace("runs = 5 }\n", "runs = 4 }\n"))
    with pytest.raises(UserError, match="`runs` must hold the 5 recorded seeds, got 4"):
        load_reference(tmp_path / "r.toml")


# What people read.


@pytest.fixture
def comparison(paper: Reference) -> Comparison:
    """Compare a row that collapsed as expected, one that did in part, one that did not."""
    numbers = {"base": {"top1": {0: 78.0, 1: 78.1, 2: 77.9}}, "ours": {"top1": {0: 79.0, 2: 79.1}}}
    collapsed = {
        "ours": gone(1),
        "off": {"top1": {0: NAN, 1: "the probe finds 2 %", 2: NAN}},
    }
    return compare(paper, numbers, scale="paper", collapsed=collapsed)


@pytest.mark.parametrize("render", [lambda c: render_terminal(c, width=120), render_markdown])
def test_a_collapse_is_read_in_its_cell(
    render: Callable[[Comparison], str], comparison: Comparison
) -> None:
    text = render(comparison).replace("\\", "")
    line = next(part for part in text.splitlines() if part.lstrip("| ").startswith("Without"))
    assert line.count("collapse") == 2  # the paper's and ours
    assert "collapse (3)" in line
    assert "match" in line
    assert "79.0 ± 0.1 (2), collapse (1)" in text


def test_the_reason_of_a_collapse_is_shown_below_the_table(comparison: Comparison) -> None:
    assert (
        remarks(comparison)[0]
        == f"Collapse, {NAN}: Method <1|2> (seed 1); Without the sphere (seeds 0, 2)."
    )
    assert "Collapse, the probe finds 2 %: Without the sphere (seed 1)." in remarks(comparison)
    assert any(said.startswith("Miss, 1 of 3 seeds collapsed") for said in remarks(comparison))
    assert "MISS: row 'ours', column 'top1'" in summary(comparison)
    assert "MISS: row 'off'" not in summary(comparison)


def test_the_reason_of_a_collapse_is_shown_without_a_verdict(paper: Reference) -> None:
    smoke = compare(paper, {}, scale="smoke", collapsed={"off": gone(0)})
    assert remarks(smoke) == [f"Collapse, {NAN}: Without the sphere (seed 0)."]
    assert "collapse (1)  no verdict" in render_terminal(smoke, width=100)


def test_a_recorded_collapse_is_shown_with_its_count(
    paper: Reference, provenance: Provenance
) -> None:
    reference = recording(paper, provenance, 1, 3)
    text = render_terminal(compare(reference, {"off": left(9)}, paper, "proxy"), width=160)
    line = next(part for part in text.splitlines() if part.startswith("Without"))
    assert "collapse (2 of 5)" in line


def test_a_collapse_is_stored_and_read_back(comparison: Comparison) -> None:
    text = render_json(comparison)
    assert parse_comparison(text) == comparison
    rows = {row["row"]["key"]: row["cells"]["top1"] for row in json.loads(text)["rows"]}
    assert rows["off"]["paper"] == {"kind": "Collapse", "collapsed": None, "runs": None}
    assert rows["off"]["collapsed"] == {"0": NAN, "1": "the probe finds 2 %", "2": NAN}
    assert rows["base"]["paper"]["value"] == 78.0


def test_a_page_shows_a_collapse_too(comparison: Comparison) -> None:
    html = write_html(document(comparison), "A title")
    assert "<td>collapse (3)</td>" in html
    assert "<td>79.0 ± 0.1 (2), collapse (1)</td>" in html
    assert "Collapse, the probe finds 2 %: Without the sphere (seed 1)." in html


def drawn(comparison: Comparison) -> list[str]:
    pytest.importorskip("matplotlib")
    from retable.tables import charts

    figure = charts.draw_comparison(comparison)
    figure.canvas.draw()
    return [part.get_text() for part in figure.findobj() if hasattr(part, "get_text")]


def test_a_collapse_is_written_into_the_picture(
    comparison: Comparison, paper: Reference, provenance: Provenance
) -> None:
    words = drawn(comparison)
    assert words.count("collapse") == 1  # the paper's
    assert {"collapse (3)", "collapse (1)"} <= set(words)
    reference = recording(paper, provenance, 1, 3)
    assert "collapse (2 of 5)" in drawn(compare(reference, {"off": left(9)}, paper, "proxy"))
    only = compare(paper, {}, scale="paper", collapsed={"off": gone(0)})
    assert "collapse (1)" in drawn(replace(only, claims=()))
