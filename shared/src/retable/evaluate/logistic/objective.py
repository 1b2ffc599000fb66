"""Objective of logistic regression, its gradient and its curvature, on a process's rows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from retable import random
from retable.distributed import total
from retable.evaluate.classifier import LinearClassifier

PENALTY_TIMES_WEIGHTS = 100.0
"""Kolesnikov et al. (2019), supplement: a penalty lambda |W|^2 with lambda = 100 / (M C)."""


def penalty_rule(dim: int, classes: int, strength: float = PENALTY_TIMES_WEIGHTS) -> float:
    """Return l2 = 2 lambda where lambda = strength / (M C), M features and C classes.

    The penalty of Kolesnikov et al. (2019), supplement, "L-BFGS": lambda |W|^2, so that the same
    strength is half the weight decay of SGD. It depends on the size of the classifier alone, not on
    how many images are labelled.
    """
    return 2 * strength / (dim * classes)


class Objective:
    """Mean cross-entropy plus l2 / 2 |weight|^2, and its gradient, without autograd.

    The point is one vector of C F weights, class by class, and C biases, which are free. Products
    are formed in the features' type, a block of rows at a time in memory that every call uses
    again: a block is read for logits and gradient while it is in the cache. Losses and gradients of
    blocks are summed in float64, so that L-BFGS sees a smooth function.

    The features (n, F) and labels (n,) int64 in [0, classes) are the rows that this process holds,
    ``images`` is the number of rows of all processes, each its own: every call then adds over
    processes and returns the same bits on all. None: these rows are all there are, and nothing is
    exchanged. A block has ``rows`` rows; None: 8 MB of features on a CPU, 65,536 rows elsewhere.
    ``device`` is where to compute, block by block if the features are elsewhere; None: there.
    """

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        *,
        classes: int,
        l2: float,
        images: int | None = None,
        rows: int | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        dim = features.shape[1]
        self.device = features.device if device is None else torch.device(device)
        if rows is None:
            on_cpu = self.device.type == "cpu"
            rows = max(64, 2**23 // (dim * features.element_size())) if on_cpu else 65536
        self.features = features
        self.labels = labels
        self.classes = classes
        self.l2 = l2
        self.images = images
        self.rows = rows
        like = features.new_empty(0, device=self.device)
        block = min(rows, max(1, len(features)))
        self._logits = like.new_empty(classes * block)
        self._error = like.new_empty(classes * block)
        self._minus_one = like.new_full((1, block), -1.0)
        self._weight = like.new_empty(classes, dim)
        self._bias = like.new_empty(classes)
        self._block_gradient = like.new_empty(classes, dim)

    @property
    def origin(self) -> Tensor:
        """The point of zero weights and biases: (C F + C,) float64."""
        size = self._weight.numel() + self.classes
        return torch.zeros(size, dtype=torch.float64, device=self.device)

    def classifier(self, point: Tensor) -> LinearClassifier:
        """Return weight (C, F) and bias (C,) of a point; they share its memory."""
        weights = self._weight.numel()
        return LinearClassifier(point[:weights].view_as(self._weight), point[weights:])

    def point(self, classifier: LinearClassifier) -> Tensor:
        """Return the point (C F + C,) float64 of a classifier."""
        parts = [classifier.weight.reshape(-1), classifier.bias]
        return torch.cat(parts).to(self.device, torch.float64)

    @torch.no_grad()
    def __call__(self, point: Tensor) -> tuple[Tensor, Tensor]:
        """Return the value () and the gradient (C F + C,) at a point, all float64."""
        at = self.classifier(point)
        self._weight.copy_(at.weight)
        self._bias.copy_(at.bias)
        # Value and gradient lie together: one exchange between processes for both.
        sums = point.new_zeros(1 + len(point))
        gradient = self.classifier(sums[1:])
        parts = torch.split(self.features, self.rows), torch.split(self.labels, self.rows)
        for x, y in zip(*parts, strict=True):
            x, y = (part.to(self.device, non_blocking=True) for part in (x, y))
            sums[0] += self._add_block(x, y[None], gradient)
        if self.images is not None:
            sums = total(sums)
        sums /= len(self.labels) if self.images is None else self.images
        self.classifier(sums[1:]).weight.add_(at.weight, alpha=self.l2)
        return sums[0] + self.l2 / 2 * torch.linalg.vector_norm(at.weight).square(), sums[1:]

    def _add_block(self, x: Tensor, y: Tensor, gradient: LinearClassifier) -> Tensor:
        """Return the summed loss of rows x (r, F) of classes y (1, r); add their gradient.

        Class by class, as the weight is: a CPU multiplies that 7 % faster than row by row.
        """
        logits, error = (
            memory[: self.classes * len(x)].view(self.classes, len(x))
            for memory in (self._logits, self._error)
        )
        torch.mm(self._weight, x.T, out=logits).add_(self._bias[:, None])
        torch.log_softmax(logits, 0, out=error)
        loss = -error.gather(0, y).sum(dtype=torch.float64)
        error.exp_().scatter_add_(0, y, self._minus_one[:, : len(x)])
        torch.mm(error, x, out=self._block_gradient)
        gradient.weight.add_(self._block_gradient)
        gradient.bias.add_(error.sum(1, dtype=torch.float64))
        return loss


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
