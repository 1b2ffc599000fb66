"""What the verdicts notice, and how often an exact reproduction matches.

    python studies/verdict_power.py

Trains nothing: it simulates from the stored references. Three tables are printed.

1. Noticed swaps: the numbers of two rows of a recorded reference are exchanged, as if each row had
   trained the other's method. They are compared as runs that repeat the recorded ones, as runs of
   their seeds elsewhere, and as runs of fresh seeds, with one seed (the mean over all) and with
   all.
2. Exact reproductions: runs of the paper's method itself, with the spread that the reference
   states, compared at paper scale.
3. Unchanged methods: a reference is recorded from five simulated seeds, then compared with further
   runs of the same distribution; rows keep the correlations of the recorded seeds.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from retable.tables import Comparison, Measured, Reference, compare, load_reference
from retable.tables.recording import record_reference
from retable.tables.reference import Value
from retable.tables.statistics import larger
from retable.tables.verdict import Verdict

REPRODUCTIONS = Path(__file__).parents[1] / "reproductions"
Numbers = dict[str, dict[str, dict[int, float]]]
FRESH = 1000
"""Added to a recorded seed, it is one that was not recorded."""


def find_references(folder: Path, *, recorded: bool) -> dict[str, Reference]:
    """Return ``<package>-<table>`` -> reference, of the proxy scale or of the papers."""
    paths = sorted(folder.glob("*/*.toml"))
    chosen = [path for path in paths if path.name.endswith(".proxy.toml") == recorded]
    return {f"{p.parent.name}-{p.name.partition('.')[0]}": load_reference(p) for p in chosen}


def compared_cells(reference: Reference) -> Iterator[tuple[str, str, Value]]:
    """Yield row, column and value of the cells that get a verdict."""
    for row in reference.rows:
        for column in reference.columns:
            value = reference.value(row.key, column.key)
            judged = not (row.unjudged or column.unjudged or column.not_run)
            if judged and value and reference.tolerance_of(row.key, column.key) is not None:
                yield row.key, column.key, value


def recorded_numbers(reference: Reference) -> Numbers:
    """Return the stored numbers of each seed."""
    assert reference.provenance is not None
    numbers: Numbers = {}
    for row, column, value in compared_cells(reference):
        seeds = zip(reference.provenance.seeds, value.per_seed, strict=True)
        numbers.setdefault(row, {})[column] = dict(seeds)
    return numbers


# 1. Noticed swaps.


def swaps(numbers: Numbers) -> Iterator[Numbers]:
    """Yield the numbers with two rows exchanged in the columns that both have, for each pair."""
    for one, other in itertools.combinations(numbers, 2):
        common = numbers[one].keys() & numbers[other].keys()
        exchanged = {key: dict(cells) for key, cells in numbers.items()}
        for column in common:
            exchanged[one][column] = numbers[other][column]
            exchanged[other][column] = numbers[one][column]
        yield exchanged


def chosen(numbers: Numbers, seeds: Sequence[int], shift: int = 0) -> Measured:
    """Return the numbers of some seeds, under seeds that are larger by ``shift``."""
    return {
        row: {c: {seed + shift: found[seed] for seed in seeds} for c, found in cells.items()}
        for row, cells in numbers.items()
    }


def count_noticed(
    reference: Reference, seeds: Sequence[int], shift: int = 0, *, repeats: bool = False
) -> int:
    """Return how many swaps of two rows are a miss somewhere."""
    return sum(
        bool(compare(reference, chosen(swap, seeds, shift), repeats=repeats).misses())
        for swap in swaps(recorded_numbers(reference))
    )


def print_swaps() -> None:
    """Print how many swaps of two rows are noticed, for each recorded table."""
    heads = ["repeated 1", "elsewhere 1", "elsewhere 5", "fresh 1", "fresh 5"]
    print("Noticed swaps of two rows, by the way that seeds are compared and their number")
    print(f"{'':28}{'pairs':>6}" + "".join(f"{head:>13}" for head in heads))
    for name, reference in find_references(REPRODUCTIONS, recorded=True).items():
        assert reference.provenance is not None
        seeds = reference.provenance.seeds
        one_by_one = [(seed,) for seed in seeds]
        found = []
        for choices, shift, repeats in (
            (one_by_one, 0, True),
            (one_by_one, 0, False),
            ([seeds], 0, False),
            (one_by_one, FRESH, False),
            ([seeds], FRESH, False),
        ):
            counts = [count_noticed(reference, c, shift, repeats=repeats) for c in choices]
            found.append(sum(counts) / len(counts))
        pairs = len(list(swaps(recorded_numbers(reference))))
        print(f"{name:28}{pairs:6}" + "".join(f"{count:13.1f}" for count in found))


# 2. Exact reproductions.


def reproduced(reference: Reference, runs: int, draws: random.Random) -> Numbers:
    """Draw runs of the paper's method, whose true mean the printed one only estimates."""
    numbers: Numbers = {}
    for row, column, value in compared_cells(reference):
        spec = reference.column(column)
        spread = larger(value.spread, spec.spread if spec else None)
        std = spread.std if spread else 0.0
        true = value.value + draws.gauss(0.0, std / math.sqrt(value.runs_at_least))
        numbers.setdefault(row, {})[column] = {n: draws.gauss(true, std) for n in range(runs)}
    return numbers


