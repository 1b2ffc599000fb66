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
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import torch
from torch import Tensor

from retable import random
from retable.distributed import process_index
from retable.errors import UserError
from retable.evaluate.classifier import accuracy, check_labels
from retable.evaluate.data import Splits, split_facts
from retable.evaluate.features import Features, represent
from retable.evaluate.frozen import FrozenEncoder
from retable.evaluate.protocol import TOP1, TOP5, EvalContext, MetricSpec
from retable.evaluate.representation import Representation
from retable.files import write_json
from retable.progress import bar
from retable.settings import to_plain
from retable.train.checkpoint import Checkpoints

if TYPE_CHECKING:
    from retable.views import ViewRecipe

EpochMetrics = dict[str, dict[str, list[float]]]
"""Metrics of an epoch, "top1", "top5" and "train_loss": by tap, for each of its classifiers."""

HEAD_METRICS = {
    "top1": TOP1,
    "top5": TOP5,
    "best_top1": MetricSpec("Best top-1", "%", higher_is_better=True),
    "best_epoch": MetricSpec("Best epoch"),
    "train_loss": MetricSpec("Training loss", higher_is_better=False),
}
"""Metrics of `last_and_best`."""


def shrunk_milestones(milestones: Sequence[int], share: float) -> tuple[int, ...]:
    """Return the milestones of a training of ``share`` of the length."""
    return tuple(max(1, round(milestone * share)) for milestone in milestones)


class Head(Protocol):
    """One tap's classifiers in training, of which several may differ in their learning rates."""

    def tensors(self) -> dict[str, Tensor]:
        """Return the state by name."""

    def to(self, device: torch.device) -> Self:
        """Return the state on a device."""

    def scores(self, features: Tensor) -> list[Tensor]:
        """Return each classifier's logits (n, C) of features (n, F)."""


AnyHead = TypeVar("AnyHead", bound=Head)


class HeadRecipe(Protocol[AnyHead]):
    """Settings of classifiers, their initial state and their step."""

    @property
    def name(self) -> str:
        """Name of the results."""

    @property
    def purpose(self) -> str:
        """Name of the probe, in messages and in the random keys."""

    @property
    def lr(self) -> float:
        """The learning rate at the start."""

    @property
    def batch(self) -> int:
        """Images in a step."""

    @property
    def representation(self) -> Representation:
        """Features that the classifiers see."""

    def init(self, classes: int, dim: int, seed: int) -> AnyHead:
        """Return the initial classifiers of a tap with ``dim`` features."""

    def restored(self, tensors: dict[str, Tensor]) -> AnyHead:
        """Return the classifiers whose `Head.tensors` these are."""

    def step(
        self, head: AnyHead, features: Tensor, labels: Tensor, first: int, epoch: int, seed: int
    ) -> Tensor:
        """Make one step on a batch, the rows from ``first`` on of the epoch; return its losses."""

    def suffixes(self) -> tuple[str, ...]:
        """Return the suffix of each classifier of a tap; that of the first is ""."""


def train_heads(
    recipe: HeadRecipe[AnyHead],
    frozen: FrozenEncoder,
    splits: Splits,
    context: EvalContext,
    *,
    seed: int,
    views: tuple[ViewRecipe, ViewRecipe],
    epochs: int,
) -> tuple[dict[str, AnyHead], list[EpochMetrics]]:
    """Train classifiers on all taps side by side and measure them after every epoch.

    The state is written to ``context.directory`` after every epoch, with ``curve.json``; an
    interrupted training continues from it and ends with the same bits.

    Args:
        recipe: settings of the classifiers.
        frozen: the encoder.
        splits: the training images, and the test images that measure.
        context: where to compute and to keep the state.
        seed: key of the weights, the order of the images, their views and the steps' draws.
        views: views of training and of test images.
        epochs: passes over the training images.

    Returns:
        The classifiers by tap, and the metrics of each epoch.

    Raises:
        UserError: labels are unknown, features or weights are not finite, or the state belongs to
            another training.
    """
    check_labels(splits.train.labels, splits.classes, "train")
    check_labels(splits.test.labels, splits.classes, "test")
    checkpoints = Checkpoints(
        context.directory,
        recipe.name,
        encoder=frozen.digest,
        recipe=to_plain(recipe),
        seed=seed,
        precision=frozen.precision,
        **split_facts(splits),
    )
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
        for tap, found in test.items():
            if tap not in heads:
                fresh = recipe.init(splits.classes, found.features.shape[1], seed)
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
            checkpoints.save(epoch + 1, _tensors(heads), {"curve": curve})
            _write_curve(context.directory, recipe, curve)
            top1 = curve[-1]["top1"][recipe.representation.taps[-1]][0]
            shown.set_postfix({"epoch": epoch + 1, "top1": f"{top1:.2f}"})
    return heads, curve


