"""Time ReLICv2: whole steps over the passes of their networks, the loss, masks of images.

A step of [4, 2] views consists of six passes of the online network, forward and backward, four of
the target network, and the method's own part: negatives, the losses of 24 pairs, the update of the
target. Passes are those of encoder, projector and predictor. For ResNet-50 at 224 pixels both parts
are timed separately; the passes are timed on few images, and scaled. Masks are made on one core,
image by image. `_memory` says what peak memory is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from _memory import peak_memory
from _timing import Goal, Options, Report, interleave, parse, ratios
from torch import Tensor

from relicv2 import ReLICv2, ReLICv2Recipe, draw_candidates, pair_losses
from relicv2.saliency.dense_crf import DenseCRF
from relicv2.saliency.handcrafted import MAPS, fused
from retable.data.shapes.dataset import Shapes
from retable.encoders import ResNetRecipe
from retable.methods import Batch, BYOLRecipe, Method, Progress

LARGE, SMALL = 4, 2
MOST_SECONDS = {"rbd": 0.02, "mr": 0.01, "mc": 0.02, "dsr": 0.09}
"""Most seconds of a map of 64 pixels."""


def batch_of(images: int, sizes: tuple[int, int], device: torch.device, small: int) -> Batch:
    """Return random views, ``LARGE`` of the first size and ``small`` of the second."""
    shapes = [sizes[0]] * LARGE + [sizes[1]] * small
    views = tuple(torch.randn(images, 3, side, side, device=device) for side in shapes)
    places = torch.arange(images, device=device)
    return Batch(views, places, places, places, Progress(1, 10, 100), 0)


def step_of(method: Method, batch: Batch) -> Callable[[], object]:
    """Return the call of a whole step without the optimizer."""

    def step() -> None:
        method(batch).loss.backward()
        method.after_step(batch.progress)

    return step


def passes_of(method: ReLICv2, batch: Batch) -> Callable[[], object]:
    """Return the call of a step's passes alone."""

    def passes() -> None:
        online, _ = method.outputs(batch)
        online.sum().backward()  # type: ignore[no-untyped-call]

    return passes


def losses_of(
    images: int, negatives: int, device: torch.device, dim: int = 256
) -> Callable[[], object]:
    """Return the call that draws negatives and computes all losses, with gradient."""
    outputs = F.normalize(torch.randn(LARGE + SMALL, images, dim, device=device), dim=2)
    online = outputs.requires_grad_()
    targets = F.normalize(torch.randn(LARGE, images, dim, device=device), dim=2)
    places = torch.arange(images, device=device)

    def losses() -> None:
        candidates = draw_candidates(0, places, images, negatives=negatives)
        pair_losses(online, targets, candidates, rows="unchecked").total().backward()  # type: ignore[no-untyped-call]

    return losses


def compare_steps(report: Report, options: Options) -> None:
    """Add whole steps of a small encoder over their passes, and the memory of a step."""
    encoder = ResNetRecipe("resnet18", width=options.pick(1.0, 1.0, 0.125), stem="small")
    images, sizes = options.pick(64, 32, 4), options.pick((32, 16), (32, 16), (8, 8))
    method = ReLICv2Recipe(hidden_dim=options.pick(512, 512, 8)).build(encoder.build(0), 0)
    method.to(options.device)
    batch = batch_of(images, sizes, options.device, SMALL)
    sides = {"step": step_of(method, batch), "passes": passes_of(method, batch)}
    seconds = interleave(sides, options.pick(10, 3, 1), options, warmup=options.pick(2, 1, 0))
    said = f"[4, 2] step, {encoder.name}, {sizes[0]} and {sizes[1]} px, {images} images"
    report.add(said, seconds["step"], "s")
    over = ratios(seconds["step"], seconds["passes"])
    report.add(f"{said}: over its passes", over, goal=Goal(at_most=1.10))
    peaks = {
        "[4, 2] step": peak_memory(
            partial(prepare_relicv2, encoder, images, sizes),
            partial(prepare_relicv2, encoder, 2, (8, 8)),
            options,
        ),
        "BYOL's step of two views": peak_memory(
            partial(prepare_byol, encoder, images, sizes),
            partial(prepare_byol, encoder, 2, (8, 8)),
            options,
        ),
    }
    for name, peak in peaks.items():
        report.add(f"{name}: peak memory", [peak], "MB")


