"""Training of classifiers by SGD on the features of a frozen encoder.

The official protocol (MoCo's `main_lincls.py`) sends each shuffled batch through the encoder and
makes one step. With a frozen encoder in eval mode a feature depends on its image alone, so here an
epoch's features are computed first and the steps follow in the shuffled order on them: the same
batches, the same steps, but large encoder calls, sequential reads and a classifier that never waits
for the encoder. Features of a view without random draws are the same in every epoch and computed
once. Every process makes the same steps on all features, so their number does not enter the result.
"""

from __future__ import annotations

import functools
import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

import torch
from torch import Tensor, nn

from retable import random
from retable.distributed import process_index
from retable.errors import UserError
from retable.evaluate.classifier import accuracy
from retable.evaluate.data import (
    EvalData,
    OpenSource,
    Splits,
    natural_test_view,
    open_eval_splits,
)
from retable.evaluate.features import Features, represent
from retable.evaluate.frozen import FrozenEncoder, freeze
from retable.evaluate.protocol import ACCURACIES, TOP1, EvalContext, Evaluation, MetricSpec
from retable.evaluate.representation import Representation
from retable.files import write_record
from retable.progress import bar
from retable.views import ViewRecipe

if TYPE_CHECKING:
    from retable.data.source import Source

EpochMetrics = dict[str, dict[str, list[float]]]
"""Metrics of an epoch, accuracies and "train_loss": by tap, for each of its classifiers."""

HEAD_METRICS = {
    **ACCURACIES,
    "best_top1": MetricSpec("Best top-1", "%", higher_is_better=True),
    "best_epoch": MetricSpec("Best epoch"),
    "train_loss": MetricSpec("Training loss", higher_is_better=False),
}
"""Metrics of `last_and_best`."""


def shrunk_milestones(milestones: Sequence[int], share: float) -> tuple[int, ...]:
    """Return the milestones of a training of ``share`` of the length."""
    return tuple(max(1, round(milestone * share)) for milestone in milestones)


@dataclass
class Head:
    """One tap's classifiers in training, which differ in their learning rates; only tensors."""

    def tensors(self) -> dict[str, Tensor]:
        """Return the state by name."""
        return dict(vars(self))

    def to(self, device: torch.device) -> Self:
        """Return the state on a device."""
        return type(self)(**{name: value.to(device) for name, value in vars(self).items()})

    @abstractmethod
    def scores(self, features: Tensor) -> list[Tensor]:
        """Return each classifier's logits (n, C) of features (n, F)."""

    def __call__(self, features: Tensor) -> Tensor:
        """Return the first classifier's logits (n, C) of features (n, F)."""
        return self.scores(features)[0]


AnyHead = TypeVar("AnyHead", bound=Head)


