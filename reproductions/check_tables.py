"""Check every table: compare what has recorded numbers, and run what has none.

    nox -s check-tables
    nox -s check-tables -- mochi-table1
    nox -s check-tables -- --full

A table with recorded proxy references trains the rows that it names for the check, with the first
recorded seed, and compares them. Of all other rows one of each kind runs at smoke scale, which only
checks that the code runs; a kind is a method, an encoder and evaluations by their classes.
``--full`` trains all rows of all recorded tables. Trainings that several tables share are made
once.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from retable.data.sources import open_source
from retable.errors import UserError
from retable.exit_status import (
    MISSED,
    OK,
    STOPPED,
    UNEXPECTED,
    explain,
    traceback_text,
)
from retable.processes import available_cores
from retable.reproduce import Table, TableRow
from retable.reproduce.command import guarded, load_table
from retable.reproduce.command import main as reproduce
from retable.reproduce.execute import execute
from retable.reproduce.plan import TableSelection, plan_runs, resolve_rows
from retable.reproduce.pricing import price
from retable.reproduce.run import Run
from retable.tables import load_reference
from retable.train.options import RunOptions

FOLDER = Path(__file__).parent
DEFAULT_RUNS = Path("runs/check")

Kind = tuple[type, type, frozenset[type]]
"""Classes of a training's method, encoder and evaluations."""


@dataclass(frozen=True)
class Check:
    """What is run of a table.

    Attributes:
        table: the table.
        scale: "proxy" or "smoke".
        rows: its rows, or trainings as ROW/VARIANT; empty: all.
    """

    table: Table
    scale: str
    rows: tuple[str, ...] = ()

    @property
    def seeds(self) -> tuple[int, ...]:
        """The first recorded seed, whose stored values a run must repeat; else the table's own."""
        if self.scale == "proxy" and self.table.proxy_reference.exists():
            provenance = load_reference(self.table.proxy_reference).provenance
            assert provenance is not None
            return provenance.seeds[:1]
        return tuple(self.table.seeds[self.scale])

    def resolved(self) -> dict[str, TableRow]:
        """Return every training, with everything filled in."""
        return resolve_rows(self.table, TableSelection(scale=self.scale, rows=self.rows))


def find_scripts(folder: Path = FOLDER) -> list[Path]:
    """Return every table script: those with a reference of the same name in their folder."""
    scripts = sorted(folder.glob("*/*.py"))
    return [script for script in scripts if script.with_suffix(".toml").exists()]


def plan_checks(tables: Sequence[Table], *, full: bool = False) -> list[Check]:
    """Choose scale and rows of each table.

    Args:
        tables: the tables to check.
        full: all rows of all tables.

    Raises:
        UserError: a table has recorded numbers and names no rows for the check.
    """
    recorded = [table for table in tables if table.proxy_reference.exists()]
    for table in recorded:
        if not table.check_rows:
            raise UserError(
                f"{table.name} has recorded numbers but names no rows for the check. "
                "Set `check_rows` of its Table to the rows of its main claim and a baseline."
            )
    checks = [Check(table, "proxy", () if full else table.check_rows) for table in recorded]
    if full:
        return checks + [Check(table, "smoke") for table in tables if table not in recorded]
    known = {kind_of(row) for check in checks for row in check.resolved().values()}
    for table in tables:
        new: dict[Kind, str] = {}
        rows = Check(table, "smoke").resolved()
        for name, row in rows.items():
            if (kind := kind_of(row)) not in known:
                new.setdefault(kind, name)
        known |= new.keys()
        if new or table not in recorded:
            # A table of known kinds still has columns, derived metrics and plots of its own.
            checks.append(Check(table, "smoke", tuple(new.values()) or (next(iter(rows)),)))
    return checks


def kind_of(row: TableRow) -> Kind:
    """Return the classes of a training's method, encoder and evaluations."""
    recipe = row.pretrain
    return type(recipe.method), type(recipe.encoder), frozenset(map(type, row.evaluations))


