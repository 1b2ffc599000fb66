"""Batches of finished views, the same whatever the workers and processes.

What is in a batch is a `Plan`, a pure function of the step. How pixels become views is a `Feed`:
from memory on the device (`ResidentFeed`), or decoded by worker processes (`WorkerFeed`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from retable import distributed, random
from retable.data.sampler import Sampler
from retable.data.sources import Source
from retable.errors import UserError
from retable.views import ViewRecipe, make_view


@dataclass(frozen=True)
class Request:
    """One batch to make: its step, its samples (B,) int64, and the random key of each view."""

    step: int
    indices: Tensor
    keys: tuple[int, ...]


class Plan(Protocol):
    """Says what a step's batch is: picklable, since worker processes ask too."""

    def __call__(self, step: int) -> Request:
        """Return what to make for a step."""
        ...


@dataclass(frozen=True)
class TrainingPlan:
    """Plans a process's share of each global batch; draws keyed by (seed, epoch, view)."""

    sampler: Sampler
    view_count: int
    process: int
    processes: int

    def __call__(self, step: int) -> Request:
        """Return what to make for a training step."""
        positions = self.sampler.local_positions(step, self.process, self.processes)
        epoch = self.sampler.epoch(step)
        keys = (
            random.derive_key(self.sampler.seed, "views", epoch, view)
            for view in range(self.view_count)
        )
        return Request(step, self.sampler.global_batch(step)[positions], tuple(keys))


