"""The MLP probe: a classifier with one hidden layer on frozen features, by SGD.

It tells how much of what a linear probe misses is in the features all the same. How it is trained
is in `retable.evaluate.head_training`; a step is in `retable.evaluate.mlp_steps`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from retable import random
from retable.errors import UserError
from retable.evaluate.frozen import FrozenEncoder, freeze
from retable.evaluate.head_training import last_and_best, train_heads
from retable.evaluate.mlp_steps import MlpState, mlp_step
from retable.evaluate.protocol import EvalContext, EvalData, natural_test_view, open_eval_splits
from retable.evaluate.representation import Representation
from retable.views import ViewRecipe

if TYPE_CHECKING:
    from retable.evaluate.protocol import OpenSource


@dataclass(frozen=True)
class MlpProbe:
    """Test accuracy of an MLP on frozen features; defaults: Kolesnikov et al. (2019), supplement.

    Attributes:
        hidden: units of the hidden layer, followed by ReLU.
        dropout: share of the hidden units dropped in training.
        penalty: each layer of M inputs and C outputs has the penalty lambda |W|^2 with lambda =
            ``penalty`` / (M C); the supplement states the rule for the linear classifier, by layers
            is our reading.
        lr: learning rate of SGD.
        momentum: its momentum.
        batch: images in a step, over all processes.
        epochs: passes over the training images.
        milestones: zero-based epochs from which the learning rate is multiplied by ``gamma``.
        gamma: that factor.
        train_view: drawn anew in every epoch, or computed once if nothing of it is drawn; None: the
            test view, since the supplement names no augmentation.
        test_view: None: `natural_test_view`.
        representation: what of the encoder is judged; a classifier for each of its taps.
        data: which images, and how many of their labels.
        name: what the result is filed under.
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
        """Refuse settings that mean nothing."""
        for setting in ("hidden", "lr", "batch", "epochs"):
            if getattr(self, setting) <= 0:
                raise UserError(
                    f"the MLP probe's {setting} is {getattr(self, setting)}: expected a positive "
                    "number."
                )
        for setting in ("dropout", "momentum"):
            if not 0 <= getattr(self, setting) < 1:
                raise UserError(
                    f"the MLP probe's {setting} is {getattr(self, setting)}: expected 0 or more, "
                    "below 1."
                )
        if self.penalty < 0:
            raise UserError(f"the MLP probe's penalty is {self.penalty}: expected 0 or more.")

    @property
    def purpose(self) -> str:
        """See `retable.evaluate.head_training.HeadRecipe`, like the methods after `run`."""
        return "MLP probe"

    def run(
        self,
        encoder: nn.Module | FrozenEncoder,
        open_source: OpenSource,
        context: EvalContext,
        *,
        seed: int,
    ) -> dict[str, float]:
        """Train the classifiers and return the test accuracy in percent, see `Evaluation.run`.

        Returns:
            What `retable.evaluate.head_training.last_and_best` says; see `Representation.joined`
            for several taps. ``curve.json`` in ``context.directory`` has the epochs' figures.
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

    def begin(self, classes: int, dim: int, seed: int) -> MlpState:
        """Return a classifier before its first step."""
        rng_key = random.derive_key(seed, self.purpose, "weights")
        return MlpState.initial(classes, self.hidden, dim, rng_key)

    def restored(self, tensors: dict[str, Tensor]) -> MlpState:
        """Return the classifier whose tensors these are."""
        return MlpState(**tensors)

    def called(self) -> tuple[str, ...]:
        """Return that there is one classifier for a tap."""
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
        """Make one step; what is dropped of a row depends on its number in the epoch."""
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