def _tensors(heads: dict[str, AnyHead]) -> dict[str, Tensor]:
    return {
        f"{tap}/{name}": value
        for tap, head in heads.items()
        for name, value in head.tensors().items()
    }


def _restored(
    recipe: HeadRecipe[AnyHead], tensors: dict[str, Tensor], device: torch.device
) -> dict[str, AnyHead]:
    by_tap: dict[str, dict[str, Tensor]] = {tap: {} for tap in recipe.representation.taps}
    for path, value in tensors.items():
        tap, _, name = path.rpartition("/")
        by_tap[tap][name] = value
    return {tap: recipe.restored(state).to(device) for tap, state in by_tap.items()}


def _epoch(
    recipe: HeadRecipe[AnyHead], head: AnyHead, train: Features, epoch: int, seed: int
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
    recipe: HeadRecipe[AnyHead],
    heads: dict[str, AnyHead],
    test: dict[str, Features],
    losses: dict[str, Tensor],
    epoch: int,
) -> EpochMetrics:
    measured: EpochMetrics = {"top1": {}, "top5": {}, "train_loss": {}}
    for tap, head in heads.items():
        scores = head.scores(test[tap].features)
        if not bool(scores[0].isfinite().all()):
            raise UserError(
                f"the {recipe.purpose}'s weights are not finite after epoch {epoch + 1}: expected "
                f"a learning rate below {recipe.lr} for these features, so lower lr."
            )
        found = [accuracy(one, test[tap].labels) for one in scores]
        for name in ("top1", "top5"):
            measured[name][tap] = [one[name] for one in found]
        measured["train_loss"][tap] = losses[tap].tolist()
    return measured


def _write_curve(
    directory: Path | None, recipe: HeadRecipe[AnyHead], curve: Sequence[EpochMetrics]
) -> None:
    """Write the metrics of every epoch, by tap and suffix."""
    if directory is None or process_index() != 0:
        return
    named = [
        (f"{tap}{suffix}", tap, place)
        for tap in recipe.representation.taps
        for place, suffix in enumerate(recipe.suffixes())
    ]
    curves: dict[str, Any] = {
        figure: {
            name: [_plain(epoch[figure][tap][place]) for epoch in curve]
            for name, tap, place in named
        }
        for figure in ("top1", "top5", "train_loss")
    }
    write_json(directory / "curve.json", {"epoch": list(range(1, len(curve) + 1)), **curves})


def _plain(value: float) -> float | None:
    """Return a value that JSON has: one of ``other_lrs`` may have diverged."""
    return value if math.isfinite(value) else None


def last_and_best(curve: Sequence[EpochMetrics], tap: str) -> dict[str, float]:
    """Return the metrics of a tap's first classifier.

    Returns:
        "top1", "top5" and "train_loss" of the last epoch, and "best_top1" with its one-based
        "best_epoch", the first of equals.
    """
    top1 = [epoch["top1"][tap][0] for epoch in curve]
    last = curve[-1]
    return {
        "top1": top1[-1],
        "top5": last["top5"][tap][0],
        "best_top1": max(top1),
        "best_epoch": float(1 + top1.index(max(top1))),
        "train_loss": last["train_loss"][tap][0],
    }
