"""From finished runs to a table: figures, comparison, report files, recorded references."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from retable import files
from retable.errors import UserError
from retable.plots import drawing
from retable.reproduce.arguments import Command
from retable.reproduce.finished import collect, failure, history, storable
from retable.reproduce.plan import Run
from retable.reproduce.setting import Setting, directory_of
from retable.reproduce.table import Figures, Histories, Row, Table
from retable.runs import read_json
from retable.tables import (
    Comparison,
    Measured,
    Provenance,
    Reference,
    compare,
    load_reference,
    record_reference,
    render_terminal,
    save_comparison,
    supports_colour,
    write_reference,
)


def gather_figures(runs: list[Run], setting: Setting) -> Figures:
    """Return training -> seed -> figure name -> value of all runs that are complete."""
    figures: dict[str, dict[int, dict[str, float]]] = {}
    for run in runs:
        found = collect(run, setting)
        for row in run.rows:
            if found:
                figures.setdefault(row, {})[run.seed] = found
    return figures


def measure(table: Table, figures: Figures) -> Measured:
    """Return row -> column -> seed -> value, as the table's columns read the figures."""
    measured: dict[str, dict[str, dict[int, float]]] = {}
    for row in table.rows:
        seeds = {seed for name in table.trainings(row) for seed in figures.get(name, {})}
        for key, column in table.columns.items():
            values = {seed: column.value(row, seed, figures) for seed in sorted(seeds)}
            present = {seed: value for seed, value in values.items() if value is not None}
            if present:
                measured.setdefault(row, {})[key] = present
    return measured


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


def compare_table(
    table: Table,
    rows: Mapping[str, Row],
    failed: Mapping[str, str],
    figures: Figures,
    command: Command,
) -> Comparison:
    """Compare with the paper at paper scale, with what we recorded at proxy scale.

    Args:
        table: the table.
        rows: its trainings that were run.
        failed: those of them that failed, and why: never left out in silence.
        figures: what the others gave.
        command: scale, and what was changed.
    """
    scale = command.request.scale
    reference, paper = load_references(table, scale)
    return compare(
        reference,
        measure(table, figures),
        paper,
        scale,  # type: ignore[arg-type]
        not_run=_reasons(table, paper, rows),
        failed=_failed_cells(table, rows, failed),
        unfinished=_unfinished(command),
    )


def _reasons(table: Table, paper: Reference, rows: Mapping[str, Row]) -> dict[str, str]:
    """Say of every row that was not run why."""
    reasons = dict(table.not_run)
    for row in paper.rows:
        if row.key in table.rows and not rows.keys() & table.trainings(row.key).keys():
            reasons[row.key] = "left out by --rows"
    return reasons


def failed_trainings(runs: list[Run], setting: Setting) -> dict[str, str]:
    """Return the trainings that failed, with seeds and reasons."""
    found: dict[str, list[str]] = {}
    for run in runs:
        if why := failure(run, setting):
            for name in run.rows:
                found.setdefault(name, []).append(f"seed {run.seed}: training stopped, {why}")
    return {name: "; ".join(reasons) for name, reasons in found.items()}


def _failed_cells(
    table: Table, rows: Mapping[str, Row], failed: Mapping[str, str]
) -> dict[str, dict[str, str]]:
    """Return row -> column -> which of the trainings that the cell is read from failed, and why."""
    found: dict[str, dict[str, str]] = {}
    for row in table.rows:
        for key, column in table.columns.items():
            lost = [name for name in dict.fromkeys(column.reads(row)) if name in failed]
            said = [failed[n] if n == row else f"{n}, {failed[n]}" for n in lost]
            if said and rows.keys() & table.trainings(row).keys():
                found.setdefault(row, {})[key] = "; ".join(said)
    return found


def _unfinished(command: Command) -> str:
    if command.request.max_steps is not None:
        return f"stopped after {command.request.max_steps} steps by --max-steps"
    if command.request.overrides:
        return f"the recipe was changed by --set {' --set '.join(command.request.overrides)}"
    if command.request.precision not in (None, "float32"):
        return f"the recipe was changed by --mixed-precision {command.request.precision}"
    return ""


def report_folder(table: Table, command: Command) -> Path:
    """Return where the table's report is written."""
    return command.setting.folder / "tables" / f"{table.name}-{command.request.scale}"


def gather_histories(runs: list[Run], setting: Setting) -> Histories:
    """Return training -> seed -> the means of every epoch."""
    histories: dict[str, dict[int, list[dict[str, float]]]] = {}
    for run in runs:
        for row in run.rows:
            histories.setdefault(row, {})[run.seed] = history(run, setting)
    return histories


def write_report(
    table: Table, comparison: Comparison, figures: Figures, histories: Histories, folder: Path
) -> None:
    """Write the comparison as Markdown, JSON and plots (with the extra ``plots``)."""
    save_comparison(folder, comparison)
    files.write_json(folder / "figures.json", storable(figures))
    if not drawing.available():
        print("No plots: install retable[plots] for them.", file=sys.stderr)
        return
    for draw in table.plots:
        draw(comparison, histories, folder)


def for_terminal(comparison: Comparison) -> str:
    """Return the table as it is printed."""
    return render_terminal(comparison, colour=supports_colour(sys.stdout))


def recorded_rows(table: Table) -> tuple[str, ...]:
    """Return the rows that are recorded: all but those that we added to the paper's."""
    extra = {row.key for row in load_reference(table.reference).rows if row.origin == "extra"}
    return tuple(row for row in table.rows if row not in extra)


def record(table: Table, runs: list[Run], figures: Figures, command: Command) -> None:
    """Store the figures as the table's proxy references, with what the runs say of their making.

    Raises:
        UserError: a row or seed is missing.
    """
    seeds = command.request.seeds
    missing = [
        f"{name} (seed {seed})"
        for row in recorded_rows(table)
        for name in table.trainings(row)
        for seed in seeds
        if seed not in figures.get(name, {})
    ]
    if missing:
        raise UserError(f"Nothing was recorded: {', '.join(missing)} has no figures.")
    facts = [read_json(directory_of(run, command.setting).environment) for run in runs]
    versions = {k: v for found in facts for k, v in found["versions"].items() if v is not None}
    provenance = Provenance(
        command=f"nox -s reproduce-{table.name} -- --record --seeds {' '.join(map(str, seeds))}",
        seeds=seeds,
        commit=_distinct(str(found["commit"]) for found in facts),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        hardware=_distinct(f"{found['processor']}, {found['cores']} cores" for found in facts),
        versions=versions,
    )
    paper = load_reference(table.reference)
    write_reference(
        table.proxy_reference, record_reference(paper, measure(table, figures), provenance)
    )


def _distinct(words: Iterable[str]) -> str:
    """Name each once, in the order of their coming."""
    return ", ".join(dict.fromkeys(words))
