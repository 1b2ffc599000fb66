"""InfoMin (Tian et al., NeurIPS 2020) as PyContrast trains it, with feature transformation.

MoCo version 2 with stronger views and a third view, cut into a jigsaw, whose feature is contrasted
with the same key and the same queue. The pairs of both branches are transformed (supplement,
section E) with separate weights; the negatives are mixed once, for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from feature_transform.jigsaw import JigsawHead, shuffled_orders
from feature_transform.logits import mixed_scores, transformed_pair, transformed_scores
from feature_transform.moco import MoCoFT, MoCoFTRecipe
from feature_transform.recipe import UNTRANSFORMED, TransformRecipe
from retable.domains import Pixels, Positive, Probability, Queue, Small
from retable.errors import UserError
from retable.methods.method import Batch, StepOutput
from retable.methods.metrics import embedding_spread, ranking
from retable.methods.multi_crop import by_image
from retable.nn.checks import (
    Rows,
    Shaped,
    check_rng_key,
    check_shapes,
    row_positions,
    unit_rows,
)
from retable.nn.losses import info_nce
from retable.nn.patches import PatchGrid, cut_patches
from retable.random import derive_key


def branch_logits(
    branches: Sequence[Tensor],
    key: Tensor,
    queue: Tensor,
    transform: TransformRecipe,
    rng_key: int,
    positions: Tensor | None = None,
    *,
    rows: Rows = "unit",
) -> list[Tensor]:
    """Return the logits of several queries of each image, which share its key and the negatives.

    The first branch's are `feature_transform.transformed_logits`. The others draw separate weights
    and are scored against the same mixed queue. ``branches`` are unit rows (B, D) each, float32 or
    float64; the other arguments are those of `transformed_logits`.

    Returns:
        (B, 1 + K) for each branch, the positive in column 0, not divided by the temperature.
    """
    if not branches:
        raise UserError("`branches` must be at least one tensor of queries, got none. Pass one.")
    check_shapes(
        *(Shaped(f"branches[{i}]", branch, "B D") for i, branch in enumerate(branches)),
        Shaped("key", key, "B D"),
        Shaped("queue", queue, "K D"),
    )
    check_rng_key(rng_key)
    positions = row_positions(positions, key)
    branches = [unit_rows(f"branches[{i}]", branch, rows) for i, branch in enumerate(branches)]
    key, queue = unit_rows("key", key, rows), unit_rows("queue", queue, rows)
    draw_keys = [rng_key, *(derive_key(rng_key, "branch", i) for i in range(1, len(branches)))]
    pairs = [
        transformed_pair(query, key, transform, own, positions)
        for query, own in zip(branches, draw_keys, strict=True)
    ]
    positives = [(moved * moved_key).sum(dim=1, keepdim=True) for moved, moved_key in pairs]
    scored = list(branches)
    if transform.score_against == "extrapolated":
        scored = [moved for moved, _ in pairs]
    if transform.negatives in ("interpolate", "extrapolate"):
        scores = mixed_scores(scored, queue, transform, rng_key, positions)
    else:
        scores = [
            transformed_scores(seen, query, queue, transform, own, positions)
            for seen, query, own in zip(scored, branches, draw_keys, strict=True)
        ]
    return [torch.cat(columns, dim=1) for columns in zip(positives, scores, strict=True)]


@dataclass(frozen=True)
class InfoMinRecipe(MoCoFTRecipe):
    """InfoMin without encoder and views; the defaults are those of PyContrast's ``InfoMin``.

    The views are two of `retable.views.infomin` and, for the jigsaw, one of `retable.views.jigsaw`.
    The other fields are those of `feature_transform.moco.MoCoFTRecipe`; the head is also that of
    the jigsaw's crops, and the transformation, by default none, that of both branches.

    Attributes:
        jigsaw: whether there is a jigsaw branch; without it, this is MoCo.
        grid: cells in a row and in a column of the jigsaw.
        cell: side of a cell in pixels; the jigsaw's view has grid * cell.
        crop: side in pixels of the crop that is cut from each cell.
    """

    queue: Queue = 65536
    temperature: Positive = 0.15
    momentum: Probability = 0.999
    head: Literal["linear", "mlp"] = "mlp"
    transform: TransformRecipe = UNTRANSFORMED
    jigsaw: bool = True
    grid: Small = 3
    cell: Pixels = 85
    crop: Pixels = 64

    def build(self, encoder: nn.Module, rng_key: int) -> InfoMin:
        """Return the method; ``rng_key`` draws the heads' weights and the first queue."""
        return InfoMin(encoder, self, rng_key)


