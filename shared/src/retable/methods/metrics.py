"""Metrics of a step: the ranking of pairs and the spread of embeddings.

No function waits for the device. Means over rows are averaged over processes when they are read;
spread and quantiles are no means, so every process computes them from the rows of all.
"""

from __future__ import annotations

import math

from torch import Tensor

from retable import distributed
from retable.methods.method import Metrics


def ranking(logits: Tensor) -> Metrics:
    """Return how positives rank among negatives, as scalars.

    ``proxy_accuracy`` is the share of rows whose positive exceeds every negative. The quantiles of
    the negatives come from at most 16 rows and 512 columns, which costs little. ``logits`` are
    cosines (B, 1 + K), the positive first; -inf masks a negative.
    """
    positives = logits[:, 0]
    sample = logits[:16, 1:513].float()
    negatives = distributed.gather(sample)[: max(16, len(sample))].flatten()
    return {
        **quantiles("positive_score", distributed.gather(positives)),
        **quantiles("negative_score", negatives),
        "proxy_accuracy": (positives > logits[:, 1:].amax(dim=1)).float().mean(),
        "positive_score": positives.mean(),
    }


def embedding_spread(embeddings: Tensor) -> Tensor:
    """Return 1 for unit vectors (B, D) spread evenly over the sphere, 0 for a collapsed embedding.

    The standard deviation of each dimension, averaged, as a multiple of 1 / sqrt(D), its value for
    evenly spread directions (Chen & He, 2021, section 4.1). The embeddings are those of all
    processes: their spread decides whether a run has collapsed.
    """
    embeddings = distributed.gather(embeddings)
    return embeddings.std(dim=0).mean() * math.sqrt(embeddings.shape[1])


def quantiles(name: str, scores: Tensor) -> Metrics:
    """Return the 5, 50 and 95 % quantiles of scores (n,), each the nearest score below.

    -inf is left out; without any other score the quantiles are -1.
    """
    ordered = scores.sort().values  # torch.quantile would wait for the device
    masked = ordered.isneginf().sum()
    last = len(ordered) - 1
    found = {level: ordered.take(masked + (last - masked) * level // 100) for level in (5, 50, 95)}
    none = {"nan": math.nan, "posinf": math.inf, "neginf": -1.0}
    return {f"{name}_q{level:02}": value.nan_to_num(**none) for level, value in found.items()}
