"""View loaders: views from images that are in memory on the device, or decoded by worker processes.

Both make the same views from the same draws. They differ by one rounding: a worker sends crops as
uint8, as torchvision's and PIL's pipelines do, and the resident loader keeps them in float. Maps
and boxes are equal in both.
"""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from retable.data.batch import map_layers
from retable.data.cutting import Cuts, cut_with_layers, draw_views, finish_view, layer_names
from retable.data.plans import BatchSpec, Plan
from retable.data.source import LayerKind, Sample, Source
from retable.data.worker_processes import AHEAD, results_by_step
from retable.errors import UserError
from retable.views import ViewParameters, ViewRecipe, crop_resize, cut
from retable.views.masks import check_mask_change
from retable.views.sampling import to_device

# Images that a worker holds decoded at once: enough to spread the cost of a batched draw, few
# enough to bound memory.
_CHUNK = 16

Layers = tuple[dict[str, Tensor], ...]
"""The layers of each view by name; empty if no view asks for one."""


class ViewBatch(NamedTuple):
    """The samples of a batch (B,) int64 on the CPU, and their views and layers on the device."""

    step: int
    indices: Tensor
    views: tuple[Tensor, ...]
    layers: Layers


@dataclass(frozen=True)
class ResidentViewLoader:
    """Makes views of images (n, 3, H, W) uint8 that are in memory on the device.

    Layers are (n, C, H, W) on the same device, or lists of n tensors of boxes. ``replacements``
    are those of the source: a replaced sample is read, drawn and reported as its replacement.
    """

    images: Tensor
    layers: Mapping[str, Tensor | list[Tensor]]
    kinds: Mapping[str, LayerKind]
    recipes: tuple[ViewRecipe, ...]
    compiled: bool = False
    replacements: Mapping[int, int] = field(default_factory=dict)

    def batches(self, plan: Plan, steps: Iterable[int]) -> Iterator[ViewBatch]:
        """Yield the batches of ``steps``, in order."""
        device = self.images.device
        for step in steps:
            spec = plan(step)
            if self.replacements:
                found = [self.replacements.get(i, i) for i in spec.indices.tolist()]
                spec = replace(spec, indices=torch.tensor(found))
            rows = to_device(spec.indices, device)
            images = self.images.index_select(0, rows)
            layers = {
                name: _select(layer, spec.indices, rows) for name, layer in self.layers.items()
            }
            drawn = draw_views(self.recipes, spec, spec.indices, *images.shape[2:])
            made = [
                self._view(images, layers, spec.indices, parameters, recipe)
                for recipe, parameters in zip(self.recipes, drawn, strict=True)
            ]
            views, cut_layers = zip(*made, strict=True)
            moved = map_layers(lambda layer: to_device(layer, device), cut_layers)
            wanted = any(recipe.layers for recipe in self.recipes)
            yield ViewBatch(step, spec.indices, views, moved if wanted else ())

    def _view(
        self,
        images: Tensor,
        layers: Mapping[str, Tensor],
        indices: Tensor,
        parameters: ViewParameters,
        recipe: ViewRecipe,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        def cut_images(images: Tensor, cropped_by: ViewParameters) -> Tensor:
            return crop_resize(images, cropped_by, recipe.size, recipe.interpolation)

        cuts = cut_with_layers(images, layers, self.kinds, indices, parameters, recipe, cut_images)
        return finish_view(cuts, self.kinds, parameters, recipe, compiled=self.compiled)


def _select(layer: Tensor | list[Tensor], indices: Tensor, rows: Tensor) -> Tensor:
    """Return the batch's part of a resident layer; boxes stay on the CPU."""
    if isinstance(layer, Tensor):
        return layer.index_select(0, rows)
    return pad_sequence([layer[index] for index in indices.tolist()], batch_first=True)


class Crops(NamedTuple):
    """Crops that a worker sends: V tensors (B, 3, S, S) uint8.

    ``samples`` (3, B) int64 is what the draws depend on: positions in the data set, heights and
    widths of the images.
    """

    step: int
    samples: Tensor
    crops: tuple[Tensor, ...]
    layers: Layers
    masks: tuple[Tensor | None, ...]


class CropDataset(Dataset[Crops | str]):
    """The work of a worker: each image is read and decoded once, and cut once for each view.

    A user error is returned as its message: an exception itself would arrive wrapped.
    """

    def __init__(self, source: Source, plan: Plan, recipes: tuple[ViewRecipe, ...]) -> None:
        self.source = source
        self.plan = plan
        self.recipes = recipes
        self.layers = layer_names(recipes)

    def __getitem__(self, step: int) -> Crops | str:
        spec = self.plan(step)
        batch = len(spec.indices)
        samples = torch.empty((3, batch), dtype=torch.int64)
        crops = tuple(
            torch.empty((batch, 3, recipe.size, recipe.size), dtype=torch.uint8)
            for recipe in self.recipes
        )
        layers = [defaultdict[str, list[Tensor]](list) for _ in self.recipes]
        masks: list[list[Tensor]] = [[] for _ in self.recipes]
        try:
            for first in range(0, batch, _CHUNK):
                chunk = slice(first, first + _CHUNK)
                views = [view[chunk] for view in crops]
                samples[:, chunk] = self._cut(spec, spec.indices[chunk], views, layers, masks)
        except UserError as error:
            return str(error)
        # Boxes are padded; maps and images are of one size.
        stacked = tuple(
            {name: pad_sequence(parts, batch_first=True) for name, parts in of.items()}
            for of in layers
        )
        joined = tuple(torch.cat(parts) if parts else None for parts in masks)
        return Crops(step, samples, crops, stacked if any(stacked) else (), joined)

    def _cut(
        self,
        spec: BatchSpec,
        indices: Tensor,
        crops: list[Tensor],
        layers: Sequence[dict[str, list[Tensor]]],
        masks: Sequence[list[Tensor]],
    ) -> Tensor:
        """Fill the crops (C, 3, S, S) of C samples and return their (3, C) positions and sizes."""
        read = [self.source.read_sample(index, self.layers) for index in indices.tolist()]
        samples = torch.tensor([(sample.index, *sample.image.shape[1:]) for sample in read]).T
        drawn = draw_views(self.recipes, spec, *samples)
        views = zip(self.recipes, drawn, crops, layers, masks, strict=True)
        for recipe, parameters, out, cut_layers, cut_masks in views:
            for row, sample in enumerate(read):
                found = self._cut_sample(sample, parameters[row : row + 1], recipe)
                out[row] = found.crops[0]
                for name, layer in found.layers.items():
                    cut_layers[name].append(layer[0])
                if found.masks is not None:
                    cut_masks.append(found.masks)
        return samples

    def _cut_sample(self, sample: Sample, parameters: ViewParameters, recipe: ViewRecipe) -> Cuts:
        def cut_one(image: Tensor, cropped_by: ViewParameters) -> Tensor:
            return cut(image[0], cropped_by, recipe)[None]

        layers = {name: layer[None] for name, layer in sample.layers.items()}
        return cut_with_layers(
            sample.image[None],
            layers,
            self.source.layers,
            torch.tensor([sample.index]),
            parameters,
            recipe,
            cut_one,
        )


@dataclass(frozen=True)
class WorkerViewLoader:
    """Makes views of images that worker processes decode and crop.

    The photometric half of the views is made on ``device``. Samples found unreadable are added to
    ``source.unreadable``.
    """

    source: Source
    recipes: tuple[ViewRecipe, ...]
    workers: int
    device: torch.device
    compiled: bool = False

    def batches(self, plan: Plan, steps: Iterable[int]) -> Iterator[ViewBatch]:
        """Yield the batches of ``steps``, in order.

        Raises:
            UserError: an image is unreadable.
            MachineError: a worker was killed.
        """
        steps = list(steps)
        if self.workers and steps:
            _check_shared_memory(len(plan(steps[0]).indices), self.recipes, self.workers)
        dataset = CropDataset(self.source, plan, self.recipes)
        decoded = results_by_step(dataset, steps, self.workers, self.device)
        for crops in _ahead(decoded, self.device):
            spec = plan(crops.step)
            indices = crops.samples[0]
            replaced = spec.indices != indices
            self.source.unreadable.update(spec.indices[replaced].tolist())
            # Drawn again rather than sent: it takes less time than sending a dozen small tensors.
            drawn = draw_views(self.recipes, spec, *crops.samples)
            layers = crops.layers or ({},) * len(self.recipes)
            made = [
                finish_view(cuts, self.source.layers, parameters, recipe, compiled=self.compiled)
                for cuts, parameters, recipe in zip(
                    map(Cuts, crops.crops, layers, crops.masks), drawn, self.recipes, strict=True
                )
            ]
            views, finished = zip(*made, strict=True)
            yield ViewBatch(crops.step, indices, views, finished if crops.layers else ())


def _check_shared_memory(
    batch: int, recipes: tuple[ViewRecipe, ...], workers: int, folder: str = "/dev/shm"
) -> None:
    """Refuse what would end in a bus error: containers often have 64 MiB of shared memory only."""
    if not os.path.isdir(folder):
        return
    # A layer is counted like an image.
    parts = (1 + len(recipe.layers) + (recipe.mask_probability > 0) for recipe in recipes)
    crops = batch * sum(3 * r.size**2 * part for r, part in zip(recipes, parts, strict=True))
    needed = crops * (workers * AHEAD + 2)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"The {workers} workers need {needed / 2**20:.0f} MiB of shared memory, and {folder} "
            f"has {free / 2**20:.0f} MiB free: use fewer workers or enlarge {folder}."
        )


