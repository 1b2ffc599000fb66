"""MoCHi as a method: MoCo version 2 whose queries are also contrasted with synthetic negatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from mochi import analysis
from mochi.draws import MixingDraws, check_counts, draw_mixing
from mochi.logits import logits_from_draws
from mochi.mixing import MIXING
from mochi.pool import HardPool, check_pool, hardest
from retable.domains import CountOrZero, Positive, Probability, Queue
from retable.methods.method import Batch, Metrics, Progress
from retable.methods.moco import MoCo, MoCoRecipe
from retable.nn.scores import score_statistics
from retable.random import derive_key


@dataclass(frozen=True)
class MoCHiRecipe(MoCoRecipe):
    """MoCHi (N, s, s') on top of MoCo version 2; the defaults are ImageNet-100's (table 1).

    Attributes:
        queue: K, number of keys in the queue; 65536 on ImageNet-1K.
        n_hard: N, size of each query's pool of hard negatives, at most K.
        s: points mixed from pairs, for each query; may exceed N.
        s_prime: points mixed from query and negative, for each query; may exceed N. With s = s' = 0
            this is MoCo version 2.
        mixing_warmup_epochs: first epochs with MoCo's loss; 15 on ImageNet-1K. It neither warms up
            the learning rate nor scales with the length of the run.
        beta_max: upper bound of the query's share in a point.
        detach_query: treat the query inside a point as a constant.
        analyse: also log, from labels, the shares of false negatives and the probabilities of
            negatives by rank. Costs two more rankings of the queue a step.
        analysed_negatives: number of hardest negatives that are analysed; 1024 in the paper.
    """

    queue: Queue = 16384
    temperature: Positive = 0.2
    head: Literal["linear", "mlp"] = "mlp"
    n_hard: CountOrZero = 1024
    s: CountOrZero = 1024
    s_prime: CountOrZero = 128
    mixing_warmup_epochs: CountOrZero = 10
    beta_max: Probability = 0.5
    detach_query: bool = True
    analyse: bool = False
    analysed_negatives: CountOrZero = 1024

    def build(self, encoder: nn.Module, rng_key: int) -> MoCHi:
        """Return the method; ``rng_key`` draws the head's weights and the first queue."""
        return MoCHi(encoder, self, rng_key)


class MoCHi(MoCo):
    """Contrast each query with its key, the queue, and mixtures of its hardest negatives.

    Synthetic negatives need no communication. Their draws are a function of the step's key and the
    query's position in the global batch, so that they do not depend on the number of processes.
    """

    def __init__(self, encoder: nn.Module, recipe: MoCHiRecipe, rng_key: int) -> None:
        check_counts(recipe.s, recipe.s_prime, recipe.beta_max)
        if recipe.s + recipe.s_prime > 0:
            check_pool(recipe.n_hard, recipe.queue)
        super().__init__(encoder, recipe, rng_key)
        self.recipe = recipe

    def mixes(self, progress: Progress) -> bool:
        """Return whether this step uses synthetic negatives: after the warm-up, if s + s' > 0."""
        recipe = self.recipe
        return progress.epoch >= recipe.mixing_warmup_epochs and recipe.s + recipe.s_prime > 0

    def logits(self, queries: Tensor, keys: Tensor, batch: Batch) -> Tensor:
        """Return cosines (B_r, 1 + K + s + s'): positive, queue, pair-mixed, query-mixed."""
        if not self.mixes(batch.progress):
            return super().logits(queries, keys, batch)
        positive = (queries * keys).sum(dim=1, keepdim=True)
        cosines = self.score_queue(queries, batch)
        pool, draws = self.pool_and_draws(cosines, batch)
        synthetic = logits_from_draws(
            queries, self.queue.rows, cosines, pool, draws, detach_query=self.recipe.detach_query
        )
        return torch.cat([positive, cosines, synthetic], dim=1)

    def pool_and_draws(self, cosines: Tensor, batch: Batch) -> tuple[HardPool, MixingDraws]:
        """Return the pools of cosines (B_r, K) and the step's draws from them, without state."""
        recipe = self.recipe
        pool = hardest(cosines, recipe.n_hard)
        draws = draw_mixing(
            derive_key(batch.rng_key, MIXING),
            batch.positions,
            pool.sizes,
            s=recipe.s,
            s_prime=recipe.s_prime,
            beta_max=recipe.beta_max,
        )
        return pool, draws

    @torch.no_grad()
    def metrics(self, logits: Tensor, queries: Tensor, keys: Tensor, batch: Batch) -> Metrics:
        """Return MoCo's scalars and those of `mochi.analysis`.

        ``proxy_accuracy`` counts all negatives, ``proxy_accuracy_real`` only those of the queue.
        """
        metrics = super().metrics(logits, queries, keys, batch)
        real, pairs, mixed = self._negatives(logits)
        metrics["proxy_accuracy_real"] = analysis.proxy_accuracy(logits, self.queue.size)
        for kind, synthetic in (("pairs", pairs), ("query_mixed", mixed)):
            if synthetic.shape[1]:
                gap, harder = analysis.hardness(real, synthetic)
                metrics[f"hardness_gap_{kind}"] = gap
                metrics[f"harder_than_real_{kind}"] = harder
        if self.recipe.analyse:
            metrics |= self._analyse(logits, queries, batch)
        return metrics

    @torch.no_grad()
    def step_metrics(self, logits: Tensor, queries: Tensor, keys: Tensor, batch: Batch) -> Metrics:
        """Return the statistics of raw scores and, as ``transformed_*``, of the loss's scores.

        They are equal without synthetic negatives, unless an oracle masks some.
        """
        of_loss = score_statistics(logits[:, 0], logits[:, 1:])
        return super().step_metrics(logits, queries, keys, batch) | of_loss.named("transformed_")

    def _negatives(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split logits into the negatives (B_r, K), (B_r, s), (B_r, s'), empty where not mixed."""
        real, synthetic = logits[:, 1 : 1 + self.queue.size], logits[:, 1 + self.queue.size :]
        return real, synthetic[:, : self.recipe.s], synthetic[:, self.recipe.s :]

    def _analyse(self, logits: Tensor, queries: Tensor, batch: Batch) -> Metrics:
        """Return the scalars of figures 2a and 2c."""
        queue, n = self.queue, min(self.recipe.analysed_negatives, self.queue.size)
        assert queue.labels is not None
        real = self._negatives(logits)[0]
        # An oracle masks false negatives in the logits; here they are counted.
        cosines = queries @ queue.rows.T if self.oracle else real
        metrics: Metrics = {
            "false_negatives": analysis.false_negatives(cosines, batch.labels, queue.labels, n)
        }
        probabilities = analysis.matching_probabilities(
            logits[:, : 1 + queue.size], self.temperature, n
        )
        for rank in _powers_of_four(n):
            metrics[f"probability_of_rank_{rank}"] = probabilities[rank - 1]
        if self.mixes(batch.progress):
            pool, draws = self.pool_and_draws(real, batch)
            shares = analysis.synthetic_false_negatives(pool, draws, batch.labels, queue.labels)
            if self.recipe.s:
                metrics["false_pairs_definite"] = shares.definite
                metrics["false_pairs_partial"] = shares.partial
            if self.recipe.s_prime:
                metrics["false_query_mixed"] = shares.query_mixed
        return metrics


def _powers_of_four(n: int) -> list[int]:
    """Return 1, 4, 16, ... up to n: the ranks at which a curve over n ranks is logged."""
    return [4**i for i in range((n.bit_length() + 1) // 2)]
