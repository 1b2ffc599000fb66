"""Defects planted in a method: trains rows of a table with each, and compares what is recorded."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from retable.domains import Small, integer
from retable.reproduce import Table, TableRow
from retable.reproduce.execute import execute
from retable.reproduce.plan import plan_runs
from retable.reproduce.results import measure
from retable.reproduce.run import read_runs
from retable.tables import Comparison, compare, load_reference
from retable.tables.reference import Value
from retable.train.options import RunOptions


def run_planted(table: Table, planted: Mapping[str, Mapping[str, TableRow]], about: str) -> int:
    """Parse ``--runs`` and ``--jobs``, train every defect's rows with seed 0, print the verdicts.

    ``planted`` are the rows of each defect by their names in the table.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--jobs", type=integer(Small), default=2)
    options = parser.parse_args()
    run_options = RunOptions(options.runs, jobs=options.jobs)
    reference, paper = load_reference(table.proxy_reference), load_reference(table.reference)
    runs = {defect: plan_runs(rows, (0,)) for defect, rows in planted.items()}
    execute([run for of_defect in runs.values() for run in of_defect], run_options)
    for defect, of_defect in runs.items():
        finished = read_runs(of_defect, run_options.folder)
        _print(defect, compare(reference, measure(table, finished), paper, "proxy"))
    return 0


def _print(defect: str, comparison: Comparison) -> None:
    print(f"\n{defect}: {'caught' if comparison.misses() else 'NOT caught by the table'}")
    for compared in comparison.rows:
        for column, cell in compared.cells.items():
            if cell.ours and isinstance(cell.reference, Value):
                verdict = cell.verdict or "not compared"
                print(
                    f"  {compared.row.key:22} {column:20} {cell.mean:8.2f}"
                    f"  reference {cell.reference.value:8.2f}  {verdict}"
                )
