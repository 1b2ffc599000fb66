"""Semi-supervised evaluation: fine-tune encoder and classifier on few labels."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from retable.domains import (
    BatchSize,
    Count,
    CountOrZero,
    Epochs,
    Fraction,
    Name,
    NonNegative,
    Positive,
)
from retable.errors import UserError
from retable.evaluate.classifier import LinearClassifier, accuracy_of
from retable.evaluate.data import (
    EvalData,
    EvalSubset,
    Splits,
    natural_test_view,
    natural_train_view,
)
from retable.evaluate.features import represent
from retable.evaluate.frozen import freeze
from retable.evaluate.protocol import (
    ACCURACIES,
    Budget,
    EvalContext,
    MetricSpec,
)
from retable.evaluate.representation import PRE_LOGITS, Representation
from retable.evaluate.transfer.base import Transfer
from retable.methods.supervised import Supervised, SupervisedRecipe
from retable.settings import validate_fields
from retable.train.memory import network_memory
from retable.train.optim import OptimizerRecipe
from retable.train.recipe import InitialWeights, PretrainRecipe
from retable.train.schedules import ScheduleRecipe
from retable.train.shape_inference import shapes_only
from retable.views import ViewRecipe, center, crop_and_flip
from retable.weights import load_encoder

if TYPE_CHECKING:
    from retable.data.source import Source
    from retable.encoders import EncoderRecipe
    from retable.train.pretrain import Training

FEW = 0.05
"""Below this share of the images, SwAV's rates for 1 % are the default, above it those for 10 %."""


