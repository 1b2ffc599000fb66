"""Robustness: a probe trained on clean images, tested on images of other distributions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor, nn

from retable.data.source import TEST
from retable.domains import Name
from retable.errors import UserError
from retable.evaluate.classifier import accuracy
from retable.evaluate.data import EvalData, open_eval_splits
from retable.evaluate.features import represent
from retable.evaluate.frozen import freeze
from retable.evaluate.linear import LinearProbe
from retable.evaluate.logistic.probe import LogisticProbe
from retable.evaluate.ood_sets import OodSet
from retable.evaluate.protocol import EvalContext, Evaluation, MetricSpec
from retable.progress import bar
from retable.settings import validate_fields

if TYPE_CHECKING:
    from retable.data.source import Source
    from retable.evaluate.data import OpenSource
    from retable.views import ViewRecipe


def summary(by_variant: dict[str, float]) -> dict[str, float]:
    """Add the means over corruptions to accuracies by variant.

    Of variants ``corrupted:<kind>:<severity>``, the mean of each kind over its severities is
    ``corrupted:<kind>``, and that of all kinds ``corrupted``.
    """
    kinds: dict[str, list[float]] = defaultdict(list)
    for variant, value in by_variant.items():
        group, *rest = variant.split(":")
        if group == "corrupted" and len(rest) == 2:
            kinds[rest[0]].append(value)
    means = {kind: sum(values) / len(values) for kind, values in kinds.items()}
    result = dict(by_variant) | {f"corrupted:{kind}": mean for kind, mean in means.items()}
    if means:
        result["corrupted"] = sum(means.values()) / len(means)
    return result


@dataclass(frozen=True)
class OutOfDistribution(Evaluation):
    """Accuracy of a probe on variants of the test images, none of which it was trained on.

    Attributes:
        probe: probe that is trained on the clean training images; of several taps, the last counts.
        variants: names that the data set knows; None: all of the shapes data set, or none if there
            are sets.
        sets: published sets of ImageNet, or the variants of shapes in their roles.
        resize_stored: whether images that a set stores at the size of the encoder's inputs (the
            sets `STORED`) are resized before the centre is cut out, as natural images are.
    """

    probe: LinearProbe | LogisticProbe = field(default_factory=LogisticProbe)
    variants: tuple[str, ...] | None = None
    sets: tuple[OodSet, ...] = ()
    resize_stored: bool = False
    name: Name = "ood"

    def __post_init__(self) -> None:
        """Validate the fields."""
        validate_fields(self)
        if self.probe.data.split != "test":
            raise UserError(
                f"`probe.data.split` must be 'test', got {self.probe.data.split!r}. Variants exist "
                "of the test split alone, so set it to 'test'."
            )

    @property
    def data(self) -> EvalData:
        """Images of the probe."""
        return self.probe.data

    @property
    def metrics(self) -> dict[str, MetricSpec]:
        """Top-1 accuracy: "clean", every variant, and the means of `summary`."""
        variants = ("clean", *self._variants)
        return {
            name: MetricSpec(f"Top-1, {name}", "%", higher_is_better=True)
            for name in summary(dict.fromkeys(variants, 0.0))
        } | {name: spec for one in self.sets for name, spec in one.metrics.items()}

    @property
    def _variants(self) -> tuple[str, ...]:
        if self.variants is None:
            return () if self.sets else _all_variants()
        return self.variants

    def descriptions(self, open_source: OpenSource) -> dict[str, Any]:
        """Return also the descriptions of published sets, part by part."""
        found = super().descriptions(open_source)
        test = open_source(TEST, data=self.data.source or None)
        for one in self.sets:
            if one.folder:
                images = one.open(open_source, self.data.source, test)
                found[one.name] = {part: s.description for part, s in images.parts.items()}
        return found

    def with_data(self, data: EvalData) -> Self:
        """Return the evaluation with the probe on other images."""
        return replace(self, probe=self.probe.with_data(data))

    def on_data(self, known: Mapping[str, str]) -> Self:
        """Return the evaluation with the probe's data set and the sets' folders filled in.

        Sets without a folder are left out.
        """
        filled = (one.in_folder(known) for one in self.sets)
        return replace(
            self,
            probe=self.probe.on_data(known),
            sets=tuple(one for one in filled if one.folder),
            variants=() if self.sets and self.variants is None else self.variants,
        )

    def limited(self, max_steps: int) -> Self:
        """Return the evaluation with a limited probe."""
        return replace(self, probe=self.probe.limited(max_steps))

    def shrunk(self, epochs: int, size: int = 32) -> Self:
        """Return the evaluation with a shrunk probe."""
        return replace(self, probe=self.probe.shrunk(epochs, size))

    def with_views(self, *sources: Source) -> Self:
        """Return the evaluation with the views of the probe filled in."""
        return replace(self, probe=self.probe.with_views(*sources))

    def run(
        self, encoder: nn.Module, open_source: OpenSource, context: EvalContext, *, seed: int
    ) -> dict[str, float]:
        """Return `metrics`, see `Evaluation.run`."""
        frozen = freeze(encoder, context.device, context.precision)
        data, taps = self.probe.data, self.probe.representation.taps
        last = replace(self.probe.representation, taps=taps[-1:])
        splits = open_eval_splits(open_source, data)
        # All sets are opened, and so checked, before anything is computed.
        opened = [one.open(open_source, data.source, splits.test) for one in self.sets]
        classifier, clean = self.probe.fit(frozen, splits, context, seed=seed)
        view = self.probe.test_view_of(splits.train, splits.test)
        results = {"clean": clean["top1"]}
        unkept = replace(context, features=None)  # no other evaluation reads a variant's features

        def logits_of(source: Source, stored: bool = False) -> tuple[Tensor, Tensor]:
            of_source = _without_resize(view) if stored and not self.resize_stored else view
            found = represent(frozen, source, of_source, last, unkept)[taps[-1]]
            return classifier(found.features), found.labels

        parts = len(self._variants) + sum(len(images.parts) for images in opened)
        with bar(parts, "variants", self.name, shown=context.progress) as shown:
            for variant in self._variants:
                source = open_source("test", variant, data.source or None)
                if list(source.class_names) != list(splits.test.class_names):
                    raise UserError(
                        f"the variant {variant!r} has other classes than the test split: expected "
                        "the same, so choose another variant."
                    )
                results[variant] = accuracy(*logits_of(source))["top1"]
                shown.update(1)
            results = summary(results)
            for one, images in zip(self.sets, opened, strict=True):
                results |= one.measure(images, logits_of, lambda: shown.update(1))
        return results


def _without_resize(view: ViewRecipe) -> ViewRecipe:
    """Return the view that cuts the centre out of images as they are stored."""
    return replace(view, resize=None)


def _all_variants() -> tuple[str, ...]:
    from retable.data.shapes.dataset import OOD_VARIANTS

    return OOD_VARIANTS
