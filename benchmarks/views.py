"""Time the views of MoCo v2 on one core: ours, a batch at a time, and lightly's, image by image.

Both make one view of each image of a batch from uint8 images in memory. The clock is the thread's
own on a CPU, so that what it waits for other programs does not count. On a GPU only ours can run;
the goal there is R2's, stated for 512 views of 224 px.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import _lightly_moco as peer
import torch
from _steps import images
from _timing import Goal, Options, Report, interleave, parse, ratios

from retable.views import make_view, moco_v2


def measure(
    report: Report, options: Options, size: int, source: int, batch: int, rounds: int, goal: Goal
) -> None:
    """Add views a second of both sides at one size."""
    pool = images(batch, source, source)
    on_device = pool.to(options.device)
    indices = torch.arange(batch)
    recipe = moco_v2(size)
    epochs = iter(range(1_000_000))
    # Small views take a millisecond a batch: several at a time.
    repeats = options.pick(10, 10, 1) if size < 64 else 1

    def ours() -> None:
        for _ in range(repeats):
            make_view(on_device, indices, recipe, rng_key=next(epochs))

    sides: dict[str, Callable[[], object]] = {"retable": ours}
    if peer.installed():
        one_view = peer.views_of(size).transforms[0]  # type: ignore[attr-defined]
        pil_images = peer.pil_images(pool)
        sides["lightly"] = lambda: torch.stack([one_view(image) for image in pil_images])
    seconds = interleave(
        sides, rounds, options, warmup=options.pick(2, 2, 0), clock=time.thread_time
    )
    seconds["retable"] = [spent / repeats for spent in seconds["retable"]]
    what = f"{size} px from {source} x {source}"
    for side, spent in seconds.items():
        report.add(f"{side}, {what}", [batch / s for s in spent], "views/s")
    if "lightly" in seconds:
        gains = ratios(seconds["lightly"], seconds["retable"])
        at_32 = size == 32
        report.add(
            f"retable over lightly, {size} px",
            gains,
            name="R4" if at_32 else "",
            goal=goal if at_32 else None,
        )


def on_gpu(report: Report, options: Options) -> None:
    """Add the time of two views of 256 images, as a training step needs them."""
    batch, size, source = 256, 224, 256
    pool = images(batch, source, source).to(options.device)
    indices = torch.arange(batch)
    recipe = moco_v2(size)
    epochs = iter(range(1_000_000))

    def make(compiled: bool) -> None:
        for _ in range(2):
            make_view(pool, indices, recipe, next(epochs), compiled=compiled)

    sides = {"as it is": lambda: make(False), "compiled": lambda: make(True)}
    seconds = interleave(sides, options.pick(50, 10, 2), options, warmup=5)
    for side, spent in seconds.items():
        report.add(
            f"{2 * batch} views of {size} px, {side}",
            [1e3 * s for s in spent],
            "ms",
            goal=Goal(at_most=6.0),
        )


def main() -> None:
    options = parse(__doc__ or "")
    report = Report(
        "Views of MoCo v2" + ("" if options.device.type == "cuda" else ", views/s of one core"),
        options,
        lightly=peer.version(),
    )
    if options.device.type == "cuda":
        on_gpu(report, options)
    else:
        torch.set_num_threads(1)
        batch = options.pick(128, 128, 4)
        small = options.pick(32, 32, 8)
        measure(report, options, small, small, batch, options.pick(15, 5, 1), Goal(at_least=5))
        large, source = options.pick((224, 256), (224, 256), (16, 20))
        measure(report, options, large, source, batch, options.pick(5, 2, 1), Goal(at_least=5))
        if not peer.installed():
            report.say("lightly is not installed: not compared")
    report.show()


if __name__ == "__main__":
    main()