@dataclass(frozen=True)
class FineTuning(Transfer):
    """Test accuracy after training encoder and linear classifier on a share of the labels.

    Defaults: SwAV's official code (facebookresearch/swav, ``eval_semisup.py``). ReLICv2
    (arXiv:2201.05119, tables 9 and 10) fine-tunes in the same way with Nesterov's momentum, and
    weight decay at 10 %; its rates are not known to us.

    The training is `retable.train.pretrain.train` with a `PretrainRecipe` that starts from the
    evaluated encoder; the classifier starts as PyTorch's linear layer. The incomplete last batch of
    an epoch is left out.

    Attributes:
        lr: learning rate of the encoder; None: 0.02 below `FEW` of the labels, otherwise 0.01.
        head_lr: learning rate of the classifier; None: ``lr``, or where that is None too, 5 below
            `FEW` of the labels, otherwise 0.2.
        batch: images in a step, over all processes. Where there are fewer images, a step takes all,
            rounded down to complete groups.
        bn_group: images that share batch-norm statistics (SwAV: 256 on 8 GPUs; that statistics are
            not synchronised there is unverified); None: all that a process holds.
        schedule: "step", or "cosine": from the learning rates towards 0, at every step.
        warmup_epochs: epochs in which the learning rates rise from 0; only for the cosine.
        milestones: zero-based epochs from which the learning rates are multiplied by ``gamma``;
            only for the step schedule.
        gamma: factor of the learning rates at a milestone.
        train_view: random view of training images; None: `natural_train_view`.
        test_view: view of test images; None: `natural_test_view`.
        max_steps: stop after so many steps; such a training measures nothing.
        data: default: 10 % of each class.
    """

    defaults_of: ClassVar[str] = "SwAV's eval_semisup.py on ImageNet"

    lr: Positive | None = None
    head_lr: Positive | None = None
    momentum: Fraction = 0.9
    nesterov: bool = False
    weight_decay: NonNegative = 0.0
    batch: BatchSize = 256
    bn_group: Count | None = 32
    epochs: Epochs = 20
    schedule: Literal["step", "cosine"] = "step"
    warmup_epochs: NonNegative = 0.0
    milestones: tuple[CountOrZero, ...] = (12, 16)
    gamma: NonNegative = 0.2
    train_view: ViewRecipe | None = None
    test_view: ViewRecipe | None = None
    max_steps: Count | None = None
    data: EvalData = field(default_factory=lambda: EvalData(labels=0.1, balanced=True))
    name: Name = "finetune"

    def __post_init__(self) -> None:
        """Validate the fields."""
        validate_fields(self)
        if self.schedule == "cosine" and self.milestones:
            raise UserError(
                f"`milestones` must be empty with the cosine schedule, got {self.milestones}. Set "
                "`milestones` to [] first."
            )
        if self.schedule == "step" and self.warmup_epochs:
            raise UserError(
                f"`warmup_epochs` must be 0 with the step schedule, got {self.warmup_epochs}. Set "
                "`schedule` to 'cosine' first."
            )

    @property
    def metrics(self) -> dict[str, MetricSpec]:
        """Test accuracies and the number of training images."""
        return ACCURACIES | {"images": MetricSpec("Training images")}

    def with_views(self, *sources: Source) -> Self:
        """Return the evaluation with the views filled in, see `Evaluation.with_views`."""
        train_view = self.train_view or natural_train_view(*sources)
        return replace(super().with_views(*sources), train_view=train_view)

    def limited(self, max_steps: int) -> Self:
        """Return the evaluation with ``max_steps``."""
        return replace(self, max_steps=max_steps)

    def shrunk(self, epochs: int, size: int = 32) -> Self:
        """Return the evaluation at ``size`` pixels for ``epochs`` epochs of batches of 16.

        Milestones keep their share. The rates were chosen on held-out training images of shapes,
        for an encoder of MoCo v2 and 10 % of the labels.
        """
        share = epochs / self.epochs
        return replace(
            self,
            lr=0.03,
            head_lr=1.0,
            batch=16,
            bn_group=None,
            epochs=epochs,
            warmup_epochs=self.warmup_epochs * share,
            milestones=tuple(sorted({max(1, round(m * share)) for m in self.milestones})),
            train_view=crop_and_flip(size),
            test_view=center(size, size),
        )

    def budget(self, images: int, size: int) -> Budget:
        """Return the training's steps and images, see `Evaluation.budget`."""
        batch, _ = self._batch_of(images)
        steps = self.epochs * (images // batch)
        steps = steps if self.max_steps is None else min(steps, self.max_steps)
        return Budget(steps, steps * batch, self.train_view.size if self.train_view else size)

    def memory(self, encoder: EncoderRecipe, images: int, size: int) -> float:
        """Return the bytes of a step of the encoder, see `Evaluation.memory`."""
        side = self.train_view.size if self.train_view else size
        with shapes_only():
            network = encoder.build(0)
        return network_memory(network, [(network, (3, side, side), 1)], self._batch_of(images)[0])

    def training(self, splits: Splits, weights: InitialWeights) -> PretrainRecipe:
        """Return the training as a recipe, in float32, that starts from the evaluated encoder."""
        images = len(splits.train)
        base = splits.train.base if isinstance(splits.train, EvalSubset) else splits.train
        few = images < FEW * len(base)
        batch, group = self._batch_of(images)
        lr = self.lr or (0.02 if few else 0.01)
        head_lr = self.head_lr or self.lr or (5.0 if few else 0.2)
        return PretrainRecipe(
            method=SupervisedRecipe(splits.classes),
            data=str(splits.train.description.get("data", "")),
            views=(self.train_view or natural_train_view(splits.train, splits.test),),
            encoder=load_encoder(weights.checkpoint).recipe,
            optimizer=OptimizerRecipe(
                lr=lr,
                momentum=self.momentum,
                nesterov=self.nesterov,
                weight_decay=self.weight_decay,
                schedule=self._rates(),
                rate_factors=(("classifier", head_lr / lr),),
            ),
            epochs=self.epochs,
            batch=batch,
            bn_group=group,
            max_steps=self.max_steps,
            weights=weights,
        )

    def _rates(self) -> ScheduleRecipe:
        if self.schedule == "cosine":
            return ScheduleRecipe("cosine", warmup_epochs=self.warmup_epochs, per="step")
        if self.milestones:
            return ScheduleRecipe("step", milestones=self.milestones, gamma=self.gamma)
        return ScheduleRecipe("constant")

    def _batch_of(self, images: int) -> tuple[int, int | None]:
        """Return the batch and the batch-norm group for so many images."""
        if images >= self.batch or self.bn_group is None:
            return min(self.batch, images), self.bn_group
        group = min(self.bn_group, images)
        return images - images % group, group

    def test(self, training: Training, splits: Splits, context: EvalContext) -> dict[str, float]:
        """Return the accuracy on the test images."""
        method = training.method
        assert isinstance(method, Supervised)
        found = represent(
            freeze(method.encoder, context.device, context.precision),
            splits.test,
            self.test_view or natural_test_view(splits.train, splits.test),
            Representation(),
            replace(context, features=None),  # no other evaluation reads this encoder's features
            gathered=False,
        )[PRE_LOGITS]
        layer = method.classifier
        classifier = LinearClassifier(layer.weight.detach().float(), layer.bias.detach().float())
        results = accuracy_of(classifier, found.features, found.labels, images=len(splits.test))
        return results | {"images": float(len(splits.train))}
