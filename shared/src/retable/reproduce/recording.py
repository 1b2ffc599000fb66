"""Store what runs gave as the proxy references of a table, or add seeds to those stored."""

from __future__ import annotations

import datetime

from retable.errors import UserError
from retable.reproduce.results import Outcomes, hardware_of
from retable.reproduce.run import FinishedRuns, Run
from retable.reproduce.table import Table
from retable.tables import load_reference
from retable.tables.comparison import Comparison, Measured
from retable.tables.recording import record_reference, write_reference
from retable.tables.reference import Provenance


def recorded_rows(table: Table) -> tuple[str, ...]:
    """Return the rows that are recorded: those with a proxy, except those that we added."""
    extra = {row.key for row in load_reference(table.reference).rows if row.origin == "extra"}
    return tuple(row for row in table.rows if row not in extra and table.trainings_at(row, "proxy"))


def check_extension(table: Table, seeds: tuple[int, ...]) -> None:
    """Check that there is a recording to which seeds can be added.

    Raises:
        UserError: nothing is recorded, or one of the seeds is.
    """
    if not table.proxy_reference.exists():
        raise UserError(
            f"--extend adds seeds to a recording, and {table.name} has none. Use --record alone."
        )
    provenance = load_reference(table.proxy_reference).provenance
    stored = provenance.seeds if provenance else ()
    if twice := [str(seed) for seed in seeds if seed in stored]:
        raise UserError(
            f"`--seeds` must name seeds that are not recorded, got {', '.join(twice)}. Recorded are"
            f" {', '.join(map(str, stored))}."
        )


def check_agreement(table: Table, comparison: Comparison) -> None:
    """Check that further seeds agree with the stored ones, so that they may stand together.

    Raises:
        UserError: a cell misses.
    """
    labels = [f"{row}.{column}" for row, column in comparison.misses()]
    if labels:
        raise UserError(
            f"Nothing was recorded: {', '.join(labels)} of these seeds miss the stored numbers of "
            f"{table.name}, so that they are not the same methods. Record all seeds again with "
            "--record alone."
        )


def record(
    table: Table, runs: list[Run], finished: FinishedRuns, outcomes: Outcomes, *, extend: bool
) -> None:
    """Store the outcomes as the table's proxy references, with their provenance.

    Args:
        table: the table, all of whose recorded rows have run.
        runs: its runs.
        finished: what is left of them.
        outcomes: their numbers.
        extend: keep the stored seeds beside those of the runs.

    Raises:
        UserError: a row or seed has no metrics.
    """
    missing = []
    for name, seed in ((name, run.seed) for run in runs for name in run.rows):
        found = finished.get(name, {}).get(seed)
        if not (found and (found.metrics or table.collapse_reason(name, found, "proxy"))):
            missing.append(f"{name} (seed {seed})")
    if missing:
        raise UserError(f"Nothing was recorded: {', '.join(missing)} has no metrics.")
    paper = load_reference(table.reference)
    reference = record_reference(
        paper,
        _recordable(table, finished, outcomes),
        _provenance(table, runs, finished, extend),
        collapsed=outcomes.collapsed,
        earlier=load_reference(table.proxy_reference) if extend else None,
    )
    write_reference(table.proxy_reference, reference)


def _provenance(table: Table, runs: list[Run], finished: FinishedRuns, extend: bool) -> Provenance:
    facts = [finished[run.rows[0]][run.seed].environment for run in runs]
    seeds = tuple(dict.fromkeys(run.seed for run in runs))
    words = f"--record{' --extend' if extend else ''} --seeds {' '.join(map(str, seeds))}"
    versions = {k: v for found in facts for k, v in found["versions"].items() if v is not None}
    return Provenance(
        command=f"nox -s reproduce-{table.name} -- {words}",
        seeds=seeds,
        commit=", ".join(dict.fromkeys(str(found["commit"]) for found in facts)),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        hardware=", ".join(dict.fromkeys(map(hardware_of, facts))),
        versions=versions,
    )


def _recordable(table: Table, runs: FinishedRuns, outcomes: Outcomes) -> Measured:
    """Return the numbers of the cells of which no run has stopped, but for those that collapsed."""
    return {
        row: {
            key: numbers
            for key, numbers in cells.items()
            if all(
                run.metrics or run.seed in outcomes.collapsed.get(row, {}).get(key, {})
                for name in table.columns[key].reads(row)
                for run in runs.get(name, {}).values()
            )
        }
        for row, cells in outcomes.measured.items()
    }