def _ahead(batches: Iterator[Crops], device: torch.device) -> Iterator[Crops]:
    """Copy crops to a GPU one batch ahead, in parallel with the computation."""
    if device.type != "cuda":
        yield from batches
        return
    copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def copy(batch: Crops) -> Crops:
        with torch.cuda.stream(copies):
            crops = tuple(view.to(device, non_blocking=True) for view in batch.crops)
            layers = map_layers(lambda layer: layer.to(device, non_blocking=True), batch.layers)
            masks = tuple(
                None if mask is None else mask.to(device, non_blocking=True) for mask in batch.masks
            )
        return batch._replace(crops=crops, layers=layers, masks=masks)

    def arrived(batch: Crops) -> Crops:
        """Make the current stream wait for the copies, and keep their memory until it used them."""
        current = torch.cuda.current_stream(device)
        current.wait_stream(copies)
        layers = (layer for of in batch.layers for layer in of.values())
        masks = (mask for mask in batch.masks if mask is not None)
        for tensor in (*batch.crops, *layers, *masks):
            tensor.record_stream(current)
        return batch

    coming: Crops | None = None
    for batch in batches:
        ready, coming = coming, copy(batch)
        if ready is not None:
            yield arrived(ready)
    if coming is not None:
        yield arrived(coming)


