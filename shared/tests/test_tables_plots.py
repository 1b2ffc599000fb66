"""Pictures carry the numbers of the table, and the report holds every table in one page."""

from __future__ import annotations

import base64
import math
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import TYPE_CHECKING

import numpy
import pytest

from retable.errors import UserError
from retable.plots import drawing
from retable.tables import (
    Comparison,
    Provenance,
    Reference,
    charts,
    compare,
    record_reference,
    save_comparison,
)
from retable.tables import report as report_module
from retable.tables.comparison import Scale
from retable.tables.reading import parse_reference
from retable.tables.report import build_report

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

pytest.importorskip("matplotlib")

PAPER = """
[table]
id = "table9"
title = "Gains <of> a grid"
paper = "A paper"
source = "A source"
dataset = "ImageNet-100"

[[columns]]
key = "gain"
label = "Gain"
unit = "points"
higher_is_better = true
tolerance = { value = 1.0, reason = "three stds" }
spread = { std = 0.3, degrees = 4, reason = "trials" }

[[columns]]
key = "top1"
label = "Top-1"
unit = "%"
higher_is_better = true

[[rows]]
key = "a"
label = "A"
origin = "run"
values = { gain = { value = 0.5, std = 0.3 } }

[[rows]]
key = "b"
label = "B"
origin = "run"
values = { gain = { value = 0.7 } }
"""


def paper() -> Reference:
    return parse_reference(PAPER, Path("table9.toml"))


def comparison(scale: Scale = "paper") -> Comparison:
    measured = {
        "a": {"gain": {0: 0.4, 1: 0.8}, "top1": {0: 50.0, 1: 51.0}},
        "b": {"gain": {0: 5.0, 1: 5.2}, "top1": {0: 60.0, 1: 61.0}},
    }
    return compare(paper(), measured, scale=scale)


def numbers(data: ArrayLike) -> list[float]:
    return [float(x) for x in numpy.asarray(data, dtype=float)]


def texts(figure: Figure) -> list[str]:
    figure.canvas.draw()
    return [artist.get_text() for artist in figure.findobj() if hasattr(artist, "get_text")]


def test_our_bar_is_the_interval_and_the_band_the_tolerance() -> None:
    from matplotlib.patches import Rectangle

    made = comparison()
    figure = charts.draw_comparison(made)
    axes = figure.axes[0]
    band = axes.patches[0]
    assert isinstance(band, Rectangle)
    assert band.get_x() == pytest.approx(0.5 - 1.0)
    assert band.get_width() == pytest.approx(2.0)
    interval = made.rows[0].cells["gain"].interval
    assert interval is not None
    ends = [0.5 + interval.low, 0.5 + interval.high]
    assert any(numbers(line.get_xdata()) == pytest.approx(ends) for line in axes.lines)
    assert any("miss" in text for text in texts(figure))


def test_the_title_says_the_scale() -> None:
    assert any("not the paper's" in t for t in texts(charts.draw_comparison(comparison("smoke"))))


def test_the_papers_numbers_are_not_drawn_at_another_scale() -> None:
    figure = charts.draw_comparison(comparison("smoke"))
    drawn = [x for line in figure.axes[0].lines for x in numbers(line.get_xdata())]
    assert 0.5 not in [round(x, 6) for x in drawn]
    assert not figure.axes[0].patches


def test_a_table_without_any_measurement_still_draws_the_paper() -> None:
    figure = charts.draw_comparison(compare(paper(), {}, scale="paper"))
    assert {"A", "B"} <= set(texts(figure))


def test_equal_figures_give_equal_bytes(tmp_path: Path) -> None:
    for kind in ("svg", "png"):
        for name in ("a", "b"):
            drawing.save(charts.draw_comparison(comparison()), tmp_path / f"{name}.{kind}")
        first, second = ((tmp_path / f"{name}.{kind}").read_bytes() for name in ("a", "b"))
        assert first == second
    assert ElementTree.parse(tmp_path / "a.svg").getroot().tag.endswith("svg")


def test_a_number_that_is_not_finite_is_left_out_of_the_plot() -> None:
    made = compare(paper(), {"a": {"gain": {0: math.nan}}}, scale="paper")
    charts.draw_comparison(made).canvas.draw()


