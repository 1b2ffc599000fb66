"""Base of the evaluations that train a copy of the encoder and test what it has become."""

from __future__ import annotations

import tempfile
from abc import abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from retable.evaluate.data import Splits, open_eval_splits
from retable.evaluate.frozen import freeze
from retable.evaluate.protocol import EvalContext, Evaluation
from retable.train.options import RunOptions
from retable.train.pretrain import BatchLoader, Training, train, view_loader
from retable.train.recipe import InitialWeights, PretrainRecipe
from retable.train.runs import RunDirectory

if TYPE_CHECKING:
    from retable.data.source import Source
    from retable.evaluate.data import OpenSource


class Transfer(Evaluation):
    """Base class of evaluations that train the encoder; a subclass defines `training` and `test`.

    The training is `retable.train.pretrain.train` with a recipe that starts from the evaluated
    encoder, whose own weights stay as they are.
    """

    def open_images(self, open_source: OpenSource) -> Splits:
        """Open the training and the test images.

        Raises:
            UserError: they are not of the kind that the evaluation needs.
        """
        splits = open_eval_splits(open_source, self.data)
        splits.check_labels()
        return splits

    @abstractmethod
    def training(self, splits: Splits, weights: InitialWeights) -> PretrainRecipe:
        """Return the training as a recipe, in float32, that starts from the evaluated encoder."""

    @abstractmethod
    def test(self, training: Training, splits: Splits, context: EvalContext) -> dict[str, float]:
        """Return `metrics` of a finished training; the processes share the test images."""

    def make_loader(
        self,
        recipe: PretrainRecipe,
        seed: int,
        source: Source,
        accelerator: Any,
        options: RunOptions,
        channels_last: bool,
    ) -> BatchLoader:
        """Return the batches of the training, see `retable.train.pretrain.MakeLoader`."""
        return view_loader(recipe, seed, source, accelerator, options, channels_last)

    def run(
        self, encoder: nn.Module, open_source: OpenSource, context: EvalContext, *, seed: int
    ) -> dict[str, float]:
        """Train a copy of the encoder and return `metrics`, see `Evaluation.run`.

        States are written to ``context.directory``; an interrupted training continues from the last
        one and ends with the same bits (one process, CPU).
        """
        splits = self.open_images(open_source)
        frozen = freeze(encoder, context.device, context.precision)
        kept = self.checkpoints(frozen, splits, context, seed)
        recipe = self.training(splits, InitialWeights(context.checkpoint, frozen.digest))
        recipe = replace(recipe, precision=context.precision)
        saved = kept.load(frozen.device)
        if saved is not None and saved.facts:
            return saved.facts
        if saved is None:
            kept.save(0, {}, {})  # without results: what the training's states belong to
        with tempfile.TemporaryDirectory() as temporary:  # where nothing is to be kept
            training = train(
                recipe,
                seed,
                splits.train,
                RunDirectory((context.directory or Path(temporary)) / "training"),
                context.accelerator(),
                RunOptions(workers=context.workers, quiet=not context.progress, label=self.name),
                make_loader=self.make_loader,
            )
            results = self.test(training, splits, context)
        kept.save(1, {}, results)
        return results
