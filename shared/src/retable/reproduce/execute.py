"""Execution of runs: one by one on all devices, or side by side on CPU cores."""

from __future__ import annotations

import contextlib
import functools
import shutil
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from retable import distributed, files
from retable.code import classes_of, code_digest
from retable.data.source import Source
from retable.errors import UserError
from retable.evaluate.geometry import Geometry
from retable.evaluate.knn import Knn, neighbours
from retable.evaluate.protocol import EvalContext, Evaluation
from retable.methods.method import Method, Progress
from retable.outputs import check_output_folder
from retable.reproduce.announcements import Announcements
from retable.reproduce.checks import check_claims, claim_of, opener, train_source
from retable.reproduce.launch import run_side_by_side
from retable.reproduce.run import FinishedRun, Run, evaluation_owner, read_evaluation, read_run
from retable.settings import to_plain
from retable.train.metrics import MetricsLog
from retable.train.options import RunOptions
from retable.train.pretext_metrics import pretext_metrics
from retable.train.pretrain import (
    Monitor,
    TrainingFailedError,
    load_method,
    make_accelerator,
    pretrain,
)
from retable.train.runs import RunDirectory, environment
from retable.views import without_draws
from retable.weights import load_encoder


def is_complete(run: Run, options: RunOptions) -> bool:
    """Say whether a run and its evaluations are there, of this data and made by this code."""
    if not run.directory(options.folder).result.exists():
        return False
    try:
        check_claims([run], replace(options, fresh=0.0))
    except UserError as error:
        print(f"{error} It is not shown.", file=sys.stderr)
        return False
    return is_current(run, replace(options, fresh=0.0))


def execute(runs: Iterable[Run], options: RunOptions) -> None:
    """Carry out all runs; those already complete cost nothing.

    A failed training is recorded, not raised.

    Raises:
        UserError: a run cannot start, or exists and is of other data or code.
    """
    check_output_folder(options.folder, "--runs")
    runs = list(runs)
    check_claims(runs, options)
    waiting = [run for run in runs if not is_current(run, options)]
    said = Announcements(runs, waiting, options)
    said.begin()
    if options.jobs > 1 and len(waiting) > 1:
        calls = [functools.partial(execute_one, run, options) for run in waiting]
        run_side_by_side(calls, options.jobs, lambda index: said.end_of(waiting[index]))
        return
    for run in waiting:
        execute_one(run, options)
        said.end_of(run)


def execute_one(run: Run, options: RunOptions) -> None:
    """Pretrain and evaluate one run, in this process or in all processes of a launch."""
    accelerator = make_accelerator(run.recipe.precision)
    if accelerator.device.type == "cpu":
        torch.set_num_threads(options.threads)
    directory = run.directory(options.folder)
    lock = directory.locked() if accelerator.is_main_process else contextlib.nullcontext()
    with lock:
        if accelerator.is_main_process:
            if directory.is_older(options.fresh):
                directory.remove()
            directory.write_claim(claim_of(run, options), options.accepted)
        accelerator.wait_for_everyone()
        finished = read_run(run, options.folder)
        if finished is None or not _has_own_encoder(run, finished):
            _pretrain(run, directory, accelerator, options)
        finished = read_run(run, options.folder)
        if finished is not None and finished.failure is None:
            for evaluation in run.evaluations:
                _evaluate(run, evaluation, accelerator, options)


def _pretrain(run: Run, directory: RunDirectory, accelerator: Any, options: RunOptions) -> None:
    recipe = run.recipe
    source = train_source(recipe, options)
    facts = environment()  # read now: files may change while the run trains
    start = time.perf_counter()
    try:
        result: dict[str, Any] = pretrain(
            recipe,
            run.seed,
            source,
            directory,
            accelerator,
            replace(options, label=f"{run.rows[0]} seed {run.seed}"),
            _monitor(run, source, accelerator, options),
        )
    except TrainingFailedError as failure:
        log = MetricsLog(directory.metrics)
        result = {"failed": failure.reason, "kind": failure.kind, "epochs": log.read("epoch")}
        if accelerator.is_main_process:
            print(failure, file=sys.stderr)
    if accelerator.is_main_process:
        facts = facts | {
            "data": source.description,
            "processes": accelerator.num_processes,
            "seconds_of_last_start": round(time.perf_counter() - start, 1),
            "log": MetricsLog(directory.metrics).checksum(),
        }
        directory.verify_present()
        files.write_record(directory.environment, directory.name, facts)
        files.write_record(directory.result, directory.name, to_plain(result))
    accelerator.wait_for_everyone()


