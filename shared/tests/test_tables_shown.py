"""Rendered comparisons: headers with the scale, every value with its spread, nothing omitted."""

import html
import io
import json
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retable.errors import UserError
from retable.tables import (
    Comparison,
    Provenance,
    Reference,
    compare,
    load_comparison,
    record_reference,
    render_json,
    render_markdown,
    render_terminal,
    save_comparison,
    supports_colour,
)
from retable.tables.document import Cells, Heading, Paragraph, document
from retable.tables.markdown import write_markdown
from retable.tables.page import write_html
from retable.tables.phrases import number, remarks, scale_sentences, summary
from retable.tables.storage import parse_comparison

Printed = Callable[..., Reference]
BASE = "A baseline with quite a long label, longer than a line would like"


def runs(centre: float, seeds: Iterable[int] = range(5)) -> dict[int, float]:
    return {seed: centre + (seed - 2) * 0.25 for seed in seeds}


@pytest.fixture
def at_paper_scale(paper: Reference) -> Comparison:
    """Compare a match and a miss with the paper."""
    measured = {"base": {"top1": runs(78.1)}, "ours": {"top1": runs(84.0)}}
    return compare(paper, measured, scale="paper")


@pytest.fixture
def at_proxy_scale(paper: Reference, proxy: Reference) -> Comparison:
    """Compare a match and a miss with a recording."""
    fresh = {"base": {"top1": {7: 30.2}}, "ours": {"top1": {7: 20.0}}}
    return compare(proxy, fresh, paper, "proxy")


@pytest.fixture(
    params=["paper scale", "proxy scale", "nothing run", "not a number", "nothing recorded"]
)
def each(
    request: pytest.FixtureRequest,
    paper: Reference,
    at_paper_scale: Comparison,
    at_proxy_scale: Comparison,
) -> Comparison:
    """Make a comparison of every kind."""
    kinds = {
        "paper scale": at_paper_scale,
        "proxy scale": at_proxy_scale,
        "nothing run": compare(paper, {}, scale="smoke"),
        "not a number": compare(paper, {"base": {"top1": {0: math.nan}}}, scale="paper"),
        "nothing recorded": compare(paper, {"base": {"top1": {0: 30.0}}}, paper, "proxy"),
    }
    return kinds[str(request.param)]


def line_of(text: str, label: str) -> str:
    return next(line for line in text.splitlines() if line.lstrip("| ").startswith(label))


