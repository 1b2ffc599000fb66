"""Checks that run before training, so that mistakes surface in seconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from retable.data.sampler import Sampler
from retable.data.source import TRAIN
from retable.encoders import ResNetRecipe
from retable.errors import UserError
from retable.evaluate.data import (
    open_eval_splits,
    open_splits,
    open_test_split,
    without_validation,
)
from retable.methods import SupervisedRecipe
from retable.nn.queues import KeyQueue
from retable.reproduce.execute import opener
from retable.reproduce.run import Run
from retable.train.options import RunOptions
from retable.train.recipe import PretrainRecipe, build_method, check_fit
from retable.train.shape_inference import shapes_only


def check_recipes(runs: Iterable[Run], processes: int, options: RunOptions) -> None:
    """Check that every method can be built, and that batch, groups, queue and processes fit.

    Raises:
        UserError: a method cannot be built, or sizes do not fit.
    """
    for recipe in dict.fromkeys(run.recipe for run in runs):
        # With the smallest encoder, which does not matter here, and without its weights.
        small = dataclasses.replace(recipe, encoder=ResNetRecipe("small_resnet8"), weights=None)
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


def check_data(runs: Iterable[Run], options: RunOptions) -> None:
    """Open the data of every run and its evaluations, and check their size and classes.

    Raises:
        UserError: a split cannot be opened, is smaller than a batch, or has unexpected classes.
    """
    runs = list(runs)
    for recipe in dict.fromkeys(run.recipe for run in runs):
        splits = open_splits(opener(recipe, options))
        images = without_validation(splits.train, recipe.validation_images)
        Sampler(len(images), recipe.batch, seed=0)
        _check_classes(recipe, splits.classes)
    read = {
        (run.recipe.data, run.recipe.subset, evaluation.data, evaluation.reads): run.recipe
        for run in runs
        for evaluation in run.evaluations
    }
    for (_, _, data, splits_read), recipe in read.items():
        open_splits_of = open_eval_splits if TRAIN in splits_read else open_test_split
        open_splits_of(opener(recipe, options), data)


def _check_classes(recipe: PretrainRecipe, classes: int) -> None:
    method = recipe.method
    if isinstance(method, SupervisedRecipe) and classes > method.classes:
        raise UserError(
            f"{recipe.data} has {classes} classes, the supervised row {method.classes}: name the "
            f"data set of the table, or add --set pretrain.method.classes={classes}."
        )


def check_folder(runs: Iterable[Run], options: RunOptions) -> None:
    """Check that existing directories of these runs hold the same recipes.

    Raises:
        UserError: a run's directory holds another recipe.
    """
    for run in runs:
        run.directory(options.folder).verify_recipe(run.identity)