class InfoMin(MoCoFT):
    """Contrast a view and a jigsaw of an image with the key of another view.

    Attributes:
        cells: sizes of the jigsaw's cells and crops.
        jigsaw_head: embeds the crops' features as one feature; None without jigsaw.
    """

    def __init__(self, encoder: nn.Module, recipe: InfoMinRecipe, rng_key: int) -> None:
        super().__init__(encoder, recipe, rng_key)
        self.recipe = recipe
        self.cells = PatchGrid(recipe.grid, recipe.cell, recipe.crop, standardise=False)
        self.jigsaw_head: JigsawHead | None = None
        if recipe.jigsaw:
            features = int(encoder.feature_dim)  # type: ignore[arg-type]
            self.jigsaw_head = JigsawHead(
                features,
                recipe.grid**2,
                recipe.dim,
                head=recipe.head,
                rng_key=derive_key(rng_key, "jigsaw head"),
            )

    def encoder_inputs(self, sizes: Sequence[int]) -> tuple[tuple[int, float], ...]:
        """Return MoCo's passes and those of the jigsaw's crops, forward and backward."""
        if self.jigsaw_head is None:
            return super().encoder_inputs(sizes)
        crops = (self.recipe.crop, 3.0 * self.recipe.grid**2)
        return (*super().encoder_inputs(sizes), crops)

    def select_views(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the views of queries and of keys."""
        expected = 2 if self.jigsaw_head is None else 3
        if len(batch.views) != expected:
            raise UserError(
                f"`views` of InfoMin must be {expected}, got {len(batch.views)}. Use two of "
                "retable.views.infomin and, with a jigsaw, one of retable.views.jigsaw."
            )
        return batch.views[0], batch.views[1]

    def jigsaw_queries(self, view: Tensor, batch: Batch) -> Tensor:
        """Embed a view (B_r, 3, S, S), S = grid * cell, as queries (B_r, D), cut and shuffled."""
        assert self.jigsaw_head is not None
        rng_key = derive_key(batch.rng_key, "jigsaw")
        crops = cut_patches(view, self.cells, rng_key, batch.positions)
        orders = shuffled_orders(derive_key(rng_key, "order"), batch.positions, crops.shape[1])
        return self.project(self.jigsaw_head(by_image(self.encoder, crops), orders))

    def logits_of_both(self, branches: list[Tensor], keys: Tensor, batch: Batch) -> list[Tensor]:
        """Return scores (B_r, 1 + K) of each branch's queries, the positive first."""
        if not self.transform.active(batch.progress):
            return [self.logits(queries, keys, batch) for queries in branches]
        rng_key = derive_key(batch.rng_key, "transform")
        queue = self.queue.rows
        return branch_logits(
            branches, keys, queue, self.transform, rng_key, batch.positions, rows="unchecked"
        )

    def contrastive_loss(self, queries: Tensor, keys: Tensor, batch: Batch) -> StepOutput:
        """Contrast both branches' queries with the keys; the loss is the mean of both losses."""
        if self.jigsaw_head is None:
            return super().contrastive_loss(queries, keys, batch)
        branches = [queries, self.jigsaw_queries(batch.views[2], batch)]
        with torch.autocast(queries.device.type, enabled=False):
            logits = self.logits_of_both(branches, keys, batch)
            losses = [info_nce(of_branch, self.temperature) for of_branch in logits]
            loss = (losses[0] + losses[1]) / 2
        pair, jigsaw = (
            (of_branch.detach(), embedded.detach(), keys, batch)
            for of_branch, embedded in zip(logits, branches, strict=True)
        )
        jigsaw_metrics = {
            **ranking(jigsaw[0]),
            "embedding_spread": embedding_spread(F.normalize(jigsaw[1], dim=1)),
            "loss": losses[1].detach(),
        }
        metrics = {**self.metrics(*pair), "pair_loss": losses[0].detach()}
        metrics |= {f"jigsaw_{name}": value for name, value in jigsaw_metrics.items()}
        trace = self.step_metrics(*pair)
        trace |= {f"jigsaw_{name}": value for name, value in self.step_metrics(*jigsaw).items()}
        return StepOutput(loss, metrics, trace)
