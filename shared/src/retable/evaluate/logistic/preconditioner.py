"""The Hessian of logistic regression at zero: the first estimate, which L-BFGS improves."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from retable import random
from retable.distributed import total
from retable.evaluate.logistic.objective import Objective


class InverseHessian:
    """Multiplies a gradient (C F + C,) by the inverse of an objective's Hessian at the origin.

    All classes are equally probable there, so that the Hessian is one for all classes: the
    features' covariance divided by C, plus l2, where the bias is counted from the features' mean.
    (It has a factor I - 1/C over the classes besides, which does nothing to gradients, since they
    add to zero over the classes.) The first step of L-BFGS is then Newton's, and a quarter to a
    tenth of the updates lead to the same value as without (ReLU features with a decaying spectrum,
    50 to 100 classes).

    An estimate will do: float32, and the covariance of some 2 F images, whatever their order.
    Where it would take longer than it spares (few images, few classes), features count as
    uncorrelated and of one variance, and only their mean is taken out.

    Args:
        objective: its features and l2, and those of the other processes that it adds up.

    >>> features = torch.tensor([[2.0, 0.0], [0.0, 0.0]]).repeat(2, 1)
    >>> objective = Objective(features, torch.arange(2).repeat(2), classes=2, l2=0.5)
    >>> gradient = torch.tensor([1.0, 1.0, -1.0, -1.0, 0.0, 0.0]).double()
    >>> InverseHessian(objective)(gradient).round(decimals=5).tolist()
    [1.0, 2.0, -1.0, -2.0, -1.0, 1.0]
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.mean, second = _moments(objective)
        # Everything is multiplied by C at the end.
        ridge = objective.classes * objective.l2
        self.correlated = second.ndim == 2
        if self.correlated:
            # At least as much as rounding adds.
            ridge = max(ridge, 1e-6 * float(torch.linalg.matrix_norm(second)))
            second.diagonal().add_(ridge)
            self.scale = torch.linalg.cholesky(second).float()
        else:
            self.scale = (second + ridge).float()

    def __call__(self, gradient: Tensor) -> Tensor:
        """Return the product (C F + C,) float64."""
        at = self.objective.classifier(gradient)
        weight = at.weight - at.bias[:, None] * self.mean
        if self.correlated:
            weight = torch.cholesky_solve(weight.T.float(), self.scale).T.double()
        else:
            weight = weight / self.scale
        bias = at.bias - weight @ self.mean
        return torch.cat([weight.reshape(-1), bias]).mul_(self.objective.classes)


def _moments(objective: Objective) -> tuple[Tensor, Tensor]:
    """Return the features' mean (F,) and their covariance (F, F) or mean variance (), float64."""
    over_processes = Tensor.clone if objective.images is None else total
    images = objective.images or len(objective.labels)
    dim = objective.features.shape[1]
    rows = _spread(objective.features, min(1.0, 2 * dim / images)).to(objective.device)
    sums = torch.cat([rows.sum(0, dtype=torch.float64), rows.new_tensor([len(rows)]).double()])
    sums = over_processes(sums)
    mean, n = sums[:-1] / sums[-1], sums[-1]
    rows = rows.sub(mean).float()
    # 5 F^3 operations to begin with and 4 C F^2 in every update, against the objective's 4 n C F.
    pays = 5 * dim**2 <= 30 * 4 * images * objective.classes and dim <= 2 * images
    second = rows.T @ rows if pays else rows.square().sum() / dim
    return mean, over_processes(second).double() / n


def _spread(features: Tensor, share: float) -> Tensor:
    """Return about a share of the rows; below 1 they are drawn, with replacement."""
    if share == 1:
        return features
    counters = torch.arange(math.ceil(share * len(features)))
    rng_key = random.derive_key(0, "rows of a covariance")
    drawn = random.integers(rng_key, counters, len(features)).sort().values
    return features[drawn.to(features.device)]
