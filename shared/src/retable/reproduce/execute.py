"""Checks of runs, and their execution: one by one on all devices, or side by side on CPU cores."""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from retable import files
from retable.data.sampler import Sampler
from retable.data.source import TRAIN
from retable.encoders import ResNetRecipe
from retable.errors import UserError
from retable.evaluate.data import (
    OpenSource,
    open_eval_splits,
    open_splits,
    open_test_split,
    source_opener,
    without_validation,
)
from retable.evaluate.geometry import Geometry
from retable.evaluate.knn import Knn
from retable.evaluate.protocol import EvalContext, Evaluation
from retable.methods import SupervisedRecipe
from retable.methods.method import Method, Progress
from retable.nn.queues import KeyQueue
from retable.outputs import check_output_folder
from retable.reproduce.launch import run_side_by_side
from retable.reproduce.run import Run, read_run
from retable.settings import to_plain
from retable.train.options import RunOptions
from retable.train.pretext_metrics import pretext_metrics
from retable.train.pretrain import Monitor, TrainingFailedError, make_accelerator, pretrain
from retable.train.recipe import PretrainRecipe, build_method, check_fit
from retable.train.runs import RunDirectory, code_digest, environment
from retable.train.shape_inference import shapes_only
from retable.views import without_draws
from retable.weights import load_encoder


def opener(recipe: PretrainRecipe, options: RunOptions) -> OpenSource:
    """Return a function that opens the data of a recipe and of its evaluations."""
    return source_opener(recipe.data, recipe.subset, skip_unreadable=options.skip_unreadable)


def check_recipes(runs: Sequence[Run], processes: int, options: RunOptions) -> None:
    """Check that every method can be built, and that batch, groups, queue and processes fit."""
    for recipe in dict.fromkeys(run.recipe for run in runs):
        # With the smallest encoder, which does not matter here, and without its weights.
        small = replace(recipe, encoder=ResNetRecipe("small_resnet8"), weights=None)
        with shapes_only():
            method = build_method(small, seed=0)
        check_fit(recipe, method, processes, options)
        if recipe.weights is not None:
            recipe.weights.state(recipe.encoder)
        for module in method.modules():
            if isinstance(module, KeyQueue) and module.size < recipe.batch:
                raise UserError(
                    f"`queue` must be at least the batch of {recipe.batch}, got {module.size}. "
                    "Choose a larger queue or a smaller batch."
                )


def check_data(runs: Sequence[Run], options: RunOptions) -> None:
    """Open the data of every run and its evaluations, and check their size and classes."""
    for recipe in dict.fromkeys(run.recipe for run in runs):
        splits = open_splits(opener(recipe, options))
        images = without_validation(splits.train, recipe.validation_images)
        Sampler(len(images), recipe.batch, seed=0)
        method = recipe.method
        if isinstance(method, SupervisedRecipe) and splits.classes > method.classes:
            raise UserError(
                f"{recipe.data} has {splits.classes} classes, the supervised row {method.classes}: "
                "name the data set of the table, or add "
                f"--set pretrain.method.classes={splits.classes}."
            )
    read = {
        (run.recipe.data, run.recipe.subset, evaluation.data, evaluation.reads): run.recipe
        for run in runs
        for evaluation in run.evaluations
    }
    for (_, _, data, splits_read), recipe in read.items():
        open_splits_of = open_eval_splits if TRAIN in splits_read else open_test_split
        open_splits_of(opener(recipe, options), data)


def execute(runs: Iterable[Run], options: RunOptions) -> None:
    """Carry out all runs; those already complete cost nothing.

    A failed training is recorded, not raised.

    Raises:
        UserError: a run cannot start.
    """
    check_output_folder(options.folder, "--runs")
    found = [(run, read_run(run, options.folder)) for run in runs]
    calls = [
        functools.partial(execute_one, run, options)
        for run, finished in found
        if finished is None or not finished.complete
    ]
    if options.jobs > 1 and len(calls) > 1:
        run_side_by_side(calls, options.jobs)
        return
    for call in calls:
        call()


