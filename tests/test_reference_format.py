"""The page of the reference format agrees with what is read."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from retable.tables.reading import parse_reference
from retable.tables.reference import (
    Claim,
    ColumnSpec,
    Provenance,
    RowSpec,
    TableInfo,
    Value,
)

PAGE = Path(__file__).parents[1] / "docs" / "reference-format.md"


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def section(page: str, heading: str) -> str:
    return page.partition(f"## `{heading}`\n")[2].partition("\n## ")[0]


def fields(kind: type) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


def test_the_page_s_example_is_read_without_a_mistake(page: str) -> None:
    (example,) = re.findall(r"^```toml\n(.*?)^```$", page, re.S | re.M)
    reference = parse_reference(example, PAGE)
    assert [row.key for row in reference.rows] == ["moco_v2", "mochi", "moco_v2_cold"]
    assert reference.tolerance_of("mochi", "top1") == 1.2
    assert reference.claims[0].margin == 1.0


@pytest.mark.parametrize(
    ("heading", "kind"),
    [
        ("[table]", TableInfo),
        ("[[columns]]", ColumnSpec),
        ("[[rows]]", RowSpec),
        ("[[claims]]", Claim),
    ],
)
def test_every_field_has_a_line_and_no_line_is_of_another(
    page: str, heading: str, kind: type
) -> None:
    rows = re.findall(r"^\| (`.*?) \|", section(page, heading), re.M)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named == fields(kind)


def test_cells_and_provenance_are_described(page: str) -> None:
    assert fields(Provenance) == set(re.findall(r"`(\w+)`", section(page, "[provenance]")))
    described = set(re.findall(r"`(\w+)`", section(page, "[[rows]]")))
    assert fields(Value) <= described
