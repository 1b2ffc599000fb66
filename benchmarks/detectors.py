"""Time steps of detectors and of a segmentation network over torchvision's own.

Both sides have the same backbone, ResNet-50 with trained batch norms, the same images and the same
numbers of proposals; only one forward and backward pass is timed. Ours differ by what Detectron2
and MoCo have: aligned regions, losses, anchors, a batch norm behind the last stage, and dilated
convolutions. The loader is timed over reading and resizing the same images, fine-tuning over
supervised training. `_memory` says what peak memory is.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from _memory import peak_memory
from _timing import Goal, Options, Report, interleave, parse, ratios
from PIL import Image
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.segmentation.fcn import FCN, FCNHead
from torchvision.ops import MultiScaleRoIAlign

from retable.data.transfer.voc import open_voc
from retable.encoders import ResNetRecipe
from retable.evaluate.data import open_splits, source_opener
from retable.evaluate.transfer.detection.inputs import (
    DetectionLoader,
    InputRecipe,
    resize_image,
    resized_shape,
)
from retable.evaluate.transfer.detection.networks.detectors import build_detector
from retable.evaluate.transfer.detection.recipe import DetectorRecipe, Target
from retable.evaluate.transfer.finetune import FineTuning
from retable.evaluate.transfer.segmentation.network import (
    FullyConvolutional,
    SegmentationRecipe,
)
from retable.train.optim import OptimizerRecipe
from retable.train.options import RunOptions
from retable.train.pretrain import make_accelerator, train
from retable.train.recipe import InitialWeights, PretrainRecipe
from retable.train.runs import RunDirectory
from retable.views import crop_and_flip
from retable.weights import save_encoder

# Without types of their own.
detection: Any = import_module("torchvision.models.detection")
parts: Any = import_module("torchvision.models.detection.anchor_utils")
heads: Any = import_module("torchvision.models.detection.faster_rcnn")

CLASSES = 20
SIZES = (32, 64, 128, 256, 512)
RATIOS = (0.5, 1.0, 2.0)
Step = Callable[[], object]


class Regions(NamedTuple):
    """Boxes of a map before and after non-maximum suppression, and those in the loss."""

    before: int
    after: int
    chosen: int = 512


REGIONS = {"c4": Regions(12_000, 2_000), "fpn": Regions(2_000, 1_000)}
FEW = Regions(2_000, 500, 64)
"""For a CPU: the last stage of ResNet-50 on 1,024 regions takes a minute, as do 12,000 boxes."""


def images_of(size: tuple[int, int], device: torch.device) -> Tensor:
    """Return two random images."""
    return torch.randn(2, 3, *size, device=device)


def targets_of(size: tuple[int, int], device: torch.device) -> list[Target]:
    """Return three objects of each image."""
    shares = torch.tensor([[0.1, 0.1, 0.6, 0.7], [0.3, 0.2, 0.9, 0.9], [0.5, 0.5, 0.7, 0.8]])
    boxes = (shares * torch.tensor([size[1], size[0]]).repeat(2)).to(device)
    return [{"boxes": boxes, "labels": torch.tensor([1, 2, 3], device=device)}] * 2


def our_detector(
    kind: str, name: str, regions: Regions, size: tuple[int, int], device: torch.device
) -> Step:
    """Return a step of our detector."""
    recipe = DetectorRecipe(
        kind=kind,  # type: ignore[arg-type]
        before=(regions.before, regions.before),
        after=(regions.after, regions.after),
        chosen=regions.chosen,
    )
    detector = build_detector(recipe, ResNetRecipe(name).build(0), CLASSES, 0)
    detector.to(device).train()
    images, targets = images_of(size, device), targets_of(size, device)

    def step() -> None:
        detector.start_step(0, [0, 1])
        _, losses = detector(images, [size] * 2, targets)
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]

    return step


class LastStage(nn.Module):
    """The last stage of a ResNet on maps of regions, averaged."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, maps: Tensor) -> Tensor:
        """Map (M, C, S, S) to (M, F)."""
        return self.stage(maps).mean(dim=(2, 3))  # type: ignore[no-any-return]


