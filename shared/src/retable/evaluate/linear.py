"""The linear probe: a classifier by SGD or LARS, on frozen features of augmented images."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from retable import random
from retable.data.subsets import Subset
from retable.domains import (
    BatchSize,
    Count,
    CountOrZero,
    Epochs,
    Fraction,
    Name,
    NonNegative,
    Positive,
)
from retable.errors import UserError
from retable.evaluate.classifier import LinearClassifier
from retable.evaluate.data import Splits, natural_train_view
from retable.evaluate.head_training import Head, HeadProbe, shrunk_milestones
from retable.settings import validate_fields
from retable.train.optim import check_nesterov, trust_ratios
from retable.train.schedules import ScheduleRecipe, learning_rate
from retable.views import ViewRecipe, center, crop_and_flip

TRUST_COEFFICIENT = 1e-3
"""LARS's eta, in You et al. (2017) and in SimSiam's code."""

if TYPE_CHECKING:
    from retable.data.source import Source


@dataclass
class ProbeState(Head):
    """L linear classifiers in training, one for each learning rate, with SGD's momentum buffers."""

    weight: Tensor  # (L, C, F)
    bias: Tensor  # (L, C)
    weight_momentum: Tensor
    bias_momentum: Tensor

    @classmethod
    def initial(cls, rates: int, classes: int, dim: int, rng_key: int) -> ProbeState:
        """Draw weights from N(0, 0.01^2), the same for every learning rate; biases are 0."""
        weight = 0.01 * random.normal(rng_key, torch.arange(classes * dim)).view(1, classes, dim)
        weight = weight.repeat(rates, 1, 1)
        bias = torch.zeros(rates, classes)
        return cls(weight, bias, torch.zeros_like(weight), torch.zeros_like(bias))

    def classifier(self, rate: int) -> LinearClassifier:
        """Return the classifier of the rate-th learning rate."""
        return LinearClassifier(self.weight[rate], self.bias[rate])

    def scores(self, features: Tensor) -> list[Tensor]:
        """Return the logits (n, C) for each learning rate."""
        return [self.classifier(rate)(features) for rate in range(len(self.weight))]


