"""MoCHi as a method: MoCo version 2 whose queries also see synthetic negatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from mochi import analysis
from mochi.draws import MixingDraws, draw_from_key
from mochi.logits import logits_from_draws
from mochi.mixing import check_counts
from mochi.pool import HardPool, check_pool, hardest
from retable.methods.method import Batch, Metrics, Progress
from retable.methods.moco import MoCo, MoCoRecipe
from retable.nn.scores import score_statistics
from retable.random import derive_key


@dataclass(frozen=True)
class MoCHiRecipe(MoCoRecipe):
    """What makes MoCHi (N, s, s'), on top of MoCo version 2; defaults are ImageNet-100's (table 1).

    Attributes:
        queue: K, keys in the queue; 65536 on ImageNet-1K.
        temperature: tau.
        head: the projection head.
        n_hard: N, size of each query's pool of hard negatives, at most K.
        s: points mixed from pairs, for each query; may exceed N.
        s_prime: points mixed from query and negative, for each query; may exceed N. With s = s' = 0
            this is MoCo version 2.
        mixing_warmup_epochs: first epochs with MoCo's loss; 15 on ImageNet-1K. No learning-rate
            warm-up, and not scaled with the length of the run.
        beta_max: the query's largest share in a point.
        detach_query: take the query inside a point as a constant.
        analyse: also log, from labels, the shares of false negatives and the probabilities of
            negatives by rank. Costs two more rankings of the queue a step.
        analysed_negatives: how many of the hardest are looked at for these; 1024 in the paper.
    """

    queue: int = 16384
    temperature: float = 0.2
    head: Literal["linear", "mlp"] = "mlp"
    n_hard: int = 1024
    s: int = 1024
    s_prime: int = 128
    mixing_warmup_epochs: int = 10
    beta_max: float = 0.5
    detach_query: bool = True
    analyse: bool = False
    analysed_negatives: int = 1024

    def build(self, encoder: nn.Module, rng_key: int) -> MoCHi:
        """Return the method; ``rng_key`` draws the head's weights and the first queue."""
        return MoCHi(encoder, self, rng_key)


class MoCHi(MoCo):
    """Contrast each query with its key, the queue, and mixtures of its hardest negatives.

    The synthetic negatives are made from what the process holds: no communication. Their draws are
    a function of the step's key and the query's place in the global batch, so that splitting the
    batch over processes changes none.
    """

    def __init__(self, encoder: nn.Module, recipe: MoCHiRecipe, rng_key: int) -> None:
        check_counts(recipe.s, recipe.s_prime, recipe.beta_max)
        if recipe.s + recipe.s_prime > 0:
            check_pool(recipe.n_hard, recipe.queue)
        super().__init__(encoder, recipe, rng_key)
        self.recipe = recipe

    def mixes(self, progress: Progress) -> bool:
        """Whether this step sees synthetic negatives: after the warm-up, if there are any."""
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
        """Find the pools in cosines (B_r, K) and draw from them: a function of its arguments."""
        recipe = self.recipe
        pool = hardest(cosines, recipe.n_hard)
        draws = draw_from_key(
            derive_key(batch.rng_key, "mixing"),
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
        """Return the statistics of raw scores and of all that the loss saw, also of synthetic ones.

        Without synthetic negatives they are equal, unless an oracle bars some.
        """
        seen = score_statistics(logits[:, 0], logits[:, 1:])
        return super().step_metrics(logits, queries, keys, batch) | seen.named("transformed_")

    def _negatives(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cut the negatives (B_r, K), (B_r, s), (B_r, s') out of logits, empty where not mixed."""
        real, synthetic = logits[:, 1 : 1 + self.queue.size], logits[:, 1 + self.queue.size :]
        return real, synthetic[:, : self.recipe.s], synthetic[:, self.recipe.s :]

    def _analyse(self, logits: Tensor, queries: Tensor, batch: Batch) -> Metrics:
        """Return the scalars of figures 2a and 2c."""
        queue, n = self.queue, min(self.recipe.analysed_negatives, self.queue.size)
        assert queue.labels is not None
        real = self._negatives(logits)[0]
        # An oracle has barred its false negatives from the logits; here they are wanted.
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
