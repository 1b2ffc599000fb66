"""Compared tables as LaTeX, CSV and Markdown: chosen rows and columns, nothing that LaTeX reads."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retable import cli
from retable.cli.table import PARTS
from retable.errors import UserError
from retable.tables import Comparison, Reference, compare, save_comparison
from retable.tables.exports import CONTENTS, escaped, export


@pytest.fixture
def compared(paper: Reference) -> Comparison:
    measured = {
        "base": {"top1": {0: 78.0, 1: 78.4}, "error": {0: 22.0}},
        "ours": {"top1": {0: 84.0}, "error": {0: 16.0}},
    }
    return compare(paper, measured, scale="paper")


def test_latex_has_a_line_for_each_row_and_a_group_for_each_column(compared: Comparison) -> None:
    text = export(compared, "latex", columns=["top1"])
    assert text.splitlines()[2:] == [
        r"\begin{tabular}{lrrrr}",
        r"\toprule",
        r" & \multicolumn{4}{c}{Top-1 (\%)} \\",
        r"\cmidrule(lr){2-5}",
        r" & paper & ours & n & verdict \\",
        r"\midrule",
        r"Cited [7] & 73.0 &  &  &  \\",
        r"A baseline with quite a long label, longer than a line would like & 78.0 $\pm$ 0.2 (3) & "
        r"78.2 $\pm$ 0.3 & 2 & $\checkmark$ \\",
        r"Method $<$1\textbar{}2$>$ & 79.0 $\pm$ 0.4 & 84.0 & 1 & $\times$ \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_every_line_of_latex_has_as_many_cells_as_the_table_has_columns(
    compared: Comparison,
) -> None:
    for contents in (CONTENTS, CONTENTS[:1], ("ours", "n")):
        text = export(compared, "latex", contents=contents)
        (letters,) = re.findall(r"\\begin\{tabular\}\{(l?r+)\}", text)
        spans = [int(count) for count in re.findall(r"\\multicolumn\{(\d+)\}", text)]
        assert 1 + sum(spans) == len(letters)
        body = text[text.index(r"\midrule") :]
        lines = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert lines
        for line in lines:
            assert len(re.findall(r"(?<!\\)&", line)) == len(letters) - 1
        assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")


@given(st.text(max_size=30))
def test_no_character_of_a_label_is_read_by_latex(text: str) -> None:
    found = escaped(text)
    commands = r"\\[&%$#_{}]|\\text\w+\{\}|\$\\?[\w']*\$|\$[-<>]\$|--"
    assert not set(re.sub(commands, "", found)) & set("\\&%$#_{}~^<>|")


def test_a_csv_is_read_by_pandas_with_every_number(compared: Comparison) -> None:
    frame: Any = pandas.read_csv(io.StringIO(export(compared, "csv")))
    assert list(frame["row"].unique()) == ["cited", "base", "ours"]
    (line,) = frame[(frame["row"] == "base") & (frame["column"] == "top1")].to_dict("records")
    assert line["row_label"].startswith("A baseline with")
    assert (line["paper"], line["paper_std"], line["n"]) == (78.0, 0.2, 2)
    assert line["mean"] == pytest.approx(78.2)
    assert line["verdict"] == "match"
    assert line["low"] < line["difference"] < line["high"]
    absent = frame[(frame["row"] == "ours") & (frame["column"] == "ap")].to_dict("records")[0]
    assert pandas.isna(absent["mean"])
    assert "needs detection fine-tuning" in absent["reason"]


def test_markdown_keeps_the_bars_of_labels_apart(compared: Comparison) -> None:
    head, rule, *lines = export(compared, "md", columns=["error"]).splitlines()
    assert head == "|  | Error (%) ours | Error (%) n |"
    assert rule == "| --- | ---: | ---: |"
    assert r"| Method <1\|2> | 16.0 | 1 |" in lines


def test_rows_and_columns_are_chosen_by_key_or_label_in_the_order_of_the_names(
    compared: Comparison,
) -> None:
    text = export(compared, "md", rows=["Method <1|2>", "base"], columns=["Error", "top1"])
    head, _, first, second = text.splitlines()
    assert head.index("Error") < head.index("Top-1")
    assert first.startswith("| Method")
    assert second.startswith("| A baseline")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"columns": ["top2"]}, r"`--columns` must name columns .* got 'top2'. Choose from top1, "),
        ({"rows": ["them"]}, r"`--rows` must name rows .* got 'them'. Choose from cited, base, "),
        ({"rows": ["ours", "Method <1|2>"]}, "`--rows` names one of them twice"),
    ],
)
def test_what_is_not_in_the_table_is_refused(
    options: dict[str, Any], sentence: str, compared: Comparison
) -> None:
    with pytest.raises(UserError, match=sentence):
        export(compared, "csv", **options)


def test_the_command_finds_a_table_by_its_name(
    compared: Comparison, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for scale in ("paper", "smoke"):
        save_comparison(tmp_path / f"tables/mochi-table9-{scale}", compared)
    words = ["table", "mochi-table9", "--runs", str(tmp_path)]
    assert cli.main(words) == 0
    assert capsys.readouterr().out == export(compared, "md")
    out = tmp_path / "table9.tex"
    assert cli.main([*words, "--scale", "smoke", "--format", "latex", "--out", str(out)]) == 0
    assert out.read_text(encoding="utf-8") == export(compared, "latex")
    path = tmp_path / "tables/mochi-table9-paper/table.json"
    assert cli.main(["table", str(path), "--show", "ours", "--format", "csv"]) == 0
    assert "mochi-table9-smoke" in capsys.readouterr().out
    assert cli.main([*words, "--scale", "proxy"]) == 2
    said = capsys.readouterr().err
    assert "must be a table that has been run at proxy scale, got 'mochi-table9'" in said
    assert "mochi-table9-paper, mochi-table9-smoke" in said


def test_the_parts_of_the_command_are_those_of_the_exports() -> None:
    assert PARTS == CONTENTS


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert re.fullmatch(r"retable \d+\.\d+\.\d+\n", capsys.readouterr().out)