@functools.lru_cache(maxsize=8)
def _on_device(rates: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return an epoch's learning rates, copied once and not at every step."""
    return torch.tensor(rates, dtype=dtype, device=device)


@dataclass(frozen=True)
class LinearProbe(HeadProbe[ProbeState]):
    """The linear protocol of MoCo and MoCHi; defaults: ImageNet-100.

    The defaults are MoCHi's (arXiv:2010.01028; rate, batch and epochs are unverified).

    For ImageNet-1K (MoCo's `main_lincls.py`): lr 30, batch 256, 100 epochs, milestones
    (60, 80). The last batch of an epoch may be smaller, as there.

    For SimSiam (its code's `main_lincls.py` with ``--lars``): "lars", "cosine" without milestones,
    batch 4096, lr 0.1 times batch / 256, 90 epochs. Weight and bias are both adapted there.

    For Kolesnikov et al. (2019): batch 2048, lr 0.1 times batch / 256, 520 epochs, milestones (480,
    500); for the tasks on patches batch 1024.

    Attributes:
        milestones: see `HeadProbe`; only for the step schedule.
        optimizer: "sgd", or "lars": SGD whose steps are scaled by |w| / |g|
            (`retable.train.optim.LARS`).
        nesterov: whether steps look ahead along the momentum.
        schedule: "step", or "cosine": from ``lr`` down towards 0, set at the start of each epoch.
        train_view: default: `natural_train_view` (MoCHi: random crop of scale (0.08, 1) and flip).
        test_view: default: `natural_test_view` (MoCHi: short side to 256, centre crop of 224).
        max_steps: stop after so many steps, rounded up to complete epochs beyond the first; in the
            first epoch the classifier sees only the images of these steps. For checks that the
            code runs: such a probe measures nothing.
        other_lrs: further learning rates, trained on the same features; their accuracies are
            reported as ``top1@lr=<value>`` and choose nothing.
    """

    defaults_of: ClassVar[str] = "MoCHi (arXiv:2010.01028) on ImageNet-100"
    purpose: ClassVar[str] = "linear probe"
    head: ClassVar[type[ProbeState]] = ProbeState

    lr: Positive = 10.0
    momentum: Fraction = 0.9
    nesterov: bool = False
    weight_decay: NonNegative = 0.0
    batch: BatchSize = 128
    epochs: Epochs = 60
    milestones: tuple[CountOrZero, ...] = (30, 40, 50)
    gamma: NonNegative = 0.1
    optimizer: Literal["sgd", "lars"] = "sgd"
    schedule: Literal["step", "cosine"] = "step"
    max_steps: Count | None = None
    other_lrs: tuple[Positive, ...] = ()
    name: Name = "linear"

    def __post_init__(self) -> None:
        """Validate the fields."""
        validate_fields(self)
        check_nesterov(self.nesterov, self.momentum)
        if self.schedule == "cosine" and self.milestones:
            raise UserError(
                f"`milestones` must be empty with the cosine schedule, got {self.milestones}. Set "
                "`milestones` to [] first."
            )

    def with_views(self, *sources: Source) -> Self:
        """Return the evaluation with the views filled in, see `Evaluation.with_views`."""
        train_view = self.train_view or natural_train_view(*sources)
        return replace(super().with_views(*sources), train_view=train_view)

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
        """Return the learning rate of a zero-based epoch."""
        if self.schedule == "cosine":
            return learning_rate(ScheduleRecipe("cosine"), base, epoch, 1, self.epochs)
        for milestone in self.milestones:
            base *= self.gamma if epoch >= milestone else 1.0
        return base

    def train_view_of(self, splits: Splits) -> ViewRecipe:
        """Return the view of training images."""
        return self.train_view or natural_train_view(splits.train, splits.test)

    def init(self, classes: int, dim: int, rng_key: int) -> ProbeState:
        """Return classifiers for all learning rates, of equal weights."""
        return ProbeState.initial(1 + len(self.other_lrs), classes, dim, rng_key)

    def suffixes(self) -> tuple[str, ...]:
        """Return the suffix of each learning rate."""
        return ("", *(f"@lr={lr:g}" for lr in self.other_lrs))

    @torch.no_grad()
    def step(
        self, head: ProbeState, features: Tensor, labels: Tensor, first: int, epoch: int, seed: int
    ) -> Tensor:
        """Make one step on the mean cross-entropy of a batch for all L learning rates, in place.

        Without autograd, in two matrix products. The step equals that of `torch.optim.SGD` on a
        linear layer, with momentum without dampening and weight decay on weight and bias, or of
        `retable.train.optim.LARS`, which adapts weight and bias of each classifier.
        """
        lrs = tuple(self.learning_rate(epoch, lr) for lr in (self.lr, *self.other_lrs))
        rates = _on_device(lrs, features.dtype, features.device)
        count, classes, dim = head.weight.shape
        logits = torch.addmm(head.bias.view(-1), features, head.weight.view(-1, dim).T)
        log_probabilities = F.log_softmax(logits.view(-1, count, classes), dim=-1)
        target = labels[:, None, None].expand(-1, count, 1)
        losses = -log_probabilities.gather(2, target).mean((0, 2))
        gradient = log_probabilities.exp_()
        gradient.scatter_add_(2, target, gradient.new_full((), -1.0).expand(target.shape))
        gradient = gradient.view(-1, count * classes).div_(len(features))
        weight_gradient = (gradient.T @ features).view_as(head.weight)
        bias_gradient = gradient.sum(0).view_as(head.bias)
        if self.weight_decay:
            weight_gradient.add_(head.weight, alpha=self.weight_decay)
            bias_gradient.add_(head.bias, alpha=self.weight_decay)
        if self.optimizer == "lars":
            for value, slope in ((head.weight, weight_gradient), (head.bias, bias_gradient)):
                ratios = trust_ratios(list(value), list(slope), TRUST_COEFFICIENT)
                slope.mul_(ratios.view(-1, *[1] * (slope.ndim - 1)))
        for value, momentum, slope in (
            (head.weight, head.weight_momentum, weight_gradient),
            (head.bias, head.bias_momentum, bias_gradient),
        ):
            momentum.mul_(self.momentum).add_(slope)
            update = slope.add_(momentum, alpha=self.momentum) if self.nesterov else momentum
            value.addcmul_(update, rates.view(-1, *[1] * (value.ndim - 1)), value=-1)
        return losses

    def shortened(self, splits: Splits, seed: int) -> tuple[Splits, int]:
        """Return the images and the epochs within ``max_steps``."""
        images = len(splits.train)
        if self.max_steps is None:
            return splits, self.epochs
        seen = self.max_steps * self.batch
        epochs = min(self.epochs, -(-seen // images))
        if seen >= images:
            return splits, epochs
        rng_key = random.derive_key(seed, self.purpose, "order", 0)
        kept = random.permutation(rng_key, images)[:seen].sort().values
        full, name = splits.train, f"the images of {self.max_steps} steps"
        train = Subset(full, kept, full.labels[kept], full.class_names, name)
        return replace(splits, train=train), epochs