def execute_one(run: Run, options: RunOptions) -> None:
    """Pretrain and evaluate one run, in this process or in all processes of a launch."""
    accelerator = make_accelerator(run.recipe.precision)
    if accelerator.device.type == "cpu":
        torch.set_num_threads(options.threads)
    directory = run.directory(options.folder)
    lock = directory.locked() if accelerator.is_main_process else contextlib.nullcontext()
    with lock:
        if accelerator.is_main_process:
            directory.write_recipe(run.identity)
        accelerator.wait_for_everyone()
        if not directory.result.exists():
            _pretrain(run, directory, accelerator, options)
        finished = read_run(run, options.folder)
        if finished is not None and finished.failure is None:
            for evaluation in run.evaluations:
                _evaluate(run, evaluation, accelerator, options)
    if accelerator.is_main_process and not options.quiet:
        finished = read_run(run, options.folder)
        assert finished is not None
        primary = {f"{each.name}.{next(iter(each.metrics))}" for each in run.evaluations}
        found = [f"{name} {v:.2f}" for name, v in finished.metrics.items() if name in primary]
        outcome = finished.failure or ", ".join(found) or "pretrained"
        print(f"{' = '.join(run.rows)} seed {run.seed}: {outcome} ({run.name})", file=sys.stderr)


def _pretrain(run: Run, directory: RunDirectory, accelerator: Any, options: RunOptions) -> None:
    recipe = run.recipe
    source = without_validation(opener(recipe, options)("train", None), recipe.validation_images)
    # Read now: files may change while the run trains.
    facts = {**environment(), "code": code_digest(recipe.method, recipe.encoder)}
    start = time.perf_counter()
    try:
        result: dict[str, Any] = pretrain(
            recipe,
            run.seed,
            source,
            directory,
            accelerator,
            replace(options, label=f"{run.rows[0]} seed {run.seed}"),
            _monitor(run, len(source), accelerator, options),
        )
    except TrainingFailedError as failure:
        result = {"failed": failure.reason, "kind": failure.kind}
        if accelerator.is_main_process:
            print(failure, file=sys.stderr)
    if accelerator.is_main_process:
        facts |= {
            "data": source.description,
            "processes": accelerator.num_processes,
            "seconds_of_last_start": round(time.perf_counter() - start, 1),
        }
        files.write_json(directory.environment, facts)
        files.write_json(directory.result, to_plain(result))
    accelerator.wait_for_everyone()


def _monitor(run: Run, images: int, accelerator: Any, options: RunOptions) -> Monitor:
    """Return a monitor for the last epoch and, of 10 or more, the one in the middle.

    In a shorter run, a second evaluation would take a twentieth of the time. The monitor evaluates
    the encoder by kNN and geometry, unless the encoder gets patches instead of views, and logs the
    method's metrics on test images as ``pretext_NAME``.
    """
    epochs = run.recipe.epochs
    due = {epochs} if epochs < 10 else {round(epochs / 2), epochs}
    sizes = [view.size for view in run.recipe.views]
    view = without_draws(run.recipe.views[0])
    evaluations = (Knn(k=min(Knn.k, images), view=view), Geometry(view=view))
    open_variant = opener(run.recipe, options)
    context = _context(run, None, accelerator, options)

    def monitor(method: Method, epoch: int) -> dict[str, float]:
        metrics: dict[str, float] = {}
        if epoch not in due:
            return metrics
        sees_views = method.encoder_inputs(sizes)[0][0] == sizes[0]
        for evaluation in evaluations if sees_views else ():
            metrics |= evaluation.run(method.encoder, open_variant, context, seed=run.seed)
        if method.has_pretext_metrics:
            steps = images // run.recipe.batch
            measured = pretext_metrics(
                method,
                open_variant("test", None),
                method.pretext_views(run.recipe.views),
                Progress(epoch * steps - 1, steps, epochs),
                workers=options.workers,
                precision=run.recipe.precision,
            )
            metrics |= {f"pretext_{name}": value for name, value in measured.items()}
        return metrics

    return monitor


def _context(
    run: Run, directory: Path | None, accelerator: Any, options: RunOptions
) -> EvalContext:
    """Return the context of an evaluation; without a directory it shows no progress."""
    return EvalContext(
        accelerator.device,
        directory=directory,
        features=directory and run.directory(options.folder).path / "features",
        workers=options.workers,
        precision=run.recipe.precision,
        progress=directory is not None and not options.quiet,
        checkpoint=str(run.directory(options.folder).encoder),
    )


def _evaluate(run: Run, evaluation: Evaluation, accelerator: Any, options: RunOptions) -> None:
    folder = run.evaluation_folder(evaluation, options.folder)
    if (folder / "result.json").exists():
        return
    encoder, _, _ = load_encoder(run.directory(options.folder).encoder)
    context = _context(run, folder, accelerator, options)
    open_variant = opener(run.recipe, options)
    metrics = evaluation.run(encoder.to(context.device), open_variant, context, seed=run.seed)
    if accelerator.is_main_process:
        files.write_json(folder / "recipe.json", to_plain(evaluation))
        files.write_json(folder / "result.json", to_plain(metrics))
    accelerator.wait_for_everyone()
