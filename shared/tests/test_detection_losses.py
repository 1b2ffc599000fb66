"""Losses and targets of detectors against loops and hand-made values."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from retable.evaluate.transfer.detection.networks.losses import (
    mask_loss,
    mask_targets,
    proposal_losses,
    region_losses,
)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_losses_of_proposals_are_sums_over_the_budget() -> None:
    scores, codes, targets = drawn(6), drawn(6, 4, seed=1), drawn(6, 4, seed=2)
    labels = torch.tensor([1, 0, -1, 1, 0, -1])
    objectness = boxes = 0.0
    for row, label in enumerate(labels.tolist()):
        if label >= 0:
            probability = 1 / (1 + math.exp(-float(scores[row])))
            objectness -= math.log(probability if label else 1 - probability)
        if label == 1:
            boxes += float((codes[row] - targets[row]).abs().sum())
    found = proposal_losses(scores, codes, labels, targets, 512)
    assert float(found[0]) == pytest.approx(objectness / 512, rel=1e-12)
    assert float(found[1]) == pytest.approx(boxes / 512, rel=1e-12)


def test_losses_of_regions_compare_the_codes_of_the_true_class() -> None:
    classes, rows = 3, 5
    scores, codes = drawn(rows, classes + 1), drawn(rows, 4 * (classes + 1), seed=1)
    targets, labels = drawn(rows, 4, seed=2), torch.tensor([0, 2, 3, 0, 1])
    of_classes = boxes = 0.0
    for row, label in enumerate(labels.tolist()):
        of_classes -= float(F.log_softmax(scores[row], dim=0)[label])
        if label:
            own = codes[row, 4 * label : 4 * label + 4]
            boxes += float((own - targets[row]).abs().sum())
    found = region_losses(scores, codes, labels, targets, rows)
    assert float(found[0]) == pytest.approx(of_classes / rows, rel=1e-12)
    assert float(found[1]) == pytest.approx(boxes / rows, rel=1e-12)


def test_background_alone_has_a_loss_of_boxes_of_zero_with_a_gradient() -> None:
    codes = drawn(2, 8).requires_grad_()
    _, boxes = region_losses(drawn(2, 2), codes, torch.zeros(2, dtype=torch.int64), drawn(2, 4), 2)
    boxes.backward()  # type: ignore[no-untyped-call]
    assert float(boxes.detach()) == 0
    assert codes.grad is not None


def test_the_loss_of_masks_is_the_mean_over_pixels_of_the_true_class() -> None:
    scores, labels = drawn(2, 3, 4, 4), torch.tensor([2, 1])
    targets = drawn(2, 4, 4, seed=1) > 0
    expected = torch.stack(
        [
            F.binary_cross_entropy_with_logits(scores[row, label], targets[row].double())
            for row, label in enumerate(labels.tolist())
        ]
    ).mean()
    assert float(mask_loss(scores, labels, targets, 2)) == pytest.approx(float(expected), rel=1e-12)
    assert float(mask_loss(scores[:0], labels[:0], targets[:0], 1)) == 0


def test_two_halves_of_a_batch_have_the_mean_loss_of_the_whole() -> None:
    scores, codes, targets = drawn(6, 3), drawn(6, 12, seed=1), drawn(6, 4, seed=2)
    labels = torch.tensor([0, 1, 2, 0, 0, 1])
    whole = region_losses(scores, codes, labels, targets, 6)
    parts = [
        region_losses(scores[rows], codes[rows], labels[rows], targets[rows], 3)
        for rows in (slice(0, 2), slice(2, 6))  # of unequal numbers, 3 on average
    ]
    for number, value in enumerate(whole):
        mean = (parts[0][number] + parts[1][number]) / 2
        assert float(mean) == pytest.approx(float(value), rel=1e-12)


def test_a_mask_target_is_where_half_of_a_cell_is_covered() -> None:
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, 2:6, 3:8] = True
    box = torch.tensor([[0.0, 0.0, 8.0, 8.0]])
    found = mask_targets(mask, box, torch.tensor([0]), 8)
    assert torch.equal(found[0], mask[0])
    half = mask_targets(mask, box, torch.tensor([0]), 4)[0]
    covered = F.avg_pool2d(mask.float()[None], 2)[0, 0] >= 0.5
    assert torch.equal(half, covered)


def test_each_box_is_compared_with_the_mask_of_its_own_object() -> None:
    masks = torch.zeros(2, 6, 6, dtype=torch.bool)
    masks[1] = True
    boxes = torch.tensor([[1.0, 1.0, 5.0, 5.0]] * 2)
    found = mask_targets(masks, boxes, torch.tensor([1, 0]), 3)
    assert found.flatten(1).float().mean(dim=1).tolist() == [1.0, 0.0]