def test_without_matplotlib_a_plot_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match="the extra `plots` of retable"):
        charts.draw_comparison(comparison())
    assert "table.svg" not in [p.name for p in save_comparison(tmp_path, comparison())]


def test_importing_tables_imports_no_library_for_drawing_or_statistics() -> None:
    code = (
        "import sys, retable.tables, retable.tables.report;"
        " print([m for m in ('matplotlib', 'PIL', 'scipy') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """A repository with two tables, one of them run at two scales."""
    for name in ("table9", "table10"):
        path = tmp_path / "reproductions" / "mochi" / f"{name}.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(PAPER.replace("table9", name))
    rows = {"a": {"gain": {s: 0.1 * s for s in range(5)}}}
    recorded = record_reference(
        paper(), rows, Provenance("nox", (0, 1, 2, 3, 4), "c", "2030-01-01", "h", {})
    )
    proxy = compare(recorded, {"a": {"gain": {9: 0.2}}}, paper(), "proxy")
    (tmp_path / "reproductions" / "mochi" / "table9.proxy.toml").write_text("not a table")
    save_comparison(tmp_path / "runs" / "mochi-table9-paper", comparison())
    save_comparison(tmp_path / "runs" / "mochi-table9-proxy", proxy)
    return tmp_path


def test_the_report_has_every_table_run_or_not(folders: Path) -> None:
    html, markdown = build_report(folders / "reproductions", folders / "runs", folders / "out")
    for text in (html.read_text(), markdown.read_text()):
        assert "1 of 2 tables were run" in text
        assert "mochi-table9 (paper): row 'b', column 'gain'" in text
        assert "never run" in text
        assert "nox -s reproduce-mochi-table10" in text
        assert "Scale: proxy" in text
        assert "Scale: paper" in text


def test_the_report_says_how_many_seeds_a_table_has_and_which(folders: Path) -> None:
    _, markdown = build_report(folders / "reproductions", folders / "runs", folders / "out")
    (line,) = (one for one in markdown.read_text().splitlines() if "| proxy |" in one)
    assert "| 1 (seed 9) |" in line


def test_the_report_needs_no_other_file(folders: Path) -> None:
    html, _ = build_report(folders / "reproductions", folders / "runs", folders / "out")
    text = html.read_text()
    assert "<of>" not in text  # escaped
    links = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert all(link.startswith(("data:", "#")) for link in links)
    images = [link for link in links if link.startswith("data:image/svg+xml;base64,")]
    assert len(images) == 2
    for image in images:
        ElementTree.fromstring(base64.b64decode(image.partition(",")[2]))


def test_the_markdown_report_links_plots_that_exist(folders: Path) -> None:
    _, markdown = build_report(folders / "reproductions", folders / "runs", folders / "out")
    links = re.findall(r"\]\(([^)]*\.svg)\)", markdown.read_text())
    assert len(links) == 2
    assert all((folders / "out" / link).exists() for link in links)


def test_a_report_embeds_no_linked_file(folders: Path) -> None:
    secret = folders / "secret.svg"
    secret.write_text("<svg>secret</svg>")
    folder = folders / "runs" / "mochi-table9-paper"
    (folder / "linked.svg").symlink_to(secret)
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.png").mkdir()
    html, markdown = build_report(folders / "reproductions", folders / "runs", folders / "out")
    hidden = base64.b64encode(secret.read_bytes()).decode()
    assert hidden not in html.read_text()
    assert "linked.svg" not in markdown.read_text()


def test_the_report_command_tries_its_folder_first(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folders / "occupied").touch()
    arguments = ["--reproductions", str(folders / "reproductions")]
    assert report_module.main([*arguments, "--out", str(folders / "occupied" / "x")]) == 2
    assert "`--out` must be a folder" in capsys.readouterr().err


def test_the_report_command_prints_what_it_wrote(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--reproductions", str(folders / "reproductions")]
    arguments += ["--results", str(folders / "runs"), "--out", str(folders / "out")]
    assert report_module.main(arguments) == 0
    assert "report.html" in capsys.readouterr().out


def test_a_report_over_nothing_is_a_users_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report_module.main(["--reproductions", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
