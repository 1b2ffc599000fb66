"""Evaluations of how classes lie in the space of features (figures 4 and 7)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import nn

from relicv2.class_distances import concentration, nearest_others, same_rate
from retable.data.source import TEST
from retable.domains import Count, Name, Small
from retable.errors import UserError
from retable.evaluate.classifier import check_labels, unit_rows
from retable.evaluate.data import EvalData, natural_test_view, open_test_split
from retable.evaluate.features import pooled_features
from retable.evaluate.protocol import EvalContext, Evaluation, MetricSpec
from retable.files import write_record
from retable.settings import validate_fields
from retable.views import ViewRecipe, center

if TYPE_CHECKING:
    from torch import Tensor

    from retable.evaluate.data import OpenSource

RATIOS, NEIGHBOURS = "ratios.json", "neighbours.json"
"""Files that the evaluations leave beside their results, for pictures."""


class _OfTestImages(Evaluation):
    """Base class of evaluations of the pooled features of test images, without training."""

    reads: ClassVar[tuple[str, ...]] = (TEST,)

    if TYPE_CHECKING:

        @property
        def view(self) -> ViewRecipe | None:
            """View of the images."""

    def shrunk(self, epochs: int, size: int = 32) -> Self:
        """Return the evaluation at ``size`` pixels."""
        return replace(self, view=center(size, size))  # type: ignore[type-var]

    def _features(
        self, encoder: nn.Module, open_source: OpenSource, context: EvalContext
    ) -> tuple[Tensor, Tensor]:
        """Return features (n, F) and labels (n,) of the test images."""
        source = open_test_split(open_source, self.data)
        check_labels(source.labels, len(source.class_names), "test")
        view = self.view or natural_test_view(source)
        (found,) = pooled_features(encoder, [source], view, context, self.name)
        return found.features, found.labels


@dataclass(frozen=True)
class ClassConcentration(_OfTestImages):
    """Between-class over within-class distances, mean over classes (figure 4).

    Attributes:
        view: view of the images; None: `natural_test_view`.
    """

    view: ViewRecipe | None = None
    data: EvalData = field(default_factory=EvalData)
    name: Name = "concentration"

    def __post_init__(self) -> None:
        validate_fields(self)

    @property
    def metrics(self) -> dict[str, MetricSpec]:
        """Means over classes, of features as they are and of unit length."""
        return {
            "ratio": MetricSpec("Between / within", higher_is_better=True),
            "unit_ratio": MetricSpec("Between / within, unit length", higher_is_better=True),
        }

    def run(
        self, encoder: nn.Module, open_source: OpenSource, context: EvalContext, *, seed: int = 0
    ) -> dict[str, float]:
        """Return `metrics`, see `Evaluation.run`; ratios go to the context's folder."""
        features, labels = self._features(encoder, open_source, context)
        found = {
            "ratio": concentration(features, labels),
            "unit_ratio": concentration(unit_rows(features), labels),
        }
        if context.directory is not None:
            shown = {name: ratios[ratios.isfinite()].tolist() for name, ratios in found.items()}
            write_record(context.directory / RATIOS, context.owner, shown)
        return {name: ratios.nanmean().item() for name, ratios in found.items()}


@dataclass(frozen=True)
class NeighbourConfusion(_OfTestImages):
    """How often nearest neighbours are of the class of their image, among a few images (figure 7).

    The paper takes 50 validation images of each of two breeds of dogs and two of cats.

    Attributes:
        classes: numbers of the classes; () for the first four.
        groups: group of each class, for instance 0 0 1 1 for dogs and cats; () for no groups.
        images: images of each class, the first ones; 50 in the paper.
        neighbours: neighbours of each image; 5 in the paper.
        view: view of the images; None: `natural_test_view`.
    """

    classes: tuple[int, ...] = ()
    groups: tuple[int, ...] = ()
    images: Count = 50
    neighbours: Small = 5
    view: ViewRecipe | None = None
    data: EvalData = field(default_factory=EvalData)
    name: Name = "confusion"

    def __post_init__(self) -> None:
        validate_fields(self)
        if self.groups and len(self.groups) != len(self.classes):
            raise UserError(
                f"`groups` must have one number for each of the {len(self.classes)} classes, got "
                f"{len(self.groups)}. Correct them."
            )

    @property
    def metrics(self) -> dict[str, MetricSpec]:
        """Rates of neighbours of the same class and group, in percent; their mean distance."""
        found = {"same_class": MetricSpec("Neighbours of the class", "%", higher_is_better=True)}
        if self.groups:
            label = "Neighbours of the group"
            found["same_group"] = MetricSpec(label, "%", higher_is_better=True)
        return found | {"distance": MetricSpec("Distance of neighbours")}

    def run(
        self, encoder: nn.Module, open_source: OpenSource, context: EvalContext, *, seed: int = 0
    ) -> dict[str, float]:
        """Return `metrics`, see `Evaluation.run`; the neighbours go to the context's folder."""
        features, labels = self._features(encoder, open_source, context)
        classes = self.classes or tuple(range(min(4, int(labels.max()) + 1)))
        rows = [(labels == number).nonzero()[: self.images, 0] for number in classes]
        if empty := [number for number, of in zip(classes, rows, strict=True) if not len(of)]:
            raise UserError(
                f"`classes` must be classes of the test images, got {empty[0]}, which has none."
            )
        chosen = torch.cat(rows)
        if self.neighbours >= len(chosen):
            raise UserError(
                f"`neighbours` must be at most {len(chosen) - 1}, the other images, got "
                f"{self.neighbours}. Take more classes or images."
            )
        distances, positions = nearest_others(features[chosen], self.neighbours)
        if context.directory is not None:
            shown = {
                "labels": labels[chosen].tolist(),
                "positions": positions.tolist(),
                "distances": distances.tolist(),
            }
            write_record(context.directory / NEIGHBOURS, context.owner, shown)
        found = {"same_class": 100 * same_rate(positions, labels[chosen])}
        if self.groups:
            groups = [
                torch.full((len(of),), group) for of, group in zip(rows, self.groups, strict=True)
            ]
            found["same_group"] = 100 * same_rate(positions, torch.cat(groups).to(labels.device))
        return found | {"distance": distances.mean().item()}
