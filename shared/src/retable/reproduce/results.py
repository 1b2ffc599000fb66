"""From finished runs to a table: figures, comparison, report files, recorded references."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from retable import files
from retable.errors import UserError
from retable.extras import install_command
from retable.plots import drawing
from retable.reproduce.arguments import Command
from retable.reproduce.finished import history, storable
from retable.reproduce.outcomes import Outcomes
from retable.reproduce.plan import Run, kept
from retable.reproduce.setting import Setting, directory_of
from retable.reproduce.table import Histories, History, RunMetrics, Table, TableRow
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
from retable.train.runs import read_json


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
    table: Table, rows: Mapping[str, TableRow], outcomes: Outcomes, command: Command
) -> Comparison:
    """Compare with the paper at paper scale, with what we recorded at proxy scale.

    Args:
        table: the table.
        rows: its trainings that were requested.
        outcomes: what came of them.
        command: scale, and what was changed.
    """
    scale = command.request.scale
    reference, paper = load_references(table, scale)
    return compare(
        reference,
        outcomes.measured,
        paper,
        scale,  # type: ignore[arg-type]
        not_run=_reasons(table, paper, rows, scale),
        failed=outcomes.failed,
        collapsed=outcomes.collapsed,
        unfinished=_unfinished(command),
    )


def _reasons(
    table: Table, paper: Reference, rows: Mapping[str, TableRow], scale: str
) -> dict[str, str]:
    """Say of every row that was not run, wholly or in part, why."""
    reasons = dict(table.not_run)
    for row in paper.rows:
        if row.key not in table.rows:
            continue
        if kept(table, row.key, scale) - rows.keys():
            reasons[row.key] = "left out by --rows"
        elif table.trainings(row.key).keys() - rows.keys():
            reasons[row.key] = f"left out at {scale} scale"
    return reasons


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
    """Return training -> seed -> what it has recorded over time."""
    histories: dict[str, dict[int, History]] = {}
    for run in runs:
        for name in run.rows:
            histories.setdefault(name, {})[run.seed] = history(run, setting)
    return histories


def write_report(
    table: Table, comparison: Comparison, figures: RunMetrics, histories: Histories, folder: Path
) -> None:
    """Write the comparison as Markdown, JSON and plots (with the extra ``plots``)."""
    save_comparison(folder, comparison)
    files.write_json(folder / "figures.json", storable(figures))
    if not drawing.available():
        print(f"No plots. Run `{install_command('plots', 'matplotlib')}`.", file=sys.stderr)
        return
    for draw in table.plots:
        draw(comparison, histories, folder)


def for_terminal(comparison: Comparison) -> str:
    """Return the table as it is printed."""
    return render_terminal(comparison, colour=supports_colour(sys.stdout))


def recorded_rows(table: Table) -> tuple[str, ...]:
    """Return the rows that are recorded: all that proxies have, but those that we added."""
    extra = {row.key for row in load_reference(table.reference).rows if row.origin == "extra"}
    return tuple(row for row in table.rows if row not in extra and kept(table, row, "proxy"))


def record(
    table: Table, runs: list[Run], figures: RunMetrics, outcomes: Outcomes, command: Command
) -> None:
    """Store what came of the runs as the table's proxy references, with how it was made.

    Raises:
        UserError: a row or seed is missing.
    """
    seeds = command.request.seeds
    missing = [
        f"{name} (seed {seed})"
        for name in dict.fromkeys(name for run in runs for name in run.rows)
        for seed in seeds
        if seed not in figures.get(name, {}) and seed not in outcomes.collapses.get(name, {})
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
    measured = _recordable(table, figures, outcomes)
    write_reference(
        table.proxy_reference,
        record_reference(paper, measured, provenance, collapsed=outcomes.collapsed),
    )


def _recordable(table: Table, figures: RunMetrics, outcomes: Outcomes) -> Measured:
    """Leave out the numbers of cells where a collapse has stopped the run of another seed."""
    return {
        row: {
            key: numbers
            for key, numbers in cells.items()
            if not any(
                seed not in figures.get(name, {})
                for name in table.columns[key].reads(row)
                for seed in outcomes.collapses.get(name, {})
            )
        }
        for row, cells in outcomes.measured.items()
    }


def _distinct(words: Iterable[str]) -> str:
    """Name each once, in the order of their coming."""
    return ", ".join(dict.fromkeys(words))
