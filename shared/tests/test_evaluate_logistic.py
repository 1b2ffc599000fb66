import importlib
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from retable import random
from retable.errors import UserError
from retable.evaluate.logistic import LogisticProbe
from retable.evaluate.logistic_objective import Objective
from retable.evaluate.logistic_regression import fit_logistic


def problem(key: int = 0, n: int = 120, dim: int = 7, classes: int = 4) -> tuple[Tensor, Tensor]:
    labels = random.integers(key, torch.arange(n), classes)
    labels[:classes] = torch.arange(classes)
    means = random.normal(key + 1, torch.arange(classes * dim)).view(classes, dim)
    noise = random.normal(key + 2, torch.arange(n * dim)).view(n, dim)
    scales = torch.logspace(-2, 2, dim)
    return ((means[labels] + noise) * scales + 3 * scales).double(), labels


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("l2", [1e-1, 1e-3])
def test_the_optimum_is_that_of_scikit_learn(classes: int, standardise: bool, l2: float) -> None:
    # Reference: scikit-learn's LogisticRegression (newton-cg), after its StandardScaler.
    models: Any = importlib.import_module("sklearn.linear_model")
    preprocessing: Any = importlib.import_module("sklearn.preprocessing")
    features, labels = problem(classes=classes)
    if not standardise:
        features = features / features.std(0) - 1
    x = preprocessing.StandardScaler().fit_transform(features) if standardise else features.numpy()
    # scikit-learn's problem of two classes is another one: both rows of the softmax are penalised.
    strength = 1 / (len(labels) * l2) * (2 if classes == 2 else 1)
    reference = models.LogisticRegression(C=strength, solver="newton-cg", tol=1e-10, max_iter=1000)
    reference.fit(x, labels.numpy())
    ours = fit_logistic(
        features, labels, classes=classes, l2=l2, standardise=standardise, tolerance=1e-10
    )
    expected = torch.from_numpy(reference.predict_proba(x))
    torch.testing.assert_close(ours(features).softmax(1), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rows", [1000, 17])
def test_the_objective_and_its_gradient_equal_autograd(rows: int) -> None:
    # Reference: torch's cross_entropy and autograd on the whole batch, float64.
    features, labels = problem()
    weight = random.normal(5, torch.arange(28)).view(4, 7).double().requires_grad_()
    bias = random.normal(6, torch.arange(4)).double().requires_grad_()
    loss = F.cross_entropy(features @ weight.T + bias, labels) + 0.15 * weight.square().sum()
    expected = torch.autograd.grad(loss, [weight, bias])
    objective = Objective(features, labels, classes=4, l2=0.3, rows=rows)
    value, gradient = objective(torch.cat([weight.flatten(), bias]).detach())
    torch.testing.assert_close(value, loss.detach(), rtol=1e-12, atol=0)
    found = objective.classifier(gradient)
    torch.testing.assert_close([found.weight, found.bias], list(expected), rtol=1e-10, atol=1e-12)


def test_float32_features_lead_to_the_same_optimum() -> None:
    features, labels = problem()
    exact = fit_logistic(features, labels, classes=4, l2=1e-2, tolerance=1e-10)
    single = fit_logistic(features.float(), labels, classes=4, l2=1e-2)
    torch.testing.assert_close(
        single(features.float()).softmax(1), exact(features).softmax(1).float(), atol=1e-3, rtol=0
    )


def test_a_feature_that_does_not_vary_changes_nothing() -> None:
    features, labels = problem()
    constant = torch.cat([features, torch.full((len(features), 1), 0.1)], 1)
    without = fit_logistic(features, labels, classes=4, l2=1e-2, tolerance=1e-10)
    beside = fit_logistic(constant, labels, classes=4, l2=1e-2, tolerance=1e-10)
    torch.testing.assert_close(beside.weight[:, :-1], without.weight, rtol=1e-6, atol=1e-8)
    assert float(beside.weight[:, -1].abs().max()) < 1e-12


def test_a_warm_start_does_not_move_the_optimum() -> None:
    features, labels = problem()
    far = fit_logistic(features, labels, classes=4, l2=10.0)
    cold = fit_logistic(features, labels, classes=4, l2=1e-2, tolerance=1e-10)
    warm = fit_logistic(features, labels, classes=4, l2=1e-2, tolerance=1e-10, start=far)
    torch.testing.assert_close(warm(features), cold(features), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("settings", [{"l2": ()}, {"l2": (0.0,)}, {"held_out": 1.0}])
def test_settings_that_mean_nothing_end_with_a_sentence(settings: dict[str, object]) -> None:
    with pytest.raises(UserError, match=next(iter(settings))):
        LogisticProbe(**settings)  # type: ignore[arg-type]


def test_no_warning_comes_from_the_line_search() -> None:
    features, labels = problem()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_logistic(features, labels, classes=4, l2=1e-8, iterations=3)
