"""Run every table at the scale that a check affords, against its stored numbers.

    nox -s check-tables
    nox -s check-tables -- mochi-table1 --budget 0

Tables with recorded proxy references are trained at proxy scale and compared with them, a paper's
tables before its figures, as long as their pretraining fits the budget; it is counted in
operations, so that every machine checks the same. All others run at smoke scale: the same code,
nothing is claimed.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from retable.data.sources import open_source
from retable.errors import UserError
from retable.reproduce import Table
from retable.reproduce.command import load_table
from retable.reproduce.plan import TableSelection, plan_runs, price, resolve_rows
from retable.reproduce.run import Run

FOLDER = Path(__file__).parent
BUDGET = 80.0
"""Operations of the encoders, in TFLOP; about 20 minutes on two cores."""


@dataclass(frozen=True)
class Check:
    """A table and the scale at which it is checked."""

    table: Table
    scale: str
    operations: float


def find_scripts(folder: Path = FOLDER) -> list[Path]:
    """Return every table script: those with a reference of the same name beside them."""
    scripts = sorted(folder.glob("*/*.py"))
    return [script for script in scripts if script.with_suffix(".toml").exists()]


def plan_checks(tables: Sequence[Table], budget: float) -> list[Check]:
    """Choose each table's scale; a run that two tables share is trained, and counted, once.

    Args:
        tables: the tables to check.
        budget: operations that all proxy runs together may take.
    """
    recorded = [table for table in tables if table.proxy_reference.exists()]
    runs = {table.name: _runs(table) for table in recorded}
    checks, known = [], set[str]()
    for table in sorted(recorded, key=lambda table: not table.script.stem.startswith("table")):
        new = [run for run in runs[table.name] if run.name not in known]
        operations = _operations(new)
        if operations <= budget:
            budget -= operations
            known |= {run.name for run in new}
            checks.append(Check(table, "proxy", operations))
    chosen = {check.table.name for check in checks}
    return checks + [Check(table, "smoke", 0.0) for table in tables if table.name not in chosen]


def _runs(table: Table) -> list[Run]:
    selection = TableSelection(scale="proxy", seeds=table.seeds["proxy"])
    return plan_runs(resolve_rows(table, selection), selection.seeds)


def _operations(runs: Sequence[Run]) -> float:
    images = {run.recipe.data: 0 for run in runs}
    for data in images:
        images[data] = len(open_source(data, "train"))
    return sum(price(run.recipe, images[run.recipe.data]).flops for run in runs)


def run_check(check: Check, runs: Path, minutes: float) -> str:
    """Run the table's script and return what came of it, in words; empty if all is well."""
    command = [sys.executable, str(check.table.script), "--scale", check.scale]
    command += ["--quiet", "--runs", str(runs)]
    try:
        status = subprocess.run(command, timeout=60 * minutes).returncode
    except subprocess.TimeoutExpired:
        return f"did not end within {minutes:g} minutes"
    return {0: "", 1: "missed"}.get(status, f"failed with status {status}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the tables and return 0, 1 if any missed or failed, 2 on wrong usage."""
    parser = argparse.ArgumentParser(description="Check every table against its stored numbers.")
    parser.add_argument("tables", nargs="*", metavar="TABLE", help="such as mochi-table1; all")
    parser.add_argument("--budget", type=float, default=BUDGET, help="TFLOP at proxy scale")
    parser.add_argument("--minutes", type=float, default=20, help="time limit of each table")
    parser.add_argument("--runs", type=Path, default=Path("runs/check"), help="emptied first")
    options = parser.parse_args(arguments)
    tables = {table.name: table for table in map(load_table, find_scripts())}
    unknown = sorted(set(options.tables) - set(tables))
    if unknown:
        print(f"error: no table {', '.join(unknown)}: choose from {', '.join(tables)}.")
        return 2
    wanted = [tables[name] for name in options.tables or tables]
    width = max(len(table.name) for table in wanted)
    # Runs are kept by recipe, not by code: what older code has trained would check nothing.
    shutil.rmtree(options.runs, ignore_errors=True)
    lines, good = [], True
    for check in plan_checks(wanted, options.budget * 1e12):
        print(f"\n--- {check.table.name} at {check.scale} scale", flush=True)
        start = time.monotonic()
        fault = run_check(check, options.runs, options.minutes)
        good = good and not fault
        said = fault or ("nothing missed" if check.scale == "proxy" else "ran")
        seconds = time.monotonic() - start
        lines.append(f"{check.table.name:{width}}  {check.scale:6}{seconds:6.0f} s  {said}")
    print("\n" + "\n".join(["Checked tables:", *lines]))
    return 0 if good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