_IMAGES = ""
Pools = dict[str, Tensor | list[Tensor]]

# Pools on a device, so that not every pass over a source copies them again: images under "".
_pools: WeakKeyDictionary[Source, dict[torch.device, Pools]] = WeakKeyDictionary()


def make_view_loader(
    source: Source,
    recipes: tuple[ViewRecipe, ...],
    *,
    workers: int,
    device: torch.device | str,
    resident: bool | None,
    compiled: bool = False,
) -> ResidentViewLoader | WorkerViewLoader:
    """Return the fastest view loader that the source and ``resident`` allow.

    The arguments, and the errors, are those of `retable.data.loader.Loader`.
    """
    device = torch.device(device)
    for recipe in recipes:
        check_mask_change(recipe.mask_change)
    names = layer_names(recipes)
    for name in names:
        if name not in source.layers:
            has = ", ".join(source.layers) or "none"
            raise UserError(
                f"`layers` of a view must be layers of the data set ({has}), got {name!r}. "
                "Choose a data set that has the layer."
            )
    for recipe in recipes:
        if recipe.mask_probability and (kind := source.layers[recipe.mask]) != "map":
            raise UserError(
                f"`mask` of a view must be a map, got {recipe.mask!r}, which has {kind}. Name a "
                "layer of masks."
            )
    pools = None if resident is False else _resident(source, names, device, decode=resident is True)
    if pools is not None:
        images = pools[_IMAGES]
        assert isinstance(images, Tensor)
        layers = {name: pools[name] for name in names}
        return ResidentViewLoader(
            images, layers, source.layers, recipes, compiled, source.replacements
        )
    if resident is True:
        raise UserError(
            "The images of the data set cannot be kept in memory, because they or their layers "
            "differ in size: leave them on disk, or resize them once."
        )
    return WorkerViewLoader(source, recipes, workers, device, compiled=compiled)


def _resident(
    source: Source, names: tuple[str, ...], device: torch.device, *, decode: bool
) -> Pools | None:
    pools = _pools.setdefault(source, {}).setdefault(device, {})
    for name in (_IMAGES, *names):
        if name not in pools:
            found = (
                source.resident(decode=decode) if name == _IMAGES else source.resident_layer(name)
            )
            if found is None:
                return None
            pools[name] = _moved(found, device) if isinstance(found, Tensor) else found
    return pools


def _moved(pool: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda":
        needed = pool.numel() * pool.element_size()
        free, _ = torch.cuda.mem_get_info(device)
        if needed > free // 2:
            raise UserError(
                f"The images need {needed / 2**30:.1f} GiB of the {free / 2**30:.1f} GiB "
                "that are free on the GPU, more than half: leave them on disk."
            )
    return pool.to(device)
