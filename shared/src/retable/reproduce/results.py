"""From finished runs to a table: comparison, report files, recorded references."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from retable import files
from retable.errors import UserError
from retable.extras import install_command
from retable.plots import drawing
from retable.reproduce.outcomes import Outcomes
from retable.reproduce.plan import TableSelection, trainings_at_scale
from retable.reproduce.run import FinishedRun, FinishedRuns, Run
from retable.reproduce.table import Table, TableRow
from retable.settings import to_plain
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
    rows: Mapping[str, TableRow],
    outcomes: Outcomes,
    selection: TableSelection,
    *,
    repeats: bool = False,
) -> Comparison:
    """Compare with the paper at paper scale, with what we recorded at proxy scale.

    Args:
        table: The table.
        rows: The selected trainings.
        outcomes: The outcomes of their cells.
        selection: The selection: its scale, and whether it changes recipes.
        repeats: Whether the runs repeat the recording, see `repeats_recording`.
    """
    scale = selection.scale
    reference, paper = load_references(table, scale)
    return compare(
        reference,
        outcomes.measured,
        paper,
        scale,  # type: ignore[arg-type]
        not_run=_reasons(table, paper, rows, scale),
        failed=outcomes.failed,
        collapsed=outcomes.collapsed,
        unfinished=_unfinished(selection),
        repeats=repeats,
    )


def repeats_recording(table: Table, finished: FinishedRuns) -> bool:
    """Say whether all runs have the versions and the processor of the table's proxy references."""
    if not table.proxy_reference.exists():
        return False
    recorded = load_reference(table.proxy_reference).provenance
    assert recorded is not None
    environments = [run.environment for by_seed in finished.values() for run in by_seed.values()]
    return all(
        facts
        and not facts["gpus"]
        and recorded.hardware == f"{facts['processor']}, {facts['cores']} cores"
        and all(facts["versions"].get(p) == recorded.versions.get(p) for p in _DECISIVE)
        for facts in environments
    )


_DECISIVE = ("torch", "torchvision")
"""Packages whose version decides the digits of a run."""


def _reasons(
    table: Table, paper: Reference, rows: Mapping[str, TableRow], scale: str
) -> dict[str, str]:
    """Say of every row that was not run, wholly or in part, why."""
    reasons = dict(table.not_run)
    for row in paper.rows:
        if row.key not in table.rows:
            continue
        if trainings_at_scale(table, row.key, scale) - rows.keys():
            reasons[row.key] = "left out by --rows"
        elif table.trainings(row.key).keys() - rows.keys():
            reasons[row.key] = f"left out at {scale} scale"
    return reasons


def _unfinished(selection: TableSelection) -> str:
    if selection.max_steps is not None:
        return f"stopped after {selection.max_steps} steps by --max-steps"
    if selection.overrides:
        return f"the recipe was changed by --set {' --set '.join(selection.overrides)}"
    if selection.precision not in (None, "float32"):
        return f"the recipe was changed by --mixed-precision {selection.precision}"
    return ""


def write_report(table: Table, comparison: Comparison, runs: FinishedRuns, folder: Path) -> None:
    """Write the comparison as Markdown, JSON and plots (with the extra ``plots``)."""
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


def for_terminal(comparison: Comparison) -> str:
    """Return the table as it is printed."""
    return render_terminal(comparison, colour=supports_colour(sys.stdout))


def recorded_rows(table: Table) -> tuple[str, ...]:
    """Return the rows that are recorded: those with a proxy, except those that we added."""
    extra = {row.key for row in load_reference(table.reference).rows if row.origin == "extra"}
    proxies = (row for row in table.rows if trainings_at_scale(table, row, "proxy"))
    return tuple(row for row in proxies if row not in extra)


def record(table: Table, runs: list[Run], finished: FinishedRuns, outcomes: Outcomes) -> None:
    """Store the outcomes as the table's proxy references, with their provenance.

    Raises:
        UserError: a row or seed has no metrics.
    """
    seeds = tuple(dict.fromkeys(run.seed for run in runs))
    missing = [
        f"{name} (seed {seed})"
        for name in dict.fromkeys(name for run in runs for name in run.rows)
        for seed in seeds
        if not _is_recordable(table, name, finished.get(name, {}).get(seed))
    ]
    if missing:
        raise UserError(f"Nothing was recorded: {', '.join(missing)} has no metrics.")
    facts = [finished[run.rows[0]][run.seed].environment for run in runs]
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
    measured = _recordable(table, finished, outcomes)
    write_reference(
        table.proxy_reference,
        record_reference(paper, measured, provenance, collapsed=outcomes.collapsed),
    )


def _is_recordable(table: Table, name: str, run: FinishedRun | None) -> bool:
    return run is not None and bool(run.metrics or table.collapse_reason(name, run, "proxy"))


def _recordable(table: Table, runs: FinishedRuns, outcomes: Outcomes) -> Measured:
    """Leave out the numbers of cells where a collapse has stopped the run of another seed."""
    return {
        row: {
            key: numbers
            for key, numbers in cells.items()
            if all(
                run.metrics
                for name in table.columns[key].reads(row)
                for run in runs.get(name, {}).values()
            )
        }
        for row, cells in outcomes.measured.items()
    }


def _distinct(words: Iterable[str]) -> str:
    """Join the distinct values in order of first appearance."""
    return ", ".join(dict.fromkeys(words))