def _monitor(run: Run, source: Source, accelerator: Any, options: RunOptions) -> Monitor:
    """Return a monitor for the last epoch and, of 10 or more, the one in the middle.

    In a shorter run, a second evaluation would take a twentieth of the time. The monitor evaluates
    the encoder by kNN and geometry, unless the encoder gets patches instead of views, and logs the
    method's metrics on test images as ``pretext_NAME``.
    """
    epochs = run.recipe.epochs
    due = {epochs} if epochs < 10 else {round(epochs / 2), epochs}
    sizes = [view.size for view in run.recipe.views]
    view = without_draws(run.recipe.views[0])
    few = neighbours(len(source), len(source.class_names))
    evaluations = (Knn(k=few, view=view), Geometry(view=view))
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
            steps = len(source) // run.recipe.batch
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
        owner="" if directory is None else evaluation_owner(directory),
        method=functools.partial(load_method, run.recipe, run.seed, run.directory(options.folder)),
    )


def _evaluate(run: Run, evaluation: Evaluation, accelerator: Any, options: RunOptions) -> None:
    if _is_evaluated(run, evaluation, options):
        return
    directory = run.directory(options.folder)
    folder = run.evaluation_folder(evaluation, options.folder)
    encoder, _, _ = load_encoder(directory.encoder)
    context = _context(run, folder, accelerator, options)
    open_variant = opener(run.recipe, options)
    facts = {"recipe": evaluation, **_eval_facts(run, evaluation, options)}
    if accelerator.is_main_process:
        _begin_evaluation(folder, to_plain(facts))
    accelerator.wait_for_everyone()
    metrics = evaluation.run(encoder.to(context.device), open_variant, context, seed=run.seed)
    if accelerator.is_main_process:
        directory.verify_present()
        result = to_plain({"metrics": metrics, **facts})
        files.write_record(folder / "result.json", evaluation_owner(folder), result)
    accelerator.wait_for_everyone()


def _begin_evaluation(folder: Path, facts: dict[str, Any]) -> None:
    """Remove what an evaluation of other data or code left; write what this one is made of."""
    path = folder / "recipe.json"
    if folder.exists():
        try:
            same = files.read_record(path, evaluation_owner(folder)) == facts
        except files.DamagedFileError:
            same = False
        if not same or (folder / "result.json").exists():
            print(
                f"{folder} is damaged, or of other data or code. It is made again.", file=sys.stderr
            )
            shutil.rmtree(folder)
    files.write_record(path, evaluation_owner(folder), facts)


def _is_evaluated(run: Run, evaluation: Evaluation, options: RunOptions) -> bool:
    """Say whether a result exists that was made of this data and by this code, or is accepted."""
    found = read_evaluation(run.evaluation_folder(evaluation, options.folder))
    if found is None:
        return False
    facts = to_plain(_eval_facts(run, evaluation, options))
    return all(found[part] == facts[part] for part in facts if part not in options.accepted)


def _eval_facts(run: Run, evaluation: Evaluation, options: RunOptions) -> dict[str, Any]:
    """Return the data and the code that an evaluation depends on beside its encoder."""
    descriptions = evaluation.descriptions(opener(run.recipe, options))
    return {"data": descriptions, "code": code_digest(classes_of(evaluation))}


def is_current(run: Run, options: RunOptions) -> bool:
    """Say whether nothing is left to do: training and evaluations are intact and of this data."""
    if run.directory(options.folder).is_older(options.fresh):
        return False
    finished = read_run(run, options.folder)
    if finished is None or not _has_own_encoder(run, finished):
        return False
    return finished.failure is not None or all(
        _is_evaluated(run, evaluation, options) for evaluation in run.evaluations
    )


def _has_own_encoder(run: Run, finished: FinishedRun) -> bool:
    """Say whether a training that has ended left an intact encoder of its own, or failed."""
    if finished.failure is not None:
        return True
    path = finished.folder / "encoder.safetensors"
    try:
        found = load_encoder(path).metadata
    except UserError as error:
        reason = str(error)
    else:
        if (found.get("recipe"), found.get("seed")) == (run.name, run.seed):
            return True
        reason = f"{path} is of another run."
    if distributed.process_index() == 0:
        print(f"{reason} It is written again from the last checkpoint.", file=sys.stderr)
    return False
