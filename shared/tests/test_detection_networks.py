"""Detectors: shapes, shared weights, keys of draws, and learning on scenes."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor

from retable.encoders import ResNetRecipe
from retable.errors import UserError
from retable.evaluate.transfer.detection.inputs import resized_shape
from retable.evaluate.transfer.detection.method import DetectionRecipe
from retable.evaluate.transfer.detection.networks.detectors import Detector, build_detector
from retable.evaluate.transfer.detection.recipe import DetectorRecipe
from retable.weights import load_encoder
from retable.weights.key_layouts import to_detectron2

SMALL = {
    "c4": DetectorRecipe("c4", masks=True, sizes=(8.0, 16.0), side=8, hidden=16, chosen=32),
    "fpn": DetectorRecipe(
        "fpn", masks=True, sizes=(4.0, 8.0, 16.0, 32.0), hidden=16, usual_size=16.0, chosen=32
    ),
}
EACH = pytest.mark.parametrize("recipe", SMALL.values(), ids=SMALL)
SHAPES = [(64, 64), (60, 50)]


def build(recipe: DetectorRecipe) -> Detector:
    return build_detector(recipe, ResNetRecipe("small_resnet8").build(0), 5, 1)


def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def targets() -> list[dict[str, Tensor]]:
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[0, 4:40, 4:30] = True
    empty = {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "masks": torch.zeros(0, 64, 64, dtype=torch.bool),
    }
    one = {"boxes": torch.tensor([[4.0, 4, 30, 40]]), "labels": torch.tensor([2]), "masks": mask}
    return [one, empty]


@EACH
def test_every_weight_learns_also_beside_an_image_without_objects(recipe: DetectorRecipe) -> None:
    detector = build(recipe).train()
    detector.start_step(3, [0, 1])
    found, losses = detector(images(), SHAPES, targets())
    assert found == []
    assert len(losses) == 5
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    assert [name for name, weight in detector.named_parameters() if weight.grad is None] == []


@EACH
def test_detections_lie_in_their_images_and_have_masks(recipe: DetectorRecipe) -> None:
    detector = build(recipe).eval()
    with torch.no_grad():
        found, losses = detector(images(), SHAPES)
    assert losses == {}
    for one, (height, width) in zip(found, SHAPES, strict=True):
        assert len(one["boxes"]) == len(one["labels"]) == len(one["scores"]) == len(one["masks"])
        assert float(one["boxes"].min()) >= 0
        assert bool((one["boxes"][:, 2:] <= torch.tensor([width, height])).all())
        assert bool((one["labels"] >= 1).all())


@EACH
def test_a_step_depends_on_its_key(recipe: DetectorRecipe) -> None:
    detector = build(recipe).train()

    def loss(key: int) -> float:
        detector.start_step(key, [0, 1])
        return float(detector(images(), SHAPES, targets())[1]["loss_objectness"].detach())

    assert loss(3) == loss(3)
    assert loss(3) != loss(4)


@EACH
def test_the_encoder_s_weights_stand_in_the_state_once(recipe: DetectorRecipe) -> None:
    method = DetectionRecipe(recipe, 5, 64).build(ResNetRecipe("small_resnet8").build(0), 1)
    names = [name for name in method.state_dict() if name.endswith("blocks.2.conv1.weight")]
    assert names == ["detector.encoder.blocks.2.conv1.weight"]


def test_the_last_stage_of_c4_is_the_encoder_s() -> None:
    detector = build(SMALL["c4"])
    maps = torch.randn(3, 32, 8, 8)
    detector.eval()
    expected = detector.encoder.advance("layer3", maps)
    found = detector.regions.box_head(maps)
    norm = detector.regions.box_head.norm
    assert torch.allclose(found, norm(expected), atol=1e-6)
    assert found.shape == (3, 64, 4, 4)


def test_a_pyramid_needs_a_size_for_each_of_its_maps() -> None:
    with pytest.raises(UserError, match="`sizes` must be one for each of the pyramid's 4 maps"):
        build(DetectorRecipe("fpn", sizes=(8.0, 16.0)))


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (375, 500, (800, 1067)),
        (500, 375, (1067, 800)),
        (300, 900, (444, 1333)),
        (800, 800, (800, 800)),
    ],
)
def test_the_short_side_is_resized_unless_the_long_one_grows_too_long(
    height: int, width: int, expected: tuple[int, int]
) -> None:
    assert resized_shape(height, width, 800, 1333) == expected


def test_a_detector_starts_from_files_of_moco_and_under_detectron2_s_names(tmp_path: Path) -> None:
    # Reference: torchvision's own forward pass.
    network = torchvision.models.resnet18()
    weights = network.state_dict()
    moco = {f"module.encoder_q.{name}": weight for name, weight in weights.items()}
    torch.save({"arch": "resnet18", "state_dict": moco}, tmp_path / "moco.pth.tar")
    renamed = {to_detectron2(name): weight for name, weight in weights.items()}
    torch.save({"model": renamed}, tmp_path / "backbone.pth")
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        stem = network.eval().maxpool(network.relu(network.bn1(network.conv1(images))))
        expected = network.layer3(network.layer2(network.layer1(stem)))
        for name in ("moco.pth.tar", "backbone.pth"):
            encoder: Any = load_encoder(str(tmp_path / name)).encoder
            detector = build_detector(DetectorRecipe(), encoder, 3, rng_key=0).eval()
            torch.testing.assert_close(detector.maps(images)["0"], expected, rtol=0, atol=1e-6)
