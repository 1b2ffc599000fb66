"""Accuracy floor of Tables 2 to 4 at proxy scale: chance, untrained encoders and raw pixels.

    python studies/revisiting_ssl/proxy_floor.py

Trains the encoders of all tasks at proxy scale with seed 0 unless these runs exist. Prints the
accuracy in the pretext task on test images beside chance, and the linear accuracy beside that of
the same encoder before training and of raw pixels.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import nn

from reproductions.revisiting_ssl.grid import CELLS
from reproductions.revisiting_ssl.table2 import TABLE
from retable.domains import Small, integer
from retable.evaluate.protocol import EvalContext
from retable.reproduce.checks import opener
from retable.reproduce.command import guarded
from retable.reproduce.execute import execute
from retable.reproduce.plan import TableSelection, plan_runs, resolve_rows
from retable.reproduce.run import Run, read_run
from retable.train.options import RunOptions
from retable.train.recipe import build_method
from revisiting_ssl import JigsawRecipe, RelativePatchLocationRecipe, RotationRecipe
from studies.revisiting_ssl.proxy_rows import linear_of

SEED = 0


def chance(method: object) -> float | None:
    """Return the accuracy of guessing in a task in percent, None for tasks without classes."""
    if isinstance(method, RotationRecipe):
        return 100 / 4
    if isinstance(method, RelativePatchLocationRecipe):
        return 100 / 8
    return 100 / method.permutations if isinstance(method, JigsawRecipe) else None


def untrained(run: Run, run_options: RunOptions, encoder: nn.Module) -> float:
    """Return the linear accuracy of an encoder that the run did not train, in percent."""
    context = EvalContext(torch.device("cpu"))
    return linear_of(run).run(encoder, opener(run.recipe, run_options), context, seed=SEED)["top1"]


def main() -> int:
    """Print both accuracies and their floors for each run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--rows", nargs="+", default=(), help="such as resnet50_v1/jigsaw_4x")
    parser.add_argument("--jobs", type=integer(Small), default=2)
    options = parser.parse_args()
    run_options = RunOptions(options.runs, jobs=options.jobs)
    rows = resolve_rows(TABLE, TableSelection(rows=tuple(options.rows)))
    runs = plan_runs(rows, (SEED,))
    execute(runs, run_options)
    print(f"{'':28}{'task':>7}{'chance':>8}{'linear':>9}{'untrained':>11}{'pixels':>8}")
    pixels: dict[str, float] = {}
    for run in runs:
        (name, *_), finished = run.rows, read_run(run, run_options.folder)
        figures = finished.metrics if finished else {}
        task, _ = CELLS[name.partition("/")[2]]
        if task not in pixels:
            pixels[task] = untrained(run, run_options, nn.Flatten())
        before = untrained(run, run_options, build_method(run.recipe, run.seed).encoder)
        solved, guessed = figures.get("monitor.pretext_accuracy"), chance(run.recipe.method)
        said = "" if solved is None else f"{100 * solved:.1f}"
        print(
            f"{name:28}{said:>7}{'' if guessed is None else f'{guessed:.1f}':>8}"
            f"{figures['imagenet.top1']:9.1f}{before:11.1f}{pixels[task]:8.1f}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
