"""Outcomes of a table's cells, their comparison, its report files and recorded references."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retable import files
from retable.errors import UserError
from retable.extras import install_command
from retable.plots import drawing
from retable.reproduce.plan import TableSelection
from retable.reproduce.run import FinishedRuns
from retable.reproduce.table import Table, TableRow
from retable.settings import to_plain
from retable.tables import (
    Comparison,
    Provenance,
    Reference,
    compare,
    load_reference,
    save_comparison,
)
from retable.tables.claims import Fact, recorded_facts
from retable.tables.reference import COLLAPSE, Collapse


@dataclass(frozen=True)
class Outcomes:
    """Outcomes of the requested rows, each as row -> column -> outcome.

    Attributes:
        measured: Numbers by seed.
        collapsed: Reasons by seed why the cell says ``collapse`` instead of a number.
        failed: Failures of trainings that the cell is read from, unless it counts as collapsed.
    """

    measured: dict[str, dict[str, dict[int, float]]] = field(default_factory=dict)
    collapsed: dict[str, dict[str, dict[int, str]]] = field(default_factory=dict)
    failed: dict[str, dict[str, str]] = field(default_factory=dict)


def measure(table: Table, runs: FinishedRuns) -> dict[str, dict[str, dict[int, float]]]:
    """Return row -> column -> seed -> value, as the table's columns read the metrics."""
    measured: dict[str, dict[str, dict[int, float]]] = {}
    for row in table.rows:
        seeds = {seed for name in table.trainings(row) for seed in runs.get(name, {})}
        for key, column in table.columns.items():
            values = {seed: column.value(row, seed, runs) for seed in sorted(seeds)}
            present = {seed: value for seed, value in values.items() if value is not None}
            if present:
                measured.setdefault(row, {})[key] = present
    return measured


def gather_outcomes(
    table: Table, rows: Mapping[str, TableRow], runs: FinishedRuns, scale: str
) -> Outcomes:
    """Return the outcome of every cell of the requested trainings ``rows``."""
    outcomes = Outcomes(measured=measure(table, runs))
    for row in table.rows:
        if rows.keys().isdisjoint(table.trainings(row)):
            continue
        for key, column in table.columns.items():
            labels = {name: "" if name == row else f"{name}, " for name in column.reads(row)}
            read = [(name, run) for name in labels for run in runs.get(name, {}).values()]
            collapses: dict[int, str] = {}
            if table.collapse and row in table.collapse.rows and key in table.collapse.columns:
                for name, run in read:
                    if reason := table.collapse_reason(name, run, scale):
                        collapses.setdefault(run.seed, labels[name] + reason)
            failures = [
                f"{labels[name]}seed {run.seed}: training stopped, {run.failure}"
                for name, run in read
                if run.failure and run.seed not in collapses
            ]
            if collapses:
                outcomes.collapsed.setdefault(row, {})[key] = collapses
                numbers = outcomes.measured.get(row, {}).get(key, {})
                for seed in collapses:
                    numbers.pop(seed, None)
            if failures:
                outcomes.failed.setdefault(row, {})[key] = "; ".join(failures)
    return outcomes


def failed_unexpectedly(table: Table, runs: FinishedRuns, comparison: Comparison) -> bool:
    """Say whether a training failed that no table expects to collapse."""
    expected = {
        (name, seed)
        for compared in comparison.rows
        for key, cell in compared.cells.items()
        if compared.row.recipe.get("expected") == COLLAPSE
        or isinstance(cell.paper, Collapse)
        or isinstance(cell.reference, Collapse)
        for seed in cell.collapsed
        for name in table.columns[key].reads(compared.row.key)
    }
    failed = {
        (name, seed) for name, seeds in runs.items() for seed, run in seeds.items() if run.failure
    }
    return bool(failed - expected)


def load_references(table: Table, scale: str) -> tuple[Reference, Reference]:
    """Return what a scale is compared with, and the paper's numbers, which may be the same.

    Raises:
        UserError: a file is missing or malformed, or lacks a column that the table measures.
    """
    paper = load_reference(table.reference)
    recorded = table.proxy_reference.exists() and scale == "proxy"
    reference = load_reference(table.proxy_reference) if recorded else paper
    known = {column.key for column in (*paper.columns, *reference.columns)}
    if unknown := [key for key in table.columns if key not in known]:
        raise UserError(
            f"{table.reference} has no column {unknown[0]}, which {table.name} measures: add it "
            "under [[columns]]."
        )
    return reference, paper


