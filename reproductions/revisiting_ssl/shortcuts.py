"""What keeps the patch tasks from being solved without looking at objects, taken away in turn.

    python reproductions/revisiting_ssl/shortcuts.py
    python reproductions/revisiting_ssl/shortcuts.py --seeds 0 1 2 --encoder revnet50

Trains Jigsaw and Relative Patch Location at proxy scale as Table 2 does, then with patches that
touch, with patches that keep their brightness and contrast, with colours always, and with all
three. Where a task becomes easier and its features worse, it was a shortcut. The task is judged on
held-out images that are cut in the same way, the features by Table 2's L-BFGS probe.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from grid_readings import PRETEXT, TASKS
from proxy_rows import linear_of, options_of_one_encoder, rows_of

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


def touching(row: TableRow) -> TableRow:
    """Leave no gap between patches and no choice of place: edges continue in the neighbour."""
    grid = _grid(row.pretrain)
    close = replace(grid, cell=grid.patch)
    scale = close.side / grid.side

    def smaller(view: ViewRecipe) -> ViewRecipe:
        assert view.resize is not None
        return replace(view, size=close.side, resize=round(view.resize * scale))

    return _changed(row, close, smaller)


def with_brightness(row: TableRow) -> TableRow:
    """Leave each patch its mean and its deviation, also in the evaluation."""
    probe = linear_of(row)
    representation = probe.representation
    assert representation.patches is not None
    seen = replace(representation, patches=replace(representation.patches, standardise=False))
    judged = TableRow(row.pretrain, (replace(probe, representation=seen),))
    return _changed(judged, replace(_grid(row.pretrain), standardise=False))


def with_colour(row: TableRow) -> TableRow:
    """Make no image grey."""
    return _changed(row, _grid(row.pretrain), lambda view: replace(view, gray_probability=0.0))


WAYS: dict[str, Callable[[TableRow], TableRow]] = {
    "as in the paper": lambda row: row,
    "patches touch": touching,
    "not standardised": with_brightness,
    "never grey": with_colour,
    "all three": lambda row: touching(with_brightness(with_colour(row))),
}
"""What is taken away -> how that changes a training."""


def _grid(recipe: PretrainRecipe) -> PatchGrid:
    assert isinstance(recipe.method, JigsawRecipe | RelativePatchLocationRecipe)
    return recipe.method.patches


def _changed(
    row: TableRow, grid: PatchGrid, change: Callable[[ViewRecipe], ViewRecipe] = lambda view: view
) -> TableRow:
    """Return a row with another grid and changed views."""
    recipe = row.pretrain
    assert isinstance(recipe.method, JigsawRecipe | RelativePatchLocationRecipe)
    method = replace(recipe.method, patches=grid)
    views = tuple(change(view) for view in recipe.views)
    return TableRow(replace(recipe, method=method, views=views), row.evaluations)


def shown(values: Sequence[float]) -> str:
    """Return the mean, and the least and the greatest of several.

    >>> shown([20.0]), shown([20.0, 22.0])
    ('20.0', '21.0 (20.0 to 22.0)')
    """
    mean = f"{sum(values) / len(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.1f} to {max(values):.1f})"


def as_table(found: Mapping[tuple[str, str], Sequence[Mapping[str, float]]]) -> str:
    """Return lines of text: the accuracy in the task and the linear one, in percent.

    Args:
        found: task and way -> the figures of each seed.
    """
    lines = [f"{'':36}{'task':>22}{'linear':>22}"]
    for (task, way), seeds in found.items():
        solved = shown([100 * figures[PRETEXT] for figures in seeds])
        linear = shown([figures["imagenet.top1"] for figures in seeds])
        lines.append(f"{TASKS[task]:18}{way:18}{solved:>22}{linear:>22}")
    return "\n".join(lines)


def main() -> int:
    """Train what has not been trained, and print what became of both accuracies."""
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
