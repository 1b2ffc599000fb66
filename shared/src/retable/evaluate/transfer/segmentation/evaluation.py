"""Semantic segmentation as an evaluation: a network that starts from the encoder is trained."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from retable import distributed
from retable.data.transfer.pixel_classes import SEMANTIC
from retable.domains import (
    BatchSize,
    Count,
    CountOrZero,
    Dim,
    Epochs,
    Fraction,
    Name,
    NonNegative,
    Positive,
)
from retable.errors import UserError
from retable.evaluate.data import EvalData, Splits, open_eval_splits
from retable.evaluate.protocol import Budget, EvalContext, MetricSpec
from retable.evaluate.transfer.base import Transfer
from retable.evaluate.transfer.loading import normalised
from retable.evaluate.transfer.pictures import SHOWN, Pair, draw_classes, write_pairs
from retable.evaluate.transfer.segmentation.inputs import CropRecipe, SegmentationLoader
from retable.evaluate.transfer.segmentation.mean_iou import confusion, mean_iou
from retable.evaluate.transfer.segmentation.network import (
    FullyConvolutional,
    SegmentationRecipe,
    SegmentationTraining,
)
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
    from retable.train.options import RunOptions
    from retable.train.pretrain import BatchLoader, Training


@dataclass(frozen=True)
class SegmentationTransfer(Transfer):
    """Mean IoU of a fully convolutional network that starts from the encoder.

    The data set has a layer "semantic" and names its classes of pixels in ``class_names``, the
    background first where it is one.

    Attributes:
        hidden: see `SegmentationRecipe`; ``dilation`` too.
        milestones: zero-based epochs from which the learning rate is a tenth of what it was.
        crops: of training images and their classes.
        images: training images of ``data``, for the price alone where ``data`` names a data set
            (VOC's train_aug2012: 10,582).
        data: images with classes of pixels.
    """

    defaults_of: ClassVar[str] = "MoCo's segmentation of PASCAL VOC"

    hidden: Dim = 256
    dilation: Count = 6
    lr: Positive = 0.003
    momentum: Fraction = 0.9
    weight_decay: NonNegative = 1e-4
    batch: BatchSize = 16
    epochs: Epochs = 50
    milestones: tuple[CountOrZero, ...] = (35, 45)
    crops: CropRecipe = field(default_factory=CropRecipe)
    images: Count = 10_582
    max_steps: Count | None = None
    data: EvalData = field(default_factory=EvalData)
    name: Name = "segmentation"

    def __post_init__(self) -> None:
        """Validate the fields."""
        validate_fields(self)

    @property
    def metrics(self) -> dict[str, MetricSpec]:
        """Mean IoU and the share of right pixels."""
        return {
            "miou": MetricSpec("Mean IoU", "%", higher_is_better=True),
            "pixel_accuracy": MetricSpec("Pixels", "%", higher_is_better=True),
        }

    def limited(self, max_steps: int) -> Self:
        """Return the evaluation with ``max_steps``."""
        return replace(self, max_steps=max_steps)

    def shrunk(self, epochs: int, size: int = 32) -> Self:
        """Return the evaluation of images of twice ``size`` pixels, for ``epochs`` epochs.

        Milestones keep their share. The rate was chosen on held-out scenes, for an encoder of MoCo
        v2.
        """
        share, side = epochs / self.epochs, 2 * size
        return replace(
            self,
            hidden=64,
            dilation=2,
            lr=0.05,
            epochs=epochs,
            milestones=tuple(sorted({max(1, round(m * share)) for m in self.milestones})),
            crops=replace(self.crops, size=side),
        )

    def budget(self, images: int, size: int) -> Budget:
        """Return the training's steps and images, see `Evaluation.budget`."""
        images = self.images if self.data.source else images
        steps = self.epochs * (images // self.batch)
        steps = steps if self.max_steps is None else min(steps, self.max_steps)
        return Budget(steps, steps * self.batch, self.crops.size)

    def memory(self, encoder: EncoderRecipe, images: int, size: int) -> float:
        """Return the bytes of a step of the network, see `Evaluation.memory`."""
        side, recipe = self.crops.size, SegmentationRecipe(21, self.hidden, self.dilation)
        with shapes_only():
            network = FullyConvolutional(encoder.build(0), recipe, 0)
        return network_memory(network, [(network, (3, side, side), 1)], self.batch)

    def open_images(self, open_source: OpenSource) -> Splits:
        """Open the training and the test images, which must have classes of pixels."""
        splits = open_eval_splits(open_source, self.data)
        for source in (splits.train, splits.test):
            _check_classes(source)
        return splits

    def training(self, splits: Splits, weights: InitialWeights) -> PretrainRecipe:
        """Return the training as a recipe, in float32."""
        source = splits.train
        classes = int(source.description["pixel_classes"])
        return PretrainRecipe(
            method=SegmentationRecipe(classes, self.hidden, self.dilation),
            data=str(source.description.get("data", "")),
            views=(),
            encoder=load_encoder(weights.checkpoint).recipe,
            optimizer=OptimizerRecipe(
                lr=self.lr,
                momentum=self.momentum,
                weight_decay=self.weight_decay,
                schedule=ScheduleRecipe("step", milestones=tuple(map(float, self.milestones))),
            ),
            epochs=self.epochs,
            batch=self.batch,
            max_steps=self.max_steps,
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
        """Return batches of crops with the classes of their pixels."""
        return SegmentationLoader(
            source,
            self.crops,
            batch=recipe.batch,
            seed=seed,
            epochs=recipe.epochs,
            workers=options.workers,
            device=accelerator.device,
        )

    def test(self, training: Training, splits: Splits, context: EvalContext) -> dict[str, float]:
        """Return mean IoU and the share of right pixels on whole test images, in percent."""
        method, source = training.method, splits.test
        assert isinstance(method, SegmentationTraining)
        network, classes = method.network.eval(), method.recipe.classes
        counts = torch.zeros(classes, classes, dtype=torch.int64)
        pairs: list[Pair] = []
        own = range(distributed.process_index(), len(source), distributed.process_count())
        for index in own:
            sample = source.sample(index, (SEMANTIC,))
            image, truth = sample.image, sample.layers[SEMANTIC][0]
            found = _classes_of(network, image, context.device)
            counts += confusion(found, truth, classes)
            if distributed.process_index() == 0 and len(pairs) < SHOWN:
                pairs.append(draw_classes(image, truth, found, classes))
        write_pairs(pairs, context.directory)
        counts = distributed.total(counts.to(context.device)).cpu()
        right = float(counts.diagonal().sum() / counts.sum())
        return {"miou": mean_iou(counts), "pixel_accuracy": 100 * right}


@torch.no_grad()
def _classes_of(network: nn.Module, image: Tensor, device: torch.device | str) -> Tensor:
    """Return the class (H, W) of each pixel of an image uint8 (3, H, W)."""
    scores: Tensor = network(normalised(image, device)[None])
    return scores.argmax(dim=1)[0].cpu()


def _check_classes(source: Source) -> None:
    if SEMANTIC not in source.layers:
        raise UserError(
            "`data` of segmentation must have classes of pixels, such as 'shapes-scenes', "
            "'voc-segmentation:DIR' or 'cityscapes:DIR', got "
            f"{source.description.get('data', source.description['source'])!r}. Name such a data "
            "set."
        )
