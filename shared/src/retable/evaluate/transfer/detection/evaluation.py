"""Detection as an evaluation: a detector that starts from the encoder is trained and tested."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from retable import distributed
from retable.data.transfer.objects import Objects, ObjectSource, as_objects
from retable.domains import BatchSize, Count, CountOrZero, Fraction, Name, NonNegative, Positive
from retable.evaluate.data import EvalData, Splits, open_eval_splits
from retable.evaluate.protocol import Budget, EvalContext, MetricSpec
from retable.evaluate.transfer.base import Transfer
from retable.evaluate.transfer.detection.aspects import AspectSampler
from retable.evaluate.transfer.detection.average_precision import (
    voc_average_precision,
    voc_metrics,
)
from retable.evaluate.transfer.detection.coco import NAMES, check_metric, coco_metrics
from retable.evaluate.transfer.detection.inputs import (
    DetectionLoader,
    InputRecipe,
    covering,
    padded,
    resize_image,
    resized_shape,
)
from retable.evaluate.transfer.detection.masks import paste_masks
from retable.evaluate.transfer.detection.method import DetectionRecipe, DetectorTraining
from retable.evaluate.transfer.detection.recipe import Detection, DetectorRecipe
from retable.evaluate.transfer.loading import normalised
from retable.evaluate.transfer.pictures import SHOWN, draw_objects, write_pairs
from retable.nn.batch_norm import precise_statistics
from retable.settings import validate_fields
from retable.train.memory import network_memory
from retable.train.optim import OptimizerRecipe
from retable.train.recipe import InitialWeights, PretrainRecipe
from retable.train.schedules import ScheduleRecipe
from retable.train.shape_inference import shapes_only
from retable.weights import load_encoder

if TYPE_CHECKING:
    from retable.data.source import Source
    from retable.encoders import EncoderRecipe
    from retable.evaluate.data import OpenSource
    from retable.evaluate.transfer.detection.networks.detectors import Detector
    from retable.train.options import RunOptions
    from retable.train.pretrain import BatchLoader, Training

AP = MetricSpec("AP", "%", higher_is_better=True)
USUAL_CLASSES = 80
"""Classes of COCO, for the price alone."""


@dataclass(frozen=True)
class DetectionTransfer(Transfer):
    """Average precision of a detector that starts from the encoder and is trained on boxes.

    Defaults: MoCo's detector on PASCAL VOC (facebookresearch/moco, ``detection/``), Faster R-CNN
    C4, 24,000 steps of 16 images.

    Attributes:
        detector: the network around the encoder.
        inputs: sizes of images.
        steps: optimizer steps.
        milestones: steps from which the learning rate is a tenth of what it was.
        warmup: steps in which it rises from a thousandth.
        weight_decay: of all but the weights of batch norm.
        precise: batches of training images that batch norm's statistics are measured on before the
            test; 0: they are those of training.
        metric: "voc07" is the mean of ten overlaps by the rules of the VOC challenge of 2007,
            "coco" the metric of COCO.
        data: images with objects, "voc:DIR" or others.
    """

    defaults_of: ClassVar[str] = "MoCo's detector on PASCAL VOC"

    detector: DetectorRecipe = field(default_factory=DetectorRecipe)
    inputs: InputRecipe = field(default_factory=InputRecipe)
    lr: Positive = 0.02
    momentum: Fraction = 0.9
    weight_decay: NonNegative = 1e-4
    batch: BatchSize = 16
    steps: Count = 24_000
    milestones: tuple[Count, ...] = (18_000, 22_000)
    warmup: CountOrZero = 100
    precise: CountOrZero = 200
    metric: Literal["voc07", "coco"] = "voc07"
    max_steps: Count | None = None
    data: EvalData = field(default_factory=EvalData)
    name: Name = "detection"

    def __post_init__(self) -> None:
        """Validate the fields."""
        validate_fields(self)

    @property
    def metrics(self) -> dict[str, MetricSpec]:
        """Average precisions of boxes, and by COCO's rules those of masks, if there are any."""
        found = {name: replace(AP, label=name.upper()) for name in NAMES}
        if self.detector.masks and self.metric == "coco":
            found |= {f"mask_{name}": spec for name, spec in found.items()}
        return found

    def limited(self, max_steps: int) -> Self:
        """Return the evaluation with ``max_steps``."""
        return replace(self, max_steps=max_steps)

    def shrunk(self, epochs: int, size: int = 32) -> Self:
        """Return the evaluation of images of twice ``size`` pixels, with 5 steps an epoch.

        The rate was chosen on held-out scenes, for an encoder of MoCo v2, and the length on scenes
        of another seed: a detector that learns for twice as long hardly needs a pretrained encoder.
        A pyramid, whose own layers begin at random, learns for twice as long.
        """
        side = 2 * size
        small = replace(
            self,
            detector=self.detector.shrunk(side),
            inputs=InputRecipe.around(side),
            lr=0.1,
            precise=min(self.precise, 10),
        )
        return small.with_steps((5 if self.detector.kind == "c4" else 10) * epochs)

    def with_steps(self, steps: int) -> Self:
        """Return the evaluation of another length; milestones keep their share.

        The warm-up takes a twentieth at least.
        """
        share = steps / self.steps
        return replace(
            self,
            steps=steps,
            milestones=tuple(max(1, round(step * share)) for step in self.milestones),
            warmup=max(1, steps // 20, round(self.warmup * share)),
        )

    def budget(self, images: int, size: int) -> Budget:
        """Return the training's steps and images, see `Evaluation.budget`."""
        steps = self.steps if self.max_steps is None else min(self.steps, self.max_steps)
        return Budget(steps, steps * self.batch, self.inputs.test_side)

    def memory(self, encoder: EncoderRecipe, images: int, size: int) -> float:
        """Return the bytes of a step, see `Evaluation.memory`: of maps and of regions' networks."""
        from retable.evaluate.transfer.detection.networks.detectors import build_detector

        with shapes_only():
            detector = build_detector(self.detector, encoder.build(0), USUAL_CLASSES, 0)
        largest = covering([(max(self.inputs.sides), self.inputs.longest)], detector.divisor)
        maps = (detector.maps, (3, *largest), 1)
        return network_memory(detector, [maps, *detector.region_passes()], self.batch)

    def open_images(self, open_source: OpenSource) -> Splits:
        """Open the training and the test images, which must have objects."""
        if self.metric == "coco":
            check_metric()
        splits = open_eval_splits(open_source, self.data)
        return Splits(as_objects(splits.train), as_objects(splits.test), splits.classes)

    def training(self, splits: Splits, weights: InitialWeights) -> PretrainRecipe:
        """Return the training as a recipe, in float32."""
        source = as_objects(splits.train)
        encoder = load_encoder(weights.checkpoint)
        method = DetectionRecipe(self.detector, splits.classes, self.inputs.test_side)
        per_epoch = AspectSampler.of(source, self.batch, 0).steps_per_epoch
        norms = tuple(
            (name, 0.0)
            for name, layer in method.build(encoder.encoder, 0).named_modules()
            if isinstance(layer, _BatchNorm)
        )
        return PretrainRecipe(
            method=method,
            data=str(source.description.get("data", "")),
            views=(),
            encoder=encoder.recipe,
            optimizer=OptimizerRecipe(
                lr=self.lr,
                momentum=self.momentum,
                weight_decay=self.weight_decay,
                decays=norms,
                schedule=ScheduleRecipe(
                    "step",
                    milestones=tuple(step / per_epoch for step in self.milestones),
                    warmup_epochs=self.warmup / per_epoch,
                    warmup_start=1e-3,
                    per="step",
                ),
            ),
            epochs=math.ceil(self.steps / per_epoch),
            batch=self.batch,
            max_steps=min(self.steps, self.max_steps or self.steps),
            weights=weights,
        )

    def make_loader(
        self,
        recipe: PretrainRecipe,
        seed: int,
        source: Source,
        accelerator: Any,
        options: RunOptions,
        channels_last: bool,
    ) -> BatchLoader:
        """Return batches of images with objects."""
        return DetectionLoader(
            as_objects(source),
            self.inputs,
            batch=recipe.batch,
            seed=seed,
            epochs=recipe.epochs,
            divisor=self._divisor(recipe),
            workers=options.workers,
            device=accelerator.device,
        )

    def _divisor(self, recipe: PretrainRecipe) -> int:
        from retable.evaluate.transfer.detection.networks.detectors import build_detector

        return build_detector(self.detector, recipe.encoder.build(0), 1, 0).divisor

    def _measure_statistics(
        self, method: DetectorTraining, loader: BatchLoader, steps: int
    ) -> None:
        """Measure batch norm's statistics on batches behind those of the training."""
        method.train()
        if self.precise and self.max_steps is None:
            with precise_statistics(method), torch.no_grad():
                for batch in loader.batches(steps, steps + self.precise):
                    method(batch)

    def test(self, training: Training, splits: Splits, context: EvalContext) -> dict[str, float]:
        """Return average precisions on the test images, in percent."""
        method = training.method
        assert isinstance(method, DetectorTraining)
        self._measure_statistics(method, training.loader, training.total)
        source = as_objects(splits.test)
        own = range(distributed.process_index(), len(source), distributed.process_count())
        detector = method.detector.eval()
        found = [(index, self._detect(detector, source.image(index), context)) for index in own]
        by_image = dict(distributed.gather_objects(found))
        detections = [by_image[index] for index in range(len(source))]
        objects = [source.objects(index) for index in range(len(source))]
        if distributed.process_index() == 0:
            drawn = range(min(SHOWN, len(source)))
            names = source.class_names
            pairs = [draw_objects(source.image(i), objects[i], detections[i], names) for i in drawn]
            write_pairs(pairs, context.directory)
        return self._measured(detections, objects, source)

    @torch.no_grad()
    def _detect(self, detector: Detector, image: Tensor, context: EvalContext) -> Detection:
        """Return what is found in an image, in its own pixels."""
        size = image.shape[1], image.shape[2]
        shape = resized_shape(*size, self.inputs.test_side, self.inputs.longest)
        small = normalised(resize_image(image, shape), context.device)
        batch = padded([small], covering([shape], detector.divisor))
        (found,), _ = detector(batch, [shape])
        return in_image(found, shape, size)

    def _measured(
        self, detections: Sequence[Detection], objects: Sequence[Objects], source: ObjectSource
    ) -> dict[str, float]:
        classes = len(source.class_names)
        if self.metric == "voc07":
            return voc_metrics(voc_average_precision(detections, objects, classes))
        sizes = [source.size_of(index) for index in range(len(source))]
        found = coco_metrics(detections, objects, sizes, classes)
        if self.detector.masks:
            of_masks = coco_metrics(detections, objects, sizes, classes, of="segm")
            found |= {f"mask_{name}": value for name, value in of_masks.items()}
        return found


def in_image(found: Detection, shape: tuple[int, int], size: tuple[int, int]) -> Detection:
    """Return detections in pixels of the image, whose ``size`` was changed to ``shape``.

    Masks become bool (n, H, W).
    """
    factors = found["boxes"].new_tensor([size[1] / shape[1], size[0] / shape[0]]).repeat(2)
    moved = found | {"boxes": found["boxes"] * factors}
    if "masks" in found:
        moved["masks"] = paste_masks(found["masks"][:, 0], moved["boxes"], size)
    return {name: value.cpu() for name, value in moved.items()}