def normal(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("form", ["terminal", "narrow terminal", "Markdown", "HTML"])
def test_every_form_shows_every_block_of_the_document(form: str, each: Comparison) -> None:
    written = {
        "terminal": lambda: render_terminal(each, width=150),
        "narrow terminal": lambda: render_terminal(each, width=60),
        "Markdown": lambda: re.sub(r"\\(.)", r"\1", render_markdown(each)),
        "HTML": lambda: html.unescape(write_html(document(each), "title")),
    }
    text = normal(written[form]())
    for block in document(each):
        if isinstance(block, Heading):
            assert normal(block.text) in text
        elif isinstance(block, Paragraph):
            for line in block.lines:
                assert (normal(line) in text) is not (block.role == "source" and "term" in form)
        elif isinstance(block, Cells):
            for cell in (cell for line in block.lines for cell in line):
                # A label that wraps has the values of its first line between its words.
                for part in cell.split() if form == "narrow terminal" else [normal(cell)]:
                    assert part in text


def test_a_row_shows_both_values_their_spreads_the_interval_and_the_verdict(
    at_paper_scale: Comparison,
) -> None:
    line = line_of(render_terminal(at_paper_scale, width=100), "Method")
    assert "79.0 ± 0.4" in line
    assert "84.0 ± 0.4 (5)" in line
    assert re.search(r"\+5\.0 \[4\.\d, 5\.\d\]", line)
    assert "±1.25" in line
    assert "miss" in line


def test_proxy_scale_shows_the_papers_value_the_recording_and_ours(
    at_proxy_scale: Comparison,
) -> None:
    line = line_of(render_terminal(at_proxy_scale, width=130), "Method")
    assert "79.0 ± 0.4" in line
    assert "32.0 ± 0.4 (5)" in line
    assert "20.0 (1)" in line
    assert "miss" in line


def test_the_header_states_the_scale_and_its_limits(
    at_paper_scale: Comparison, at_proxy_scale: Comparison
) -> None:
    text = normal(render_terminal(at_proxy_scale))
    assert "Scale: proxy" in text
    assert "absolute numbers are not the paper's" in text
    assert "recorded on 2030-01-01 (5 seeds, commit 0123456789ab)" in text
    assert "Scale: paper, on ImageNet-100" in render_terminal(at_paper_scale)


def test_smoke_scale_says_that_it_claims_nothing(paper: Reference) -> None:
    comparison = compare(paper, {"base": {"top1": {0: 1.0}}}, scale="smoke")
    assert any("claims nothing" in sentence for sentence in scale_sentences(comparison))
    assert remarks(comparison) == []  # said once, at the top


def test_what_did_not_run_is_listed_with_its_reason_and_every_miss_is_named(
    at_paper_scale: Comparison,
) -> None:
    text = render_terminal(at_paper_scale, width=100).replace("\n  ", " ")
    assert "AP, all rows: needs detection fine-tuning" in text
    assert re.search(r"Cited.*73\.0.*cited", text)
    assert "1 match (1 firm), 1 miss, 0 inconclusive, 2 not run" in text
    assert "MISS: row 'ours', column 'top1'." in text


def test_a_column_that_the_paper_does_not_print_says_so(printed: Printed) -> None:
    column = '[[columns]]\nkey = "knn"\nlabel = "kNN"\nunit = "%"\nhigher_is_better = true\n\n'
    stated = printed({"[[rows]]": column + "[[rows]]"})
    text = render_terminal(compare(stated, {"base": {"knn": {0: 5.0}}}, scale="paper"), width=100)
    assert "kNN (%), higher is better; the paper prints no number" in text
    assert "Top-1 (%), higher is better\n" in text


def test_claims_are_shown_with_interval_seeds_and_margin(printed: Printed) -> None:
    measured = {"base": {"top1": runs(78.1)}, "ours": {"top1": runs(84.0)}}
    stated = printed({"margin = 1.0": "margin = 5.0"})
    text = render_terminal(compare(stated, measured, scale="paper"), width=100)
    assert "supported    The method gains a point." in text
    assert re.search(r"\+5\.9 \[5\.\d, 6\.\d\], 5 paired seeds", text)
    # 5.0 less the tolerance of 1.25.
    assert "(paper: +5.0, contradicted below +3.8)" in text


def test_markdown_has_the_sources_of_values_and_tolerances(
    at_paper_scale: Comparison,
) -> None:
    text = render_markdown(at_paper_scale)
    assert "Tolerance: three stds" in text
    assert "the stds of the table" in text
    assert "Source of the paper's numbers: A source" in text


@pytest.mark.parametrize("width", [72, 80, 100, 160])
def test_no_line_is_wider_than_the_terminal(each: Comparison, width: int) -> None:
    for line in render_terminal(each, width=width).splitlines():
        assert len(line) <= max(width, 80), line
        assert line == line.rstrip()


def test_columns_are_aligned(at_paper_scale: Comparison) -> None:
    lines = render_terminal(at_paper_scale, width=160).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("─"))
    head, block = lines[start - 2], lines[start + 1 : start + 4]
    end = head.index("paper") + len("paper")
    found = [re.search(r"7[389]\.0( ± 0\.\d)?( \(3\))?", line) for line in block]
    assert {match and match.end() for match in found} == {end}
    assert all(line[head.index("verdict") - 1] == " " for line in block)


def test_colours_change_nothing_but_the_colour(at_paper_scale: Comparison) -> None:
    comparison = at_paper_scale
    plain, coloured = (render_terminal(comparison, width=100, colour=c) for c in (False, True))
    assert re.sub(r"\033\[[0-9;]*m", "", coloured) == plain
    assert "\033[1;31mmiss\033[0m" in coloured
    assert "\033[32mmatch, firm\033[0m" in coloured
    assert "\033[32msupported\033[0m" in coloured