def load_facts(table: Table, paper: Reference, scale: str) -> dict[str, Fact] | None:
    """Return what shows at proxy scale, None at other scales and for tables without facts.

    ``paper`` is the table's own reference, whose claims depend on the facts.

    Raises:
        UserError: a file is missing or malformed, or a claim depends on an unknown fact.
    """
    if table.facts is None:
        return None
    stated = load_reference(table.facts)
    needed = {key for claim in paper.claims for key in claim.depends_on}
    known = {claim.key for claim in stated.claims if claim.key}
    if unknown := sorted(needed - known):
        raise UserError(
            f"`depends_on` must name facts of {table.facts}, got {', '.join(unknown)} in "
            f"{table.reference}. Choose from {', '.join(sorted(known))}."
        )
    if scale != "proxy":
        return None
    recorded = load_reference(table.proxy_facts) if table.proxy_facts else None
    return recorded_facts(stated, recorded)


def compare_table(
    table: Table,
    rows: Mapping[str, TableRow],
    outcomes: Outcomes,
    selection: TableSelection,
    runs: FinishedRuns | None = None,
    *,
    notes: Sequence[str] = (),
) -> Comparison:
    """Compare the outcomes of the selected trainings ``rows``.

    They are compared with the paper at paper scale and with what we recorded at proxy scale. If
    ``runs`` are given and repeat recorded ones, each must give the numbers of its seed. ``notes``
    are sentences about all runs, shown beneath the table.
    """
    scale = selection.scale
    reference, paper = load_references(table, scale)
    not_run = dict(table.not_run)
    for row in table.rows:
        if table.trainings_at(row, scale) - rows.keys():
            not_run[row] = "left out, `--rows all` runs all rows"
        elif table.trainings(row).keys() - rows.keys():
            not_run[row] = f"left out at {scale} scale"
    not_run |= dict.fromkeys(table.columns_left_out(scale), f"left out at {scale} scale")
    if scale == "paper":
        for name in table.optional_data.keys() - dict(selection.other_data).keys():
            reason = f"needs --{name} DIR ({table.optional_data[name]})"
            not_run |= dict.fromkeys(table.columns_of(name), reason)
    return compare(
        reference,
        outcomes.measured,
        paper,
        scale,  # type: ignore[arg-type]
        not_run=not_run,
        failed=outcomes.failed,
        collapsed=outcomes.collapsed,
        unfinished=_unfinished(selection),
        facts=load_facts(table, paper, scale),
        repeats=runs is not None and _repeat(reference.provenance, runs),
        notes=notes,
    )


def _repeat(recorded: Provenance | None, runs: FinishedRuns) -> bool:
    """Say whether the runs have the versions, processor and instructions of the recorded."""
    environments = [run.environment for by_seed in runs.values() for run in by_seed.values()]
    return recorded is not None and all(
        facts
        and not facts.get("gpus")
        and recorded.hardware == hardware_of(facts)
        and all(facts["versions"].get(p) == recorded.versions.get(p) for p in _DECISIVE)
        for facts in environments
    )


def hardware_of(facts: Mapping[str, Any]) -> str:
    """Return the machine of a run, from the record of its environment."""
    # A run of before its instructions were recorded is not taken for a repeated one.
    instructions = facts.get("instructions", "unknown instructions")
    return f"{facts['processor']} with {instructions}, {facts['cores']} cores"


_DECISIVE = ("torch", "torchvision")
"""Packages whose version decides the digits of a run."""


def _unfinished(selection: TableSelection) -> str:
    """Return why the values of a selection claim nothing, empty if they do."""
    if selection.max_steps is not None:
        return f"stopped after {selection.max_steps} steps by --max-steps"
    if selection.overrides:
        return f"the recipe was changed by --set {' --set '.join(selection.overrides)}"
    if selection.precision not in (None, "float32"):
        return f"the recipe was changed by --mixed-precision {selection.precision}"
    return ""


def write_report(table: Table, comparison: Comparison, runs: FinishedRuns, folder: Path) -> None:
    """Write the comparison as Markdown, JSON and plots (with the extra ``plots``)."""
    files.remove_abandoned(folder)
    save_comparison(folder, comparison)
    metrics = {
        name: {seed: run.metrics for seed, run in seeds.items() if run.metrics}
        for name, seeds in runs.items()
    }
    files.write_json(folder / "metrics.json", to_plain({n: m for n, m in metrics.items() if m}))
    if not drawing.available():
        print(f"No plots. Run `{install_command('plots', 'matplotlib')}`.", file=sys.stderr)
        return
    for draw in table.plots:
        draw(comparison, runs, folder)
