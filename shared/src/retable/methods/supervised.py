"""Cross-entropy on labels: the supervised upper bound of self-supervised papers."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import nn

from retable.domains import Dim
from retable.methods.method import Batch, Method, StepOutput
from retable.random import initialising
from retable.settings import validate_fields
from retable.views import ViewRecipe, without_draws


@dataclass(frozen=True)
class SupervisedRecipe:
    """The supervised baseline without its encoder."""

    classes: Dim

    def __post_init__(self) -> None:
        validate_fields(self)

    def build(self, encoder: nn.Module, rng_key: int) -> Supervised:
        """Return the method; ``rng_key`` draws the classifier's weights."""
        return Supervised(encoder, self, rng_key)


class Supervised(Method):
    """A linear classifier on the encoder's features, trained together with it."""

    accumulates = True
    has_pretext_metrics = True

    def __init__(self, encoder: nn.Module, recipe: SupervisedRecipe, rng_key: int) -> None:
        super().__init__()
        self.encoder = encoder
        with initialising(rng_key):
            self.classifier = nn.Linear(int(encoder.feature_dim), recipe.classes)  # type: ignore[arg-type]

    def pretext_views(self, views: tuple[ViewRecipe, ...]) -> tuple[ViewRecipe, ...]:
        """Return the centre crop of each image: a classifier is evaluated without augmentation."""
        return tuple(without_draws(view) for view in views)

    def forward(self, batch: Batch) -> StepOutput:
        """Return the cross-entropy of one view."""
        (view,) = batch.views
        scores = self.classifier(self.encoder(view)).float()
        loss = F.cross_entropy(scores, batch.labels)
        accuracy = (scores.detach().argmax(dim=1) == batch.labels).float().mean()
        return StepOutput(loss, {"accuracy": accuracy})
