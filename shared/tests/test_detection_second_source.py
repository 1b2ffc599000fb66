"""Detectron2's anchors, proposals, losses and mask targets, as another package has them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from mayaku.models.backbones._base import ShapeSpec
from mayaku.models.heads import fast_rcnn, mask_head
from mayaku.models.proposals import rpn
from mayaku.models.proposals.anchor_generator import DefaultAnchorGenerator
from mayaku.models.proposals.box_regression import Box2BoxTransform
from mayaku.models.proposals.matcher import Matcher
from mayaku.structures.boxes import Boxes
from mayaku.structures.instances import Instances
from mayaku.structures.masks import BitMasks, paste_masks_in_image
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.image_list import ImageList

from retable.evaluate.transfer.detection.masks import paste_masks
from retable.evaluate.transfer.detection.networks.anchors import Anchors
from retable.evaluate.transfer.detection.networks.losses import (
    mask_loss,
    mask_targets,
    region_losses,
)
from retable.evaluate.transfer.detection.networks.proposals import Proposals
from retable.evaluate.transfer.detection.networks.sampling import first_by
from retable.random import derive_key, normal, uniform

SIZES = {"c4": [[16.0, 32.0, 64.0]], "fpn": [[16.0], [32.0], [64.0]]}
STRIDES = {"c4": [8], "fpn": [4, 8, 16]}
RATIOS = (0.5, 1.0, 2.0)
SHAPES = [(64, 96), (60, 80)]
BOXES = [
    torch.tensor([[5.0, 6.0, 40.0, 50.0], [30.0, 10.0, 90.0, 60.0], [0.0, 0.0, 15.0, 20.0]]),
    torch.tensor([[10.0, 12.0, 70.0, 44.0]]),
]
KEY = 11


def draw(name: str, *shape: int) -> Tensor:
    count = int(torch.tensor(shape).prod())
    return normal(derive_key(0, name), torch.arange(count)).view(shape)


def features_of(kind: str) -> dict[str, Tensor]:
    return {
        str(level): draw(f"map {stride}", 2, 8, 64 // stride, 96 // stride)
        for level, stride in enumerate(STRIDES[kind])
    }


def instances(size: tuple[int, int], **fields: Any) -> Instances:
    found = Instances(image_size=size)
    for name, value in fields.items():
        setattr(found, name, value)
    return found


def their_network(kind: str) -> rpn.RPN:
    names = list(features_of(kind))
    head = rpn.StandardRPNHead(8, len(SIZES[kind][0]) * len(RATIOS))
    return rpn.RPN(
        names,
        {
            name: ShapeSpec(channels=8, stride=stride)
            for name, stride in zip(names, STRIDES[kind], strict=True)
        },
        DefaultAnchorGenerator(SIZES[kind], [RATIOS], STRIDES[kind]),  # type: ignore[arg-type]
        head,
        Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0)),
        Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True),
        batch_size_per_image=64,
        pre_nms_topk_train=100,
        post_nms_topk_train=40,
    ).train()


def our_network(kind: str, theirs: rpn.RPN) -> Proposals:
    anchors = Anchors(SIZES[kind], RATIOS, STRIDES[kind])
    ours = Proposals(8, anchors, before=(100, 100), after=(40, 40)).train()
    ours.fg_bg_sampler.batch_size_per_image = 64
    pairs = zip(ours.head.parameters(), theirs.head.parameters(), strict=True)
    with torch.no_grad():
        for number, (own, other) in enumerate(pairs):
            assert own.shape == other.shape
            weights = 0.3 * draw(f"weights {number}", *own.shape)
            own.copy_(weights)
            other.copy_(weights)
    return ours


def chosen_by_keys(positive_fraction: float) -> Callable[..., tuple[Tensor, Tensor]]:
    """Return the other package's choice of samples, with the draws of our own."""
    images = iter(range(len(SHAPES)))

    def choose(labels: Tensor, num_samples: int, **_: Any) -> tuple[Tensor, Tensor]:
        draws = uniform(derive_key(KEY, next(images)), torch.arange(len(labels)))
        positive = first_by(draws, labels >= 1, int(num_samples * positive_fraction))
        negative = first_by(draws, labels == 0, num_samples - int(positive.sum()))
        return positive.nonzero()[:, 0], negative.nonzero()[:, 0]

    return choose


@pytest.mark.parametrize("kind", ["c4", "fpn"])
def test_anchors_are_equal(kind: str) -> None:
    maps = list(features_of(kind).values())
    theirs = DefaultAnchorGenerator(SIZES[kind], [RATIOS], STRIDES[kind])(maps)  # type: ignore[arg-type]
    images = ImageList(torch.zeros(2, 3, 64, 96), SHAPES)
    ours = Anchors(SIZES[kind], RATIOS, STRIDES[kind])(images, maps)
    torch.testing.assert_close(ours[1], torch.cat([boxes.tensor for boxes in theirs]))