@dataclass(frozen=True)
class EvaluationPlan:
    """Plans the samples [start, stop) in order, ``batch_size`` at a time."""

    start: int
    stop: int
    batch_size: int
    key: int

    def __call__(self, step: int) -> Request:
        """Return what to make for the batch number ``step``."""
        first = self.start + step * self.batch_size
        indices = torch.arange(first, min(first + self.batch_size, self.stop))
        return Request(step, indices, (self.key,))

    @property
    def steps(self) -> int:
        """The number of batches, the last perhaps shorter."""
        return -(-(self.stop - self.start) // self.batch_size)


class Feed(Protocol):
    """Makes views: yields (step, indices (B,) on the CPU, views) for each step in order."""

    def views(
        self, plan: Plan, recipes: tuple[ViewRecipe, ...], steps: Iterable[int]
    ) -> Iterator[tuple[int, Tensor, tuple[Tensor, ...]]]:
        """Yield the batches of ``steps``."""
        ...


class ResidentFeed:
    """All images in one uint8 tensor (n, 3, H, W) on the device, where views are made too."""

    def __init__(self, pool: Tensor, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self.pool = pool.to(self.device)

    def views(
        self, plan: Plan, recipes: tuple[ViewRecipe, ...], steps: Iterable[int]
    ) -> Iterator[tuple[int, Tensor, tuple[Tensor, ...]]]:
        """Yield the batches of ``steps``."""
        for step in steps:
            request = plan(step)
            images = self.pool.index_select(0, _transfer(request.indices, self.device))
            views = tuple(
                make_view(images, request.indices, recipe, key)
                for recipe, key in zip(recipes, request.keys, strict=True)
            )
            yield step, request.indices, views


@dataclass(frozen=True)
class LoadedBatch:
    """One process's share of a global batch, ready for a method.

    Attributes:
        step: the optimizer step, counted over the whole run.
        indices: (B_r,) int64 positions in the data set, on the device.
        labels: (B_r,) int64 classes, -1 where unknown, on the device.
        positions: (B_r,) int64 positions in the global batch, on the CPU: counters of draws.
        views: V tensors (B_r, 3, S, S), float32, normalised, on the device.
    """

    step: int
    indices: Tensor
    labels: Tensor
    positions: Tensor
    views: tuple[Tensor, ...]


class Loader:
    """Training batches by step: to resume is to ask for a later first step.

    Args:
        source: the images.
        sampler: their order; its seed is also that of the views.
        recipes: one recipe for each view of an image.
        workers: processes that decode and crop; 0 does it in this one. Unused when resident.
        device: where views are finished.
        resident: keep all images on the device; None does so if the source has them at hand, and
            True also reads a source of files into memory, if all images are of one size.

    Raises:
        UserError: the batch cannot be shared equally by the processes, or ``resident`` is asked of
            a source whose images differ in size.
    """

    def __init__(
        self,
        source: Source,
        sampler: Sampler,
        recipes: tuple[ViewRecipe, ...],
        *,
        workers: int = 0,
        device: torch.device | str = "cpu",
        resident: bool | None = None,
    ) -> None:
        if sampler.length != len(source):
            raise ValueError(f"sampler for {sampler.length} samples, source of {len(source)}")
        self.source = source
        self.sampler = sampler
        self.recipes = tuple(recipes)
        self.device = torch.device(device)
        self.plan = TrainingPlan(
            sampler, len(self.recipes), distributed.process_index(), distributed.process_count()
        )
        # Ask now for the longest and the shortest batch: not when the first epoch ends.
        for step in (0, sampler.steps_per_epoch - 1):
            sampler.local_positions(step, self.plan.process, self.plan.processes)
        self.feed = make_feed(source, workers=workers, device=device, resident=resident)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return self.sampler.steps_per_epoch

    def batches(self, first_step: int, last_step: int) -> Iterator[LoadedBatch]:
        """Yield this process's batches of the steps [first_step, last_step)."""
        steps = range(first_step, last_step)
        for step, indices, views in self.feed.views(self.plan, self.recipes, steps):
            yield LoadedBatch(
                step,
                _transfer(indices, self.device),
                _transfer(self.source.labels[indices], self.device),
                self.sampler.local_positions(step, self.plan.process, self.plan.processes),
                views,
            )


def iterate(
    source: Source,
    recipe: ViewRecipe,
    batch_size: int,
    *,
    key: int | None = None,
    workers: int = 0,
    device: torch.device | str = "cpu",
    resident: bool | None = None,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield one view of every sample, in order: (views (B, 3, S, S), labels (B,), indices (B,)).

    All three are on the device; the last batch may be shorter. Each process yields its contiguous
    share, `share_of`; shares differ by at most one sample.

    Args:
        source: the images.
        recipe: of the view, usually `ViewRecipe.center`.
        batch_size: samples of one process's batch.
        key: of the random crops, for instance derived from the epoch; a recipe without random
            steps needs none.
        workers: processes that decode and crop, unused when resident.
        device: where views are finished.
        resident: as in `Loader`.
    """
    own = share_of(len(source), distributed.process_index(), distributed.process_count())
    plan = EvaluationPlan(own.start, own.stop, batch_size, 0 if key is None else key)
    feed = make_feed(source, workers=workers, device=device, resident=resident)
    for _, indices, views in feed.views(plan, (recipe,), range(plan.steps)):
        labels = source.labels[indices]
        yield views[0], _transfer(labels, feed.device), _transfer(indices, feed.device)


def share_of(length: int, process: int, processes: int) -> range:
    """Return the contiguous share of range(length) that falls to a process.

    >>> [list(share_of(5, process, 2)) for process in range(2)]
    [[0, 1], [2, 3, 4]]
    """
    return range(length * process // processes, length * (process + 1) // processes)


def make_feed(
    source: Source, *, workers: int, device: torch.device | str, resident: bool | None
) -> ResidentFeed:
    """Return the fastest feed that the source and the caller's wish allow."""
    pool = None if resident is False else source.resident(decode=resident is True)
    if pool is not None:
        return ResidentFeed(pool, device)
    raise UserError("The images of the data set cannot be kept in memory: they differ in size.")


def _transfer(tensor: Tensor, device: torch.device) -> Tensor:
    """Move to the device without making the host wait."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
