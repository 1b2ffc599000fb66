import math

import pytest
import torch

from retable.data.imagenet_variants.corruptions import ALEXNET_ERRORS, KINDS, SEVERITIES
from retable.errors import UserError
from retable.evaluate.decisions import (
    accuracy_by_category,
    category_accuracy,
    category_probabilities,
    corruption_summary,
    cue_decisions,
    mean_corruption_error,
)

LOGITS = torch.tensor([[3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 2.0, 3.0], [1.0, 3.0, 2.0, 0.0]])
CLASSES = torch.tensor([[True, False, False, False], [False, True, True, False]])


def test_a_category_is_right_if_any_of_its_classes_scores_highest() -> None:
    # Class 3 is no category's: the second image is wrong among all classes, right among the set's.
    labels = torch.tensor([0, 1, 1])
    assert category_accuracy(LOGITS, labels, CLASSES) == pytest.approx(200 / 3)
    assert category_accuracy(LOGITS, labels, CLASSES, masked=True) == 100
    assert category_accuracy(LOGITS, 1 - labels, CLASSES, masked=True) == 0


def test_accuracies_by_category_average_to_the_accuracy_where_they_are_equally_many() -> None:
    labels = torch.tensor([0, 1, 1])
    found = accuracy_by_category(LOGITS, labels, CLASSES)
    assert found.tolist() == [100, 50]
    empty = accuracy_by_category(LOGITS[:1], labels[:1], CLASSES)
    assert empty[0] == 100
    assert math.isnan(empty[1])


def test_a_category_s_probability_is_the_mean_over_its_classes() -> None:
    probabilities = LOGITS.double().softmax(dim=1)
    found = category_probabilities(LOGITS, CLASSES)
    expected = torch.stack([probabilities[:, 0], probabilities[:, 1:3].mean(dim=1)], dim=1)
    torch.testing.assert_close(found, expected)


def test_shape_bias_is_the_share_of_shape_among_both_decisions() -> None:
    textures = torch.eye(4).bool()[[1, 1, 2, 3, 0]]
    decisions = torch.tensor([0, 1, 0, 0, 2])  # shape, texture, shape, shape, neither
    found = cue_decisions(decisions, torch.tensor([0, 0, 0, 0, 1]), textures)
    assert found == pytest.approx((60.0, 20.0, 75.0))


def test_without_a_decision_for_either_cue_there_is_no_bias() -> None:
    found = cue_decisions(torch.tensor([2]), torch.tensor([0]), torch.eye(4).bool()[[1]])
    assert (found.shape, found.texture) == (0, 0)
    assert math.isnan(found.shape_bias)


def accuracies(error_of: dict[str, float]) -> dict[str, float]:
    return {f"{k}:{s}": 100 * (1 - error_of[k]) for k in KINDS for s in SEVERITIES}


def test_the_corruption_error_of_alexnet_is_100_and_of_a_perfect_model_0() -> None:
    assert mean_corruption_error(accuracies(ALEXNET_ERRORS)) == pytest.approx(100)
    assert mean_corruption_error(accuracies(dict.fromkeys(KINDS, 0.0))) == 0


def test_the_errors_of_alexnet_average_to_the_published_mean() -> None:
    assert len(ALEXNET_ERRORS) == 15
    assert sum(ALEXNET_ERRORS.values()) / 15 == pytest.approx(0.78899, abs=5e-6)
    # Its errors in gaussian noise by severity (hendrycks/robustness, issue 10).
    by_severity = (0.69528, 0.82542, 0.93554, 0.98138, 0.99452)
    assert sum(by_severity) / 5 == pytest.approx(ALEXNET_ERRORS["gaussian_noise"], abs=5e-6)


def test_kinds_are_told_apart_by_name_not_by_order() -> None:
    errors = dict(ALEXNET_ERRORS) | {"brightness": 2 * ALEXNET_ERRORS["brightness"]}
    shuffled = dict(reversed(accuracies(errors).items()))
    assert mean_corruption_error(shuffled) == pytest.approx(100 * 16 / 15)


def test_the_mean_of_severities_is_the_mean_of_all_75_cells() -> None:
    generator = torch.Generator().manual_seed(0)
    values = 100 * torch.rand(75, generator=generator, dtype=torch.float64)
    names = [f"{kind}:{severity}" for kind in KINDS for severity in SEVERITIES]
    found = corruption_summary(dict(zip(names, values.tolist(), strict=True)))
    assert found[""] == pytest.approx(float(values.mean()))
    by_severity = [found[f"severity_{severity}"] for severity in SEVERITIES]
    assert sum(by_severity) / 5 == pytest.approx(found[""])
    assert by_severity == pytest.approx(values.view(15, 5).mean(dim=0).tolist())
    assert [found[kind] for kind in KINDS] == pytest.approx(values.view(15, 5).mean(dim=1).tolist())


def test_a_missing_kind_is_named() -> None:
    found = accuracies(ALEXNET_ERRORS)
    del found["frost:4"]
    with pytest.raises(UserError, match=r"but frost:4 is missing"):
        mean_corruption_error(found)
