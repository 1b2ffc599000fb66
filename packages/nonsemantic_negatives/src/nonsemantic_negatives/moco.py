"""MoCo version 2 whose queries are also contrasted with non-semantic negatives of their own."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nonsemantic_negatives.logits import Placement, gradient_share, nonsemantic_logits
from nonsemantic_negatives.negatives import PatchNegatives
from retable.domains import Positive, Queue
from retable.methods.method import Batch, Metrics, StepOutput
from retable.methods.moco import MoCo, MoCoRecipe
from retable.nn.batch_norm import shuffled
from retable.random import derive_key
from retable.settings import validate_fields


@dataclass(frozen=True)
class MoCoNSRecipe(MoCoRecipe):
    """MoCo version 2 with non-semantic negatives; the defaults are ImageNet-100's (table 1).

    Attributes:
        queue: K, number of keys in the queue; 16384 and 8192 on ImageNet-100, 65536, 32768 and
            16384 on ImageNet-1K (table 8). Fewer keys have the effect of a larger alpha.
        alpha: weight of the non-semantic negatives; 2 or 3 in the tables, up to 5 in figure 13.
            Plain MoCo is `retable.methods.moco.moco_v2`, not alpha 0, which would add 1 to the
            denominator.
        placement: alpha "inside" the exponential, the paper's loss L_in, or "outside", L_out.
        negatives: recipe of the negatives, see `nonsemantic_negatives.negatives`.
    """

    queue: Queue = 16384
    temperature: Positive = 0.2
    head: Literal["linear", "mlp"] = "mlp"
    alpha: Positive = 2.0
    placement: Placement = "inside"
    negatives: Any = field(default_factory=PatchNegatives)

    def __post_init__(self) -> None:
        validate_fields(self)

    def build(self, encoder: nn.Module, rng_key: int) -> MoCoNS:
        """Return the method; ``rng_key`` draws the head's weights and the first queue."""
        return MoCoNS(encoder, self, rng_key)


class MoCoNS(MoCo):
    """Contrast each query with its key, the queue, and non-semantic negatives of its own view.

    Negatives pass through the key encoder by themselves: in batch-norm groups without keys, after a
    shuffle of their own, so that batch statistics do not tell them from keys. They never enter the
    queue.
    """

    def __init__(self, encoder: nn.Module, recipe: MoCoNSRecipe, rng_key: int) -> None:
        super().__init__(encoder, recipe, rng_key)
        self.recipe = recipe

    def encoder_inputs(self, sizes: Any) -> tuple[tuple[int, float], ...]:
        """Return MoCo's passes and those of the negatives (forward)."""
        return (*super().encoder_inputs(sizes), (sizes[0], float(self.recipe.negatives.count)))

    @torch.no_grad()
    def negative_keys(self, batch: Batch) -> Tensor:
        """Embed the negatives of the query's view as unit vectors (B_r, n, D), float32."""
        images = self.recipe.negatives.images(batch, view=0)
        raw = []
        for number, of_query in enumerate(images):
            if self.shuffle:
                rng_key = derive_key(batch.rng_key, "shuffle negatives", number)
                raw.append(shuffled(self.key_encoder, of_query, rng_key))
            else:
                raw.append(self.key_encoder(of_query))
        return torch.stack([self.project(one) for one in raw], dim=1)

    def contrastive_loss(self, queries: Tensor, keys: Tensor, batch: Batch) -> StepOutput:
        """Contrast queries (B_r, D) with keys (B_r, D), the queue and non-semantic negatives."""
        negatives = self.negative_keys(batch)
        with torch.autocast(queries.device.type, enabled=False):
            positive = (queries * keys).sum(dim=1, keepdim=True)
            columns = nonsemantic_logits(
                queries,
                negatives,
                alpha=self.recipe.alpha,
                placement=self.recipe.placement,
                temperature=self.temperature,
                rows="unchecked",
            )
            logits = torch.cat([positive, self.score_queue(queries, batch), columns], dim=1)
        return self.step_output(logits, queries, keys, batch)

    @torch.no_grad()
    def metrics(self, logits: Tensor, queries: Tensor, keys: Tensor, batch: Batch) -> Metrics:
        """Return MoCo's scalars and those of the non-semantic negatives, means over queries.

        ``nonsemantic_score`` is their cosine with the query, ``nonsemantic_margin`` what the cosine
        with the key has above it, ``nonsemantic_above`` the share whose logit exceeds the
        positive's, ``nonsemantic_share`` their weight in the gradient
        (`nonsemantic_negatives.logits.gradient_share`).
        """
        recipe = self.recipe
        columns = logits[:, 1 + self.queue.size :]
        if recipe.placement == "inside":
            cosines = columns / recipe.alpha
        else:
            cosines = columns - self.temperature * math.log(recipe.alpha)
        share = gradient_share(
            logits,
            columns.shape[1],
            alpha=recipe.alpha,
            placement=recipe.placement,
            temperature=self.temperature,
        )
        return super().metrics(logits, queries, keys, batch) | {
            "nonsemantic_score": cosines.mean(),
            "nonsemantic_margin": (logits[:, :1] - cosines).mean(),
            "nonsemantic_above": (columns > logits[:, :1]).float().mean(),
            "nonsemantic_share": share.mean(),
        }
