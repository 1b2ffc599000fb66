"""The linear probe by SGD or LARS: a classifier on frozen features, images augmented every epoch.

The official protocol (MoCo's `main_lincls.py`) sends each shuffled batch through the encoder and
makes one step. With a frozen encoder in eval mode a feature depends on its image alone, so here an
epoch's features are computed first, in the source's order and split over the processes, and the
steps follow in the shuffled order on the cached features: the same batches, the same steps, but
large encoder calls, sequential reads and a classifier that never waits for the encoder. Every
process makes the same steps on the gathered features, so their number does not enter the result.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from retable import random
from retable.data.subsets import Subset
from retable.errors import UserError
from retable.evaluate.classifier import LinearClassifier, accuracy, check_labels
from retable.evaluate.evaluation import (
    Splits,
    Where,
    described,
    natural_test_view,
    natural_train_view,
    open_splits,
)
from retable.evaluate.features import Features, extract
from retable.evaluate.frozen import FrozenEncoder, freeze
from retable.evaluate.linear_steps import ProbeState, sgd_step
from retable.evaluate.resume import Checkpoints
from retable.progress import bar
from retable.schedules import ScheduleRecipe, learning_rate
from retable.views import ViewRecipe

if TYPE_CHECKING:
    from retable.data.source import Source
    from retable.evaluate.evaluation import OpenSource

TRUST_COEFFICIENT = 1e-3
"""LARS's eta, in You et al. (2017) and in SimSiam's code."""


@dataclass(frozen=True)
class LinearProbe:
    """The linear protocol of MoCo and MoCHi; defaults: ImageNet-100 (sheet of MoCHi, R2).

    For ImageNet-1K (R4, MoCo's `main_lincls.py`): lr 30, batch 256, 100 epochs, milestones
    (60, 80). The last batch of an epoch may be smaller, as there.

    For SimSiam (its code's `main_lincls.py` with ``--lars``): "lars", "cosine" without milestones,
    batch 4096, lr 0.1 times batch / 256, 90 epochs. Weight and bias are both adapted there.

    Attributes:
        lr: learning rate of the optimizer, after any scaling by the batch.
        momentum: its momentum.
        weight_decay: its weight decay.
        batch: images in a step, over all processes.
        epochs: passes over the training images.
        milestones: zero-based epochs from which the learning rate is multiplied by ``gamma``; of
            the step schedule alone.
        gamma: that factor.
        optimizer: "sgd", or "lars": SGD whose steps are scaled by |w| / |g| (`retable.optim.LARS`).
        schedule: "step", or "cosine": from ``lr`` down towards 0, set anew for each epoch.
        train_view: drawn anew in every epoch (R2: random crop of scale (0.08, 1) and flip); None:
            `natural_train_view`.
        test_view: R2: short side to 256, centre crop of 224; None: `natural_test_view`.
        max_steps: stop after so many steps, rounded up to whole epochs beyond the first; within it
            the classifier sees only the images of these steps. For checks of the real path: such a
            probe measures nothing.
        other_lrs: further learning rates trained beside ``lr`` on the same features; their
            accuracies are reported as ``top1@lr=<value>`` and choose nothing.
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
    name: str = "linear"

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        for setting in ("lr", "batch", "epochs"):
            if getattr(self, setting) <= 0:
                raise UserError(
                    f"the linear probe's {setting} is {getattr(self, setting)}: expected a positive"
                    " number."
                )
        for setting, allowed in (("optimizer", ("sgd", "lars")), ("schedule", ("step", "cosine"))):
            if getattr(self, setting) not in allowed:
                raise UserError(
                    f"the linear probe's {setting} is {getattr(self, setting)!r}: expected "
                    f"{' or '.join(allowed)}."
                )
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

    def run(
        self,
        encoder: nn.Module | FrozenEncoder,
        open_source: OpenSource,
        where: Where,
        *,
        seed: int,
    ) -> dict[str, float]:
        """Train the classifier and return the test accuracy in percent, see `Evaluation.run`.

        Returns:
            "top1" and "top5" after the last epoch (primary), "best_top1" and "best_epoch"
            (one-based; the first of equals) over all epochs, "train_loss" of the last epoch, and
            "top1@lr=<value>" for every one of ``other_lrs``.
        """
        _, results = self.fit(encoder, open_splits(open_source), where, seed=seed)
        return results

    def fit(
        self,
        encoder: nn.Module | FrozenEncoder,
        splits: Splits,
        where: Where,
        *,
        seed: int,
    ) -> tuple[LinearClassifier, dict[str, float]]:
        """Train as `run` does; return the classifier of the last epoch beside the numbers."""
        frozen = freeze(encoder, where.device, where.precision)
        splits, epochs = self._shortened(splits, seed)
        check_labels(splits.train.labels, splits.classes, "train")
        check_labels(splits.test.labels, splits.classes, "test")
        checkpoints = Checkpoints(
            where.directory,
            self.name,
            encoder=frozen.digest,
            recipe=asdict(self),
            seed=seed,
            precision=frozen.precision,
            **described(splits),
        )
        saved = checkpoints.load(frozen.device)
        start, curve = (saved.epoch, saved.facts["curve"]) if saved else (0, [])
        rates = (self.lr, *self.other_lrs)
        view = self.train_view or natural_train_view(splits.train)
        images = len(splits.train) * (epochs - start) + len(splits.test)
        with bar(images, "images", self.name, shown=where.progress) as shown:
            arguments: dict[str, Any] = {
                "device": where.device,
                "workers": where.workers,
                "on_batch": shown.update,
            }
            test = extract(frozen, splits.test, self.test_view_of(splits.test), **arguments)
            dim = test.features.shape[1]
            if saved:
                state = ProbeState(**saved.tensors)
            else:
                key = random.derive_key(seed, "linear probe", "weights")
                state = ProbeState.initial(len(rates), splits.classes, dim, key)
            state = state.to(frozen.device)
            for epoch in range(start, epochs):
                key = random.derive_key(seed, "linear probe", "views", epoch)
                train = extract(frozen, splits.train, view, key=key, **arguments)
                losses = self._epoch(state, train, epoch, seed)
                curve.append(self._measure(state, test, losses, epoch))
                checkpoints.save(epoch + 1, state.tensors(), {"curve": curve})
                shown.set_postfix({"epoch": epoch + 1, "top1": f"{curve[-1]['top1'][0]:.2f}"})
        return state.classifier(0), self._results(curve)

    def _shortened(self, splits: Splits, seed: int) -> tuple[Splits, int]:
        """Return what ``max_steps`` leaves of the training images and of the epochs."""
        images = len(splits.train)
        if self.max_steps is None:
            return splits, self.epochs
        seen = self.max_steps * self.batch
        epochs = min(self.epochs, -(-seen // images))
        if seen >= images:
            return splits, epochs
        key = random.derive_key(seed, "linear probe", "order", 0)
        kept = random.permutation(key, images)[:seen].sort().values
        train = Subset(
            splits.train,
            kept,
            splits.train.labels[kept],
            splits.train.class_names,
            f"the images of {self.max_steps} steps",
        )
        return Splits(train, splits.test, splits.classes), epochs

    def _epoch(self, state: ProbeState, train: Features, epoch: int, seed: int) -> Tensor:
        """Make one epoch's steps; return the mean losses (L,)."""
        device = train.features.device
        rates = torch.tensor(
            [self.learning_rate(epoch, lr) for lr in (self.lr, *self.other_lrs)], device=device
        )
        total = torch.zeros_like(rates)
        key = random.derive_key(seed, "linear probe", "order", epoch)
        order = random.permutation(key, len(train.labels)).to(device)
        for rows in torch.split(order, self.batch):
            total += len(rows) * sgd_step(
                state,
                train.features[rows],
                train.labels[rows],
                rates,
                momentum=self.momentum,
                weight_decay=self.weight_decay,
                trust_coefficient=TRUST_COEFFICIENT if self.optimizer == "lars" else None,
            )
        return total / len(train.labels)

    def _measure(
        self, state: ProbeState, test: Features, losses: Tensor, epoch: int
    ) -> dict[str, list[float]]:
        """Return one epoch's numbers, each a list over the learning rates."""
        if not bool(state.weight[0].isfinite().all()):
            raise UserError(
                f"the linear probe's weights are not finite after epoch {epoch + 1}: expected a "
                f"learning rate below {self.lr} for these features, so lower lr."
            )
        scores = [
            accuracy(state.classifier(rate)(test.features), test.labels)
            for rate in range(len(losses))
        ]
        return {
            "top1": [score["top1"] for score in scores],
            "top5": [score["top5"] for score in scores],
            "loss": losses.tolist(),
        }

    def _results(self, curve: list[dict[str, list[float]]]) -> dict[str, float]:
        top1 = [epoch["top1"][0] for epoch in curve]
        last: dict[str, Any] = curve[-1]
        results = {
            "top1": top1[-1],
            "top5": last["top5"][0],
            "best_top1": max(top1),
            "best_epoch": float(1 + top1.index(max(top1))),
            "train_loss": last["loss"][0],
        }
        for position, lr in enumerate(self.other_lrs, start=1):
            results[f"top1@lr={lr:g}"] = last["top1"][position]
        return results
