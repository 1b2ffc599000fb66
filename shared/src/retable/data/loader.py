"""Batches of finished views, the same whatever the workers and processes.

What is in a batch is a plan, a pure function of the step (`retable.data.plans`); how pixels become
views is a feed (`retable.data.workers`). Here they are put together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from retable import distributed
from retable.data.plans import EvaluationPlan, TrainingPlan, share_of
from retable.data.sampler import Sampler
from retable.data.source import Source
from retable.data.workers import make_feed, transfer
from retable.views import ViewRecipe


@dataclass(frozen=True)
class LoadedBatch:
    """One process's share of a global batch, ready for a method.

    Attributes:
        step: the optimizer step, counted over the whole run.
        indices: (B_r,) int64 positions in the data set, on the device.
        labels: (B_r,) int64 classes, -1 where unknown, on the device.
        positions: (B_r,) int64 positions in the global batch, on the device: counters of draws.
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
        resident: keep all images on the device. None does so if the source has them at hand; True
            also reads a source of files into memory, if all images are of one size; False never.
        compiled: run the photometric half through `torch.compile`; meant for GPUs.

    Raises:
        UserError: the processes cannot share the batch equally, or ``resident`` is True and the
            images differ in size or do not fit.
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
        compiled: bool = False,
    ) -> None:
        if sampler.length != len(source):
            raise ValueError(f"sampler for {sampler.length} samples, source of {len(source)}")
        self.source = source
        self.sampler = sampler
        self.recipes = tuple(recipes)
        self.device = torch.device(device)
        self.compiled = compiled
        self.plan = TrainingPlan(
            sampler, len(self.recipes), distributed.process_index(), distributed.process_count()
        )
        # Ask now for the longest and the shortest batch, not when the first epoch ends.
        for step in (0, sampler.steps_per_epoch - 1):
            self.plan.positions(step)
        self.feed = make_feed(source, workers=workers, device=device, resident=resident)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return self.sampler.steps_per_epoch

    def batches(self, first_step: int, last_step: int) -> Iterator[LoadedBatch]:
        """Yield this process's batches of the steps [first_step, last_step).

        Raises:
            UserError: an image is unreadable, or a worker was killed.
        """
        steps = range(first_step, last_step)
        fed = self.feed.views(self.plan, self.recipes, steps, compiled=self.compiled)
        for step, indices, views in fed:
            yield LoadedBatch(
                step,
                transfer(indices, self.device),
                transfer(self.source.labels[indices], self.device),
                transfer(self.plan.positions(step), self.device),
                views,
            )


def iterate(
    source: Source,
    recipe: ViewRecipe,
    batch_size: int,
    *,
    rng_key: int | None = None,
    workers: int = 0,
    device: torch.device | str = "cpu",
    resident: bool | None = None,
    rows: Tensor | None = None,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield one view of every sample, in order: (views (B, 3, S, S), labels (B,), indices (B,)).

    All three are on the device; the last batch may be shorter. Each process yields its contiguous
    share, `retable.data.plans.share_of`; shares differ by at most one sample.

    An unreadable sample's place is taken by another, see `Source.skip_unreadable`: labels and
    indices are those of the sample that was read.

    Args:
        source: the images.
        recipe: of the view, usually `retable.views.center`.
        batch_size: samples of one process's batch.
        rng_key: of the random crops, for instance derived from the epoch; a recipe without random
            steps needs none.
        workers: processes that decode and crop, unused when resident.
        device: where views are finished.
        resident: as in `Loader`.
        rows: (n,) int64 samples that this process yields, in this order; None: its share.

    Raises:
        UserError: as `Loader` and its batches do.
    """
    if rows is None:
        own = share_of(len(source), distributed.process_index(), distributed.process_count())
        rows = torch.arange(own.start, own.stop)
    plan = EvaluationPlan(rows, batch_size, 0 if rng_key is None else rng_key)
    device = torch.device(device)
    feed = make_feed(source, workers=workers, device=device, resident=resident)
    for _, indices, views in feed.views(plan, (recipe,), range(plan.steps)):
        yield views[0], transfer(source.labels[indices], device), transfer(indices, device)
