"""Steps of linear classifiers that are trained side by side, in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from retable import random
from retable.evaluate.classifier import LinearClassifier
from retable.train.optim import trust_ratios


@dataclass
class ProbeState:
    """L linear classifiers in training, one for each learning rate.

    Attributes:
        weight: (L, C, F).
        bias: (L, C).
        weight_momentum: like ``weight``, SGD's momentum buffer.
        bias_momentum: like ``bias``.
    """

    weight: Tensor
    bias: Tensor
    weight_momentum: Tensor
    bias_momentum: Tensor

    @classmethod
    def initial(cls, rates: int, classes: int, dim: int, rng_key: int) -> ProbeState:
        """Draw weights from N(0, 0.01^2), the same for every learning rate; biases are 0.

        >>> ProbeState.initial(2, 10, 64, rng_key=0).weight.shape
        torch.Size([2, 10, 64])
        """
        weight = 0.01 * random.normal(rng_key, torch.arange(classes * dim)).view(1, classes, dim)
        weight = weight.repeat(rates, 1, 1)
        bias = torch.zeros(rates, classes)
        return cls(weight, bias, torch.zeros_like(weight), torch.zeros_like(bias))

    def tensors(self) -> dict[str, Tensor]:
        """Return the state by name."""
        return dict(vars(self))

    def to(self, device: torch.device) -> ProbeState:
        """Return the state on a device."""
        return ProbeState(**{name: value.to(device) for name, value in vars(self).items()})

    def classifier(self, rate: int) -> LinearClassifier:
        """Return the classifier of the rate-th learning rate."""
        return LinearClassifier(self.weight[rate], self.bias[rate])

    def scores(self, features: Tensor) -> list[Tensor]:
        """Return the logits (n, C) of every classifier for features (n, F)."""
        return [self.classifier(rate)(features) for rate in range(len(self.weight))]


@torch.no_grad()
def sgd_step(
    state: ProbeState,
    features: Tensor,
    labels: Tensor,
    rates: Tensor,
    *,
    momentum: float,
    weight_decay: float,
    trust_coefficient: float | None = None,
) -> Tensor:
    """Make one step of SGD on the mean cross-entropy of a batch, in place, without autograd.

    The L classifiers share two matrix products. Equal to `torch.optim.SGD` on a linear layer, with
    momentum without dampening and weight decay on weight and bias; or to
    `retable.train.optim.LARS`.

    Args:
        state: L classifiers, changed.
        features: (B, F).
        labels: (B,) int64.
        rates: (L,) learning rates.
        momentum: SGD's momentum.
        weight_decay: added to the gradient times the parameter.
        trust_coefficient: LARS's eta, which adapts weight and bias of each classifier; None: no
            adaptation.

    Returns:
        The losses (L,) before the step.

    >>> state = ProbeState.initial(3, 10, 64, rng_key=0)
    >>> x, y = torch.ones(5, 64), torch.zeros(5, dtype=torch.int64)
    >>> sgd_step(state, x, y, torch.ones(3), momentum=0.9, weight_decay=0.0).shape
    torch.Size([3])
    """
    count, classes, dim = state.weight.shape
    logits = torch.addmm(state.bias.view(-1), features, state.weight.view(-1, dim).T)
    log_probabilities = F.log_softmax(logits.view(-1, count, classes), dim=-1)
    target = labels[:, None, None].expand(-1, count, 1)
    losses = -log_probabilities.gather(2, target).mean((0, 2))
    gradient = log_probabilities.exp_()
    gradient.scatter_add_(2, target, gradient.new_full((), -1.0).expand(target.shape))
    gradient = gradient.view(-1, count * classes).div_(len(features))
    weight_gradient = (gradient.T @ features).view_as(state.weight)
    bias_gradient = gradient.sum(0).view_as(state.bias)
    if weight_decay:
        weight_gradient.add_(state.weight, alpha=weight_decay)
        bias_gradient.add_(state.bias, alpha=weight_decay)
    if trust_coefficient is not None:
        for value, slope in ((state.weight, weight_gradient), (state.bias, bias_gradient)):
            ratios = trust_ratios(list(value), list(slope), trust_coefficient)
            slope.mul_(ratios.view(-1, *[1] * (slope.ndim - 1)))
    state.weight_momentum.mul_(momentum).add_(weight_gradient)
    state.bias_momentum.mul_(momentum).add_(bias_gradient)
    state.weight.addcmul_(state.weight_momentum, rates[:, None, None], value=-1)
    state.bias.addcmul_(state.bias_momentum, rates[:, None], value=-1)
    return losses