def print_reproductions(trials: int) -> None:
    """Print the share of a paper's cells that match, for each table of a paper."""
    print("\nCells of an exact reproduction at paper scale, in percent: match (firm) / miss")
    print(f"{'':28}{'cells':>6}{'1 seed':>24}{'3 seeds':>24}")
    for name, reference in find_references(REPRODUCTIONS, recorded=False).items():
        count = len(list(compared_cells(reference)))
        if not count:
            continue
        texts = []
        for runs in (1, 3):
            draws = random.Random(f"{name} {runs}")
            compared = [
                compare(reference, reproduced(reference, runs, draws), scale="paper")
                for _ in range(trials)
            ]
            texts.append(_shares(compared))
        print(f"{name:28}{count:6}" + "".join(f"{text:>24}" for text in texts))


def _shares(compared: Sequence[Comparison]) -> str:
    cells = [cell for one in compared for cell in one.cells if cell.tolerance is not None]
    match, miss = (
        100 * sum(cell.verdict is verdict for cell in cells) / len(cells)
        for verdict in (Verdict.MATCH, Verdict.MISS)
    )
    firm = 100 * sum(cell.firm for cell in cells) / len(cells)
    return f"{match:.1f} ({firm:.1f}) / {miss:.2f}"


# 3. Unchanged methods.


def redrawn(
    reference: Reference, seeds: Sequence[int], same: float, draws: random.Random
) -> tuple[Numbers, Numbers]:
    """Draw two sets of runs of all rows; ``same`` is the correlation of two runs of one seed.

    A run's deviations in all cells are a random combination of the recorded seeds' deviations, so
    that cells have the covariance of the recorded ones.
    """
    numbers = recorded_numbers(reference)
    assert reference.provenance is not None
    count, rest = len(reference.provenance.seeds), math.sqrt(1.0 - same**2)
    first, second = {}, {}
    for seed in seeds:
        first[seed], other = (
            [draws.gauss(0.0, 1.0 / math.sqrt(count - 1)) for _ in range(count)] for _ in range(2)
        )
        second[seed] = [same * a + rest * b for a, b in zip(first[seed], other, strict=True)]
    return _combined(numbers, first), _combined(numbers, second)


def _combined(numbers: Numbers, weights: dict[int, list[float]]) -> Numbers:
    """Return each cell's mean plus the weighted sum of its deviations, for each seed's weights."""

    def value(values: list[float], weight: list[float]) -> float:
        centre = sum(values) / len(values)
        return centre + sum(w * (v - centre) for w, v in zip(weight, values, strict=True))

    return {
        row: {
            column: {seed: value(list(found.values()), w) for seed, w in weights.items()}
            for column, found in cells.items()
        }
        for row, cells in numbers.items()
    }


def compare_unchanged(
    reference: Reference, seeds: Sequence[int], shift: int, same: float, trials: int
) -> list[Comparison]:
    """Record simulated runs and compare further ones of the same distribution with them."""
    assert reference.provenance is not None
    draws = random.Random(f"{reference.path} {seeds} {shift} {same}")
    paper = replace(reference, provenance=None)
    found = []
    for _ in range(trials):
        recorded, again = redrawn(reference, reference.provenance.seeds, same, draws)
        stored = record_reference(paper, recorded, reference.provenance)
        found.append(compare(stored, chosen(again, seeds, shift)))
    return found


def share_without_miss(compared: Sequence[Comparison]) -> float:
    """Return the share of tables without a miss."""
    return sum(not one.misses() for one in compared) / len(compared)


def print_unchanged(trials: int) -> None:
    """Print the share of tables without a miss when nothing has changed."""
    print(f"\nUnchanged methods, {trials} tables each, in percent: tables without a miss / matches")
    heads = ["fresh 1", "fresh 5", "elsewhere 1", "elsewhere 5", "alike 5"]
    print(f"{'':28}" + "".join(f"{head:>16}" for head in heads))
    for name, reference in find_references(REPRODUCTIONS, recorded=True).items():
        assert reference.provenance is not None
        seeds = reference.provenance.seeds
        texts = []
        for chosen_seeds, shift, same in (
            (seeds[:1], FRESH, 0.0),
            (seeds, FRESH, 0.0),
            (seeds[:1], 0, 0.0),
            (seeds, 0, 0.0),
            (seeds, 0, 0.99),  # another machine that nearly gives each seed's own numbers
        ):
            compared = compare_unchanged(reference, chosen_seeds, shift, same, trials)
            cells = [cell for one in compared for cell in one.cells if cell.tolerance is not None]
            matches = sum(cell.verdict is Verdict.MATCH for cell in cells) / len(cells)
            texts.append(f"{100 * share_without_miss(compared):.1f} / {100 * matches:.1f}")
        print(f"{name:28}" + "".join(f"{text:>16}" for text in texts))


def main() -> None:
    """Print the three tables."""
    parser = argparse.ArgumentParser(description="Simulate verdicts from the stored references.")
    parser.add_argument("--trials", type=int, default=300)
    trials = parser.parse_args().trials
    print_swaps()
    print_reproductions(trials)
    print_unchanged(trials)


if __name__ == "__main__":
    main()
