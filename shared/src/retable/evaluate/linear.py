"""The linear probe by SGD or LARS: a classifier on frozen features, images augmented every epoch.

`retable.evaluate.head_training` trains it; `retable.evaluate.linear_steps` has the step.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Self

import torch
from torch import Tensor, nn

from retable import random
from retable.data.subsets import Subset
from retable.errors import UserError
from retable.evaluate.classifier import LinearClassifier
from retable.evaluate.data import (
    EvalData,
    Splits,
    natural_test_view,
    natural_train_view,
    open_eval_splits,
)
from retable.evaluate.frozen import FrozenEncoder, freeze
from retable.evaluate.head_training import (
    HEAD_METRICS,
    EpochMetrics,
    last_and_best,
    shrunk_milestones,
    train_heads,
)
from retable.evaluate.linear_steps import ProbeState, sgd_step
from retable.evaluate.protocol import TOP1, EvalContext, Evaluation, MetricSpec, validate
from retable.evaluate.representation import Representation
from retable.train.schedules import ScheduleRecipe, learning_rate
from retable.views import ViewRecipe, center, crop_and_flip

if TYPE_CHECKING:
    from retable.data.source import Source
    from retable.evaluate.data import OpenSource

TRUST_COEFFICIENT = 1e-3
"""LARS's eta, in You et al. (2017) and in SimSiam's code."""


@functools.lru_cache(maxsize=8)
def _on_device(rates: tuple[float, ...], device: torch.device) -> Tensor:
    """Return an epoch's learning rates, copied once and not at every step."""
    return torch.tensor(rates, device=device)


@dataclass(frozen=True)
class LinearProbe(Evaluation):
    """The linear protocol of MoCo and MoCHi; defaults: ImageNet-100.

    The defaults are MoCHi's (arXiv:2010.01028; rate, batch and epochs are unverified).

    For ImageNet-1K (MoCo's `main_lincls.py`): lr 30, batch 256, 100 epochs, milestones
    (60, 80). The last batch of an epoch may be smaller, as there.

    For SimSiam (its code's `main_lincls.py` with ``--lars``): "lars", "cosine" without milestones,
    batch 4096, lr 0.1 times batch / 256, 90 epochs. Weight and bias are both adapted there.

    For Kolesnikov et al. (2019): batch 2048, lr 0.1 times batch / 256, 520 epochs, milestones (480,
    500); for the tasks on patches batch 1024.

    Attributes:
        lr: learning rate of the optimizer, after any scaling by the batch.
        momentum: momentum of the optimizer.
        weight_decay: weight decay of the optimizer.
        batch: images in a step, over all processes.
        epochs: passes over the training images.
        milestones: zero-based epochs from which the learning rate is multiplied by ``gamma``;
            only for the step schedule.
        gamma: factor of the learning rate at a milestone.
        optimizer: "sgd", or "lars": SGD whose steps are scaled by |w| / |g|
            (`retable.train.optim.LARS`).
        schedule: "step", or "cosine": from ``lr`` down towards 0, set at the start of each epoch.
        train_view: view of training images, drawn in every epoch if it is random (MoCHi: random
            crop of scale (0.08, 1) and flip); None: `natural_train_view`.
        test_view: view of test images (MoCHi: short side to 256, centre crop of 224); None:
            `natural_test_view`.
        max_steps: stop after so many steps, rounded up to complete epochs beyond the first; in the
            first epoch the classifier sees only the images of these steps. For checks that the
            code runs: such a probe measures nothing.
        other_lrs: further learning rates, trained on the same features; their accuracies are
            reported as ``top1@lr=<value>`` and choose nothing.
        representation: features, with a classifier for each of the taps, all trained on the same
            images.
        data: images and labels.
        name: name of the results.
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
        """Validate the fields."""
        validate(self, positive=("lr", "batch", "epochs", "max_steps"))
        if self.schedule == "cosine" and self.milestones:
            raise UserError(
                f"`milestones` must be empty with the cosine schedule, got {self.milestones}. Set "
                "`milestones` to [] first."
            )

    @property
    def metrics(self) -> dict[str, MetricSpec]:
        """Those of `HEAD_METRICS` and of ``other_lrs``, see `Representation.joined`."""
        specs = HEAD_METRICS | {f"top1{suffix}": TOP1 for suffix in self.suffixes()[1:]}
        return self.representation.joined(dict.fromkeys(self.representation.taps, specs))

    def limited(self, max_steps: int) -> Self:
        """Return the probe with ``max_steps``."""
        return replace(self, max_steps=max_steps)

    def shrunk(self, epochs: int, size: int = 32) -> Self:
        """Return the probe at ``size`` pixels for ``epochs`` epochs of SGD at rate 3.

        Milestones keep their share. LARS is for batches of thousands, which would be two steps an
        epoch.
        """
        return replace(
            self,
            lr=3.0,
            optimizer="sgd",
            batch=min(256, self.batch),
            epochs=epochs,
            milestones=shrunk_milestones(self.milestones, epochs / self.epochs),
            train_view=crop_and_flip(size),
            test_view=center(size, size),
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
        """See `retable.evaluate.head_training.HeadRecipe`, as for the methods after `fit`."""
        return "linear probe"

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
        metrics = {tap: self._metrics(curve, tap) for tap in heads}
        last = heads[self.representation.taps[-1]]
        return last.classifier(0), self.representation.joined(metrics)

    def _metrics(self, curve: list[EpochMetrics], tap: str) -> dict[str, float]:
        metrics = last_and_best(curve, tap)
        for name, top1 in zip(self.suffixes(), curve[-1]["top1"][tap], strict=True):
            if name:
                metrics[f"top1{name}"] = top1
        return metrics

    def init(self, classes: int, dim: int, seed: int) -> ProbeState:
        """Return classifiers for all learning rates, of equal weights."""
        rng_key = random.derive_key(seed, self.purpose, "weights")
        return ProbeState.initial(1 + len(self.other_lrs), classes, dim, rng_key)

    def restored(self, tensors: dict[str, Tensor]) -> ProbeState:
        """Return the classifiers whose tensors these are."""
        return ProbeState(**tensors)

    def suffixes(self) -> tuple[str, ...]:
        """Return the suffixes of the learning rates' metrics."""
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
        """Return the training images and the epochs within ``max_steps``."""
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
