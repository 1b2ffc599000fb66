"""The linear probe by SGD or LARS: a classifier on frozen features, images augmented every epoch.

How it is trained is in `retable.evaluate.head_training`; a step is in
`retable.evaluate.linear_steps`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from retable import random
from retable.data.subsets import Subset
from retable.errors import UserError
from retable.evaluate.classifier import LinearClassifier
from retable.evaluate.frozen import FrozenEncoder, freeze
from retable.evaluate.head_training import EpochFigures, last_and_best, train_heads
from retable.evaluate.linear_steps import ProbeState, sgd_step
from retable.evaluate.protocol import (
    EvalContext,
    EvalData,
    Splits,
    natural_test_view,
    natural_train_view,
    open_eval_splits,
)
from retable.evaluate.representation import Representation
from retable.settings import validate_choices
from retable.train.schedules import ScheduleRecipe, learning_rate
from retable.views import ViewRecipe

if TYPE_CHECKING:
    from retable.data.source import Source
    from retable.evaluate.protocol import OpenSource

TRUST_COEFFICIENT = 1e-3
"""LARS's eta, in You et al. (2017) and in SimSiam's code."""


@functools.lru_cache(maxsize=8)
def _on_device(rates: tuple[float, ...], device: torch.device) -> Tensor:
    """Return an epoch's learning rates, copied once and not at every step."""
    return torch.tensor(rates, device=device)