@dataclass(frozen=True)
class HeadProbe(Evaluation, Generic[AnyHead]):
    """Base class of probes that train classifiers by SGD.

    Attributes:
        purpose: name of the probe, in messages and in the random keys.
        head: class of the classifiers.
        lr: learning rate of the optimizer, after any scaling by the batch.
        batch: images in a step, over all processes.
        milestones: zero-based epochs from which the learning rate is multiplied by ``gamma``.
        gamma: factor of the learning rate at a milestone.
        train_view: view of training images, drawn in every epoch if it is random.
        test_view: view of test images; None: `natural_test_view`.
        representation: features, with a classifier for each of the taps, all trained on the same
            images.
    """

    purpose: ClassVar[str]
    head: ClassVar[type[Any]]

    lr: float
    momentum: float
    batch: int
    epochs: int
    milestones: tuple[int, ...]
    gamma: float
    train_view: ViewRecipe | None = None
    test_view: ViewRecipe | None = None
    representation: Representation = field(default_factory=Representation)
    data: EvalData = field(default_factory=EvalData)

    @abstractmethod
    def init(self, classes: int, dim: int, rng_key: int) -> AnyHead:
        """Return the initial classifiers of a tap with ``dim`` features."""

    @abstractmethod
    def step(
        self, head: AnyHead, features: Tensor, labels: Tensor, first: int, epoch: int, seed: int
    ) -> Tensor:
        """Make one step on a batch, the rows from ``first`` on of the epoch; return its losses."""

    @abstractmethod
    def train_view_of(self, splits: Splits) -> ViewRecipe:
        """Return the view of training images."""

    def test_view_of(self, *sources: Source) -> ViewRecipe:
        """Return the view of test images where these are the images of the evaluation."""
        return self.test_view or natural_test_view(*sources)

    def suffixes(self) -> tuple[str, ...]:
        """Return the suffixes of the metrics of a tap's classifiers; that of the first is ""."""
        return ("",)

    def shortened(self, splits: Splits, seed: int) -> tuple[Splits, int]:
        """Return the images to train on and the epochs."""
        return splits, self.epochs

    @property
    def metrics(self) -> dict[str, MetricSpec]:
        """Those of `HEAD_METRICS` and of other learning rates, see `Representation.joined`."""
        specs = HEAD_METRICS | {f"top1{suffix}": TOP1 for suffix in self.suffixes()[1:]}
        return self.representation.joined(dict.fromkeys(self.representation.taps, specs))

    def run(
        self, encoder: nn.Module, open_source: OpenSource, context: EvalContext, *, seed: int
    ) -> dict[str, float]:
        """Train the classifiers and return `metrics`, see `Evaluation.run`.

        The state is written to ``context.directory`` after every epoch, with the metrics of every
        epoch in ``curve.json``; an interrupted training continues from it and ends with the same
        bits.
        """
        _, results = self.fit(encoder, open_eval_splits(open_source, self.data), context, seed=seed)
        return results

    def fit(
        self, encoder: nn.Module, splits: Splits, context: EvalContext, *, seed: int
    ) -> tuple[AnyHead, dict[str, float]]:
        """Train as `run` does; return the classifiers of the last tap and epoch too."""
        views = self.train_view_of(splits), self.test_view_of(splits.train, splits.test)
        shortened, epochs = self.shortened(splits, seed)
        frozen = freeze(encoder, context.device, context.precision)
        heads, curve = _train_heads(
            self, frozen, shortened, context, seed=seed, views=views, epochs=epochs
        )
        metrics = {}
        for tap in heads:
            other_lrs = zip(self.suffixes()[1:], curve[-1]["top1"][tap][1:], strict=True)
            metrics[tap] = last_and_best(curve, tap) | {f"top1{lr}": top1 for lr, top1 in other_lrs}
        return heads[self.representation.taps[-1]], self.representation.joined(metrics)


def _train_heads(
    recipe: HeadProbe[AnyHead],
    frozen: FrozenEncoder,
    splits: Splits,
    context: EvalContext,
    *,
    seed: int,
    views: tuple[ViewRecipe, ViewRecipe],
    epochs: int,
) -> tuple[dict[str, AnyHead], list[EpochMetrics]]:
    """Train classifiers of all taps; return them by tap, and the metrics of each epoch."""
    splits.check_labels()
    checkpoints = recipe.checkpoints(frozen, splits, context, seed)
    saved = checkpoints.load(frozen.device)
    curve: list[EpochMetrics] = saved.facts["curve"] if saved else []
    heads = _restored(recipe, saved.tensors, frozen.device) if saved else {}
    if len(curve) == epochs:
        return heads, curve
    train_view, test_view = views
    passes = epochs - len(curve) if train_view.is_random else 1
    images = len(splits.train) * passes + len(splits.test)
    with bar(images, "images", recipe.name, shown=context.progress) as shown:
        compute = functools.partial(
            represent,
            frozen,
            representation=recipe.representation,
            context=context,
            on_progress=shown.update,
        )
        test = compute(splits.test, test_view)
        rng_key = random.derive_key(seed, recipe.purpose, "weights")
        for tap, found in test.items():
            if tap not in heads:
                fresh = recipe.init(splits.classes, found.features.shape[1], rng_key)
                heads[tap] = fresh.to(frozen.device)
        train: dict[str, Features] | None = None
        for epoch in range(len(curve), epochs):
            if train is None or train_view.is_random:
                train = None  # its memory is needed for the next
                rng_key = random.derive_key(seed, recipe.purpose, "views", epoch)
                train = compute(splits.train, train_view, rng_key=rng_key)
            losses = {
                tap: _epoch(recipe, heads[tap], found, epoch, seed) for tap, found in train.items()
            }
            curve.append(_measure(recipe, heads, test, losses, epoch))
            states = {tap: head.tensors().items() for tap, head in heads.items()}
            tensors = {f"{tap}/{name}": v for tap, state in states.items() for name, v in state}
            checkpoints.save(epoch + 1, tensors, {"curve": curve})
            _write_curve(context, recipe, curve)
            top1 = curve[-1]["top1"][recipe.representation.taps[-1]][0]
            shown.set_postfix({"epoch": epoch + 1, "top1": f"{top1:.2f}"})
    return heads, curve