def test_colour_needs_a_terminal_and_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert supports_colour(Terminal())
    assert not supports_colour(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not supports_colour(Terminal())


def test_markdown_tables_have_equal_numbers_of_cells(each: Comparison) -> None:
    width = None
    for line in render_markdown(each).splitlines():
        if not line.startswith("|"):
            width = None
            continue
        cells = len(re.findall(r"(?<!\\)\|", line))
        assert width in (None, cells), line
        width = cells


@given(st.floats(-1e6, 1e6), st.integers(0, 4), st.booleans())
def test_numbers_read_back_and_zero_has_no_minus(value: float, decimals: int, signed: bool) -> None:
    text = number(value, decimals, signed=signed)
    assert float(text.replace("\N{MINUS SIGN}", "-")) == round(value, decimals)
    if not float(text.replace("\N{MINUS SIGN}", "-")):
        assert "\N{MINUS SIGN}" not in text


def test_json_reads_back_to_the_same_comparison(each: Comparison) -> None:
    comparison = each
    text = render_json(comparison)
    again = parse_comparison(text)
    # repr, because NaN differs from itself.
    assert repr(again) == repr(comparison)
    assert render_json(again) == text
    content = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert content["exit_status"] == comparison.exit_status
    assert content["summary"] == summary(comparison)


def test_saving_writes_every_form_and_the_same_bytes_again(
    tmp_path: Path, at_proxy_scale: Comparison
) -> None:
    comparison = at_proxy_scale
    written = save_comparison(tmp_path, comparison)
    names = {path.name for path in written}
    assert {"table.md", "table.txt", "table.json"} <= names
    before = {path: path.read_bytes() for path in written}
    save_comparison(tmp_path, comparison)
    assert {path: path.read_bytes() for path in written} == before
    assert load_comparison(tmp_path / "table.json") == comparison


@pytest.mark.parametrize("content", ["", "[]", '{"id": "x"}', "not json"])
def test_a_damaged_comparison_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "table.json").write_text(content)
    with pytest.raises(UserError, match=r"table\.json: not a stored comparison"):
        load_comparison(tmp_path / "table.json")


def test_an_undecided_cell_says_how_many_seeds_would_decide(
    paper: Reference, proxy: Reference
) -> None:
    tolerance = proxy.tolerance_of("base", "top1")
    assert tolerance is not None
    fresh = {"base": {"top1": {9: 30.0 + 1.2 * tolerance}}}
    assert any(
        re.search(r" \d+ seeds in all would decide: A base", remark)
        for remark in remarks(compare(proxy, fresh, paper))
    )


def test_the_first_line_says_what_a_match_with_one_seed_is(
    paper: Reference, provenance: Provenance
) -> None:
    recorded = {"base": {"top1": runs(31.0)}, "ours": {"top1": runs(30.0)}}
    proxy = record_reference(paper, recorded, provenance)
    said = "With one seed, a match is a regression check"
    contrary = f"contradicts the paper's order: 'Method <1|2>' better than '{BASE}' (Top-1)."
    one = scale_sentences(compare(proxy, {"base": {"top1": {9: 31.0}}}, paper))[0]
    assert said in one
    assert contrary in one
    two = scale_sentences(compare(proxy, {"base": {"top1": {8: 31.0, 9: 31.0}}}, paper))[0]
    assert said not in two
    assert contrary in two


@pytest.mark.parametrize(
    ("seeds", "repeats", "said"),
    [
        ((1,), True, "must give its recorded number"),
        ((1, 2), False, "in the mean"),
        ((9,), True, ""),
    ],
)
def test_the_header_says_how_recorded_seeds_are_compared(
    seeds: tuple[int, ...], repeats: bool, said: str, paper: Reference, proxy: Reference
) -> None:
    measured = {"base": {"top1": dict.fromkeys(seeds, 30.0)}}
    text = " ".join(scale_sentences(compare(proxy, measured, paper, repeats=repeats)))
    assert ("These seeds were recorded" in text) is bool(said)
    assert said in text