@pytest.mark.parametrize("kind", ["c4", "fpn"])
def test_losses_and_boxes_of_proposals_are_equal(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, maps = their_network(kind), features_of(kind)
    ours = our_network(kind, theirs)
    ours.fg_bg_sampler.start(KEY, range(len(SHAPES)))
    monkeypatch.setattr(rpn, "subsample_labels", chosen_by_keys(0.5))
    truth = [
        instances(size, gt_boxes=Boxes(boxes)) for size, boxes in zip(SHAPES, BOXES, strict=True)
    ]
    expected, other = theirs(SHAPES, maps, truth)
    targets = [{"boxes": boxes, "labels": torch.ones(len(boxes)).long()} for boxes in BOXES]
    found, own = ours(ImageList(torch.zeros(2, 3, 64, 96), SHAPES), maps, targets)
    for name, renamed in (("loss_objectness", "cls"), ("loss_rpn_box_reg", "loc")):
        theirs_value = float(other[f"loss_rpn_{renamed}"].detach())
        assert float(own[name].detach()) == pytest.approx(theirs_value, rel=1e-5)
        assert theirs_value > 0.01
    for boxes, proposed in zip(found, expected, strict=True):
        assert len(boxes) == 40
        torch.testing.assert_close(boxes, proposed.proposal_boxes.tensor, rtol=1e-5, atol=1e-4)


def test_losses_of_regions_are_equal() -> None:
    classes, regions = 5, 9
    proposed = BOXES[0][[0, 1, 2] * 3] + draw("moved", regions, 4)
    truth = BOXES[0][[0, 1, 2] * 3]
    labels = torch.tensor([1, 5, 0, 3, 0, 0, 2, 4, 0])  # 0: background
    scores, codes = draw("scores", regions, classes + 1), draw("codes", regions, classes + 1, 4)
    coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
    own = region_losses(
        scores, codes.flatten(1), labels, coder.encode_single(truth, proposed), regions
    )
    layers = fast_rcnn.FastRCNNOutputLayers(
        4, classes, Box2BoxTransform(weights=(10.0, 10.0, 5.0, 5.0))
    )
    one = instances(
        (64, 96),
        proposal_boxes=Boxes(proposed),
        gt_boxes=Boxes(truth),
        gt_classes=torch.where(labels == 0, classes, labels - 1),  # background last
    )
    predicted = scores[:, [1, 2, 3, 4, 5, 0]], codes[:, 1:].flatten(1)
    expected = layers.losses(predicted, [one])
    assert float(own[0]) == pytest.approx(float(expected["loss_cls"]), rel=1e-5)
    assert float(own[1]) == pytest.approx(float(expected["loss_box_reg"]), rel=1e-5)


def test_targets_and_losses_of_masks_are_equal() -> None:
    masks = draw("masks", 3, 64, 96) > 0.2
    boxes = BOXES[0][[0, 1, 2, 0]] + draw("moved", 4, 4).abs()
    matched, labels = torch.tensor([0, 1, 2, 0]), torch.tensor([2, 1, 3, 3])
    wanted = mask_targets(masks, boxes, matched, 14)
    theirs = BitMasks(masks)[matched]
    assert torch.equal(wanted, theirs.crop_and_resize(boxes, 14).bool())
    logits = draw("logits", 4, 4, 14, 14)
    one = instances((64, 96), proposal_boxes=Boxes(boxes), gt_classes=labels - 1, gt_masks=theirs)
    expected = mask_head.mask_rcnn_loss(logits[:, 1:], [one])
    assert float(mask_loss(logits, labels, wanted, 4)) == pytest.approx(float(expected), rel=1e-5)


def test_masks_are_pasted_into_an_image_as_there() -> None:
    masks = uniform(derive_key(0, "masks"), torch.arange(9 * 28 * 28)).view(9, 28, 28)
    corners = 40 * uniform(derive_key(0, "corners"), torch.arange(18)).view(9, 2) - 5
    sides = 30 * uniform(derive_key(0, "sides"), torch.arange(18)).view(9, 2) + 1
    boxes = torch.cat([corners, corners + sides], 1)  # some reach out of the image
    expected = paste_masks_in_image(masks, boxes, (41, 53), threshold=0.5)
    assert torch.equal(paste_masks(masks, boxes, (41, 53)), expected.bool())


def test_a_full_mask_covers_the_pixels_whose_centres_are_in_its_box() -> None:
    boxes = torch.tensor([[1.0, 2.0, 4.0, 6.0], [0.4, 0.4, 2.6, 1.4], [-3.0, -3.0, 2.0, 90.0]])
    found = paste_masks(torch.ones(3, 7, 7), boxes, (8, 9))
    y, x = torch.arange(8)[:, None] + 0.5, torch.arange(9) + 0.5
    for mask, (left, top, right, bottom) in zip(found, boxes.tolist(), strict=True):
        assert torch.equal(mask, (left <= x) & (x <= right) & (top <= y) & (y <= bottom))


def test_many_masks_are_pasted_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = uniform(derive_key(1, "masks"), torch.arange(5 * 49)).view(5, 7, 7)
    boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0]]).expand(5, -1)
    whole = paste_masks(masks, boxes, (8, 8))
    monkeypatch.setattr("retable.evaluate.transfer.detection.masks.SAMPLES", 130)
    assert torch.equal(paste_masks(masks, boxes, (8, 8)), whole)
    assert paste_masks(masks[:0], boxes[:0], (8, 8)).shape == (0, 8, 8)
