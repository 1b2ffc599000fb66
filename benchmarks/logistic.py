"""Time logistic regression by L-BFGS: ours, scipy's called directly, and scikit-learn's.

All minimise the same function to the same tolerance of the gradient, from zero, with the penalty
of Kolesnikov et al. (2019), on features with the mean and the spectrum of a network's. scipy is
called as anyone would with NumPy, in float32 and in float64. Since times depend on where each ends,
the excess of each over the least objective found is printed too. scikit-learn ignores updates that
gain little (its ``ftol`` is 64 eps), so it goes on for longer than the others where they end by it.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from _timing import Goal, Options, Report, interleave, parse, ratios
from torch import Tensor

from retable import random
from retable.evaluate.classifier import LinearClassifier
from retable.evaluate.logistic.objective import Objective, penalty_rule
from retable.evaluate.logistic.regression import fit_logistic
from retable.evaluate.logistic.solvers import SCIPY_DECREASE

UPDATES = 800
TOLERANCE = 1e-5

Fit = Callable[[], tuple[LinearClassifier, int]]
"""Fits, and returns the classifier and the number of evaluations, 0 where it is not told."""


def features_and_labels(n: int, dim: int, classes: int) -> tuple[Tensor, Tensor]:
    """Return ReLU features (n, dim) float32 whose variances decay, of noisy classes (n,)."""
    labels = random.integers(0, torch.arange(n), classes)
    means = random.normal(1, torch.arange(classes * dim)).view(classes, dim)
    noise = random.normal(2, torch.arange(n * dim)).view(n, dim)
    latent = noise.add_(means[labels]).mul_(8 / torch.arange(1, dim + 1))
    mixing = random.normal(3, torch.arange(dim * dim)).view(dim, dim) / dim**0.5
    return (latent @ mixing).add_(0.2).relu_(), labels


def ours(features: Tensor, labels: Tensor, classes: int, l2: float) -> Fit:
    def fit() -> tuple[LinearClassifier, int]:
        found = fit_logistic(
            features,
            labels,
            classes=classes,
            l2=l2,
            standardise=False,
            iterations=UPDATES,
            tolerance=TOLERANCE,
            decrease=SCIPY_DECREASE,
        )
        return found, found.evaluations

    return fit


def by_hand(features: Tensor, labels: Tensor, classes: int, l2: float, dtype: Any) -> Fit:
    """Return scipy's minimize on an objective in plain NumPy."""
    x, y = features.numpy().astype(dtype), labels.numpy()
    n, dim = x.shape
    every = np.arange(n)

    def value_and_gradient(point: Any) -> tuple[float, Any]:
        weight, bias = point[: classes * dim].reshape(classes, dim), point[classes * dim :]
        logits = x @ weight.T.astype(dtype) + bias.astype(dtype)
        logits -= logits.max(axis=1, keepdims=True)
        error = np.exp(logits)
        sums = error.sum(axis=1)
        value = (np.log(sums) - logits[every, y]).mean(dtype=np.float64)
        error /= sums[:, None]
        error[every, y] -= 1
        slope = (error.T @ x) / n + l2 * weight
        gradient = np.concatenate([slope.ravel(), error.mean(axis=0)]).astype(np.float64)
        return float(value + l2 / 2 * (weight**2).sum()), gradient

    def fit() -> tuple[LinearClassifier, int]:
        optimize: Any = importlib.import_module("scipy.optimize")
        found = optimize.minimize(
            value_and_gradient,
            np.zeros(classes * dim + classes),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": UPDATES},
        )
        weight, bias = found.x[: classes * dim].reshape(classes, dim), found.x[classes * dim :]
        return LinearClassifier(torch.from_numpy(weight), torch.from_numpy(bias)), int(found.nfev)

    return fit


def by_scikit_learn(features: Tensor, labels: Tensor, l2: float) -> Fit:
    def fit() -> tuple[LinearClassifier, int]:
        models: Any = importlib.import_module("sklearn.linear_model")
        model = models.LogisticRegression(C=1 / (len(labels) * l2), tol=TOLERANCE, max_iter=UPDATES)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the limit on updates
            model.fit(features.numpy(), labels.numpy())
        parts = (torch.from_numpy(part).double() for part in (model.coef_, model.intercept_))
        return LinearClassifier(*parts), 0

    return fit


def sides(
    features: Tensor, labels: Tensor, classes: int, l2: float, options: Options
) -> dict[str, Fit]:
    """Return what is compared; on a GPU there is only ours."""
    device = options.device
    own = features.to(device), labels.to(device)
    compared = {"retable": ours(*own, classes, l2)}
    if device.type == "cpu":
        for name in ("float32", "float64"):
            compared[f"scipy by hand, {name}"] = by_hand(features, labels, classes, l2, name)
        if importlib.util.find_spec("sklearn") is not None:
            compared["scikit-learn"] = by_scikit_learn(features, labels, l2)
    return compared


def same_threads() -> contextlib.AbstractContextManager[Any]:
    """Give NumPy as many threads as torch has, where threadpoolctl (of scikit-learn) can."""
    if importlib.util.find_spec("threadpoolctl") is None:
        return contextlib.nullcontext()
    limits: Any = importlib.import_module("threadpoolctl").threadpool_limits
    held: contextlib.AbstractContextManager[Any] = limits(torch.get_num_threads())
    return held


def main() -> None:
    options = parse(__doc__ or "")
    n, dim, classes = options.pick((20_000, 2048, 100), (4000, 512, 50), (60, 6, 4))
    features, labels = features_and_labels(n, dim, classes)
    l2 = penalty_rule(dim, classes)
    report = Report(f"Logistic regression, {n} x {dim}, {classes} classes", options)
    found: dict[str, tuple[LinearClassifier, int]] = {}

    def kept(side: str, fit: Fit) -> Callable[[], None]:
        def call() -> None:
            found[side] = fit()

        return call

    compared = sides(features, labels, classes, l2, options)
    calls = {side: kept(side, fit) for side, fit in compared.items()}
    # scipy and scikit-learn are imported before anything is timed.
    few = sides(features[:50], labels[:50] % 2, 2, l2, options)
    with same_threads():
        for fit in few.values():
            fit()
        seconds = interleave(calls, options.pick(1, 3, 1), options, warmup=0)
    exact = Objective(features.double(), labels, classes=classes, l2=l2)
    objectives = {
        side: float(exact(exact.point(classifier).cpu())[0])
        for side, (classifier, _) in found.items()
    }
    least = min(objectives.values())
    for side, spent in seconds.items():
        report.add(side, spent, "s")
        if evaluations := found[side][1]:
            report.add(f"{side}, evaluations", [float(evaluations)])
            report.add(f"{side}, an evaluation", [1e3 * s / evaluations for s in spent], "ms")
        report.add(
            f"{side}, objective above the least", [1e6 * (objectives[side] / least - 1)], "ppm"
        )
    for side in seconds:
        if side != "retable":
            gains = ratios(seconds[side], seconds["retable"])
            report.add(f"{side}, over retable", gains, goal=Goal(at_least=1))
    if options.device.type == "cpu" and "scikit-learn" not in seconds:
        report.say("scikit-learn is not installed: not compared")
    report.say(f"least objective {least:.9f}")
    report.show()


if __name__ == "__main__":
    main()