def their_network(kind: str, name: str, regions: Regions, size: tuple[int, int]) -> Any:
    """Return torchvision's detector, which resizes nothing."""
    options: Any = {
        "min_size": min(size),
        "max_size": max(size),
        "rpn_pre_nms_top_n_train": regions.before,
        "rpn_post_nms_top_n_train": regions.after,
        "box_batch_size_per_image": regions.chosen,
    }
    trunk: Any = get_model(name)
    last: int = trunk.fc.in_features
    if kind == "fpn":
        stages = {f"layer{number}": str(number - 1) for number in range(1, 5)}
        channels = [last // 8, last // 4, last // 2, last]
        backbone = BackboneWithFPN(trunk, stages, channels, 256, norm_layer=nn.BatchNorm2d)
        anchors = parts.AnchorGenerator(tuple((one,) for one in SIZES), (RATIOS,) * 5)
        return detection.FasterRCNN(backbone, CLASSES + 1, rpn_anchor_generator=anchors, **options)
    body: Any = nn.Sequential(*list(trunk.children())[:7])
    body.out_channels = last // 2
    return detection.FasterRCNN(
        body,
        rpn_anchor_generator=parts.AnchorGenerator((SIZES,), (RATIOS,)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 14, 0),
        box_head=LastStage(trunk.layer4),
        box_predictor=heads.FastRCNNPredictor(last, CLASSES + 1),
        **options,
    )


def their_detector(
    kind: str, name: str, regions: Regions, size: tuple[int, int], device: torch.device
) -> Step:
    """Return a step of torchvision's detector."""
    detector = their_network(kind, name, regions, size).to(device).train()
    images, targets = list(images_of(size, device)), targets_of(size, device)

    def step() -> None:
        losses = detector(images, targets)
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]

    return step


def segmentation_step(network: nn.Module, size: tuple[int, int], device: torch.device) -> Step:
    """Return a step of a segmentation network; torchvision's returns a dictionary."""
    network.to(device).train()
    images = images_of(size, device)
    labels = torch.randint(CLASSES + 1, (2, *size), device=device)

    def step() -> None:
        found = network(images)
        scores = found["out"] if isinstance(found, dict) else found
        F.cross_entropy(scores, labels).backward()  # type: ignore[no-untyped-call]

    return step


def our_segmentation(name: str, size: tuple[int, int], device: torch.device) -> Step:
    """Return a step of MoCo's fully convolutional network."""
    encoder = ResNetRecipe(name).build(0)
    return segmentation_step(
        FullyConvolutional(encoder, SegmentationRecipe(CLASSES + 1), 0), size, device
    )


def their_segmentation(name: str, size: tuple[int, int], device: torch.device) -> Step:
    """Return a step of torchvision's, with the stride of MoCo's and without auxiliary head."""
    dilated = {"replace_stride_with_dilation": [False, False, True]} if name == "resnet50" else {}
    trunk: Any = get_model(name, **dilated)
    last: int = trunk.fc.in_features
    backbone = IntermediateLayerGetter(trunk, {"layer4": "out"})
    return segmentation_step(FCN(backbone, FCNHead(last, CLASSES + 1)), size, device)


def compare(
    report: Report,
    options: Options,
    what: str,
    make: tuple[Callable[..., Step], Callable[..., Step]],
    size: tuple[int, int],
    tiny: tuple[int, int],
) -> None:
    """Add our step over torchvision's, in time and in peak memory."""
    ours, theirs = make
    sides = {"ours": ours(size, options.device), "torchvision's": theirs(size, options.device)}
    seconds = interleave(sides, options.pick(8, 3, 1), options, warmup=options.pick(2, 1, 0))
    said = f"{what}, 2 images of {size[0]} x {size[1]} px"
    report.add(said, seconds["ours"], "s")
    over = ratios(seconds["ours"], seconds["torchvision's"])
    report.add(f"{what}: over torchvision's", over, goal=Goal(at_most=1.05))
    if options.dry:  # four processes that import torchvision
        return
    peaks = [
        peak_memory(partial(call, size), partial(call, tiny), options) for call in (ours, theirs)
    ]
    report.add(f"{what}: peak memory", peaks[:1], "MB")
    share = [peaks[0] / max(peaks[1], 1e-9)]
    report.add(f"{what}: peak memory over torchvision's", share, goal=Goal(at_most=1.05))


