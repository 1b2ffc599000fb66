"""One out-of-distribution set of an evaluation: where its images are, and what is measured."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Self, cast, get_args

from torch import Tensor

from retable.data.imagenet_variants.corruptions import KINDS, SEVERITIES
from retable.data.imagenet_variants.published import open_variants
from retable.data.shapes.roles import open_role
from retable.data.source import TEST
from retable.errors import UserError
from retable.evaluate.decisions import (
    accuracy_by_category,
    category_accuracy,
    category_probabilities,
    corruption_summary,
    cue_decisions,
)
from retable.evaluate.protocol import MetricSpec
from retable.settings import validate_fields

if TYPE_CHECKING:
    from retable.data.imagenet_variants.categories import VariantImages
    from retable.data.source import Source
    from retable.evaluate.data import OpenSource

SetName = Literal[
    "c",
    "c_generated",
    "r",
    "a",
    "sketch",
    "v2",
    "v2_threshold",
    "v2_top",
    "stylized",
    "objectnet",
    "texture",
    "cue_conflict",
]
"""Names of sets, see `retable.data.imagenet_variants.published.VARIANTS`."""

STORED = ("c", "c_generated", "stylized", "texture")
"""Sets whose images are stored at 224 pixels: their centre is cut out without a resize."""

FEW, MANY = "classes_below_2.5", "classes_above_50"

LogitsOf = Callable[["Source", bool], tuple[Tensor, Tensor]]
"""Returns the logits (n, C) and labels (n,) of a source; true: it is stored at the inputs' size."""


@dataclass(frozen=True)
class OodSet:
    """A set by name.

    Attributes:
        name: one of `SetName`.
        folder: folder that the published set is unpacked in; "": the variant of the shapes data set
            that stands for it (`retable.data.shapes.roles`).
    """

    name: SetName
    folder: str = ""

    def __post_init__(self) -> None:
        validate_fields(self)

    def in_folder(self, known: Mapping[str, str]) -> Self:
        """Return the set in the folder that is known under its option, "ood:NAME"."""
        return replace(self, folder=known.get(f"ood:{self.name}", self.folder))

    @property
    def metrics(self) -> dict[str, MetricSpec]:
        """Metrics by name: NAME is the top-1 accuracy among all classes.

        NAME_masked is that among the classes of the set. Of corruptions also NAME_KIND,
        NAME_KIND:SEVERITY, NAME_severity_N, means of top-1 accuracy, and NAME_mce; of cue conflicts
        NAME_shape, NAME_texture and NAME_shape_bias; of textures also the numbers of classes that
        are hardly and mostly recognised, below 2.5 % and above 50 % (Ge et al., figure 9).
        """
        if self.name == "cue_conflict":
            labels = {
                "shape": "decided by shape",
                "texture": "decided by texture",
                "shape_bias": "shape bias",
            }
            return {
                f"{self.name}_{key}": MetricSpec(
                    f"Cue conflict, {label}", "%", higher_is_better=key != "texture"
                )
                for key, label in labels.items()
            }
        if self.name in ("c", "c_generated"):
            parts = {f"{kind}:{severity}": 0.0 for kind in KINDS for severity in SEVERITIES}
            return {
                self._named(part): MetricSpec(
                    "mCE" if part == "mce" else f"Top-1, {self._named(part)}",
                    "%",
                    higher_is_better=part != "mce",
                )
                for part in (*corruption_summary(parts), *parts)
            }
        found = {
            name: MetricSpec(f"Top-1, {name}", "%", higher_is_better=True)
            for name in (self.name, f"{self.name}_masked")
        }
        if self.name == "texture":
            found[self._named(FEW)] = MetricSpec("Classes below 2.5 % on textures")
            found[self._named(MANY)] = MetricSpec("Classes above 50 % on textures")
        return found

    def open(self, open_source: OpenSource, data: str, test: Source) -> VariantImages:
        """Open the set for a classifier of the classes of the ``test`` split of ``data``."""
        if self.folder:
            names = tuple(test.class_names)
            return _opened_once(self.name, self.folder, names, test.skip_unreadable)

        def open_variant(variant: str) -> Source:
            return open_source(TEST, variant, data or None)

        images = open_role(self.name, open_variant)
        if [category.name for category in images.categories] != list(test.class_names):
            raise UserError(
                f"The set {self.name!r} must have the classes of the test split. Name its folder "
                f"with --ood {self.name}=DIR."
            )
        return images

    def measure(
        self, images: VariantImages, logits_of: LogitsOf, measured: Callable[[], object]
    ) -> dict[str, float]:
        """Return `metrics`; ``measured`` is called after each part."""
        by_part: dict[str, dict[str, float]] = {}
        for part, source in images.parts.items():
            by_part[part] = self._measure_part(images, *logits_of(source, self.name in STORED))
            measured()
        found = by_part.get("")
        if found is None:
            accuracies = {part: metrics[""] for part, metrics in by_part.items()}
            found = corruption_summary(accuracies) | accuracies
        return {self._named(key): value for key, value in found.items()}

    def _measure_part(
        self, images: VariantImages, logits: Tensor, labels: Tensor
    ) -> dict[str, float]:
        """Return the metrics of one source, by what follows the set's name; "" is its accuracy."""
        classes = images.classes.to(logits.device)
        if images.textures is not None:
            decisions = category_probabilities(logits, classes).argmax(dim=1)
            return cue_decisions(decisions, labels, images.textures.to(logits.device))._asdict()
        found = {"": category_accuracy(logits, labels, classes)}
        if len(images.parts) == 1:
            found["masked"] = category_accuracy(logits, labels, classes, masked=True)
        if self.name == "texture":
            by_class = accuracy_by_category(logits, labels, classes)
            found[FEW] = float((by_class < 2.5).sum())
            found[MANY] = float((by_class > 50).sum())
        return found

    def _named(self, part: str) -> str:
        return f"{self.name}_{part}" if part else self.name


@functools.lru_cache(maxsize=16)
def _opened_once(
    name: str, folder: str, class_names: tuple[str, ...], skip_unreadable: bool
) -> VariantImages:
    """Open a published set once in a process: it has up to millions of files."""
    return open_variants(name, folder, class_names, skip_unreadable=skip_unreadable)


def parse_set(text: str) -> OodSet:
    """Parse ``NAME=DIR``, or ``NAME`` for the variant of shapes that stands for the set."""
    name, separator, folder = text.partition("=")
    names = get_args(SetName)
    if name not in names or (separator and not folder):
        raise UserError(
            f"`--ood` must be NAME=DIR with a name of {', '.join(names)}, got {text!r}. Name the "
            "folder that the set is unpacked in."
        )
    return OodSet(cast(SetName, name), folder)


def all_roles() -> tuple[OodSet, ...]:
    """Return the sets that variants of shapes stand for."""
    return tuple(
        OodSet(name) for name in ("c", "r", "sketch", "stylized", "texture", "cue_conflict")
    )
