"""Time non-semantic negatives: patches, whole steps, and textures.

Patches of a batch are compared with a plain loop that cuts and pastes them one by one, as a data
set's transform would. A whole step is MoCo v2 with patch-based negatives over MoCo v2: its third
pass of the encoder alone makes it 5 / 4. Textures are made on one core, image by image and, on a
GPU, in batches; images per hour are those of ImageNet-Texture. `_memory` says what peak memory is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from _memory import peak_memory
from _timing import Goal, Options, Report, interleave, parse, ratios
from _whole_steps import Training, compare_steps
from torch import Tensor

from nonsemantic_negatives import MoCoNSRecipe, PatchNegatives, patch_negatives
from nonsemantic_negatives.textures.quilting import Quilting
from nonsemantic_negatives.textures.stochastic import Stochastic
from nonsemantic_negatives.textures.synthesis import Backend, synthesize
from nonsemantic_negatives.textures.twins import TwinRecipe
from retable.encoders import ResNetRecipe
from retable.methods import MethodRecipe, moco_v2
from retable.random import derive_key, integers


@dataclass(frozen=True)
class TextureSize:
    """Side of textures and of their exemplars in pixels, and the most seconds for a quilted one."""

    size: int
    exemplar: int
    quilting: Quilting
    most: float | None = None

    @property
    def at_once(self) -> int:
        """As many as the command makes at a time of a folder's images."""
        return TwinRecipe(self.size, self.exemplar, self.quilting).at_once


TEXTURES = (
    TextureSize(32, 14, Quilting(6, 2), most=0.02),
    TextureSize(64, 27, Quilting(10, 3)),
    TextureSize(224, 96, Quilting(), most=3.0),
)


def noise(*shape: int) -> Tensor:
    """Return random uint8 values."""
    places = torch.arange(math.prod(shape)).view(shape)
    return integers(derive_key(0, "noise", *shape), places, 256).to(torch.uint8)


def one_by_one(views: Tensor, low: int, high: int) -> Tensor:
    """Make patch-based negatives patch by patch."""
    made = []
    for view in views:
        side = int(torch.randint(low, high + 1, ()))
        cells = -(-view.shape[-1] // side)
        canvas = view.new_empty(3, cells * side, cells * side)
        for row in range(cells):
            for column in range(cells):
                top, left = torch.randint(view.shape[-1] - side + 1, (2,)).tolist()
                canvas[
                    :,
                    row * side : (row + 1) * side,
                    column * side : (column + 1) * side,
                ] = view[:, top : top + side, left : left + side]
        made.append(canvas[:, : view.shape[1], : view.shape[2]])
    return torch.stack(made)


def patches_of(
    size: int, low: int, high: int, batch: int, device: torch.device
) -> Callable[[], object]:
    """Return the call that makes the negatives of a batch."""
    views = noise(batch, 3, size, size).float().to(device)
    return lambda: patch_negatives(views, 0, low=low, high=high)


def textures_of(
    shape: TextureSize, backend: Backend, batch: int, device: torch.device
) -> Callable[[], object]:
    """Return the call that makes the textures of a batch."""
    exemplars = noise(batch, 2, 3, shape.exemplar, shape.exemplar).to(device)
    return lambda: synthesize(exemplars, shape.size, 0, backend=backend)


def compare_patches(report: Report, options: Options, size: int, low: int, high: int) -> None:
    """Add images a second of both ways, and the memory of ours."""
    batch = options.pick(64, 64, 2)
    views = noise(batch, 3, size, size).float().to(options.device)
    sides: dict[str, Callable[[], object]] = {
        "batched": patches_of(size, low, high, batch, options.device),
        "one by one": lambda: one_by_one(views, low, high),
    }
    seconds = interleave(sides, options.pick(10, 3, 1), options)
    for name, spent in seconds.items():
        said = f"patches of {low} to {high} px, {size} px, {name}"
        report.add(said, [batch / each for each in spent], "images/s")
    gain = ratios(seconds["one by one"], seconds["batched"])
    report.add(f"patches, {size} px: one by one over batched", gain, goal=Goal(at_least=1.0))
    at_size = partial(patches_of, size, low, high, batch)
    peak = peak_memory(at_size, partial(patches_of, 8, 2, 3, 1), options)
    report.add(f"patches, {size} px: peak memory of a batch of {batch}", [peak], "MB")


def time_textures(report: Report, options: Options, shape: TextureSize) -> None:
    """Add seconds of a texture by both back-ends, what an hour makes, and memory."""
    backends: dict[str, Backend] = {"quilting": shape.quilting, "stochastic": Stochastic()}
    if options.dry or (shape.size > 64 and options.quick):
        del backends["stochastic"]  # a minute for 224 pixels
    for name, backend in backends.items():
        quilts = name == "quilting"
        batch = 1 if options.dry else shape.at_once if quilts else min(2, shape.at_once)
        at_size = partial(textures_of, shape, backend, batch)
        sides = {name: at_size(options.device)}
        rounds = options.pick(5, 2, 1) if quilts else 1
        seconds = interleave(sides, rounds, options, warmup=int(quilts))[name]
        each = [spent / batch for spent in seconds]
        goal = Goal(at_most=shape.most) if shape.most and quilts else None
        said = f"texture of {shape.size} px from {shape.exemplar} px, {name}, {batch} at a time"
        report.add(said, each, "s", goal=goal)
        if shape.size == 224:
            hourly = [3600 / spent for spent in each]
            report.add(f"ImageNet-Texture, {name}", hourly, "images/h")
        if quilts:
            tiny = partial(textures_of, TextureSize(8, 6, Quilting(4, 1)), Quilting(4, 1), 1)
            peak = peak_memory(at_size, tiny, options)
            report.add(f"{name}, {shape.size} px: peak memory", [peak], "MB")


def main() -> None:
    options = parse(__doc__ or "")
    report = Report("Non-semantic negatives", options)
    for size, low, high in options.pick(
        ((32, 5, 12), (224, 16, 72)), ((32, 5, 12),), ((16, 2, 5),)
    ):
        compare_patches(report, options, size, low, high)
    width = options.pick(1.0, 1.0, 0.125)
    small = ResNetRecipe("resnet18", width=width, stem="small")
    large = ResNetRecipe("resnet50", width=width)
    on_gpu = options.device.type == "cuda"
    small_size, large_size = options.pick((32, 224), (32, 224), (8, 32))
    for encoder, size, low, high in (
        (small, small_size, min(5, small_size), min(12, small_size)),
        (large, large_size, min(16, large_size), min(72, large_size)),
    ):
        if encoder is large and not on_gpu and not options.dry:
            continue  # a batch at 224 pixels takes minutes on a CPU
        queue = options.pick(16384, 16384, 32)
        batch = options.pick(128, 64, 4)
        recipes: dict[str, MethodRecipe] = {
            "MoCo v2": moco_v2(queue=queue),
            "MoCo v2 + patches": MoCoNSRecipe(
                queue=queue, negatives=PatchNegatives(low=low, high=high)
            ),
        }
        training = Training(encoder, size, batch)
        compare_steps(report, options, training, recipes, f"K {queue}", Goal(at_most=1.35))
    for shape in options.pick(TEXTURES, TEXTURES, TEXTURES[:1]):
        time_textures(report, options, shape)
    report.show()


if __name__ == "__main__":
    main()
