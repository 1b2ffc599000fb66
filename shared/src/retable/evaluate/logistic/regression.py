"""Fit multinomial logistic regression to features that all processes, or one, hold."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from retable.distributed import gather, total
from retable.evaluate.classifier import LinearClassifier
from retable.evaluate.logistic.objective import InverseHessian, Objective
from retable.evaluate.logistic.solvers import Stopping, minimise


@dataclass(frozen=True)
class LogisticRegression(LinearClassifier):
    """A fitted classifier, with the numbers of L-BFGS's updates and of evaluations.

    ``objective`` is what was minimised, mean cross-entropy + l2 / 2 |weight|^2, at the end; of the
    weight of standardised features, if they were.
    """

    objective: float
    iterations: int
    evaluations: int


def _blocks(features: Tensor) -> tuple[Tensor, ...]:
    """Divide rows into pieces that a CPU keeps in its cache."""
    return torch.split(features, max(64, 2**20 // features.shape[1]))


def _mean_and_scale(features: Tensor, images: int | None) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (F,) float64 over all rows; 1 where nothing varies.

    Summed in float64 without a copy in float64 of all features.
    """
    n = len(features) if images is None else images
    over_processes = total if images is not None else Tensor.clone
    zeros = features.new_zeros(features.shape[1], dtype=torch.float64)
    mean, variance, largest = zeros.clone(), zeros.clone(), zeros.clone()
    for x in _blocks(features):
        mean += x.sum(0, dtype=torch.float64)
    mean = over_processes(mean) / n
    for x in _blocks(features):
        variance += (x - mean).square_().sum(0)
        if len(x):
            largest = torch.maximum(largest, x.abs().amax(0))
    scale = (over_processes(variance) / n).sqrt_()
    if images is not None:
        largest = gather(largest[None]).amax(0)
    # A feature that does not vary carries nothing, and rounding must not be blown up.
    scale[scale <= 1e-6 * largest] = 1.0
    return mean, scale


def fit_logistic(
    features: Tensor,
    labels: Tensor,
    *,
    classes: int,
    l2: float,
    standardise: bool = True,
    iterations: int = 500,
    tolerance: float = 1e-6,
    decrease: float = 0.0,
    start: LinearClassifier | None = None,
    images: int | None = None,
) -> LogisticRegression:
    """Fit multinomial logistic regression: minimise mean cross-entropy + l2 / 2 |weight|^2.

    It equals scikit-learn's `LogisticRegression(C=1 / (n * l2))`, in the type of the features
    (n, F). L-BFGS runs where they are and starts from an estimate of the curvature, so that it
    reaches the optimum of SciPy's L-BFGS-B, which papers use, after a fraction of the evaluations.
    ``iterations``, ``tolerance`` and ``decrease`` are those of `Stopping`.

    With ``standardise`` every feature is shifted and scaled to mean 0 and variance 1 over the n
    images first, and the penalty is on these; the classifier returned undoes it and takes features
    as they are, and so does ``start``, where the fit begins (None: at zero).

    Where every process passes other rows, ``images`` is how many they are together: all processes
    then compute their part of every step and return the same bits. None: these rows are all.
    """
    dim = features.shape[1]
    mean, scale = torch.zeros(dim).to(features), torch.ones(dim).to(features)
    if standardise:
        mean, scale = (fact.to(features) for fact in _mean_and_scale(features, images))
        standardised = torch.empty_like(features)
        for x, out in zip(_blocks(features), _blocks(standardised), strict=True):
            torch.sub(x, mean, out=out).div_(scale)
        features = standardised
    objective = Objective(features, labels, classes=classes, l2=l2, images=images)
    begin = objective.origin
    if start is not None:
        weight, bias = start.weight.to(features), start.bias.to(features)
        begin = objective.point(LinearClassifier(weight * scale, bias + weight @ mean))
    stopping = Stopping(iterations, tolerance, decrease)
    found = minimise(objective, begin, stopping, precondition=InverseHessian(objective))
    fitted = objective.classifier(found.point)
    weight = fitted.weight / scale.double()
    bias = fitted.bias - weight @ mean.double()
    return LogisticRegression(
        weight.to(features), bias.to(features), found.value, found.updates, found.evaluations
    )
