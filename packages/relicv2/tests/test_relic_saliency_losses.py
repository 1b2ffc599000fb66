import pytest
import torch
from torch import Tensor

from relicv2.saliency.losses import (
    averaged,
    f_measure_loss,
    foreground,
    saliency_loss,
    settled,
    threshold_of,
)
from retable.errors import UserError


def labels(share: float = 0.25) -> Tensor:
    found = torch.zeros(2, 8, 8)
    found[:, : int(8 * share)] = 1
    return found


@pytest.mark.parametrize("beta_squared", [1.0, 4.0])
def test_perfect_predictions_lose_nothing_and_disjoint_ones_all(beta_squared: float) -> None:
    truth = labels()
    assert float(f_measure_loss(truth, truth, beta_squared)) < 1e-4
    assert float(f_measure_loss(1 - truth, truth, beta_squared)) == pytest.approx(1.0)


@pytest.mark.parametrize(("beta_squared", "expected"), [(1.0, 0.6), (4.0, 0.375)])
def test_everything_as_foreground_costs_by_the_weight_of_recall(
    beta_squared: float, expected: float
) -> None:
    # F = (1 + b) / (b + 4) with precision 1/4 and recall 1, weighted as in the official code.
    found = f_measure_loss(torch.ones(2, 8, 8), labels(), beta_squared)
    assert float(found) == pytest.approx(expected, abs=1e-4)


def test_the_loss_is_that_of_counts() -> None:
    prediction = torch.rand(3, 5, 5, generator=torch.Generator().manual_seed(0))
    truth = (torch.rand(3, 5, 5, generator=torch.Generator().manual_seed(1)) < 0.4).float()
    losses = []
    for one, wanted in zip(prediction, truth, strict=True):
        true, false = float((one * wanted).sum()), float((one * (1 - wanted)).sum())
        missed = float(((1 - one) * wanted).sum())
        precision, recall = true / (true + false), true / (true + missed)
        losses.append(1 - 2 * precision * recall / (precision + recall))
    expected = sum(losses) / len(losses)
    assert float(f_measure_loss(prediction, truth)) == pytest.approx(expected, abs=1e-4)


def test_settled_pixels_have_no_gradient() -> None:
    maps = torch.tensor([[[0.9, 0.6, 0.2, 0.4, 0.5]]])
    prediction = torch.tensor([[[0.95, 0.3, 0.1, 0.45, 0.5]]], requires_grad=True)
    found = settled(prediction, maps)
    expected = torch.tensor([[[1.0, 0.3, 0.0, 0.45, 0.5]]])
    assert torch.equal(found.detach(), expected)
    saliency_loss(prediction, maps).backward()  # type: ignore[no-untyped-call]
    assert prediction.grad is not None
    assert (prediction.grad[0, 0] != 0).tolist() == [False, True, False, True, True]


def test_the_average_of_equal_maps_grows_to_them() -> None:
    maps, average = labels(), torch.zeros(2, 8, 8)
    for count in range(1, 6):
        average = averaged(average, maps)
        torch.testing.assert_close(average, (1 - 0.7**count) * maps)


def test_thresholds_are_those_of_the_method_in_the_first_iteration_only() -> None:
    assert threshold_of("dsr", 0) == 0.23
    assert threshold_of("dsr", 1) == 0.5
    with pytest.raises(UserError, match="`method` must be one of"):
        threshold_of("gs", 0)


def test_the_first_channel_is_the_foreground() -> None:
    logits = torch.zeros(1, 2, 2, 2)
    logits[:, 0, 0] = 20.0
    assert foreground(logits)[0].tolist() == [[1.0, 1.0], [0.5, 0.5]]
