"""Batches of finished views, which do not depend on the number of workers and processes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from retable import distributed, random
from retable.data.batch import Batch, Progress, map_layers
from retable.data.plans import EvaluationPlan, TrainingPlan, share_of
from retable.data.sampler import Sampler
from retable.data.source import Source
from retable.data.workers import make_view_loader
from retable.views import ViewRecipe
from retable.views.sampling import to_device


class Loader:
    """Training batches by step: to resume is to ask for a later first step.

    There is a recipe for each view of an image. The sampler's seed is also that of the views and of
    the batches' keys; ``epochs`` is for `Batch.progress`. ``workers`` processes decode and crop, 0:
    this one; views are finished on ``device``.

    ``resident`` keeps all images on the device, which needs no workers. None does so if the source
    has them in memory; True also reads a source of files into memory, if all images are of one
    size; False never. ``compiled`` runs the photometric half through `torch.compile`; it is meant
    for GPUs. ``channels_last`` is the memory format of the views.

    Raises:
        UserError: the processes cannot share the batch equally, a view asks for a layer that the
            source lacks, or ``resident`` is True and the images differ in size or do not fit; when
            batches are made: an image is unreadable, or a worker was killed.
    """

    def __init__(
        self,
        source: Source,
        sampler: Sampler,
        recipes: tuple[ViewRecipe, ...],
        *,
        epochs: int = 1,
        workers: int = 0,
        device: torch.device | str = "cpu",
        resident: bool | None = None,
        compiled: bool = False,
        channels_last: bool = False,
    ) -> None:
        if sampler.length != len(source):
            raise ValueError(f"sampler for {sampler.length} samples, source of {len(source)}")
        self.source = source
        self.sampler = sampler
        self.epochs = epochs
        self.device = torch.device(device)
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.plan = TrainingPlan(
            sampler, len(recipes), distributed.process_index(), distributed.process_count()
        )
        # Check the longest and the shortest batch now, not when the first epoch ends.
        for step in (0, sampler.steps_per_epoch - 1):
            self.plan.positions(step)
        self.view_loader = make_view_loader(
            source, recipes, workers=workers, device=device, resident=resident, compiled=compiled
        )

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return self.sampler.steps_per_epoch

    def batches(self, first_step: int, last_step: int) -> Iterator[Batch]:
        """Yield this process's batches of the steps [first_step, last_step)."""
        steps = range(first_step, last_step)
        for step, indices, views, layers in self.view_loader.batches(self.plan, steps):
            yield Batch(
                views=tuple(map(self._laid_out, views)),
                labels=to_device(self.source.labels[indices], self.device),
                indices=to_device(indices, self.device),
                positions=to_device(self.plan.positions(step), self.device),
                progress=Progress(step, self.steps_per_epoch, self.epochs),
                rng_key=random.derive_key(self.sampler.seed, "step", step),
                layers=map_layers(self._laid_out, layers),
            )

    def _laid_out(self, tensor: Tensor) -> Tensor:
        return tensor.contiguous(memory_format=self.layout) if tensor.dim() == 4 else tensor


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

    Where an unreadable sample was replaced (`Source.skip_unreadable`), label and index are those of
    the replacement. Random crops need an ``rng_key``, for instance of the epoch. ``workers`` and
    ``resident`` are as in `Loader`. With ``rows`` (n,) int64 a process yields these samples, in
    this order, and not its share.
    """
    if rows is None:
        own = share_of(len(source), distributed.process_index(), distributed.process_count())
        rows = torch.arange(own.start, own.stop)
    plan = EvaluationPlan(rows, batch_size, 0 if rng_key is None else rng_key)
    device = torch.device(device)
    loader = make_view_loader(source, (recipe,), workers=workers, device=device, resident=resident)
    for _, indices, views, _ in loader.batches(plan, range(plan.steps)):
        yield views[0], to_device(source.labels[indices], device), to_device(indices, device)
