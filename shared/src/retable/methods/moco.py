"""MoCo (He et al., CVPR 2020; Chen et al., arXiv 2003.04297), with hooks for subclasses.

The step is written once, in `MoCo.forward`. A subclass changes one part by overriding a hook:

- `MoCo.select_views`: which views of a batch become queries and keys.
- `MoCo.queries`, `MoCo.keys`, `MoCo.project`: how a view is embedded.
- `MoCo.score_queue`: the scores with the queue, for example to mask negatives.
- `MoCo.logits`: all scores of the loss, for example with further or transformed negatives.
- `MoCo.contrastive_loss`: the loss of given queries and keys, for example with further views.
- `MoCo.metrics`, `MoCo.step_metrics`: scalars that are logged as means, or for every step.
- `MoCo.encoder_inputs`: the encoder's work, where it sees more than both views.

Queries carry gradient; keys and queue do not. `MoCo.after_step` enqueues the keys after the
backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retable import distributed
from retable.domains import Dim, Positive, Probability, Queue
from retable.methods.method import Batch, Method, Metrics, Progress, StepOutput
from retable.methods.metrics import embedding_spread, ranking
from retable.nn.batch_norm import shuffled
from retable.nn.heads import linear_head, mlp_head
from retable.nn.losses import info_nce
from retable.nn.momentum import MomentumCopy
from retable.nn.queues import KeyQueue
from retable.nn.scores import queue_score_statistics
from retable.random import derive_key
from retable.settings import validate_fields


@dataclass(frozen=True)
class MoCoRecipe:
    """MoCo without its encoder; the defaults are version 1's (He et al., section 4).

    Attributes:
        queue: K, number of keys in the queue.
        temperature: tau; 0.07 in version 1, 0.2 in version 2.
        momentum: m of the key encoder's moving average, constant.
        dim: D of queries and keys.
        head: "linear" (version 1) or "mlp" (version 2: Linear, ReLU, Linear, no batch norm).
        shuffle: shuffle-BN (He et al., section 3.3).
        oracle: mask queue entries of the query's class, for analyses (Kalantidis et al., arXiv
            2010.01028, section 4).
    """

    queue: Queue = 65536
    temperature: Positive = 0.07
    momentum: Probability = 0.999
    dim: Dim = 128
    head: Literal["linear", "mlp"] = "linear"
    shuffle: bool = True
    oracle: bool = False

    def __post_init__(self) -> None:
        validate_fields(self)

    def build(self, encoder: nn.Module, rng_key: int) -> MoCo:
        """Return the method; ``rng_key`` draws the head's weights and the first queue."""
        return MoCo(encoder, self, rng_key)


def moco_v1(**changes: object) -> MoCoRecipe:
    """Return the recipe of MoCo version 1 with the given changes."""
    return MoCoRecipe(**changes)  # type: ignore[arg-type]


def moco_v2(**changes: object) -> MoCoRecipe:
    """Return the recipe of MoCo version 2 (Chen et al., table 1): MLP head, temperature 0.2."""
    return MoCoRecipe(**{"head": "mlp", "temperature": 0.2, **changes})  # type: ignore[arg-type]