def prepare_relicv2(
    encoder: ResNetRecipe, images: int, sizes: tuple[int, int], device: torch.device
) -> Callable[[], object]:
    """Return a step of ReLICv2."""
    method = ReLICv2Recipe(hidden_dim=512).build(encoder.build(0), 0).to(device)
    return step_of(method, batch_of(images, sizes, device, SMALL))


def prepare_byol(
    encoder: ResNetRecipe, images: int, sizes: tuple[int, int], device: torch.device
) -> Callable[[], object]:
    """Return a step of BYOL on two of the views."""
    method = BYOLRecipe(hidden_dim=512).build(encoder.build(0), 0).to(device)
    batch = batch_of(images, sizes, device, 0)
    return step_of(method, Batch(batch.views[:2], *list(vars(batch).values())[1:]))


def compose_steps(report: Report, options: Options) -> None:
    """Add the method's part of a ResNet-50's step, and its share of the step."""
    width = options.pick(1.0, 1.0, 0.125)
    images, part = options.pick(64, 64, 4), options.pick(4, 2, 2)
    sizes = options.pick((224, 96), (224, 96), (32, 16))
    encoder = ResNetRecipe("resnet50", width=width).build(0)
    method = ReLICv2Recipe(hidden_dim=options.pick(4096, 4096, 8)).build(encoder, 0)
    method.to(options.device)
    batch = batch_of(part, sizes, options.device, SMALL)
    losses = losses_of(images, 10, options.device)

    def own() -> None:
        losses()
        method.after_step(batch.progress)

    sides: dict[str, Callable[[], object]] = {"own": own, "passes": passes_of(method, batch)}
    seconds = interleave(sides, options.pick(5, 2, 1), options, warmup=options.pick(1, 1, 0))
    scaled = [images / part * spent for spent in seconds["passes"]]
    report.add(f"resnet50, {images} images: the method's own part", seconds["own"], "s")
    whole = [own + passes for own, passes in zip(seconds["own"], scaled, strict=True)]
    said = "resnet50, 224 and 96 px: step over its passes, put together"
    report.add(said, ratios(whole, scaled), goal=Goal(at_most=1.03))


def compare_losses(report: Report, options: Options) -> None:
    """Add the loss with ten negatives, gathered, and with all others, the full matrix."""
    images = options.pick(1024, 256, 16)
    sides = {
        "10 negatives": losses_of(images, 10, options.device),
        "all others": losses_of(images, images - 1, options.device),
    }
    seconds = interleave(sides, options.pick(10, 3, 1), options)
    for name, spent in seconds.items():
        report.add(f"losses of 24 pairs, {images} images, {name}", spent, "s")
    report.add("losses: all others over 10", ratios(seconds["all others"], seconds["10 negatives"]))


def time_masks(report: Report, options: Options, side: int) -> None:
    """Add the seconds of each map and of their fusion with a random field."""
    images = Shapes(2, size=side, split="test").images(torch.arange(2))
    calls: dict[str, Callable[[Tensor], object]] = dict(MAPS)
    if side <= 64:
        calls["fusion and random field"] = partial(fused, crf=DenseCRF())
    for name, call in calls.items():
        seconds = interleave(
            {name: lambda call=call: [call(image) for image in images]},  # type: ignore[misc]
            options.pick(3, 1, 1),
            options,
            warmup=1,
        )[name]
        most = MOST_SECONDS.get(name) if side == 64 else 1.0 if name in MAPS else None
        goal = None if most is None else Goal(at_most=most)
        each = [spent / len(images) for spent in seconds]
        report.add(f"mask of {side} px, {name}", each, "s", goal=goal)


def main() -> None:
    options = parse(__doc__ or "")
    report = Report("ReLICv2", options)
    compare_steps(report, options)
    compose_steps(report, options)
    compare_losses(report, options)
    for side in options.pick((64, 320), (64, 320), (32,)):
        time_masks(report, options, side)
    report.show()


if __name__ == "__main__":
    main()
