"""Time the patches of Jigsaw and Relative Patch Location on one core, from uint8 images in memory.

Ours: a batch is resized, windowed and made grey, then cut and standardised at once; its images are
resized in memory all at once in float, or one by one in uint8 as loading workers do it. The other
side does the same with torchvision's functional operations image by image and patch by patch, as a
data set's transform would. The clock is the thread's own on a CPU, so that what it waits for other
programs does not count. On a GPU only ours runs.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from _steps import images
from _timing import Goal, Options, Report, interleave, parse, ratios
from torch import Tensor

from retable.nn.patches import PatchGrid, cut_patches, standardise
from retable.views import (
    ViewRecipe,
    cut,
    make_view,
    patch_tasks,
    photometric,
    sample_parameters,
)


def by_torchvision(image: Tensor, recipe: ViewRecipe, grid: PatchGrid) -> Tensor:
    """Make the patches of one image (3, H, W) uint8: (n, 3, P, P)."""
    # Untyped, and re-exporting in a way that strict typing does not accept.
    operations: Any = importlib.import_module("torchvision.transforms.v2").functional
    resized = operations.resize(image, [recipe.resize, recipe.resize], antialias=True)
    view = operations.to_dtype(resized, torch.float32, scale=True)
    if torch.rand(()) < recipe.gray_probability:
        view = view.mean(dim=0, keepdim=True).expand(3, -1, -1)
    assert recipe.resize is not None
    top, left = torch.randint(recipe.resize - recipe.size + 1, (2,)).tolist()
    view = operations.crop(view, top, left, recipe.size, recipe.size)
    patches = []
    for row in range(grid.grid):
        for column in range(grid.grid):
            down, right = torch.randint(grid.cell - grid.patch + 1, (2,)).tolist()
            corner = (row * grid.cell + down, column * grid.cell + right)
            patch = operations.crop(view, *corner, grid.patch, grid.patch)
            floor = patch.numel() ** -0.5 / 255
            deviation, mean = torch.std_mean(patch, correction=0)
            patches.append((patch - mean) / deviation.clamp(min=floor))
    return torch.stack(patches)


def measure(
    report: Report,
    options: Options,
    recipe: ViewRecipe,
    grid: PatchGrid,
    source: tuple[int, int],
    batch: int,
    rounds: int,
    goals: dict[str, Goal],
) -> None:
    """Add patches a second of both sides, and of our parts, for one size.

    ``goals`` are those of our two ways of getting at images.
    """
    pool = images(batch, *source)
    on_device = pool.to(options.device)
    indices = torch.arange(batch)
    positions = indices.to(options.device)
    steps = iter(range(1_000_000))
    raw = replace(grid, standardise=False)

    def resident() -> Tensor:
        return make_view(on_device, indices, recipe, next(steps))

    def worker() -> Tensor:
        drawn = sample_parameters(recipe, next(steps), indices, *source)
        crops = [cut(image, drawn[i : i + 1], recipe) for i, image in enumerate(pool)]
        return photometric(torch.stack(crops), drawn, recipe)

    views = resident()
    patches = cut_patches(views, raw, 0, positions)
    sides: dict[str, Callable[[], object]] = {
        "retable, in memory": lambda: cut_patches(resident(), grid, next(steps), positions),
        "views alone": resident,
        "cutting alone": lambda: cut_patches(views, raw, next(steps), positions),
        "standardising alone": lambda: standardise(patches),
    }
    clock = None
    if options.device.type == "cpu":
        sides["retable, as workers"] = lambda: cut_patches(worker(), grid, next(steps), positions)
        sides["torchvision"] = lambda: torch.stack(
            [by_torchvision(image, recipe, grid) for image in pool]
        )
        clock = time.thread_time
    seconds = interleave(sides, rounds, options, warmup=options.pick(2, 1, 0), clock=clock)
    what = f"{grid.count} of {grid.patch} px from {recipe.size} px"
    for side, spent in seconds.items():
        report.add(f"{side}, {what}", [batch * grid.count / s for s in spent], "patches/s")
    if "torchvision" in seconds:
        for way in ("in memory", "as workers"):
            gains = ratios(seconds["torchvision"], seconds[f"retable, {way}"])
            report.add(f"retable over torchvision, {way}, {what}", gains, goal=goals.get(way))


def main() -> None:
    options = parse(__doc__ or "")
    on_cpu = options.device.type == "cpu"
    report = Report("Patches" + (", a second of one core" if on_cpu else ""), options)
    if on_cpu:
        torch.set_num_threads(1)
    measure(
        report,
        options,
        options.pick(patch_tasks(255, 292), patch_tasks(255, 292), patch_tasks(24, 28)),
        options.pick(PatchGrid(), PatchGrid(), PatchGrid(cell=8, patch=6)),
        options.pick((375, 500), (375, 500), (20, 30)),
        options.pick(32, 16, 2) if on_cpu else 1024,
        options.pick(9, 3, 1),
        {"as workers": Goal(at_least=1)},
    )
    measure(
        report,
        options,
        patch_tasks(48, 55),
        PatchGrid(cell=16, patch=12),
        (64, 64),
        options.pick(128, 128, 2),
        options.pick(15, 5, 1),
        {"in memory": Goal(at_least=3)},
    )
    report.show()


if __name__ == "__main__":
    main()
