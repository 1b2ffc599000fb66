"""BYOL (Grill et al., NeurIPS 2020): predict the target network's projection of the other view."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from retable.domains import Dim
from retable.methods.method import Progress
from retable.methods.siamese import Siamese
from retable.nn.heads import byol_head
from retable.nn.momentum import MomentumCopy, MomentumRecipe
from retable.random import derive_key
from retable.settings import validate_fields

_AT_1000_EPOCHS = MomentumRecipe(0.996, "cosine")


@dataclass(frozen=True)
class BYOLRecipe:
    """BYOL without its encoder (appendix C.1).

    Its batch norm is synchronised over all devices: set ``bn_group`` of the pretraining to the
    global batch.

    Attributes:
        dim: D of projections and predictions.
        hidden_dim: width of the hidden layer of projector and predictor.
        momentum: momentum of the target network. Its base is 0.996 at 1000 epochs, 0.99 at 300 and
            at 100 and 0.97 at 40 (presets of the official code); it rises to 1 over the run.
    """

    dim: Dim = 256
    hidden_dim: Dim = 4096
    momentum: MomentumRecipe = _AT_1000_EPOCHS

    def __post_init__(self) -> None:
        validate_fields(self)

    def build(self, encoder: nn.Module, rng_key: int) -> BYOL:
        """Return the method; ``rng_key`` draws the heads' weights."""
        return BYOL(encoder, self, rng_key)


class BYOL(Siamese):
    """Predict each view's target projection from the other view.

    The target network starts as a copy of the online one. The official code initialises it
    independently and notes that this made no difference.

    Attributes:
        projector: (B, F) -> (B, D).
        predictor: (B, D) -> (B, D).
        target_encoder: moving average of encoder and projector, without gradient.
    """

    passes_per_view = 4.0  # 3 of the online network (forward and backward), 1 of the target

    def __init__(self, encoder: nn.Module, recipe: BYOLRecipe, rng_key: int) -> None:
        super().__init__()
        self.momentum = recipe.momentum
        self.encoder = encoder
        features, hidden = int(encoder.feature_dim), recipe.hidden_dim  # type: ignore[arg-type]
        self.projector = byol_head(
            features, recipe.dim, hidden_dim=hidden, rng_key=derive_key(rng_key, "projector")
        )
        self.predictor = byol_head(
            recipe.dim, recipe.dim, hidden_dim=hidden, rng_key=derive_key(rng_key, "predictor")
        )
        self.target_encoder = MomentumCopy(nn.Sequential(self.encoder, self.projector))

    def branches(self, view: Tensor) -> tuple[Tensor, Tensor]:
        """Return predictions (B_r, D), and targets (B_r, D) without gradient, of one view."""
        predictions = self.predictor(self.projector(self.encoder(view)))
        with torch.no_grad():
            return predictions, self.target_encoder(view)

    def loss(self, similarities: Tensor) -> Tensor:
        """Return the sum over both terms of 2 - 2 s, mean over samples (equation 2): 0 to 8.

        The terms are summed, not averaged, as in the official code.
        """
        return (2 - 2 * similarities).sum(dim=0).mean()

    def after_step(self, progress: Progress) -> None:
        """Update the target network with this step's momentum."""
        steps = progress.steps_per_epoch * progress.epochs
        self.target_encoder.update(self.momentum.at(progress.step, steps))
