"""Weighted nearest neighbours: a classifier without training (Wu et al. 2018, section 3.4)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Tensor, nn

from retable.domains import Count, Name, Positive
from retable.errors import UserError
from retable.evaluate.classifier import accuracy, unit_rows
from retable.evaluate.data import EvalData, natural_test_view, open_eval_splits
from retable.evaluate.features import pooled_features
from retable.evaluate.protocol import ACCURACIES, EvalContext, Evaluation, MetricSpec
from retable.settings import validate_fields
from retable.views import ViewRecipe

if TYPE_CHECKING:
    from retable.evaluate.data import OpenSource


def nearest(
    queries: Tensor, bank: Tensor, k: int, *, rows: int = 1024, columns: int = 65536
) -> tuple[Tensor, Tensor]:
    """Find the k rows of a bank (m, F) with the largest dot products with each query (n, F).

    Returns similarities (n, k), falling, and positions in the bank (n, k) int64. The similarities
    exist for ``rows`` queries and ``columns`` bank rows at a time only.
    """
    values, positions = [], []
    for block in torch.split(queries, rows):
        best = block.new_empty(len(block), 0)
        columns_found = torch.empty(len(block), 0, dtype=torch.int64, device=block.device)
        for start in range(0, len(bank), columns):
            part = block @ bank[start : start + columns].T
            found = part.topk(min(k, part.shape[1]), dim=1)
            candidates = torch.cat([best, found.values], 1)
            best, chosen = candidates.topk(min(k, candidates.shape[1]), dim=1)
            columns_found = torch.cat([columns_found, found.indices + start], 1).gather(1, chosen)
        values.append(best)
        positions.append(columns_found)
    return torch.cat(values), torch.cat(positions)


def neighbours(images: int, classes: int) -> int:
    """Return how many of ``images`` training images vote: 200, or a sixth of a class if it is less.

    200 are about a sixth of a class of ImageNet, on which Wu et al. chose them. Where they are more
    than a class has, most votes are for other classes, and the order of encoders changes.
    """
    return max(1, min(Knn.k, images // (6 * classes)))


def knn_scores(
    queries: Tensor,
    bank: Tensor,
    bank_labels: Tensor,
    *,
    classes: int,
    k: int = 200,
    temperature: float = 0.07,
) -> Tensor:
    """Sum, for every class, exp(cosine / temperature) over a query's k nearest bank rows of it.

    Queries (n, F) and bank (m, F), m >= k, may have any length; ``bank_labels`` (m,) int64 are in
    [0, classes). Returns scores (n, C), relative to each query's strongest vote. Defaults: Wu et
    al. 2018.
    """
    if not 1 <= k <= len(bank):
        raise UserError(
            f"kNN with k = {k} has {len(bank)} training images: expected k from 1 to that number, "
            "so lower k."
        )
    similarities, neighbours = nearest(unit_rows(queries), unit_rows(bank), k)
    # The strongest vote is 1: exp(1 / 0.07) alone would do in float32, exp(1 / 0.01) would not.
    votes = ((similarities - similarities[:, :1]) / temperature).exp()
    scores = votes.new_zeros(len(queries), classes)
    return scores.scatter_add_(1, bank_labels[neighbours], votes)


@dataclass(frozen=True)
class Knn(Evaluation):
    """Accuracy of weighted kNN, the test images' neighbours among the training images.

    Attributes:
        k: neighbours that vote, default of Wu et al. 2018.
        temperature: temperature of the votes' weights, default of Wu et al. 2018.
        view: view of training and test images; None: `natural_test_view`.
    """

    defaults_of: ClassVar[str] = "Wu et al. (arXiv:1805.01978) on ImageNet"

    k: Count = 200
    temperature: Positive = 0.07
    view: ViewRecipe | None = None
    data: EvalData = field(default_factory=EvalData)
    name: Name = "knn"

    def __post_init__(self) -> None:
        """Validate the fields."""
        validate_fields(self)

    @property
    def metrics(self) -> dict[str, MetricSpec]:
        """Accuracies."""
        return dict(ACCURACIES)

    def shrunk(self, epochs: int, size: int = 32) -> Self:
        """Return the evaluation of images as they are."""
        return replace(self, view=None)

    def run(
        self, encoder: nn.Module, open_source: OpenSource, context: EvalContext, *, seed: int = 0
    ) -> dict[str, float]:
        """Return the accuracies, see `Evaluation.run`; nothing is drawn or kept."""
        splits = open_eval_splits(open_source, self.data)
        splits.check_labels()
        view = self.view or natural_test_view(splits.train, splits.test)
        sources = splits.train, splits.test
        train, test = pooled_features(encoder, sources, view, context, self.name)
        scores = knn_scores(
            test.features,
            train.features,
            train.labels,
            classes=splits.classes,
            k=self.k,
            temperature=self.temperature,
        )
        return accuracy(scores, test.labels)
