"""Cosines of queries with positives and with every kind of negative, as an evaluation.

The supplement (section C.6, figures 12 and 13) compares methods by the cosines of a query with its
positive, with another image, and with a patch-based and a texture-based negative of its own. It
does not say which network embeds them. Here the query network embeds all of them, in evaluation
mode (``NAME_mean``). The key encoder's running statistics of batch norm follow keys and negatives
by turns where a method has negatives, and keys alone where it has none, so that its embeddings of
two methods differ by that too; they stand beside (``NAME_mean_keys``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from nonsemantic_negatives.byol import other_samples
from nonsemantic_negatives.histograms import Histogram, histogram
from nonsemantic_negatives.negatives import NegativeRecipe, PatchNegatives, TextureNegatives
from retable.data.batch import Batch, Progress
from retable.data.plans import EvaluationPlan
from retable.data.source import TEST
from retable.data.workers import make_view_loader
from retable.domains import Count, Name
from retable.errors import UserError
from retable.evaluate.data import EvalData, open_test_split
from retable.evaluate.protocol import EvalContext, Evaluation, MetricSpec
from retable.files import read_record, write_record
from retable.methods.moco import MoCo
from retable.random import derive_key
from retable.settings import to_plain, validate_fields
from retable.views import ViewRecipe
from retable.views.sampling import to_device

if TYPE_CHECKING:
    from retable.evaluate.data import OpenSource

KINDS = ("positive", "standard", "patch", "texture")
BRANCHES = {"": "query network", "_keys": "key encoder"}

HISTOGRAMS = "histograms.json"
_BATCH = 64


@dataclass(frozen=True)
class Cosines(Evaluation):
    """Means and deviations of cosines with queries, and their histograms.

    Attributes:
        views: the query's view and the positive's, those of training.
        patches: recipe of the patch-based negatives.
        texture: layer of the images' texture twins, cut like the queries; "": no cosines with
            textures.
        images: number of test images; at most all of them.
    """

    views: tuple[ViewRecipe, ViewRecipe]
    patches: PatchNegatives = field(default_factory=PatchNegatives)
    texture: str = ""
    images: Count = 5000
    data: EvalData = field(default_factory=EvalData)
    name: Name = "cosines"

    reads: ClassVar[tuple[str, ...]] = (TEST,)

    def __post_init__(self) -> None:
        validate_fields(self)

    @property
    def metrics(self) -> dict[str, MetricSpec]:
        """KIND_mean, KIND_std and margin_KIND, also with the suffix _keys.

        A margin is the mean cosine with the positive less that with the negatives.
        """
        found = {}
        for suffix, branch in BRANCHES.items():
            for kind in self.kinds:
                found[f"{kind}_mean{suffix}"] = MetricSpec(f"Cosine, {kind}, {branch}")
                found[f"{kind}_std{suffix}"] = MetricSpec(f"Cosine's std, {kind}, {branch}")
            for kind in self.kinds[1:]:
                label = f"Margin over {kind}, {branch}"
                found[f"margin_{kind}{suffix}"] = MetricSpec(label, higher_is_better=True)
        return found

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of pairs that are measured."""
        return KINDS if self.texture else KINDS[:-1]

    def run(
        self, encoder: nn.Module, open_source: OpenSource, context: EvalContext, *, seed: int = 0
    ) -> dict[str, float]:
        """Return `metrics`, see `Evaluation.run`; histograms go to the context's directory.

        Raises:
            UserError: the encoder is not that of a trained MoCo, or the images have no textures.
        """
        method = _moco_of(context)
        embedded = self._embed(method, open_source, context)
        found: dict[str, Histogram] = {}
        for suffix in BRANCHES:
            for kind in self.kinds:
                pair = embedded["query"] * embedded[f"{kind}{suffix}"]
                found[f"{kind}{suffix}"] = histogram(pair.sum(dim=1))
        if context.directory is not None:
            path = context.directory / HISTOGRAMS
            write_record(path, context.owner, {k: to_plain(v) for k, v in found.items()})
        return self._metrics_of(found)

    def _metrics_of(self, found: Mapping[str, Histogram]) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for suffix in BRANCHES:
            for kind in self.kinds:
                metrics[f"{kind}_mean{suffix}"] = found[f"{kind}{suffix}"].mean
                metrics[f"{kind}_std{suffix}"] = found[f"{kind}{suffix}"].std
            for kind in self.kinds[1:]:
                margin = found[f"positive{suffix}"].mean - found[f"{kind}{suffix}"].mean
                metrics[f"margin_{kind}{suffix}"] = margin
        return metrics

    @torch.no_grad()
    def _embed(
        self, method: MoCo, open_source: OpenSource, context: EvalContext
    ) -> dict[str, Tensor]:
        """Return unit embeddings (n, D) of queries and of what they are compared with."""
        source = open_test_split(open_source, self.data)
        device = torch.device(context.device)
        method = method.to(device)
        count = min(self.images, len(source))
        if count < 2:
            raise UserError(f"Cosines need at least 2 test images, got {count}.")
        rng_key = derive_key(0, "cosines")
        keys = tuple(derive_key(rng_key, "view", view) for view in (0, 1))
        plan = EvaluationPlan(torch.arange(count), _BATCH, rng_key, keys)
        layers = (self.texture,) if self.texture else ()
        views = (replace(self.views[0], layers=layers), self.views[1])
        loader = make_view_loader(
            source, views, workers=context.workers, device=device, resident=None
        )
        parts: dict[str, list[Tensor]] = {}
        for _, indices, made, cut in loader.batches(plan, range(plan.steps)):
            places = to_device(indices, device)
            labels = to_device(source.labels[indices], device)
            progress = Progress(0, 1, 1)
            batch = Batch(made, labels, places, places, progress, rng_key, cut)
            for name, rows in _embeddings(method, batch, self._negatives()).items():
                parts.setdefault(name, []).append(rows)
        embedded = {name: torch.cat(rows) for name, rows in parts.items()}
        others = other_samples(rng_key, torch.arange(count, device=device), count)
        for suffix in BRANCHES:
            embedded[f"standard{suffix}"] = embedded[f"positive{suffix}"][others]
        return embedded

    def _negatives(self) -> dict[str, NegativeRecipe]:
        recipes: dict[str, NegativeRecipe] = {"patch": self.patches}
        if self.texture:
            recipes["texture"] = TextureNegatives(self.texture)
        return recipes