def plan_trainings(checks: Iterable[Check]) -> list[tuple[Run, float]]:
    """Return the runs of all checks, each once, and their operations; the most expensive first."""
    rows: dict[tuple[int, ...], dict[str, TableRow]] = {}
    for check in checks:
        named = rows.setdefault(check.seeds, {})
        for name, row in check.resolved().items():
            named[f"{check.table.name} {check.scale} {name}"] = row
    runs = [run for seeds, named in rows.items() for run in plan_runs(named, seeds)]
    images = {data: len(open_source(data, "train")) for data in {run.recipe.data for run in runs}}
    priced = [(run, price(run.recipe, images[run.recipe.data]).flops) for run in runs]
    return sorted(priced, key=lambda found: -found[1])


def train_all(runs: Sequence[Run], folder: Path) -> None:
    """Train and evaluate all runs side by side, on a core each.

    What fails here is left to the table that needs it, which then says so.
    """
    start = time.monotonic()
    try:
        execute(runs, RunOptions(folder, quiet=True, jobs=available_cores()))
    except Exception as error:
        sentence, _ = explain(error) or (traceback_text(error), UNEXPECTED)
        print(f"error: {sentence}", file=sys.stderr)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = time.monotonic() - start
    cpu = children.ru_utime + children.ru_stime
    print(f"Trained {len(runs)} runs in {seconds:.0f} s ({cpu:.0f} s of CPU).", flush=True)


def run_check(check: Check, folder: Path) -> int:
    """Evaluate and compare a table; return its status."""
    words = ["--scale", check.scale, "--runs", str(folder), "--quiet"]
    words += ["--seeds", *map(str, check.seeds)]
    words += ["--rows", *check.rows] if check.rows else []
    return reproduce(check.table, words)


def describe(check: Check) -> str:
    """Say what is run of a table."""
    return f"{check.table.name} at {check.scale} scale: {', '.join(check.rows) or 'all rows'}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the tables; return 0, 1 if any missed, or the status of the first that failed."""
    parser = argparse.ArgumentParser(description="Check every table against its stored numbers.")
    parser.add_argument("tables", nargs="*", metavar="TABLE", help="such as mochi-table1; all")
    parser.add_argument("--full", action="store_true", help="all rows of all tables; hours")
    parser.add_argument("--dry-run", action="store_true", help="print what would run")
    parser.add_argument("--runs", type=Path, default=DEFAULT_RUNS, help="emptied first")
    options = parser.parse_args(arguments)
    tables = {table.name: table for table in map(load_table, find_scripts())}
    unknown = sorted(set(options.tables) - set(tables))
    if unknown:
        raise UserError(f"No table {', '.join(unknown)}. Choose from {', '.join(tables)}.")
    checks = plan_checks([tables[name] for name in options.tables or tables], full=options.full)
    trainings = plan_trainings(checks)
    print("\n".join(describe(check) for check in checks))
    total = sum(operations for _, operations in trainings)
    print(f"{len(trainings)} runs, {total / 1e12:.1f} TFLOP in the encoders", flush=True)
    if options.dry_run:
        return 0
    # Runs are kept by recipe, not by code: what older code has trained would check nothing.
    shutil.rmtree(options.runs, ignore_errors=True)
    train_all([run for run, _ in trainings], options.runs)
    width = max(len(check.table.name) for check in checks)
    lines, statuses = [], []
    for check in checks:
        print(f"\n--- {describe(check)}", flush=True)
        status = run_check(check, options.runs)
        if status in STOPPED:
            return status
        statuses.append(status)
        good = "nothing missed" if check.scale == "proxy" else "ran"
        said = {OK: good, MISSED: "missed"}.get(status, f"failed with status {status}")
        lines.append(f"{check.table.name:{width}}  {check.scale:6}{said}")
    print("\n" + "\n".join(["Checked tables:", *lines]))
    failed = [status for status in statuses if status not in (OK, MISSED)]
    return failed[0] if failed else max(statuses)


if __name__ == "__main__":
    sys.exit(guarded(main))
