"""SimCLR (Chen et al., ICML 2020), with hooks for subclasses.

The step is written once, in `SimCLR.forward`. A subclass changes one part by overriding a hook:

- `SimCLR.embeddings`: how views are embedded.
- `SimCLR.logits`: the scores of given pairs, with the embeddings of all processes.
- `SimCLR.metrics`, `SimCLR.step_metrics`: scalars that are logged as means, or for every step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retable.domains import Dim, Positive
from retable.methods.method import Batch, Method, Metrics, StepOutput
from retable.methods.metrics import embedding_spread, ranking
from retable.methods.multi_crop import by_image, encode_crops
from retable.nn.heads import mlp_head, simclr_head
from retable.nn.losses import Pairs, info_nce, view_pairs
from retable.nn.scores import score_statistics
from retable.random import derive_key
from retable.settings import validate_fields


@dataclass(frozen=True)
class SimCLRRecipe:
    """SimCLR without its encoder.

    Its batch norm is synchronised over all devices: set ``bn_group`` of the pretraining to the
    global batch.

    Attributes:
        temperature: tau; 0.1 (Chen et al., table 5), 0.5 at CIFAR size (appendix B.9).
        dim: D of the embeddings, 128 (section 2.1).
        head: "mlp" (Linear, ReLU, Linear: section 2.1) or "simclr" (batch norm after both layers
            and no biases: the official code).
        hidden_dim: width of the head's hidden layer; None uses the number of the encoder's
            features, 2048 for ResNet-50.
    """

    temperature: Positive = 0.1
    dim: Dim = 128
    head: Literal["mlp", "simclr"] = "mlp"
    hidden_dim: Dim | None = None

    def __post_init__(self) -> None:
        validate_fields(self)

    def build(self, encoder: nn.Module, rng_key: int) -> SimCLR:
        """Return the method; ``rng_key`` draws the head's weights."""
        return SimCLR(encoder, self, rng_key)


class SimCLR(Method):
    """Contrast the two views of each image with each other and with those of all other images."""

    def __init__(self, encoder: nn.Module, recipe: SimCLRRecipe, rng_key: int) -> None:
        super().__init__()
        self.temperature = recipe.temperature
        features = int(encoder.feature_dim)  # type: ignore[arg-type]
        self.encoder = encoder
        build_head = mlp_head if recipe.head == "mlp" else simclr_head
        self.head = build_head(
            features, recipe.dim, hidden_dim=recipe.hidden_dim, rng_key=derive_key(rng_key, "head")
        )

    def embeddings(self, views: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Embed V views (B_r, 3, H, W) of one size as unit vectors (B_r, D), float32.

        In one pass: batch norm normalises all views of a group's images together, as the official
        code does.
        """
        raw = by_image(self.head, encode_crops(self.encoder, views))
        return F.normalize(raw.float(), dim=2).unbind(dim=1)

    def logits(self, pairs: Pairs, batch: Batch) -> Tensor:
        """Return the scores (2 B_r, 1 + 2 B) of pairs, not yet divided by the temperature.

        The positive comes first; a column that is masked for an anchor has -inf. ``pairs`` are the
        result of `retable.nn.losses.view_pairs`: 2 B_r anchors and 2 B columns.
        """
        return pairs.logits()

    @torch.no_grad()
    def metrics(self, logits: Tensor, pairs: Pairs, batch: Batch) -> Metrics:
        """Return the scalars to log, from the scores (2 B_r, 1 + 2 B) of this step."""
        return ranking(logits) | {
            "embedding_spread": embedding_spread(pairs.anchors),
            "chance_loss": math.log(len(pairs.columns) - 1),  # all embeddings but the anchor
        }

    @torch.no_grad()
    def step_metrics(self, logits: Tensor, pairs: Pairs, batch: Batch) -> Metrics:
        """Return the scalars to store for every step: the statistics of the scores of raw pairs.

        A subclass whose ``logits`` are of other pairs passes ``pairs.logits()`` instead, and adds
        the statistics of its logits as ``transformed_*``.
        """
        return score_statistics(logits[:, 0], logits[:, 1:]).named()

    def forward(self, batch: Batch) -> StepOutput:
        """Return the NT-Xent loss of two views (Chen et al., equation 1)."""
        first, second = self.embeddings(batch.views)
        with torch.autocast(first.device.type, enabled=False):
            pairs = view_pairs(first, second, rows="unchecked")  # they are unit vectors
            logits = self.logits(pairs, batch)
            loss = info_nce(logits, self.temperature)
        arguments = (logits.detach(), Pairs(*(tensor.detach() for tensor in pairs)), batch)
        return StepOutput(loss, self.metrics(*arguments), self.step_metrics(*arguments))
