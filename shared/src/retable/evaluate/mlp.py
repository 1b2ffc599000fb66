"""The MLP probe: a classifier with one hidden layer on frozen features, by SGD.

It shows how much information a linear probe misses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from retable import random
from retable.domains import (
    BatchSize,
    CountOrZero,
    Dim,
    Epochs,
    Fraction,
    Name,
    NonNegative,
    Positive,
)
from retable.evaluate.data import Splits
from retable.evaluate.head_training import Head, HeadProbe, shrunk_milestones
from retable.random import dropout
from retable.settings import validate_fields
from retable.views import ViewRecipe, center


@dataclass
class MlpState(Head):
    """A classifier in training: features (n, F) -> ReLU of H hidden units -> logits (n, C).

    ``momenta`` are SGD's momentum buffers of the others, one after the other in one vector.
    """

    hidden_weight: Tensor  # (H, F)
    hidden_bias: Tensor  # (H,)
    weight: Tensor  # (C, H)
    bias: Tensor  # (C,)
    momenta: Tensor

    @classmethod
    def initial(cls, classes: int, hidden: int, dim: int, rng_key: int) -> MlpState:
        """Draw both weights as Glorot and Bengio (2010) do, TensorFlow's default; biases are 0."""
        hidden_weight = _glorot(hidden, dim, random.derive_key(rng_key, "hidden"))
        weight = _glorot(classes, hidden, random.derive_key(rng_key, "output"))
        count = hidden_weight.numel() + hidden + weight.numel() + classes
        return cls(
            hidden_weight, torch.zeros(hidden), weight, torch.zeros(classes), torch.zeros(count)
        )

    def parameters(self) -> list[Tensor]:
        """Return weight and bias of the hidden layer, then of the output."""
        return [self.hidden_weight, self.hidden_bias, self.weight, self.bias]

    def hidden(self, features: Tensor) -> Tensor:
        """Return the hidden units (n, H) of features (n, F)."""
        return torch.addmm(self.hidden_bias, features, self.hidden_weight.T).relu_()

    def scores(self, features: Tensor) -> list[Tensor]:
        """Return the logits (n, C), without dropout, in a list of one."""
        return [torch.addmm(self.bias, self.hidden(features), self.weight.T)]


def _glorot(outputs: int, inputs: int, rng_key: int) -> Tensor:
    draws = random.uniform(rng_key, torch.arange(outputs * inputs)).view(outputs, inputs)
    return math.sqrt(6 / (outputs + inputs)) * (2 * draws - 1)


def layer_penalty(penalty: float, weight: Tensor) -> float:
    """Return lambda of a layer (M inputs, C outputs): ``penalty`` / (M C)."""
    return penalty / weight.numel()


@dataclass(frozen=True)
class MlpProbe(HeadProbe[MlpState]):
    """Test accuracy of an MLP on frozen features; defaults: Kolesnikov et al. (2019), supplement.

    Attributes:
        hidden: units of the hidden layer, followed by ReLU.
        dropout: share of the hidden units dropped in training.
        penalty: each layer of M inputs and C outputs has the penalty lambda |W|^2 with lambda =
            ``penalty`` / (M C); the supplement states the rule for the linear classifier, by layers
            is our reading.
        train_view: default: the test view, since the supplement names no augmentation.
    """

    purpose: ClassVar[str] = "MLP probe"
    head: ClassVar[type[MlpState]] = MlpState

    defaults_of: ClassVar[str] = "Kolesnikov et al. (arXiv:1901.09005, supplement) on ImageNet"

    hidden: Dim = 1000
    dropout: Fraction = 0.5
    penalty: NonNegative = 100.0
    lr: Positive = 0.01
    momentum: Fraction = 0.9
    batch: BatchSize = 512
    epochs: Epochs = 180
    milestones: tuple[CountOrZero, ...] = (60, 120)
    gamma: NonNegative = 0.1
    name: Name = "mlp"

    def __post_init__(self) -> None:
        """Validate the fields."""
        validate_fields(self)

    def shrunk(self, epochs: int, size: int = 32) -> Self:
        """Return the probe at ``size`` pixels for ``epochs`` epochs, milestones in proportion."""
        return replace(
            self,
            epochs=epochs,
            milestones=shrunk_milestones(self.milestones, epochs / self.epochs),
            train_view=None,
            test_view=center(size, size),
        )

    def train_view_of(self, splits: Splits) -> ViewRecipe:
        """Return the view of training images."""
        return self.train_view or self.test_view_of(splits.train, splits.test)

    def init(self, classes: int, dim: int, rng_key: int) -> MlpState:
        """Return a classifier before its first step."""
        return MlpState.initial(classes, self.hidden, dim, rng_key)

    def learning_rate(self, epoch: int) -> float:
        """Return the learning rate of a zero-based epoch."""
        passed = sum(epoch >= milestone for milestone in self.milestones)
        return self.lr * self.gamma**passed

    @torch.no_grad()
    def step(
        self, head: MlpState, features: Tensor, labels: Tensor, first: int, epoch: int, seed: int
    ) -> Tensor:
        """Make one step on cross-entropy plus sum_l lambda_l |W_l|^2, in place, without autograd.

        Biases are free of the penalty. Dropout of a row is keyed by its number in the epoch.
        """
        rng_key = random.derive_key(seed, self.purpose, "dropout", epoch)
        numbers = torch.arange(first, first + len(labels), device=features.device)
        kept = dropout(head.hidden(features), self.dropout, rng_key, numbers)
        log_probabilities = F.log_softmax(torch.addmm(head.bias, kept, head.weight.T), dim=1)
        loss = -log_probabilities.gather(1, labels[:, None]).mean(0)
        error = log_probabilities.exp_()
        error.scatter_add_(1, labels[:, None], error.new_full((), -1.0).expand(len(labels), 1))
        error /= len(labels)
        # What dropout or the ReLU set to 0 passes no gradient; what passes was scaled by dropout.
        hidden_error = (error @ head.weight).mul_(kept > 0).mul_(1 / (1 - self.dropout))
        inner, outer = (layer_penalty(self.penalty, w) for w in (head.hidden_weight, head.weight))
        gradients = [
            torch.addmm(head.hidden_weight, hidden_error.T, features, beta=2 * inner),
            hidden_error.sum(0),
            torch.addmm(head.weight, error.T, kept, beta=2 * outer),
            error.sum(0),
        ]
        head.momenta.mul_(self.momentum)
        parameters = head.parameters()
        buffers = torch.split(head.momenta, [parameter.numel() for parameter in parameters])
        for parameter, gradient, buffer in zip(parameters, gradients, buffers, strict=True):
            buffer.add_(gradient.flatten())
            parameter.sub_(buffer.view_as(parameter), alpha=self.learning_rate(epoch))
        return loss
