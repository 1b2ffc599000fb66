"""Search for the shortest training in which every pretext task is learnt.

    python studies/revisiting_ssl/proxy_search.py --tasks rotation jigsaw --seeds 0 1
    python studies/revisiting_ssl/proxy_search.py --set epochs=14 --set rate=2
    python studies/revisiting_ssl/proxy_search.py --show

Trains the tasks on ResNet50 v1 at 4x, and supervised networks of Table 1, in a setting that differs
from the proxy scale by ``--set``, and appends a line for each to the log beside this script. The
setting is chosen by the accuracy in the tasks, on test images and above chance, never by a paper's
claims: an encoder whose task is not learnt says nothing about the task. Exemplar has no accuracy;
its line has the share of pairs whose positive is further away than every negative.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reproductions.revisiting_ssl.recipes import (
    ENCODERS,
    TASKS,
    logistic,
    pretraining,
    supervised,
)
from reproductions.revisiting_ssl.scales import PROXY, PretextScale, shrink
from reproductions.revisiting_ssl.table1 import resnet18
from retable.data.sources import open_source
from retable.evaluate.data import source_opener
from retable.evaluate.protocol import EvalContext
from retable.methods.method import Method, Progress
from retable.reproduce import TableRow
from retable.reproduce.command import guarded
from retable.train.pretext_metrics import pretext_metrics
from retable.train.recipe import PretrainRecipe
from studies.search import search, train_once

LOG = Path(__file__).with_suffix(".jsonl")


def network(task: str, skip: bool | None) -> TableRow:
    """Return a task's training: ResNet18 with or without skip connections, or ResNet50 v1."""
    evaluated = "rotation" if task == "supervised" else task
    probe = (logistic(evaluated, "logistic"),)
    if task == "supervised":
        return TableRow(supervised(resnet18(skip is not False)), probe)
    encoder = ENCODERS["resnet50_v1"] if skip is None else resnet18(skip)
    return TableRow(pretraining(task, encoder, widening=4), probe)


def task_accuracy(method: Method, recipe: PretrainRecipe) -> float | None:
    """Return the accuracy in the pretext task on test images, in percent, None without one."""
    if not method.has_pretext_metrics:
        return None
    test, views = open_source(recipe.data, "test"), method.pretext_views(recipe.views)
    steps = len(open_source(recipe.data, "train")) // recipe.batch
    last = Progress(recipe.epochs * steps - 1, steps, recipe.epochs)
    return round(100 * pretext_metrics(method, test, views, last)["accuracy"], 2)


def measure(scale: PretextScale, task: str, skip: bool | None, seed: int) -> dict[str, Any]:
    """Train a task and return its line of the log."""
    row = shrink(network(task, skip), scale)
    start = time.process_time()
    method, epochs = train_once(row.pretrain, seed)
    trained = time.process_time()
    solved = task_accuracy(method, row.pretrain)
    (probe,) = row.evaluations
    opened, context = source_opener(row.pretrain.data), EvalContext("cpu")
    linear = probe.run(method.encoder, opened, context, seed=seed)
    return {
        "task": task,
        "skip": skip,
        "seed": seed,
        **asdict(scale),
        "task_accuracy": solved,
        "fallback_share": epochs[-1].get("fallback_share"),
        "logistic": round(linear["top1"], 2),
        "cpu_seconds": round(trained - start, 1),
        "evaluation_seconds": round(time.process_time() - trained, 1),
    }


def show(lines: list[dict[str, Any]]) -> None:
    """Print every line of the log, ordered by setting."""
    fields = asdict(PROXY).keys()
    for line in sorted(lines, key=lambda one: [str(one[field]) for field in fields]):
        setting = " ".join(f"{name}={line[name]}" for name in fields if name != "data")
        names = {None: "", True: " skip", False: " no skip"}
        solved = "" if line["task_accuracy"] is None else f"{line['task_accuracy']:.1f}"
        print(
            f"{setting:52}{line['task'] + names[line['skip']]:20}{line['seed']:3}"
            f"  task {solved:>5}  linear {line['logistic']:5.1f}"
            f"  {line['cpu_seconds'] + line['evaluation_seconds']:5.0f} CPU s"
        )


def main() -> int:
    """Train and log, or show the log."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=[*TASKS, "supervised"], default=list(TASKS))
    parser.add_argument("--skip", choices=["yes", "no"], help="ResNet18 of Table 1 instead")
    return search(parser, LOG, PROXY, lines_of, show)


def lines_of(
    options: argparse.Namespace, scale: PretextScale, seed: int
) -> Iterator[dict[str, Any]]:
    """Train the chosen tasks."""
    skip = None if options.skip is None else options.skip == "yes"
    return (measure(scale, task, skip, seed) for task in options.tasks)


if __name__ == "__main__":
    sys.exit(guarded(main))
