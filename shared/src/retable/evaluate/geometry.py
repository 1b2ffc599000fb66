"""Geometry of features: alignment and uniformity (Wang and Isola 2020), effective rank."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Tensor, nn

from retable.data.source import TEST
from retable.domains import Name, Positive
from retable.errors import UserError
from retable.evaluate.classifier import check_labels, unit_rows
from retable.evaluate.data import EvalData, natural_test_view, open_test_split
from retable.evaluate.features import pooled_features
from retable.evaluate.protocol import EvalContext, Evaluation, MetricSpec
from retable.settings import validate_fields
from retable.views import ViewRecipe, center

if TYPE_CHECKING:
    from retable.evaluate.data import OpenSource


def alignment(features: Tensor, labels: Tensor) -> Tensor:
    """Average the squared distance over all unordered pairs of one class, features normalised.

    Wang and Isola's loss with alpha = 2, "positive" meaning "of the same class" as in figure 3c of
    MoCHi; lower is more aligned. For n unit vectors of sum S the pairs' squared distances sum to
    n^2 - |S|^2, so nothing of the pairs' size exists. Features are (n, F), labels (n,) int64 from 0
    on; the result is a float64 scalar in [0, 4].
    """
    unit = unit_rows(features.double())
    count = torch.bincount(labels)
    sums = unit.new_zeros(len(count), unit.shape[1]).index_add_(0, labels, unit)
    squares = unit.new_zeros(len(count)).index_add_(0, labels, unit.square().sum(1))
    pairs = (count * (count - 1)).sum() / 2
    if not bool(pairs > 0):
        raise UserError(
            f"alignment needs pairs of one class: expected a class with two of the {len(labels)} "
            "images, so evaluate on more images."
        )
    return (count * squares - sums.square().sum(1)).sum() / pairs


def uniformity(features: Tensor, *, t: float = 2.0, rows: int = 1024) -> Tensor:
    """Take the log of the mean of exp(-t |x - y|^2) over all unordered pairs, features normalised.

    Wang and Isola 2020 with t = 2; lower is more uniform, 0 if all features are one point, also
    that of zeros. Features are (n, F), n at least 2; the result is a float64 scalar in [-4 t, 0].
    Products are formed in the features' type for ``rows`` images at a time, exponentials are summed
    in float64.
    """
    n = len(features)
    if n < 2:
        raise UserError(f"uniformity needs pairs: expected at least 2 images, got {n}.")
    unit = unit_rows(features)
    zero = int((unit == 0).all(1).sum())
    if zero:
        unit = unit[(unit != 0).any(1)]
    total = torch.zeros((), dtype=torch.float64, device=features.device)
    for start in range(0, len(unit), rows):
        block = unit[start : start + rows]
        # The square on the diagonal holds its pairs twice and every image with itself.
        within = (block @ block.T).sub_(1).mul_(2 * t).exp_().triu_(1)
        after = (block @ unit[start + len(block) :].T).sub_(1).mul_(2 * t).exp_()
        total += within.sum(dtype=torch.float64) + after.sum(dtype=torch.float64)
    # A zero vector is at distance 0 from another one and at distance 1 from a unit vector.
    total += zero * (zero - 1) / 2 + zero * (n - zero) * math.exp(-t)
    return (total / (n * (n - 1) / 2)).log()


def mean_cosine(features: Tensor) -> Tensor:
    """Return the mean cosine over all unordered pairs: 1 if all features point the same way.

    Features are (n, F), n at least 2, and are not centred here; the result is a float64 scalar in
    [-1 / (n - 1), 1]. For n unit vectors of sum S the pairs' cosines sum to (|S|^2 - n) / 2, so
    nothing of the pairs' size exists. A zero vector has cosine 0 with all others.
    """
    n = len(features)
    if n < 2:
        raise UserError(f"the mean cosine needs pairs: expected at least 2 images, got {n}.")
    unit = unit_rows(features.double())
    pairs: Tensor = unit.sum(0).square().sum() - unit.square().sum()
    return pairs / (n * (n - 1))


def effective_rank(features: Tensor) -> Tensor:
    """Return exp of the entropy of the normalised singular values (Roy and Vetterli 2007; RankMe).

    Features are (n, F), neither centred nor normalised here. The result, computed in float64 from
    the smaller Gram matrix, is between 1 (all on one line) and min(n, F), or 0 if all are zero.
    """
    x = features.double()
    gram = x.T @ x if x.shape[0] >= x.shape[1] else x @ x.T
    singular = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    total: Tensor = singular.sum()
    if not bool(total > 0):
        return total
    share = singular / total
    rank: Tensor = torch.special.entr(share).sum().exp()
    return rank


@dataclass(frozen=True)
class Geometry(Evaluation):
    """Alignment, uniformity and effective rank of the test images' pooled features.

    Attributes:
        t: sharpness of `uniformity`, default of Wang and Isola 2020.
        view: view of the images; None: `natural_test_view`.
    """

    t: Positive = 2.0
    view: ViewRecipe | None = None
    data: EvalData = field(default_factory=EvalData)
    name: Name = "geometry"

    reads: ClassVar[tuple[str, ...]] = (TEST,)

    def __post_init__(self) -> None:
        """Validate the fields."""
        validate_fields(self)
        if self.data.labels < 1 or self.data.files:
            raise UserError(
                "`data` must select no training labels, since the geometry of test images needs "
                f"none, got {self.data.files or self.data.labels}. Leave `labels` and `files` out."
            )

    @property
    def metrics(self) -> dict[str, MetricSpec]:
        """Alignment and uniformity (losses) and effective rank."""
        return {
            "alignment": MetricSpec("Alignment", higher_is_better=False),
            "uniformity": MetricSpec("Uniformity", higher_is_better=False),
            "effective_rank": MetricSpec("Effective rank", higher_is_better=True),
        }

    def shrunk(self, epochs: int, size: int = 32) -> Self:
        """Return the evaluation at ``size`` pixels."""
        return replace(self, view=center(size, size))

    def run(
        self, encoder: nn.Module, open_source: OpenSource, context: EvalContext, *, seed: int = 0
    ) -> dict[str, float]:
        """Return `metrics`, see `Evaluation.run`; nothing is drawn or kept."""
        source = open_test_split(open_source, self.data)
        check_labels(source.labels, len(source.class_names), "test")
        view = self.view or natural_test_view(source)
        (found,) = pooled_features(encoder, [source], view, context, self.name)
        return {
            "alignment": alignment(found.features, found.labels).item(),
            "uniformity": uniformity(found.features, t=self.t).item(),
            "effective_rank": effective_rank(found.features).item(),
        }
