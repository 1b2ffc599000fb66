"""The base of Jigsaw and Relative Patch Location: patches are embedded one by one and joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from retable.domains import Dim, Fraction, Share
from retable.methods.method import Batch, Method, StepOutput
from retable.methods.multi_crop import by_image
from retable.nn.patches import PatchGrid, cut_patches
from retable.random import derive_key
from retable.settings import validate_fields
from revisiting_ssl.patch_head import PatchHead
from revisiting_ssl.task import classified, only_view, output_layer


@dataclass(frozen=True)
class PatchTaskRecipe:
    """Fields of both patch tasks.

    Their view is one of `retable.views.patch_tasks`, as large as the patch grid.

    Attributes:
        patches: grid of patches that the view is cut into.
        embed_dim: dimensions of a patch's embedding, a linear layer on the encoder's features.
        hidden_dim: width of the head's hidden layer.
        dropout: probability that a unit of the hidden layer is dropped in training.
        norm_momentum: share of a step's statistics in the running ones of the head's batch norm;
            see `revisiting_ssl.patch_head.PatchHead` for short trainings.
    """

    patches: PatchGrid = field(default_factory=PatchGrid)
    embed_dim: Dim = 1000
    hidden_dim: Dim = 4096
    dropout: Fraction = 0.5
    norm_momentum: Share = 0.003

    def __post_init__(self) -> None:
        validate_fields(self)


class PatchTask(Method):
    """Embed the patches of a view, join embeddings in several ways, and classify the ways.

    Attributes:
        embed: linear layer to a patch's embedding.
        head: joined embeddings to scores.
        task: name of the task in messages.
    """

    accumulates = True
    has_pretext_metrics = True
    task: str

    def __init__(
        self, encoder: nn.Module, recipe: PatchTaskRecipe, rng_key: int, joined: int, classes: int
    ) -> None:
        super().__init__()
        self.patches = recipe.patches
        self.encoder = encoder
        self.embed = output_layer(encoder, recipe.embed_dim, derive_key(rng_key, "embed"))
        self.head = PatchHead(
            joined * recipe.embed_dim,
            classes,
            hidden_dim=recipe.hidden_dim,
            dropout_rate=recipe.dropout,
            norm_momentum=recipe.norm_momentum,
            rng_key=derive_key(rng_key, "head"),
        )

    def encoder_inputs(self, sizes: Sequence[int]) -> tuple[tuple[int, float], ...]:
        """Return the patches, each forward and backward."""
        return ((self.patches.patch, 3.0 * self.patches.count),)

    def cut(self, batch: Batch) -> Tensor:
        """Return the patches (B_r, n, 3, P, P) of the view, at the places that this step draws."""
        view = only_view(batch, self.task, "retable.views.patch_tasks")
        rng_key = derive_key(batch.rng_key, "patches")
        return cut_patches(view, self.patches, rng_key, batch.positions)

    def rows(self, vectors: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Join embeddings (B_r, n, E) to rows (B_r, R, F); return rows and classes (B_r, R)."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> StepOutput:
        """Return the cross-entropy of all rows of a view's patches."""
        vectors = self.embed(by_image(self.encoder, self.cut(batch)))
        rows, labels = self.rows(vectors, batch)
        scores = self.head(rows, derive_key(batch.rng_key, "dropout"), batch.positions)
        return classified(scores.flatten(0, 1).float(), labels.flatten())