def test_a_legend_explains_firm_where_there_are_verdicts(
    at_paper_scale: Comparison, paper: Reference
) -> None:
    legend = "firm: so is its whole 95 % interval"
    assert legend in normal(render_terminal(at_paper_scale))
    assert legend not in render_markdown(compare(paper, {}, scale="paper"))


def test_each_column_states_the_smallest_change_that_it_would_notice(
    at_paper_scale: Comparison, printed: Printed
) -> None:
    limits = [cell.smallest_miss for cell in at_paper_scale.cells if cell.smallest_miss]
    stated = f"noticed, as a miss: {min(limits):.1f} to {max(limits):.1f}, by row."
    for text in (render_terminal(at_paper_scale), render_markdown(at_paper_scale)):
        assert stated in text
    spread = 'spread = { std = 0.4, degrees = 4, reason = "the stds of the table" }'
    single = printed({spread: "", "std = 0.2, runs = 3 }": "runs = 1 }"})
    unknown = compare(single, {"base": {"top1": {0: 78.0}}}, scale="paper")
    assert "No change would be noticed: no spread is known" in render_terminal(unknown)


def test_notes_and_decisions_stand_beneath_the_table(printed: Printed) -> None:
    decided = printed({'notes = "Star = rerun."': 'decisions = ["The crops are those of X."]'})
    measured = {"base": {"top1": {0: 78.0}}}
    note = "2 of 9 runs were made by other code."
    comparison = compare(decided, measured, scale="paper", notes=[note])
    blocks = document(comparison)
    for text in (
        render_terminal(comparison),
        render_markdown(comparison),
        write_html(blocks, "title"),
    ):
        assert text.index("78.0") < text.index(note) < text.index("The crops are those of X.")
    assert parse_comparison(render_json(comparison)).notes == (note,)


def test_a_column_without_a_better_names_none(printed: Printed) -> None:
    stated = printed({"higher_is_better = true\n": ""})
    text = render_terminal(compare(stated, {"base": {"top1": {0: 78.0}}}, scale="paper"))
    assert "\nTop-1 (%)\n" in text


def test_a_firm_match_is_marked_and_counted(at_paper_scale: Comparison) -> None:
    assert "match, firm" in line_of(render_terminal(at_paper_scale, width=160), "A baseline")
    assert summary(at_paper_scale).startswith("Cells: 1 match (1 firm), 1 miss,")
    assert '<td class="match">match, firm</td>' in write_html(document(at_paper_scale), "title")


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        (r"\u001b]0;title\u0007 \u001b[2Jgone", r"\x1b\]0;title\x07 \x1b\[2Jgone"),
        (r"\u009b31m \u202egnp", r"\x9b31m \u202egnp"),
        (r"a\rb", r"a\rb"),
    ],
)
def test_labels_of_foreign_files_steer_no_terminal(
    label: str, shown: str, printed: Printed
) -> None:
    reference = printed({"Cited [7]": label})
    comparison = compare(reference, {"base": {"top1": {0: 30.0}}}, scale="paper")
    texts = {
        "terminal": render_terminal(comparison, width=200, colour=False),
        "Markdown": render_markdown(comparison),
        "HTML": write_html(document(comparison), label),
    }
    for text in texts.values():
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)
    plain = shown.replace(r"\]", "]").replace(r"\[", "[").replace(r"\r", " ")
    assert plain.split(" ")[0] in texts["terminal"].replace(r"\r", " ")


def test_markdown_shows_every_sign_as_it_is() -> None:
    signs = "# `code` <img src=x> ![a](b) a|b *c* _d_ ~~e~~ $f$ &lt; back\\slash"
    text = write_markdown([Paragraph([signs, "two\nlines"])])
    assert text.startswith("\\# \\`code\\` \\<img src=x\\> !\\[a\\](b) a\\|b ")
    assert "\\~\\~e\\~\\~ \\$f\\$ \\&lt; back\\\\slash" in text
    assert text.endswith("two lines\n")
