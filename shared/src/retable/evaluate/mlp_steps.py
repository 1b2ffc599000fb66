"""Steps of a classifier with one hidden layer, in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from retable import random
from retable.random import dropout


@dataclass
class MlpState:
    """A classifier in training: features (n, F) -> ReLU of H hidden units -> logits (n, C).

    Attributes:
        hidden_weight: (H, F).
        hidden_bias: (H,).
        weight: (C, H).
        bias: (C,).
        momenta: SGD's momentum buffers of these four, one after the other in one vector.
    """

    hidden_weight: Tensor
    hidden_bias: Tensor
    weight: Tensor
    bias: Tensor
    momenta: Tensor

    @classmethod
    def initial(cls, classes: int, hidden: int, dim: int, rng_key: int) -> MlpState:
        """Draw both weights as Glorot and Bengio (2010) do, TensorFlow's default; biases are 0.

        >>> MlpState.initial(10, 1000, 64, rng_key=0).weight.shape
        torch.Size([10, 1000])
        """
        hidden_weight = _glorot(hidden, dim, random.derive_key(rng_key, "hidden"))
        weight = _glorot(classes, hidden, random.derive_key(rng_key, "output"))
        count = hidden_weight.numel() + hidden + weight.numel() + classes
        return cls(
            hidden_weight, torch.zeros(hidden), weight, torch.zeros(classes), torch.zeros(count)
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return the state by name."""
        return dict(vars(self))

    def to(self, device: torch.device) -> MlpState:
        """Return the state on a device."""
        return MlpState(**{name: value.to(device) for name, value in vars(self).items()})

    def parameters(self) -> list[Tensor]:
        """Return weight and bias of the hidden layer, then of the output."""
        return [self.hidden_weight, self.hidden_bias, self.weight, self.bias]

    def hidden(self, features: Tensor) -> Tensor:
        """Return the hidden units (n, H) of features (n, F)."""
        return torch.addmm(self.hidden_bias, features, self.hidden_weight.T).relu_()

    def scores(self, features: Tensor) -> list[Tensor]:
        """Return the logits (n, C) of features (n, F), without dropout, in a list of one."""
        return [torch.addmm(self.bias, self.hidden(features), self.weight.T)]


def _glorot(outputs: int, inputs: int, rng_key: int) -> Tensor:
    draws = random.uniform(rng_key, torch.arange(outputs * inputs)).view(outputs, inputs)
    return math.sqrt(6 / (outputs + inputs)) * (2 * draws - 1)


def layer_penalty(penalty: float, weight: Tensor) -> float:
    """Return lambda of a layer (M inputs, C outputs): ``penalty`` / (M C).

    >>> layer_penalty(100.0, torch.zeros(1000, 2048))
    4.8828125e-05
    """
    return penalty / weight.numel()


@torch.no_grad()
def mlp_step(
    state: MlpState,
    features: Tensor,
    labels: Tensor,
    *,
    lr: float,
    momentum: float,
    penalty: float,
    rate: float,
    rng_key: int,
    numbers: Tensor,
) -> Tensor:
    """Make one step of SGD on cross-entropy plus sum_l lambda_l |W_l|^2, in place, no autograd.

    Args:
        state: changed.
        features: (B, F).
        labels: (B,) int64.
        lr: learning rate.
        momentum: SGD's momentum, without dampening.
        penalty: see `layer_penalty`; biases are free.
        rate: share of the hidden units that is dropped, see `retable.random.dropout`.
        rng_key: of what is dropped.
        numbers: (B,) int64, the rows' numbers among all that share the key.

    Returns:
        The mean cross-entropy (1,) before the step, with dropout.

    >>> state = MlpState.initial(10, 32, 64, rng_key=0)
    >>> x, y = torch.ones(5, 64), torch.zeros(5, dtype=torch.int64)
    >>> settings = {"lr": 0.1, "momentum": 0.9, "penalty": 1.0, "rate": 0.5, "rng_key": 0}
    >>> mlp_step(state, x, y, numbers=torch.arange(5), **settings).shape
    torch.Size([1])
    """
    kept = dropout(state.hidden(features), rate, rng_key, numbers)
    log_probabilities = F.log_softmax(torch.addmm(state.bias, kept, state.weight.T), dim=1)
    loss = -log_probabilities.gather(1, labels[:, None]).mean(0)
    error = log_probabilities.exp_()
    error.scatter_add_(1, labels[:, None], error.new_full((), -1.0).expand(len(labels), 1))
    error /= len(labels)
    # What dropout or the ReLU has set to 0 passes no gradient; what passes was scaled by dropout.
    hidden_error = (error @ state.weight).mul_(kept > 0).mul_(1 / (1 - rate))
    first, last = state.hidden_weight, state.weight
    gradients = [
        torch.addmm(first, hidden_error.T, features, beta=2 * layer_penalty(penalty, first)),
        hidden_error.sum(0),
        torch.addmm(last, error.T, kept, beta=2 * layer_penalty(penalty, last)),
        error.sum(0),
    ]
    state.momenta.mul_(momentum)
    parameters = state.parameters()
    buffers = torch.split(state.momenta, [parameter.numel() for parameter in parameters])
    for parameter, gradient, buffer in zip(parameters, gradients, buffers, strict=True):
        buffer.add_(gradient.flatten())
        parameter.sub_(buffer.view_as(parameter), alpha=lr)
    return loss