def _moco_of(context: EvalContext) -> MoCo:
    if context.method is None:
        raise UserError(
            "The cosines need the heads of a training, which the file of an encoder does not have. "
            "Evaluate a run of a table."
        )
    method = context.method()
    if not isinstance(method, MoCo):
        raise UserError(
            f"The cosines need a method with queries and keys, MoCo, got {type(method).__name__}."
        )
    return method


def _embeddings(
    method: MoCo, batch: Batch, negatives: Mapping[str, NegativeRecipe]
) -> dict[str, Tensor]:
    """Embed a batch's queries, positives and negatives, the last two by both networks."""

    def by_keys(images: Tensor) -> Tensor:
        return method.project(method.key_encoder(images))

    networks: dict[str, Callable[[Tensor], Tensor]] = {"": method.queries, "_keys": by_keys}
    found = {"query": method.queries(batch.views[0])}
    for suffix, network in networks.items():
        found[f"positive{suffix}"] = network(batch.views[1])
        for kind, recipe in negatives.items():
            found[f"{kind}{suffix}"] = network(recipe.images(batch, view=0)[0])
    return found


def read_histograms(folder: Path, owner: str) -> dict[str, Histogram]:
    """Return the histograms that an evaluation has written, by kind."""
    content = read_record(folder / HISTOGRAMS, owner)
    return {
        kind: Histogram(found["mean"], found["std"], tuple(found["counts"]))
        for kind, found in content.items()
    }
