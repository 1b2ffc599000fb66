"""How pixels become views: from memory on the device, or decoded by worker processes.

Both make the same views from the same draws. They differ by one rounding: a worker sends crops as
uint8, as torchvision's and PIL's pipelines do, where the resident feed keeps them in float.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from retable import random
from retable.data.decoding import read_image
from retable.data.plans import Plan, Request
from retable.data.source import Source
from retable.errors import UserError
from retable.processes import exit_with_parent
from retable.views import (
    ViewParameters,
    ViewRecipe,
    cut,
    finish_view,
    make_view,
    sample_parameters,
)

# Images that a worker holds decoded at once: enough to spread the cost of a batched draw, few
# enough to bound memory.
_CHUNK = 16

# Batches that each worker prepares ahead.
_AHEAD = 2


class Fed(NamedTuple):
    """What a feed yields: the samples (B,) int64 on the CPU, and their views on the device."""

    step: int
    indices: Tensor
    views: tuple[Tensor, ...]


class Feed(Protocol):
    """Makes the views of a plan's steps, in order."""

    def views(
        self,
        plan: Plan,
        recipes: tuple[ViewRecipe, ...],
        steps: Iterable[int],
        *,
        compiled: bool = False,
    ) -> Iterator[Fed]:
        """Yield the batches of ``steps``, with `retable.views.photometric` compiled or not."""
        ...


class ResidentFeed:
    """All images in one uint8 tensor (n, 3, H, W) on the device, where views are made too."""

    def __init__(self, pool: Tensor, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self.pool = pool.to(self.device)

    def views(
        self,
        plan: Plan,
        recipes: tuple[ViewRecipe, ...],
        steps: Iterable[int],
        *,
        compiled: bool = False,
    ) -> Iterator[Fed]:
        """Yield the batches of ``steps``."""
        for step in steps:
            request = plan(step)
            images = self.pool.index_select(0, transfer(request.indices, self.device))
            views = tuple(
                make_view(
                    images,
                    request.indices,
                    recipe,
                    key,
                    image_key=request.image_key,
                    compiled=compiled,
                )
                for recipe, key in zip(recipes, request.keys, strict=True)
            )
            yield Fed(step, request.indices, views)


class Crops(NamedTuple):
    """What a worker sends: V tensors (B, 3, S, S) uint8, and what their parameters depend on.

    ``samples`` is (3, B) int64: positions in the data set, heights and widths of the images.
    """

    step: int
    samples: Tensor
    crops: tuple[Tensor, ...]


@dataclass(frozen=True)
class Failure:
    """A user's mistake met in a worker, sent as its sentence: an exception would come wrapped."""

    sentence: str


class CropDataset(Dataset[Crops | Failure]):
    """What runs in a worker: each image is read and decoded once, and cut once for each view."""

    def __init__(self, source: Source, plan: Plan, recipes: tuple[ViewRecipe, ...]) -> None:
        self.source = source
        self.plan = plan
        self.recipes = recipes

    def __getitem__(self, step: int) -> Crops | Failure:
        """Return the crops of a step."""
        request = self.plan(step)
        batch = len(request.indices)
        samples = torch.empty((3, batch), dtype=torch.int64)
        crops = tuple(
            torch.empty((batch, 3, recipe.size, recipe.size), dtype=torch.uint8)
            for recipe in self.recipes
        )
        try:
            for first in range(0, batch, _CHUNK):
                chunk = slice(first, first + _CHUNK)
                samples[:, chunk] = self._cut(
                    request, request.indices[chunk], [view[chunk] for view in crops]
                )
        except UserError as error:
            return Failure(str(error))
        return Crops(step, samples, crops)

    def _cut(self, request: Request, indices: Tensor, crops: list[Tensor]) -> Tensor:
        """Fill the crops (C, 3, S, S) of C samples and return their (3, C) positions and sizes."""
        read = [read_image(self.source, index) for index in indices.tolist()]
        samples = torch.tensor([(actual, *image.shape[1:]) for image, actual in read]).T
        drawn = _drawn(self.recipes, request, samples)
        for recipe, parameters, out in zip(self.recipes, drawn, crops, strict=True):
            for row, (image, _) in enumerate(read):
                out[row] = cut(image, parameters[row : row + 1], recipe)
        return samples


class WorkerFeed:
    """Images decoded and cropped by worker processes, finished on the device.

    Args:
        source: the images; samples found unreadable are added to ``source.unreadable``.
        workers: processes; 0 decodes in this one.
        device: where the photometric half of the views is made.
    """

    def __init__(self, source: Source, workers: int, device: torch.device | str) -> None:
        self.source = source
        self.workers = workers
        self.device = torch.device(device)

    def views(
        self,
        plan: Plan,
        recipes: tuple[ViewRecipe, ...],
        steps: Iterable[int],
        *,
        compiled: bool = False,
    ) -> Iterator[Fed]:
        """Yield the batches of ``steps``.

        Raises:
            UserError: an image is unreadable, or a worker was killed.
        """
        steps = list(steps)
        if self.workers and steps:
            _check_shared_memory(len(plan(steps[0]).indices), recipes, self.workers)
        batches = DataLoader(
            CropDataset(self.source, plan, recipes),
            batch_size=None,
            sampler=steps,
            prefetch_factor=_AHEAD if self.workers else None,
            num_workers=self.workers,
            collate_fn=_unchanged,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=_begin_worker,
            # Of its own, so that the global generator is not advanced.
            generator=random.generator(0),
        )
        for crops in _ahead(_checked(batches), self.device):
            request = plan(crops.step)
            indices = crops.samples[0]
            replaced = request.indices != indices
            self.source.unreadable.update(request.indices[replaced].tolist())
            # Drawn again rather than sent: it takes less time than a dozen small tensors' journey.
            drawn = _drawn(recipes, request, crops.samples)
            views = tuple(
                finish_view(view, parameters, recipe, compiled=compiled)
                for view, parameters, recipe in zip(crops.crops, drawn, recipes, strict=True)
            )
            yield Fed(crops.step, indices, views)


def _drawn(
    recipes: tuple[ViewRecipe, ...], request: Request, samples: Tensor
) -> Iterator[ViewParameters]:
    """Draw each view's parameters for samples (3, C): positions, heights and widths."""
    for recipe, key in zip(recipes, request.keys, strict=True):
        yield sample_parameters(recipe, key, *samples, image_key=request.image_key)


def _check_shared_memory(
    batch: int, recipes: tuple[ViewRecipe, ...], workers: int, folder: str = "/dev/shm"
) -> None:
    """Refuse what would end in a bus error: containers often have 64 MiB of shared memory only."""
    if not os.path.isdir(folder):
        return
    crops = batch * sum(3 * recipe.size**2 for recipe in recipes)
    needed = crops * (workers * _AHEAD + 2)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"The {workers} workers need {needed / 2**20:.0f} MiB of shared memory, and {folder} "
            f"has {free / 2**20:.0f} MiB free: use fewer workers or enlarge {folder}."
        )


