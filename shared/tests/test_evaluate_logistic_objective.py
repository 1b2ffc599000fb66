import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from retable import random
from retable.evaluate.classifier import LinearClassifier
from retable.evaluate.logistic.objective import InverseHessian, Objective, penalty_rule


def problem(n: int = 60, dim: int = 7, classes: int = 4) -> tuple[Tensor, Tensor]:
    features = random.normal(1, torch.arange(n * dim)).view(n, dim)
    return features + 0.5, random.integers(2, torch.arange(n), classes)


def somewhere(objective: Objective, rng_key: int = 5) -> Tensor:
    return random.normal(rng_key, torch.arange(len(objective.origin))).double()


@pytest.mark.parametrize(
    ("dim", "classes", "penalty"),
    [(2048, 1000, 4.8828125e-5), (8192, 1000, 1.220703125e-5), (2048, 205, 2.381859756e-4)],
)
def test_the_rule_gives_the_papers_penalties(dim: int, classes: int, penalty: float) -> None:
    # Reference: lambda = 100 / (M C), whose gradient is 2 lambda W: the weight decay of SGD.
    assert penalty_rule(dim, classes) / 2 == pytest.approx(penalty, rel=1e-9)


@given(st.integers(1, 300), st.integers(2, 40), st.sampled_from([torch.float32, torch.float64]))
def test_at_zero_it_is_the_logarithm_of_the_number_of_classes(
    n: int, classes: int, dtype: torch.dtype
) -> None:
    features, labels = problem(n, 3, classes)
    objective = Objective(features.to(dtype), labels, classes=classes, l2=0.7, rows=64)
    value, _ = objective(objective.origin)
    assert float(value) == pytest.approx(math.log(classes), rel=torch.finfo(dtype).eps)


@pytest.mark.parametrize("rows", [1000, 17, 1])
def test_value_and_gradient_equal_autograd(rows: int) -> None:
    # Reference: torch's cross_entropy and autograd on the whole batch, float64.
    features, labels = problem()
    features = features.double()
    objective = Objective(features, labels, classes=4, l2=0.3, rows=rows)
    weight = random.normal(5, torch.arange(28)).view(4, 7).double().requires_grad_()
    bias = random.normal(6, torch.arange(4)).double().requires_grad_()
    loss = F.cross_entropy(features @ weight.T + bias, labels) + 0.15 * weight.square().sum()
    expected = torch.autograd.grad(loss, [weight, bias])
    value, gradient = objective(objective.point(LinearClassifier(weight, bias)).detach())
    torch.testing.assert_close(value, loss.detach(), rtol=1e-12, atol=0)
    found = objective.classifier(gradient)
    torch.testing.assert_close([found.weight, found.bias], list(expected), rtol=1e-10, atol=1e-12)


def test_the_gradient_equals_finite_differences() -> None:
    features, labels = problem()
    objective = Objective(features.double(), labels, classes=4, l2=0.3)
    point = somewhere(objective)
    steps = 1e-5 * torch.eye(len(point), dtype=torch.float64)
    differences = [
        (objective(point + step)[0] - objective(point - step)[0]) / 2e-5 for step in steps
    ]
    torch.testing.assert_close(torch.stack(differences), objective(point)[1], rtol=1e-7, atol=1e-9)


