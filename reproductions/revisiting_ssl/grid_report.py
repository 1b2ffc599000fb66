"""Statistics of the grid as JSON and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from reproductions.revisiting_ssl.grid_readings import (
    OURS,
    PRETEXT,
    TASKS,
    TIMES,
    all_statistics,
    grids_by_seed,
    labels_of,
    metric_grid,
    our_grid,
)
from retable import files
from retable.reproduce import FinishedRuns
from retable.tables import Comparison
from retable.tables.phrases import EMPTY, number
from revisiting_ssl.analysis.agreement import GridStatistics, mean_agreement, seed_agreement
from revisiting_ssl.analysis.correlations import Correlation, chance_spread, mean_correlation
from revisiting_ssl.analysis.grids import (
    Cell,
    Grid,
    count_improving,
    mean_leads,
    reversals,
    tasks_of,
)
from revisiting_ssl.analysis.pretext import Prediction, predictions

MINUS = "\N{MINUS SIGN}"


def write_analyses(comparison: Comparison, histories: FinishedRuns, folder: Path) -> None:
    """Write ``analyses.json`` and ``analyses.md``."""
    found = all_statistics(comparison, histories)
    grids = grids_by_seed(comparison)
    seeds = seed_agreement(grids)
    pretext = predictions(metric_grid(comparison, histories, PRETEXT, 100.0), our_grid(comparison))
    files.write_json(
        folder / "analyses.json",
        {
            "table": comparison.table.id,
            "scale": comparison.scale,
            "seeds": comparison.seeds,
            **{name: _plain(one) for name, one in found.items()},
            "agreement of seeds": seeds._asdict(),
            "pretext accuracy": {task: _plain_prediction(one) for task, one in pretext.items()},
        },
    )
    labels = labels_of(comparison)
    text = [f"# {comparison.table.id}, {comparison.scale} scale: what the grid says", ""]
    for name, one in found.items():
        text += [f"## {name.capitalize()}", "", *_said(one, labels), ""]
        text += [*_said_reversals(one.grid, grids if name == OURS else {}, labels), ""]
    text += ["## Seeds", "", f"Rankings of the same column by two seeds: {said(seeds, 'τ')}.", ""]
    text += ["## Pretext accuracy", "", *_said_predictions(pretext), ""]
    files.write_bytes(folder / "analyses.md", "\n".join(text).encode())


def said(found: Correlation, name: str) -> str:
    """Format a correlation with its number of points, or the reason why there is none.

    >>> said(Correlation(0.5, 3, 2), "τ")
    'τ = +0.50 (n = 3, mean of 2)'
    >>> said(Correlation(None, 1, reason="one width"), "τ")
    'no τ (one width)'
    """
    if found.value is None:
        return f"no {name} ({found.reason})"
    mean = f", mean of {found.rankings}" if found.rankings > 1 else ""
    return f"{name} = {signed(found.value)} (n = {found.points}{mean})"


def signed(value: float) -> str:
    """Format a correlation with its sign.

    >>> signed(0.333), signed(-0.001)
    ('+0.33', '0.00')
    """
    text = f"{value:+.2f}"
    return text[1:] if float(text) == 0 else text.replace("-", MINUS)


def _column(cell: Cell) -> str:
    return f"{cell.task}_{cell.widening}x"


def _plain(found: GridStatistics) -> dict[str, Any]:
    worse = [step._asdict() for step in found.steps if step.gain <= 0]
    return {
        "accuracy": {_column(cell): dict(one) for cell, one in found.grid.items() if one},
        "rank": {_column(cell): dict(one) for cell, one in found.ranks.items()},
        "best": {
            task: {"encoders": names, "widening": widening, "accuracy": accuracy}
            for task, (names, widening, accuracy) in found.best.items()
        },
        "agreement of tasks": {
            f"{one}, {other}": correlation._asdict()
            for (one, other), correlation in found.tasks.items()
            if list(found.best).index(one) <= list(found.best).index(other)
        },
        "mean agreement of different tasks": mean_agreement(found.tasks, same=False)._asdict(),
        "mean agreement of a task's widths": mean_agreement(found.tasks, same=True)._asdict(),
        "agreement with all labels": {
            name: {_column(cell): correlation._asdict() for cell, correlation in by_cell.items()}
            for name, by_cell in found.shares.items()
        },
        "reversals": {
            f"{one}, {other}": by_task for (one, other), by_task in reversals(found.grid).items()
        },
        "widenings": {
            "count": len(found.steps),
            "improving": count_improving(found.steps),
            "not improving": worse,
        },
    }


def _plain_prediction(found: Prediction) -> dict[str, Any]:
    return {
        "over encoders": found.encoders._asdict(),
        "over widths": found.widths._asdict(),
        "over all": found.all._asdict(),
        "widenings": {"count": found.steps, "both in one direction": found.agreeing},
    }


def _said(found: GridStatistics, labels: dict[str, str]) -> Iterator[str]:
    tasks = list(found.best)
    yield "| Task | Best encoder | Width | Accuracy |"
    yield "|---|---|---|---|"
    for task, (names, widening, accuracy) in found.best.items():
        named = " = ".join(labels[name] for name in names)
        yield f"| {TASKS[task]} | {named} | {widening}{TIMES} | {accuracy:.1f} % |"
    yield ""
    yield "Kendall's τ between the encoder rankings of two tasks at equal width, on the diagonal"
    yield "between the widths of one task:"
    yield ""
    yield f"| | {' | '.join(TASKS[task] for task in tasks)} |"
    yield "|---" * (1 + len(tasks)) + "|"
    for one in tasks:
        values = (_short(found.tasks[one, other]) for other in tasks)
        yield f"| {TASKS[one]} | {' | '.join(values)} |"
    yield ""
    across, within = mean_agreement(found.tasks, same=False), mean_agreement(found.tasks, same=True)
    spread = ""
    if across.value is not None:
        chance = chance_spread(across.points)
        spread = f"; random rankings of {across.points} encoders: 0 ± {chance:.2f}"
    yield f"Different tasks: {said(across, 'τ')}; widths of one task: {said(within, 'τ')}{spread}."
    yield ""
    for name, by_cell in found.shares.items():
        mean = mean_correlation(by_cell.values(), "no column")
        yield f"Rankings with {name} and with all, of the same column: {said(mean, 'τ')}."
        yield ""
    yield from _said_steps(found, labels)


def _said_reversals(grid: Grid, seeds: Mapping[int, Grid], labels: dict[str, str]) -> Iterator[str]:
    """Yield lines on the pairs of encoders whose order depends on the task."""
    found = reversals(grid)
    if not found:
        yield "No two encoders change their order from task to task."
        return
    tasks = tasks_of(grid)
    yield "Encoders whose order depends on the task: the first minus the second, in points, mean"
    yield f"over the widths{' (and of each seed)' if len(seeds) > 1 else ''}:"
    yield ""
    yield f"| | {' | '.join(TASKS[task] for task in tasks)} |"
    yield "|---" * (1 + len(tasks)) + "|"
    for pair, by_task in found.items():
        single = [mean_leads(each, *pair) for each in seeds.values()]
        values = []
        for task in tasks:
            text = number(by_task[task], 1, signed=True) if task in by_task else EMPTY
            if len(single) > 1:
                each = (number(one[task], 1, signed=True) for one in single if task in one)
                text += f" ({', '.join(each)})"
            values.append(text)
        yield f"| {labels[pair[0]]} {MINUS} {labels[pair[1]]} | {' | '.join(values)} |"


def _said_steps(found: GridStatistics, labels: dict[str, str]) -> Iterator[str]:
    yield f"Widening improves in {count_improving(found.steps)} of {len(found.steps)} steps."
    worse = [step for step in found.steps if step.gain <= 0]
    if worse:
        yield "Not in these:"
        yield ""
    for step in worse:
        place = (
            f"{labels[step.encoder]}, {TASKS[step.task]} {step.narrow}{TIMES} to {step.wide}{TIMES}"
        )
        yield f"- {place}: {number(step.gain, 1, signed=True)}"


def _short(found: Correlation) -> str:
    return EMPTY if found.value is None else signed(found.value)


def _said_predictions(found: dict[str, Prediction]) -> Iterator[str]:
    if not found:
        yield "No run has one."
        return
    yield "Spearman's correlation between accuracy in the pretext task, on held-out images, and"
    yield "that of the linear model:"
    yield ""
    yield "| Task | Encoders of a width | Widths of an encoder | All | Steps that move both alike |"
    yield "|---|---|---|---|---|"
    for task, one in found.items():
        values = (said(each, "r") for each in (one.encoders, one.widths, one.all))
        yield f"| {TASKS[task]} | {' | '.join(values)} | {one.agreeing} of {one.steps} |"
