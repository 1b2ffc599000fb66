"""Training of a detector as a method of the loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from retable.domains import Dim, Pixels
from retable.evaluate.transfer.detection.inputs import DetectionBatch, network_input
from retable.evaluate.transfer.detection.recipe import DetectorRecipe
from retable.methods.method import Method, StepOutput
from retable.nn.batch_norm import pool_batch_norm
from retable.settings import validate_fields


@dataclass(frozen=True)
class DetectionRecipe:
    """The training of a detector without its encoder.

    Attributes:
        detector: the network around the encoder.
        classes: of objects.
        side: of a usual image in pixels, for its price alone.
    """

    detector: DetectorRecipe
    classes: Dim
    side: Pixels

    def __post_init__(self) -> None:
        validate_fields(self)

    def build(self, encoder: nn.Module, rng_key: int) -> DetectorTraining:
        """Return the method; ``rng_key`` draws the weights of all but the encoder."""
        return DetectorTraining(encoder, self, rng_key)


class DetectorTraining(Method):
    """The sum of a detector's losses; batch norms see all rows of all processes."""

    def __init__(self, encoder: nn.Module, recipe: DetectionRecipe, rng_key: int) -> None:
        # torchvision's parts take a second to import.
        from retable.evaluate.transfer.detection.networks.detectors import build_detector

        super().__init__()
        self.recipe = recipe
        self.detector = build_detector(recipe.detector, encoder, recipe.classes, rng_key)  # type: ignore[arg-type]
        pool_batch_norm(self)

    @property
    def encoder(self) -> nn.Module:  # type: ignore[override]
        """The detector's encoder."""
        return self.detector.encoder

    def forward(self, batch: DetectionBatch) -> StepOutput:  # type: ignore[override]
        """Return the sum of the losses, and each of them."""
        self.detector.start_step(batch.rng_key, batch.positions.tolist())
        images = network_input(batch.images, batch.shapes)
        _, losses = self.detector(images, batch.shapes, batch.targets)
        metrics = {name: value.detach() for name, value in losses.items()}
        return StepOutput(sum(losses.values()), metrics)

    def encoder_inputs(self, sizes: Sequence[int]) -> tuple[tuple[int, float], ...]:
        """Return one image of the usual size, forward and backward."""
        return ((self.recipe.side, 3.0),)
