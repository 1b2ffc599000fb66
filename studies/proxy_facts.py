r"""Which facts of the field show in another small setting.

    python studies/proxy_facts.py --seeds 1 2 3 --set epochs=80
    python studies/proxy_facts.py --seeds 1 2 3 --set images=8000 --set classes=64 \
        --set epochs=12 --set queue=1024 --set rate=1 --set least_crop=0.5 --set least_group=16 \
        --set converged=false

Trains all rows of the table of facts in a setting that differs from the proxy scale by ``--set``,
and prints each statement with its interval. The second command is the setting of the first
recorded references, which was replaced since it contradicts the field.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from reproductions.baselines.arms import ARMS
from reproductions.baselines.facts import TABLE, at
from retable.domains import SEED, Small, integer
from retable.reproduce import Table
from retable.reproduce.command import guarded
from retable.reproduce.execute import execute
from retable.reproduce.plan import TableSelection, plan_runs, resolve_rows
from retable.reproduce.results import gather_outcomes
from retable.reproduce.run import read_runs
from retable.reproduce.shrinking import PROXY, SmallScale
from retable.tables import compare, load_reference
from retable.tables.comparison import ComparedClaim
from retable.train.options import RunOptions
from studies.proxy_search import Setting
from studies.search import changed


@dataclass(frozen=True)
class FactsSetting(Setting):
    """A setting of the search, and the probe, which the search itself never varies."""

    converged: bool = PROXY.converged

    def scale(self) -> SmallScale:
        """Return the scale, with 10,000 test images."""
        return replace(super().scale(), converged=self.converged)


def table_at(scale: SmallScale) -> Table:
    """Return the table of facts whose proxy scale is another one."""
    assert TABLE.collapse is not None
    collapse = replace(
        TABLE.collapse, chance={**TABLE.collapse.chance, "proxy": 100 / scale.classes}
    )
    return replace(TABLE, proxy=partial(at, scale), collapse=collapse)


def verdicts(table: Table, selection: TableSelection, options: RunOptions) -> list[ComparedClaim]:
    """Train the missing runs and return the statements about the selected rows."""
    rows = resolve_rows(table, selection)
    runs = plan_runs(rows, selection.seeds)
    execute(runs, options)
    finished = read_runs(runs, options.folder, table.derive)
    outcomes = gather_outcomes(table, rows, finished, selection.scale)
    # Compared with the statements alone: recorded spreads are those of the proxy scale.
    comparison = compare(
        load_reference(table.reference),
        outcomes.measured,
        collapsed=outcomes.collapsed,
        failed=outcomes.failed,
    )
    return [c for c in comparison.claims if {c.claim.better, c.claim.than} <= {*rows, ""}]


def as_line(compared: ComparedClaim) -> str:
    """Return a statement's verdict, interval and text on a line."""
    interval = compared.interval
    found = f"{interval.centre:+6.1f} [{interval.low:.1f}, {interval.high:.1f}]" if interval else ""
    return f"{compared.verdict or compared.reason:13} {found:24} {compared.claim.text}"


def main() -> int:
    """Train and print the statements and the number of each verdict."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--runs", type=Path, default=Path("runs"))
    add("--rows", nargs="+", choices=ARMS, metavar="ROW", default=list(ARMS))
    add("--seeds", type=integer(SEED), nargs="+", default=[1, 2, 3])
    add("--jobs", type=integer(Small), default=2, help="trainings side by side")
    add("--set", action="append", default=[], metavar="FIELD=VALUE")
    options = parser.parse_args()
    scale = changed(FactsSetting(), options.set).scale()
    selection = TableSelection(rows=tuple(options.rows), seeds=tuple(options.seeds))
    found = verdicts(table_at(scale), selection, RunOptions(options.runs, jobs=options.jobs))
    for compared in found:
        print(as_line(compared))
    counts = Counter(str(one.verdict or "without numbers") for one in found)
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