def write_voc(folder: Path, count: int, size: tuple[int, int]) -> None:
    """Write random photographs with one object each, in VOC's layout."""
    box = "<bndbox><xmin>5</xmin><ymin>5</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>"
    sides = f"<size><height>{size[0]}</height><width>{size[1]}</width></size>"
    text = f"<annotation>{sides}<object><name>cat</name>{box}</object></annotation>"
    for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / "VOC2007" / part).mkdir(parents=True)
    names = [f"{number:06}" for number in range(count)]
    (folder / "VOC2007/ImageSets/Main/trainval.txt").write_text("\n".join(names))
    smooth = F.interpolate(torch.rand(count, 3, 12, 16) * 255, size, mode="bicubic")
    for name, image in zip(names, smooth.clamp(0, 255).to(torch.uint8), strict=True):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        picture.save(folder / "VOC2007/JPEGImages" / f"{name}.jpg", quality=90)
        (folder / "VOC2007/Annotations" / f"{name}.xml").write_text(text)


def compare_loading(report: Report, options: Options) -> None:
    """Add the detection loader's images a second over those of reading and resizing alone."""
    count, size = options.pick(64, 16, 4), options.pick((375, 500), (375, 500), (48, 64))
    recipe = options.pick(InputRecipe(), InputRecipe(), InputRecipe.around(64))
    usual = recipe.sides[len(recipe.sides) // 2]
    with tempfile.TemporaryDirectory() as folder:
        write_voc(Path(folder), count, size)
        source = open_voc(folder, "train", parts="2007_trainval")
        loader = DetectionLoader(source, recipe, batch=count // 4, seed=0, epochs=1)
        shape = resized_shape(*size, usual, recipe.longest)

        def resize_all() -> None:
            for index in range(count):
                resize_image(source.image(index), shape)

        def load_all() -> None:
            for _ in loader.batches(0, loader.steps_per_epoch):
                pass

        sides = {"loader": load_all, "alone": resize_all}
        seconds = interleave(sides, options.pick(8, 3, 1), options, warmup=1)
    report.add("detection loader", [count / spent for spent in seconds["loader"]], "images/s")
    share = ratios(seconds["alone"], seconds["loader"])
    report.add("detection loader: over reading and resizing", share, goal=Goal(at_least=0.8))


def compare_tuning(report: Report, options: Options) -> None:
    """Add fine-tuning's time over that of supervised pretraining on the same images."""
    side, batch = options.pick((224, 64), (96, 32), (32, 8))
    encoder = ResNetRecipe(options.pick("resnet50", "resnet18", "small_resnet8"))
    source = source_opener(f"shapes?count={4 * batch}&test_count=8&size={side}&classes=4")
    splits = open_splits(source)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "encoder.safetensors"
        save_encoder(path, encoder.build(0), encoder, {})
        tuning = FineTuning(
            batch=batch, bn_group=None, epochs=1, milestones=(), train_view=crop_and_flip(side)
        ).training(splits, InitialWeights.of(str(path)))
        supervised = replace(tuning, optimizer=OptimizerRecipe(lr=0.1))

        def run(recipe: PretrainRecipe) -> None:
            with tempfile.TemporaryDirectory(dir=folder) as place:
                accelerator = make_accelerator("float32", cpu=options.device.type == "cpu")
                run_options = RunOptions(quiet=True)
                train(recipe, 0, splits.train, RunDirectory(Path(place)), accelerator, run_options)

        sides = {"tuning": partial(run, tuning), "supervised": partial(run, supervised)}
        seconds = interleave(sides, options.pick(8, 3, 1), options, warmup=options.pick(1, 1, 0))
    report.add(f"fine-tuning, {4 * batch} images of {side} px", seconds["tuning"], "s")
    over = ratios(seconds["tuning"], seconds["supervised"])
    report.add("fine-tuning: over supervised training", over, goal=Goal(at_most=1.02))


def main() -> None:
    options = parse(__doc__ or "")
    report = Report("Detectors and segmentation", options)
    size, tiny = options.pick((384, 512), (256, 320), (64, 64)), (64, 64)
    name = options.pick("resnet50", "resnet50", "resnet18")
    for kind in ("c4", "fpn"):
        chosen = options.pick(REGIONS[kind], FEW, FEW)
        calls = (
            partial(our_detector, kind, name, chosen),
            partial(their_detector, kind, name, chosen),
        )
        compare(report, options, kind.upper(), calls, size, tiny)
    square = (min(size), min(size))
    calls = partial(our_segmentation, name), partial(their_segmentation, name)
    compare(report, options, "FCN", calls, square, tiny)
    compare_tuning(report, options)
    compare_loading(report, options)
    report.show()


if __name__ == "__main__":
    main()