@dataclass(frozen=True)
class LinearProbe:
    """The linear protocol of MoCo and MoCHi; defaults: ImageNet-100 (sheet of MoCHi, R2).

    For ImageNet-1K (R4, MoCo's `main_lincls.py`): lr 30, batch 256, 100 epochs, milestones
    (60, 80). The last batch of an epoch may be smaller, as there.

    For SimSiam (its code's `main_lincls.py` with ``--lars``): "lars", "cosine" without milestones,
    batch 4096, lr 0.1 times batch / 256, 90 epochs. Weight and bias are both adapted there.

    For Kolesnikov et al. (2019): batch 2048, lr 0.1 times batch / 256, 520 epochs, milestones (480,
    500); for the tasks on patches batch 1024.

    Attributes:
        lr: learning rate of the optimizer, after any scaling by the batch.
        momentum: its momentum.
        weight_decay: its weight decay.
        batch: images in a step, over all processes.
        epochs: passes over the training images.
        milestones: zero-based epochs from which the learning rate is multiplied by ``gamma``; of
            the step schedule alone.
        gamma: that factor.
        optimizer: "sgd", or "lars": SGD whose steps are scaled by |w| / |g|
            (`retable.train.optim.LARS`).
        schedule: "step", or "cosine": from ``lr`` down towards 0, set anew for each epoch.
        train_view: drawn anew in every epoch (R2: random crop of scale (0.08, 1) and flip), or
            computed once if nothing of it is drawn; None: `natural_train_view`.
        test_view: R2: short side to 256, centre crop of 224; None: `natural_test_view`.
        max_steps: stop after so many steps, rounded up to whole epochs beyond the first; within it
            the classifier sees only the images of these steps. For checks of the real path: such a
            probe measures nothing.
        other_lrs: further learning rates trained beside ``lr`` on the same features; their
            accuracies are reported as ``top1@lr=<value>`` and choose nothing.
        representation: what of the encoder is judged; a classifier for each of its taps, trained
            side by side on the same images.
        data: which images, and how many of their labels.
        name: what the result is filed under.
    """

    lr: float = 10.0
    momentum: float = 0.9
    weight_decay: float = 0.0
    batch: int = 128
    epochs: int = 60
    milestones: tuple[int, ...] = (30, 40, 50)
    gamma: float = 0.1
    optimizer: Literal["sgd", "lars"] = "sgd"
    schedule: Literal["step", "cosine"] = "step"
    train_view: ViewRecipe | None = None
    test_view: ViewRecipe | None = None
    max_steps: int | None = None
    other_lrs: tuple[float, ...] = ()
    representation: Representation = field(default_factory=Representation)
    data: EvalData = field(default_factory=EvalData)
    name: str = "linear"

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        for setting in ("lr", "batch", "epochs"):
            if getattr(self, setting) <= 0:
                raise UserError(
                    f"the linear probe's {setting} is {getattr(self, setting)}: expected a positive"
                    " number."
                )
        validate_choices(self)
        if self.schedule == "cosine" and self.milestones:
            raise UserError(
                f"the linear probe's schedule is cosine and its milestones {self.milestones}: "
                "expected milestones with the step schedule alone, so set them to () first."
            )

    def learning_rate(self, epoch: int, base: float) -> float:
        """Return the learning rate of a zero-based epoch.

        >>> [LinearProbe().learning_rate(epoch, 10.0) for epoch in (0, 29, 30, 49)]
        [10.0, 10.0, 1.0, 0.1]
        """
        if self.schedule == "cosine":
            return learning_rate(ScheduleRecipe("cosine"), base, epoch, 1, self.epochs)
        for milestone in self.milestones:
            base *= self.gamma if epoch >= milestone else 1.0
        return base

    def test_view_of(self, source: Source) -> ViewRecipe:
        """Return the view of test images."""
        return self.test_view or natural_test_view(source)

    @property
    def purpose(self) -> str:
        """See `retable.evaluate.head_training.HeadRecipe`, like the methods after `fit`."""
        return "linear probe"

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
            "top1" and "top5" after the last epoch (primary), "best_top1" and "best_epoch"
            (one-based; the first of equals) over all epochs, "train_loss" of the last epoch, and
            "top1@lr=<value>" for every one of ``other_lrs``; see `Representation.joined` for
            several taps. ``curve.json`` in ``context.directory`` has the epochs' figures.
        """
        _, results = self.fit(encoder, open_eval_splits(open_source, self.data), context, seed=seed)
        return results

    def fit(
        self,
        encoder: nn.Module | FrozenEncoder,
        splits: Splits,
        context: EvalContext,
        *,
        seed: int,
    ) -> tuple[LinearClassifier, dict[str, float]]:
        """Train as `run` does; return the classifier of the last tap and epoch too."""
        shortened, epochs = self._shortened(splits, seed)
        heads, curve = train_heads(
            self,
            freeze(encoder, context.device, context.precision),
            shortened,
            context,
            seed=seed,
            views=(
                self.train_view or natural_train_view(splits.train),
                self.test_view_of(splits.test),
            ),
            epochs=epochs,
        )
        figures = {tap: self._figures(curve, tap) for tap in heads}
        last = heads[self.representation.taps[-1]]
        return last.classifier(0), self.representation.joined(figures)

    def _figures(self, curve: list[EpochFigures], tap: str) -> dict[str, float]:
        figures = last_and_best(curve, tap)
        for name, top1 in zip(self.called(), curve[-1]["top1"][tap], strict=True):
            if name:
                figures[f"top1{name}"] = top1
        return figures

    def begin(self, classes: int, dim: int, seed: int) -> ProbeState:
        """Return classifiers for all learning rates, of equal weights."""
        rng_key = random.derive_key(seed, self.purpose, "weights")
        return ProbeState.initial(1 + len(self.other_lrs), classes, dim, rng_key)

    def restored(self, tensors: dict[str, Tensor]) -> ProbeState:
        """Return the classifiers whose tensors these are."""
        return ProbeState(**tensors)

    def called(self) -> tuple[str, ...]:
        """Return how figures of the further learning rates are told apart."""
        return ("", *(f"@lr={lr:g}" for lr in self.other_lrs))

    def step(
        self, head: ProbeState, features: Tensor, labels: Tensor, first: int, epoch: int, seed: int
    ) -> Tensor:
        """Make one step of all learning rates; nothing is drawn."""
        rates = (self.learning_rate(epoch, lr) for lr in (self.lr, *self.other_lrs))
        return sgd_step(
            head,
            features,
            labels,
            _on_device(tuple(rates), features.device),
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            trust_coefficient=TRUST_COEFFICIENT if self.optimizer == "lars" else None,
        )

    def _shortened(self, splits: Splits, seed: int) -> tuple[Splits, int]:
        """Return what ``max_steps`` leaves of the training images and of the epochs."""
        images = len(splits.train)
        if self.max_steps is None:
            return splits, self.epochs
        seen = self.max_steps * self.batch
        epochs = min(self.epochs, -(-seen // images))
        if seen >= images:
            return splits, epochs
        rng_key = random.derive_key(seed, self.purpose, "order", 0)
        kept = random.permutation(rng_key, images)[:seen].sort().values
        train = Subset(
            splits.train,
            kept,
            splits.train.labels[kept],
            splits.train.class_names,
            f"the images of {self.max_steps} steps",
        )
        return Splits(train, splits.test, splits.classes), epochs
