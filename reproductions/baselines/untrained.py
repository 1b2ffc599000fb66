"""An encoder that is not trained: the floor of every accuracy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from retable.methods import Batch, Method, StepOutput


@dataclass(frozen=True)
class UntrainedRecipe:
    """An encoder with its random weights."""

    def build(self, encoder: nn.Module, rng_key: int) -> Untrained:
        """Return the method; there is nothing else to draw."""
        return Untrained(encoder)


class Untrained(Method):
    """A loss of zero that touches no weight and no statistic of the encoder."""

    accumulates = True
    passes_per_view = 0.0

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        # Its weights get no gradient, and the optimizer leaves them as they are.
        self.encoder = encoder.requires_grad_(False)
        self.constant = nn.Parameter(torch.zeros(()))

    def forward(self, batch: Batch) -> StepOutput:
        """Return zero."""
        return StepOutput(self.constant * 0.0, {})