class MoCo(Method):
    """Contrast each query with its key and with the keys of earlier batches.

    Attributes:
        head: query projection head, (B, F) -> (B, D).
        key_encoder: moving average of encoder and head, without gradient.
        queue: the K most recent keys, and their labels.
    """

    def __init__(self, encoder: nn.Module, recipe: MoCoRecipe, rng_key: int) -> None:
        super().__init__()
        self.temperature = recipe.temperature
        self.momentum = recipe.momentum
        self.shuffle = recipe.shuffle
        self.oracle = recipe.oracle
        features = int(encoder.feature_dim)  # type: ignore[arg-type]
        self.encoder = encoder
        build_head = linear_head if recipe.head == "linear" else mlp_head
        self.head = build_head(features, recipe.dim, rng_key=derive_key(rng_key, "head"))
        self.key_encoder = MomentumCopy(nn.Sequential(self.encoder, self.head))
        self.queue = KeyQueue(recipe.queue, recipe.dim, derive_key(rng_key, "queue"), labels=True)
        self._unqueued: tuple[Tensor, Tensor] | None = None

    def encoder_inputs(self, sizes: Sequence[int]) -> tuple[tuple[int, float], ...]:
        """Return the query's passes (forward and backward) and the key's (forward)."""
        return ((sizes[0], 3.0), (sizes[1], 1.0))

    def queries(self, view: Tensor) -> Tensor:
        """Embed a view (B_r, 3, H, W) as unit queries (B_r, D), float32."""
        return self.project(self.head(self.encoder(view)))

    def project(self, raw: Tensor) -> Tensor:
        """Project a head's outputs (B_r, D) to the unit sphere, float32."""
        return F.normalize(raw.float(), dim=1)

    @torch.no_grad()
    def keys(self, view: Tensor, batch: Batch) -> Tensor:
        """Embed a view (B_r, 3, H, W) as unit keys (B_r, D), float32, without gradient."""
        if self.shuffle:
            raw = shuffled(self.key_encoder, view, derive_key(batch.rng_key, "shuffle"))
        else:
            raw = self.key_encoder(view)
        return self.project(raw)

    def logits(self, queries: Tensor, keys: Tensor, batch: Batch) -> Tensor:
        """Return cosines (B_r, 1 + K), the positive first, not yet divided by the temperature."""
        positive = (queries * keys).sum(dim=1, keepdim=True)
        return torch.cat([positive, self.score_queue(queries, batch)], dim=1)

    def score_queue(self, queries: Tensor, batch: Batch) -> Tensor:
        """Return cosines (B_r, K) with the queue, -inf where the oracle masks an entry."""
        cosines = queries @ self.queue.rows.T
        if self.oracle:
            assert self.queue.labels is not None
            known = batch.labels >= 0
            same = (batch.labels[:, None] == self.queue.labels) & known[:, None]
            cosines = cosines.masked_fill(same, -math.inf)
        return cosines

    @torch.no_grad()
    def metrics(self, logits: Tensor, queries: Tensor, keys: Tensor, batch: Batch) -> Metrics:
        """Return the scalars to log, from cosines (B_r, 1 + K + ...) of this step."""
        global_batch = len(queries) * distributed.process_count()
        return ranking(logits) | {
            "embedding_spread": embedding_spread(queries),
            "chance_loss": math.log(logits.shape[1]),
            "queue_fill": self.queue.filled / self.queue.size,
            "queue_expected_fill": min(1.0, batch.progress.step * global_batch / self.queue.size),
            "queue_full_step": math.ceil(self.queue.size / global_batch),
        }

    @torch.no_grad()
    def step_metrics(self, logits: Tensor, queries: Tensor, keys: Tensor, batch: Batch) -> Metrics:
        """Return the statistics of the raw scores with all rows of the queue, also those not used.

        A subclass that scores other pairs adds the statistics of its ``logits`` (B_r, 1 + K + ...)
        as ``transformed_*``.
        """
        return queue_score_statistics(queries, keys, self.queue.moments).named()

    def select_views(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the views of queries and of keys, (B_r, 3, H, W) each."""
        query_view, key_view = batch.views
        return query_view, key_view

    def contrastive_loss(self, queries: Tensor, keys: Tensor, batch: Batch) -> StepOutput:
        """Contrast queries (B_r, D) with keys (B_r, D) and the queue."""
        # Ranking and log-sum-exp over K cosines lose their order in half precision.
        with torch.autocast(queries.device.type, enabled=False):
            logits = self.logits(queries, keys, batch)
        return self.step_output(logits, queries, keys, batch)

    def step_output(
        self, logits: Tensor, queries: Tensor, keys: Tensor, batch: Batch
    ) -> StepOutput:
        """Return the loss and the metrics of cosines (B_r, 1 + K + ...), the positive first."""
        loss = info_nce(logits, self.temperature)
        arguments = (logits.detach(), queries.detach(), keys, batch)
        return StepOutput(loss, self.metrics(*arguments), self.step_metrics(*arguments))

    def forward(self, batch: Batch) -> StepOutput:
        """Return the InfoNCE loss of two views; `after_step` enqueues the keys."""
        query_view, key_view = self.select_views(batch)
        self.key_encoder.update(self.momentum)
        queries = self.queries(query_view)
        keys = self.keys(key_view, batch)
        output = self.contrastive_loss(queries, keys, batch)
        if self._unqueued is not None:
            raise RuntimeError(
                "`after_step` must be called between two steps. It enqueues the keys."
            )
        self._unqueued = (keys, batch.labels)
        return output

    def after_step(self, progress: Progress) -> None:
        """Enqueue the step's keys, all processes' in rank order.

        Keys enqueued before the logits would be their own negatives. Rows that change before the
        backward pass would make the gradient wrong or have to be copied.
        """
        if self._unqueued is not None:
            keys, labels = self._unqueued
            self.queue.enqueue(distributed.gather(keys), distributed.gather(labels))
            self._unqueued = None
