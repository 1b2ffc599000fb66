"""Checks of runs that need no training, so that mistakes surface in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from retable import distributed
from retable.data.sampler import Sampler
from retable.data.source import TRAIN, Source
from retable.encoders import ResNetRecipe
from retable.errors import UserError
from retable.evaluate.data import (
    OpenSource,
    data_line,
    open_eval_splits,
    open_splits,
    open_test_split,
    source_opener,
    without_validation,
)
from retable.methods import SupervisedRecipe
from retable.nn.queues import KeyQueue
from retable.reproduce.run import Run
from retable.train.options import RunOptions
from retable.train.recipe import PretrainRecipe, build_method, check_fit
from retable.train.runs import Claim
from retable.train.shape_inference import shapes_only


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
    """Open the data of every run and its evaluations, and check their size, classes and layout.

    Process 0 prints how many images and classes each data set has, and what it leaves out.
    """
    shown: set[str] = set()

    def show(line: str) -> None:
        if distributed.process_index() == 0 and line not in shown:
            print(line, flush=True)
        shown.add(line)

    for recipe in dict.fromkeys(run.recipe for run in runs):
        splits = open_splits(opener(recipe, options))
        name = " ".join(filter(None, (recipe.data, recipe.subset)))
        show(data_line(name, splits.train, splits.test))
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
        if TRAIN in splits_read:
            read_splits = open_eval_splits(opener(recipe, options), data)
            sources = [read_splits.train, read_splits.test]
        else:
            sources = [open_test_split(opener(recipe, options), data)]
        if data.source:
            show(data_line(data.source, *sources))
    # Describing the images opens what an evaluation reads beside its splits, such as shifted sets.
    described = {
        (run.recipe.data, run.recipe.subset, evaluation): run.recipe
        for run in runs
        for evaluation in run.evaluations
    }
    for (_, _, evaluation), recipe in described.items():
        evaluation.descriptions(opener(recipe, options))


def check_claims(runs: Sequence[Run], options: RunOptions) -> None:
    """Check that the runs that exist are of these recipes, of this data and made by this code.

    Raises:
        UserError: one is not, and ``options`` neither replace nor accept it.
    """
    for run in () if options.fresh else runs:
        run.directory(options.folder).verify_claim(claim_of(run, options), options.accepted)


def is_of_other(part: str, run: Run, options: RunOptions) -> bool:
    """Say whether a run was made by other "code", or of other "data", than the present."""
    try:
        claim = claim_of(run, options)
        run.directory(options.folder).verify_claim(claim, {"recipe", "data", "code"} - {part})
    except UserError:
        return True
    return False


def claim_of(run: Run, options: RunOptions) -> Claim:
    """Return what a run would be made of now."""
    data = dict(train_source(run.recipe, options).description)
    data.pop("skipped", None)  # what is left out decides no number
    return run.claim(data)


def train_source(recipe: PretrainRecipe, options: RunOptions) -> Source:
    """Open the images that a recipe trains on."""
    return without_validation(opener(recipe, options)(TRAIN), recipe.validation_images)
