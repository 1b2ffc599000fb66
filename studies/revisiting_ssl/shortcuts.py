"""Ablation of the measures that keep the patch tasks from being solved by low-level cues.

    python studies/revisiting_ssl/shortcuts.py --seeds 0
    python studies/revisiting_ssl/shortcuts.py --seeds 0 1 2 --encoder revnet50

Trains Jigsaw and Relative Patch Location at proxy scale as Table 2 does, then with patches that
touch, with patches that keep their brightness and contrast, with images that are never grey, and
with all three. A cue is a shortcut if the task becomes easier and its features worse. The task is
evaluated on held-out images that are cut in the same way, the features by Table 2's L-BFGS probe.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from reproductions.revisiting_ssl.grid_readings import PRETEXT, TASKS
from retable.nn.patches import PatchGrid
from retable.reproduce.command import guarded
from retable.reproduce.execute import execute
from retable.reproduce.plan import plan_runs
from retable.reproduce.run import read_run
from retable.reproduce.table import TableRow
from retable.train.options import RunOptions
from retable.train.recipe import PretrainRecipe
from retable.views import ViewRecipe
from revisiting_ssl import JigsawRecipe, RelativePatchLocationRecipe
from studies.revisiting_ssl.proxy_rows import linear_of, options_of_one_encoder, rows_of


def touching(row: TableRow) -> TableRow:
    """Cut patches without gaps and jitter, so that edges continue in the next patch."""
    grid = _grid(row.pretrain)
    close = replace(grid, cell=grid.patch)
    scale = close.side / grid.side

    def smaller(view: ViewRecipe) -> ViewRecipe:
        assert view.resize is not None
        return replace(view, size=close.side, resize=round(view.resize * scale))

    return _changed(row, close, smaller)


def with_brightness(row: TableRow) -> TableRow:
    """Keep the mean and the deviation of each patch, in the evaluation too."""
    probe = linear_of(row)
    representation = probe.representation
    assert representation.patches is not None
    seen = replace(representation, patches=replace(representation.patches, standardise=False))
    changed = TableRow(row.pretrain, (replace(probe, representation=seen),))
    return _changed(changed, replace(_grid(row.pretrain), standardise=False))


def with_colour(row: TableRow) -> TableRow:
    """Turn off the grey images."""
    return _changed(row, _grid(row.pretrain), lambda view: replace(view, gray_probability=0.0))


WAYS: dict[str, Callable[[TableRow], TableRow]] = {
    "as in the paper": lambda row: row,
    "patches touch": touching,
    "not standardised": with_brightness,
    "never grey": with_colour,
    "all three": lambda row: touching(with_brightness(with_colour(row))),
}
"""Ablation -> function that applies it to a row."""


def _grid(recipe: PretrainRecipe) -> PatchGrid:
    assert isinstance(recipe.method, JigsawRecipe | RelativePatchLocationRecipe)
    return recipe.method.patches


def _changed(
    row: TableRow, grid: PatchGrid, change: Callable[[ViewRecipe], ViewRecipe] = lambda view: view
) -> TableRow:
    """Return the row with another patch grid and changed views."""
    recipe = row.pretrain
    assert isinstance(recipe.method, JigsawRecipe | RelativePatchLocationRecipe)
    method = replace(recipe.method, patches=grid)
    views = tuple(change(view) for view in recipe.views)
    return TableRow(replace(recipe, method=method, views=views), row.evaluations)


def shown(values: Sequence[float]) -> str:
    """Format the mean, and the range of several values.

    >>> shown([20.0]), shown([20.0, 22.0])
    ('20.0', '21.0 (20.0 to 22.0)')
    """
    mean = f"{sum(values) / len(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.1f} to {max(values):.1f})"


def as_table(found: Mapping[tuple[str, str], Sequence[Mapping[str, float]]]) -> str:
    """Format the accuracies in the task and of the linear model, in percent.

    Args:
        found: task and ablation -> metrics of each seed.
    """
    lines = [f"{'':36}{'task':>22}{'linear':>22}"]
    for (task, way), seeds in found.items():
        solved = shown([100 * figures[PRETEXT] for figures in seeds])
        linear = shown([figures["imagenet.top1"] for figures in seeds])
        lines.append(f"{TASKS[task]:18}{way:18}{solved:>22}{linear:>22}")
    return "\n".join(lines)


def main() -> int:
    """Train the missing runs and print both accuracies."""
    options = options_of_one_encoder(__doc__.splitlines()[0]).parse_args()
    run_options = RunOptions(options.runs, jobs=options.jobs)
    rows = {
        task: TableRow(row.pretrain, (linear_of(row),))
        for task, row in rows_of(options.encoder, options.width).items()
    }
    runs = {
        (task, way): plan_runs({f"{task}, {way}": change(rows[task])}, tuple(options.seeds))
        for task in ("jigsaw", "relpatchloc")
        for way, change in WAYS.items()
    }
    execute([run for of_seeds in runs.values() for run in of_seeds], run_options)
    found = {
        key: [one.metrics for run in of_seeds if (one := read_run(run, run_options.folder))]
        for key, of_seeds in runs.items()
    }
    print(f"{options.encoder} {options.width}x, proxy scale, seeds {options.seeds}")
    print(as_table({key: seeds for key, seeds in found.items() if all(seeds)}))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
