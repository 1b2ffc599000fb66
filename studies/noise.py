"""How noisy recorded proxies are, and how well their seeds resolve each claim.

    python studies/noise.py

Trains nothing: it reads the stored runs. For each column it prints the std of a cell, pooled over
the rows, and for each claim the std of its seed-paired difference, the half width of its 95 %
interval with the recorded seeds, and how many seeds a half width of one unit takes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from retable.reproduce.command import guarded
from retable.tables import Reference, load_reference
from retable.tables.claims import recorded_differences
from retable.tables.statistics import Spread, interval_of_mean, pool_varying, spread_of
from retable.tables.verdict import seeds_to_resolve

REPRODUCTIONS = Path(__file__).parents[1] / "reproductions"


def print_table(stated: Reference, recorded: Reference) -> None:
    """Print the noise of one recorded table."""
    assert recorded.path is not None
    assert recorded.provenance is not None
    seeds = len(recorded.provenance.seeds)
    print(f"\n{recorded.path.parent.name}-{recorded.path.name.partition('.')[0]}, {seeds} seeds")
    for column in recorded.columns:
        values = [recorded.value(row.key, column.key) for row in recorded.rows]
        spreads = [value.spread for value in values if value and value.spread]
        if any(spread.std for spread in spreads):
            print(f"  {pool_varying(spreads).std:8.3g}  std of a cell of {column.label}")
    for claim in stated.claims:
        differences = recorded_differences(stated, recorded, claim)
        spread = spread_of(list(differences.values()))
        if spread is None:
            continue
        print(f"  {_resolution(spread, seeds)}  {claim.text}")


def _resolution(spread: Spread, seeds: int) -> str:
    interval = interval_of_mean(0.0, spread, seeds)
    needed = seeds_to_resolve(spread, 1.0)
    many = f"{needed} seeds" if needed else "over 100"
    return f"{spread.std:8.3g}  ± {interval.high:<6.3g} ± 1: {many:9}"


def main() -> int:
    """Print the noise of every recorded table, or of those whose names are given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", metavar="PACKAGE-TABLE")
    wanted = parser.parse_args().tables
    for path in sorted(REPRODUCTIONS.glob("*/*.proxy.toml")):
        table = path.name.partition(".")[0]
        if not wanted or f"{path.parent.name}-{table}" in wanted:
            print_table(load_reference(path.with_name(f"{table}.toml")), load_reference(path))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