def test_a_step_along_the_gradient_is_one_of_sgd_with_weight_decay_on_the_weight_alone() -> None:
    # Reference: torch.optim.SGD on the mean cross-entropy, weight_decay = 2 lambda.
    features, labels = problem()
    features = features.double()
    l2 = penalty_rule(7, 4)
    objective = Objective(features, labels, classes=4, l2=l2)
    point = somewhere(objective)
    start = objective.classifier(point)
    weight, bias = start.weight.clone().requires_grad_(), start.bias.clone().requires_grad_()
    groups: list[dict[str, Any]] = [{"params": [weight], "weight_decay": l2}, {"params": [bias]}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    F.cross_entropy(features @ weight.T + bias, labels).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    ours = objective.classifier(point - 0.1 * objective(point)[1])
    torch.testing.assert_close([ours.weight, ours.bias], [weight.detach(), bias.detach()])


def test_products_in_float32_are_summed_in_float64() -> None:
    # 2 ** 24 + 1 is no float32: rows of equal gradient would stop adding up.
    n = 4096
    features = torch.full((n, 1), 4096.0)
    features[0] = 1.0
    labels = torch.zeros(n, dtype=torch.int64)
    objective = Objective(features, labels, classes=2, l2=0.0, rows=1)
    _, gradient = objective(objective.origin)
    assert float(gradient[0]) * n == -0.5 * (4096 * (n - 1) + 1)


def test_results_are_not_overwritten_by_the_next_call() -> None:
    features, labels = problem()
    objective = Objective(features, labels, classes=4, l2=0.3)
    point = somewhere(objective)
    value, gradient = objective(point)
    kept = value.clone(), gradient.clone(), point.clone()
    objective(2 * point)
    assert torch.equal(value, kept[0])
    assert torch.equal(gradient, kept[1])
    assert torch.equal(point, kept[2])


def test_a_point_and_its_classifier_are_the_same_numbers() -> None:
    features, labels = problem()
    objective = Objective(features, labels, classes=4, l2=0.3)
    point = somewhere(objective)
    assert torch.equal(objective.point(objective.classifier(point)), point)
    assert objective.classifier(point).weight[1, 2] == point[7 + 2]
    assert objective.classifier(point).bias[3] == point[-1]


def hessian_at_zero(objective: Objective, features: Tensor, labels: Tensor) -> Tensor:
    """Return the Hessian (P, P) by autograd, float64."""

    def value(point: Tensor) -> Tensor:
        at = objective.classifier(point)
        logits = features.double() @ at.weight.T + at.bias
        return F.cross_entropy(logits, labels) + objective.l2 / 2 * at.weight.square().sum()

    hessian: Tensor = torch.autograd.functional.hessian(value, objective.origin)  # type: ignore[no-untyped-call]
    return hessian


def test_the_first_estimate_inverts_the_hessian_at_zero() -> None:
    # Reference: the Hessian by autograd; 2 F rows and more, so that all are used.
    features, labels = problem(n=13)
    objective = Objective(features, labels, classes=4, l2=0.3)
    _, gradient = objective(objective.origin)
    product = InverseHessian(objective)(gradient)
    again = hessian_at_zero(objective, features, labels) @ product
    torch.testing.assert_close(again, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(13, 7, 4), (300, 7, 4), (13, 40, 4), (900, 400, 2)])
def test_the_first_estimate_is_symmetric_and_positive(shape: tuple[int, int, int]) -> None:
    features, labels = problem(*shape)
    objective = Objective(features, labels, classes=shape[2], l2=1e-3)
    estimate = InverseHessian(objective)
    a, b = somewhere(objective, 1), somewhere(objective, 2)
    assert float(a @ estimate(a)) > 0
    assert float(a @ estimate(b)) == pytest.approx(float(b @ estimate(a)), rel=1e-3)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda features: features * torch.logspace(-6, 6, features.shape[1]),
        lambda features: features[:, :1].expand(-1, features.shape[1]).contiguous(),
        lambda features: torch.zeros_like(features),
        lambda features: features + 1e4,
    ],
)
def test_the_first_estimate_is_finite_whatever_the_features(
    spoil: Callable[[Tensor], Tensor],
) -> None:
    features, labels = problem(n=100)
    objective = Objective(spoil(features), labels, classes=4, l2=1e-12)
    gradient = somewhere(objective)
    product = InverseHessian(objective)(gradient)
    assert bool(product.isfinite().all())
    assert float(gradient @ product) > 0


def test_features_of_low_rank_leave_an_estimate_that_rounding_does_not_spoil() -> None:
    # 60 features that are sums of two: all else in their covariance is rounding.
    two, labels = problem(n=200, dim=2)
    mixing = 100 * random.normal(4, torch.arange(120)).view(2, 60)
    objective = Objective(two @ mixing, labels, classes=4, l2=1e-12)
    estimate = InverseHessian(objective)
    gradient = somewhere(objective)
    assert float(gradient @ estimate(gradient)) > 0
