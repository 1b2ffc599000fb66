"""The MLP probe: a classifier with one hidden layer on frozen features, by SGD.

It shows how much information a linear probe misses. `retable.evaluate.head_training` trains it;
`retable.evaluate.mlp_steps` has the step.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from retable import random
from retable.errors import UserError
from retable.evaluate.data import EvalData, natural_test_view, open_eval_splits
from retable.evaluate.frozen import FrozenEncoder, freeze
from retable.evaluate.head_training import (
    HEAD_METRICS,
    last_and_best,
    shrunk_milestones,
    train_heads,
)
from retable.evaluate.mlp_steps import MlpState, mlp_step
from retable.evaluate.protocol import EvalContext, Evaluation, MetricSpec, validate
from retable.evaluate.representation import Representation
from retable.views import ViewRecipe, center

if TYPE_CHECKING:
    from retable.evaluate.data import OpenSource


@dataclass(frozen=True)
class MlpProbe(Evaluation):
    """Test accuracy of an MLP on frozen features; defaults: Kolesnikov et al. (2019), supplement.

    Attributes:
        hidden: units of the hidden layer, followed by ReLU.
        dropout: share of the hidden units dropped in training.
        penalty: each layer of M inputs and C outputs has the penalty lambda |W|^2 with lambda =
            ``penalty`` / (M C); the supplement states the rule for the linear classifier, by layers
            is our reading.
        lr: learning rate of SGD.
        momentum: momentum of SGD.
        batch: images in a step, over all processes.
        epochs: passes over the training images.
        milestones: zero-based epochs from which the learning rate is multiplied by ``gamma``.
        gamma: factor of the learning rate at a milestone.
        train_view: view of training images, drawn in every epoch if it is random; None: the test
            view, since the supplement names no augmentation.
        test_view: view of test images; None: `natural_test_view`.
        representation: features, with a classifier for each of the taps.
        data: images and labels.
        name: name of the results.
    """

    hidden: int = 1000
    dropout: float = 0.5
    penalty: float = 100.0
    lr: float = 0.01
    momentum: float = 0.9
    batch: int = 512
    epochs: int = 180
    milestones: tuple[int, ...] = (60, 120)
    gamma: float = 0.1
    train_view: ViewRecipe | None = None
    test_view: ViewRecipe | None = None
    representation: Representation = field(default_factory=Representation)
    data: EvalData = field(default_factory=EvalData)
    name: str = "mlp"

    def __post_init__(self) -> None:
        """Validate the fields."""
        validate(self, positive=("hidden", "lr", "batch", "epochs"), shares=("dropout", "momentum"))
        if self.penalty < 0:
            raise UserError(f"`penalty` must be at least 0, got {self.penalty}.")

    @property
    def metrics(self) -> dict[str, MetricSpec]:
        """Those of `HEAD_METRICS`, see `Representation.joined`."""
        return self.representation.joined(dict.fromkeys(self.representation.taps, HEAD_METRICS))

    def shrunk(self, epochs: int, size: int = 32) -> Self:
        """Return the probe at ``size`` pixels for ``epochs`` epochs, milestones in proportion."""
        return replace(
            self,
            epochs=epochs,
            milestones=shrunk_milestones(self.milestones, epochs / self.epochs),
            train_view=None,
            test_view=center(size, size),
        )

    @property
    def purpose(self) -> str:
        """See `retable.evaluate.head_training.HeadRecipe`, as for the methods after `run`."""
        return "MLP probe"

    def run(
        self,
        encoder: nn.Module | FrozenEncoder,
        open_source: OpenSource,
        context: EvalContext,
        *,
        seed: int,
    ) -> dict[str, float]:
        """Train the classifiers and return `metrics`, see `Evaluation.run`.

        ``curve.json`` in ``context.directory`` has the metrics of every epoch.
        """
        splits = open_eval_splits(open_source, self.data)
        test_view = self.test_view or natural_test_view(splits.test)
        heads, curve = train_heads(
            self,
            freeze(encoder, context.device, context.precision),
            splits,
            context,
            seed=seed,
            views=(self.train_view or test_view, test_view),
            epochs=self.epochs,
        )
        return self.representation.joined({tap: last_and_best(curve, tap) for tap in heads})

    def init(self, classes: int, dim: int, seed: int) -> MlpState:
        """Return a classifier before its first step."""
        rng_key = random.derive_key(seed, self.purpose, "weights")
        return MlpState.initial(classes, self.hidden, dim, rng_key)

    def restored(self, tensors: dict[str, Tensor]) -> MlpState:
        """Return the classifier whose tensors these are."""
        return MlpState(**tensors)

    def suffixes(self) -> tuple[str, ...]:
        """Return the suffix of a tap's only classifier."""
        return ("",)

    def learning_rate(self, epoch: int) -> float:
        """Return the learning rate of a zero-based epoch.

        >>> [round(MlpProbe().learning_rate(epoch), 6) for epoch in (0, 59, 60, 120)]
        [0.01, 0.01, 0.001, 0.0001]
        """
        passed = sum(epoch >= milestone for milestone in self.milestones)
        return self.lr * self.gamma**passed

    def step(
        self, head: MlpState, features: Tensor, labels: Tensor, first: int, epoch: int, seed: int
    ) -> Tensor:
        """Make one step; dropout of a row is keyed by its number in the epoch."""
        return mlp_step(
            head,
            features,
            labels,
            lr=self.learning_rate(epoch),
            momentum=self.momentum,
            penalty=self.penalty,
            rate=self.dropout,
            rng_key=random.derive_key(seed, self.purpose, "dropout", epoch),
            numbers=torch.arange(first, first + len(labels), device=features.device),
        )