def _unchanged(item: Any) -> Any:
    return item


def _begin_worker(worker: int) -> None:
    """Let Ctrl-C, which reaches the whole group, be answered by the parent alone; end with it.

    Torch's own watch would take five seconds and a batch to notice that the parent was killed, and
    for so long the worker, a fork, would hold the parent's open files, the lock of its run among
    them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    exit_with_parent(os.getppid())


def _checked(batches: Iterable[Crops | Failure]) -> Iterator[Crops]:
    """Turn what went wrong in workers into sentences."""
    try:
        for batch in batches:
            if isinstance(batch, Failure):
                raise UserError(batch.sentence)
            yield batch
    except RuntimeError as error:
        if "DataLoader worker" in str(error) and ("killed" in str(error) or "exited" in str(error)):
            raise UserError(
                "A decoding worker was killed, usually for want of memory or of shared memory "
                "(/dev/shm): use fewer workers or a smaller batch, or enlarge /dev/shm."
            ) from error
        raise


def _ahead(batches: Iterator[Crops], device: torch.device) -> Iterator[Crops]:
    """Copy crops to a GPU one batch ahead and beside the computation; elsewhere change nothing."""
    if device.type != "cuda":
        yield from batches
        return
    copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def copy(batch: Crops) -> Crops:
        with torch.cuda.stream(copies):
            crops = tuple(view.to(device, non_blocking=True) for view in batch.crops)
        return batch._replace(crops=crops)

    coming: Crops | None = None
    for batch in batches:
        ready, coming = coming, copy(batch)
        if ready is not None:
            yield _arrived(ready, copies)
    if coming is not None:
        yield _arrived(coming, copies)


def _arrived(batch: Crops, copies: torch.cuda.Stream) -> Crops:
    """Make the current stream wait for the copies, and keep their memory until it has used them."""
    current = torch.cuda.current_stream(copies.device)
    current.wait_stream(copies)
    for view in batch.crops:
        view.record_stream(current)
    return batch


# Pools on a GPU, so that every pass over a source does not copy them anew.
_pools: WeakKeyDictionary[Source, ResidentFeed] = WeakKeyDictionary()


def make_feed(
    source: Source, *, workers: int, device: torch.device | str, resident: bool | None
) -> Feed:
    """Return the fastest feed that the source and the caller's wish allow.

    Args:
        source: the images.
        workers: processes that decode and crop, unused when resident.
        device: where views are finished.
        resident: True keeps all images on the device, reading files first if needed; False never
            does; None does if the source has its images at hand.

    Raises:
        UserError: ``resident`` is True and the images differ in size or do not fit.
    """
    device = torch.device(device)
    if resident is False:
        return WorkerFeed(source, workers, device)
    known = _pools.get(source)
    if known is not None and known.device == device:
        return known
    pool = source.resident(decode=resident is True)
    if pool is not None:
        _pools[source] = _resident_feed(pool, device)
        return _pools[source]
    if resident is True:
        raise UserError(
            "The images of the data set cannot be kept in memory, because they differ in size: "
            "leave them on disk, or resize them once."
        )
    return WorkerFeed(source, workers, device)


def _resident_feed(pool: Tensor, device: torch.device) -> ResidentFeed:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if pool.numel() > free // 2:
            raise UserError(
                f"The images need {pool.numel() / 2**30:.1f} GiB of the {free / 2**30:.1f} GiB "
                "that are free on the GPU, more than half: leave them on disk."
            )
    return ResidentFeed(pool, device)


def transfer(tensor: Tensor, device: torch.device) -> Tensor:
    """Move a tensor to the device without making the host wait."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
