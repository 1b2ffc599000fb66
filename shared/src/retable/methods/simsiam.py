"""SimSiam (Chen & He, CVPR 2021): a predictor and a stopped gradient, no negatives, no momentum."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from retable.domains import Dim
from retable.methods.siamese import Siamese
from retable.nn.heads import simsiam_predictor, simsiam_projector
from retable.random import derive_key
from retable.settings import validate_fields


@dataclass(frozen=True)
class SimSiamRecipe:
    """SimSiam without its encoder (section 3 and the official code).

    Batch norm is synchronised over all devices (set ``bn_group`` of the pretraining to the global
    batch), and the predictor's learning rate does not decay (set ``constant_rate`` of the optimizer
    to ("predictor",)).

    Attributes:
        dim: D of projections and predictions.
        hidden_dim: width of the projector's hidden layers; None uses the number of the encoder's
            features, 2048 for ResNet-50.
        predictor_hidden_dim: width of the predictor's hidden layer.
    """

    dim: Dim = 2048
    hidden_dim: Dim | None = None
    predictor_hidden_dim: Dim = 512

    def __post_init__(self) -> None:
        validate_fields(self)

    def build(self, encoder: nn.Module, rng_key: int) -> SimSiam:
        """Return the method; ``rng_key`` draws the heads' weights."""
        return SimSiam(encoder, self, rng_key)


class SimSiam(Siamese):
    """Predict each view's projection from the other view's, whose gradient is stopped.

    Attributes:
        projector: (B, F) -> (B, D).
        predictor: (B, D) -> (B, D).
    """

    def __init__(self, encoder: nn.Module, recipe: SimSiamRecipe, rng_key: int) -> None:
        super().__init__()
        self.encoder = encoder
        features, hidden = int(encoder.feature_dim), recipe.hidden_dim  # type: ignore[arg-type]
        narrow = recipe.predictor_hidden_dim
        self.projector = simsiam_projector(
            features, recipe.dim, hidden_dim=hidden, rng_key=derive_key(rng_key, "projector")
        )
        self.predictor = simsiam_predictor(
            recipe.dim, hidden_dim=narrow, rng_key=derive_key(rng_key, "predictor")
        )

    def branches(self, view: Tensor) -> tuple[Tensor, Tensor]:
        """Return predictions (B_r, D), and projections (B_r, D) without gradient, of one view."""
        projections = self.projector(self.encoder(view))
        return self.predictor(projections), projections.detach()

    def loss(self, similarities: Tensor) -> Tensor:
        """Return minus the mean similarity (equation 2), from -1 (best) to 1."""
        return -similarities.mean()