def _restored(
    recipe: HeadProbe[AnyHead], tensors: dict[str, Tensor], device: torch.device
) -> dict[str, AnyHead]:
    by_tap: dict[str, dict[str, Tensor]] = {tap: {} for tap in recipe.representation.taps}
    for path, value in tensors.items():
        tap, _, name = path.rpartition("/")
        by_tap[tap][name] = value
    return {tap: recipe.head(**state).to(device) for tap, state in by_tap.items()}


def _epoch(
    recipe: HeadProbe[AnyHead], head: AnyHead, train: Features, epoch: int, seed: int
) -> Tensor:
    """Make one epoch's steps; return the mean losses (L,)."""
    rng_key = random.derive_key(seed, recipe.purpose, "order", epoch)
    order = random.permutation(rng_key, len(train.labels)).to(train.features.device)
    total: Tensor | None = None
    for first in range(0, len(order), recipe.batch):
        rows = order[first : first + recipe.batch]
        losses = recipe.step(head, train.features[rows], train.labels[rows], first, epoch, seed)
        losses = losses * len(rows)
        total = losses if total is None else total.add_(losses)
    assert total is not None  # check_labels has seen that there are images
    return total / len(order)


def _measure(
    recipe: HeadProbe[AnyHead],
    heads: dict[str, AnyHead],
    test: dict[str, Features],
    losses: dict[str, Tensor],
    epoch: int,
) -> EpochMetrics:
    measured: EpochMetrics = {name: {} for name in (*ACCURACIES, "train_loss")}
    for tap, head in heads.items():
        scores = head.scores(test[tap].features)
        if not bool(scores[0].isfinite().all()):
            raise UserError(
                f"the {recipe.purpose}'s weights are not finite after epoch {epoch + 1}: expected "
                f"a learning rate below {recipe.lr} for these features, so lower lr."
            )
        found = [accuracy(one, test[tap].labels) for one in scores]
        for name in ACCURACIES:
            measured[name][tap] = [one[name] for one in found]
        measured["train_loss"][tap] = losses[tap].tolist()
    return measured


def _write_curve(
    context: EvalContext, recipe: HeadProbe[AnyHead], curve: Sequence[EpochMetrics]
) -> None:
    """Write the metrics of every epoch, by tap and suffix."""
    if context.directory is None or process_index() != 0:
        return
    curves: dict[str, Any] = {"epoch": list(range(1, len(curve) + 1))}
    for figure in curve[-1]:
        curves[figure] = {
            # JSON has only finite values; one of ``other_lrs`` may have diverged.
            f"{tap}{suffix}": [
                value if math.isfinite(value := epoch[figure][tap][place]) else None
                for epoch in curve
            ]
            for tap in recipe.representation.taps
            for place, suffix in enumerate(recipe.suffixes())
        }
    write_record(context.directory / "curve.json", context.owner, curves)


def last_and_best(curve: Sequence[EpochMetrics], tap: str) -> dict[str, float]:
    """Return `HEAD_METRICS` of a tap's first classifier.

    Accuracies and "train_loss" are of the last epoch; "best_epoch" is one-based and the first of
    equals.
    """
    top1 = [epoch["top1"][tap][0] for epoch in curve]
    last = curve[-1]
    return {
        **{name: last[name][tap][0] for name in ACCURACIES},
        "best_top1": max(top1),
        "best_epoch": float(1 + top1.index(max(top1))),
        "train_loss": last["train_loss"][tap][0],
    }
