"""Time what MoCHi adds to MoCo v2: the contrastive part alone, then whole steps.

The contrastive part is scores with the queue, the loss and its gradient: of MoCo v2, of MoCHi with
its points made (`mochi.mix_hard_negatives`), of MoCHi in closed form (`mochi.mixed_logits`).

Peak memory on a CPU is that of a fresh process: its largest resident set (VmHWM of Linux) less the
one before the first step, so inputs do not count and torch's own scratch does. On a GPU it is the
allocator's (`torch.cuda.max_memory_allocated`) less what inputs occupy.

Whole steps are real ones of the methods, with encoder, optimizer, queue and scalars for the log.
Where a CPU cannot hold them (ResNet-50, 224 px, batch 128 and 256) they are put together from
measured parts: the method's part at its real size, the encoder replaced by ready features, and the
encoder's at a small batch, scaled by the number of images. A larger batch is slightly cheaper for
each image, so that a ratio put together so is slightly too small.
"""

from __future__ import annotations

import gc
import multiprocessing
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from _steps import EncoderAlone, SkippedEncoder, Step, best_precision
from _timing import Goal, Options, Report, interleave, parse, ratios, wait

from mochi import MoCHiRecipe, mix_hard_negatives, mixed_logits
from retable.encoders import EncoderRecipe, build_encoder
from retable.losses import info_nce
from retable.methods import moco_v2
from retable.random import generator

MOCO, POINTS, CLOSED = "MoCo v2", "MoCHi, points", "MoCHi, closed form"
DIM = 128


@dataclass(frozen=True)
class Shape:
    """B queries, K keys, and MoCHi's (N, s, s')."""

    batch: int
    queue: int
    n_hard: int
    s: int
    s_prime: int

    def __str__(self) -> str:
        return f"B {self.batch}, K {self.queue}, ({self.n_hard}, {self.s}, {self.s_prime})"

    def mochi(self) -> MoCHiRecipe:
        """Return the method's recipe, mixing from the first step on."""
        return MoCHiRecipe(
            queue=self.queue,
            n_hard=self.n_hard,
            s=self.s,
            s_prime=self.s_prime,
            mixing_warmup_epochs=0,
        )


IMAGENET100 = Shape(128, 16384, 1024, 1024, 128)
IMAGENET1K = Shape(256, 65536, 128, 1024, 512)
TINY = Shape(4, 32, 8, 8, 2)


class Contrast:
    """Scores, loss and gradient for random unit vectors."""

    def __init__(self, shape: Shape, device: torch.device) -> None:
        draws = generator(0)

        def unit(rows: int) -> torch.Tensor:
            drawn = torch.randn(rows, DIM, generator=draws)
            return torch.nn.functional.normalize(drawn, dim=1).to(device)

        self.shape = shape
        self.query, self.key, self.queue = unit(shape.batch), unit(shape.batch), unit(shape.queue)
        self.query.requires_grad_()

    def __call__(self, form: str) -> None:
        """Compute the loss and its gradient in one of the three forms."""
        cosines = self.query @ self.queue.T
        logits = [(self.query * self.key).sum(dim=1, keepdim=True), cosines]
        shape = self.shape
        if form == POINTS:
            points = mix_hard_negatives(
                self.query,
                self.queue,
                n_hard=shape.n_hard,
                s=shape.s,
                s_prime=shape.s_prime,
                cosines=cosines,
            )
            logits.append(torch.einsum("bd,bsd->bs", self.query, points))
        elif form == CLOSED:
            closed = mixed_logits(
                self.query,
                self.queue,
                n_hard=shape.n_hard,
                s=shape.s,
                s_prime=shape.s_prime,
                cosines=cosines,
            )
            logits.append(closed)
        info_nce(torch.cat(logits, dim=1), 0.2).backward()  # type: ignore[no-untyped-call]
        self.query.grad = None


def contrast(report: Report, options: Options, shape: Shape) -> None:
    """Add time and memory of the contrastive part in its three forms."""
    compute = Contrast(shape, options.device)
    forms: dict[str, Callable[[], object]] = {
        MOCO: lambda: compute(MOCO),
        POINTS: lambda: compute(POINTS),
        CLOSED: lambda: compute(CLOSED),
    }
    seconds = interleave(forms, options.pick(11, 4, 1), options, warmup=options.pick(2, 1, 0))
    for form, spent in seconds.items():
        report.add(f"{form}, {shape}", [1e3 * s for s in spent], "ms")
    memory = {
        form: [peak_memory(shape, form, options) for _ in range(options.pick(3, 1, 1))]
        for form in forms
    }
    for form, peaks in memory.items():
        report.add(f"{form}, {shape}, peak memory", peaks, "MB")
    for what, measured, most in (("time", seconds, 0.5), ("peak memory", memory, 0.333)):
        goal = Goal(at_most=most)
        whole = ratios(measured[CLOSED], measured[POINTS])
        report.add(f"closed form over points, {shape}, {what}", whole, goal=goal)
        moco = statistics.median(measured[MOCO])
        # Never zero, which tiny sizes may come to.
        added, added_by_points = (
            [max(value - moco, 1e-9) for value in measured[form]] for form in (CLOSED, POINTS)
        )
        said = f"the same, of what is added to MoCo v2's, {shape}, {what}"
        report.add(said, ratios(added, added_by_points), goal=goal)


def peak_memory(shape: Shape, form: str, options: Options) -> float:
    """Return the megabytes that a form needs at most beside its inputs."""
    if options.device.type == "cuda":
        compute = Contrast(shape, options.device)
        compute(form)
        gc.collect()
        torch.cuda.reset_peak_memory_stats(options.device)
        before = torch.cuda.memory_allocated(options.device)
        compute(form)
        wait(options.device)
        return (torch.cuda.max_memory_allocated(options.device) - before) / 1e6
    # Processes start from one that has imported torch and done nothing else.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "mochi", "_steps", "_timing"])
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(
        target=_send_peak, args=(sending, shape, form, torch.get_num_threads())
    )
    process.start()
    sending.close()
    peak: float = receiving.recv()
    process.join()
    return peak


def _send_peak(
    sending: multiprocessing.connection.Connection, shape: Shape, form: str, threads: int
) -> None:
    torch.set_num_threads(threads)
    # Code and threads that a first call brings into memory are not what is asked for.
    Contrast(TINY, torch.device("cpu"))(form)
    compute = Contrast(shape, torch.device("cpu"))
    before = _status_megabytes("VmRSS")
    for _ in range(2):
        compute(form)
    sending.send(max(_status_megabytes("VmHWM") - before, 0.001))


def _status_megabytes(field: str) -> float:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return float(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"this system does not tell {field}: peak memory needs Linux")


def whole_steps(report: Report, options: Options, encoder: EncoderRecipe, size: int) -> None:
    """Add the ratio of real steps of both methods at the shape of ImageNet-100."""
    shape = options.pick(IMAGENET100, IMAGENET100, TINY)
    precision = best_precision(options.device)
    steps: dict[str, Callable[[], object]] = {
        name: Step(
            recipe.build(build_encoder(encoder, key=0), 0),
            size,
            shape.batch,
            options.device,
            precision,
        )
        for name, recipe in ((MOCO, moco_v2(queue=shape.queue)), (CLOSED, shape.mochi()))
    }
    seconds = interleave(steps, options.pick(10, 3, 1), options, warmup=options.pick(2, 1, 0))
    what = f"{encoder.name}, {size} px, {shape}"
    for name, spent in seconds.items():
        report.add(f"whole step: {name}, {what}", [1e3 * s for s in spent], "ms")
    report.add(
        f"MoCHi's step over MoCo v2's, {what}",
        ratios(seconds[CLOSED], seconds[MOCO]),
        name="R7",
        goal=Goal(at_most=1.15 if size == 32 else 1.05),
    )


def steps_in_parts(
    report: Report, options: Options, encoder: EncoderRecipe, size: int, part: int, goal: Goal
) -> None:
    """Add the ratio of steps put together from the method's part and ``part`` images' encoding."""
    precision = best_precision(options.device)
    alone = EncoderAlone(encoder, size, part, options.device, precision)
    for shape in options.pick((IMAGENET100, IMAGENET1K), (IMAGENET100, IMAGENET1K), (TINY,)):
        sides: dict[str, Callable[[], object]] = {"query": alone.query, "key": alone.key}
        for name, recipe in ((MOCO, moco_v2(queue=shape.queue)), (CLOSED, shape.mochi())):
            skipped = SkippedEncoder(build_encoder(encoder, key=0), shape.batch)
            # Without an encoder, views are only shuffled: small ones will do.
            sides[name] = Step(
                recipe.build(skipped, 0),
                options.pick(32, 32, 8),
                shape.batch,
                options.device,
                precision,
            )
        seconds = interleave(sides, options.pick(7, 2, 1), options, warmup=options.pick(1, 1, 0))
        scale = shape.batch / part
        encoding = [scale * (q + k) for q, k in zip(seconds["query"], seconds["key"], strict=True)]
        what = f"{encoder.name}, {size} px, {shape}"
        report.add(f"encoder, {what}: {scale:g} times {part} images", encoding, "s")
        for name in (MOCO, CLOSED):
            report.add(f"method's part: {name}, {what}", [1e3 * s for s in seconds[name]], "ms")
        above, below = (
            [e + m for e, m in zip(encoding, seconds[name], strict=True)] for name in (CLOSED, MOCO)
        )
        said = f"MoCHi's step over MoCo v2's, {what}, from parts"
        report.add(said, ratios(above, below), name="R7", goal=goal)


def shapes(options: Options) -> Iterator[Shape]:
    """Yield the shapes of the contrastive part."""
    yield from options.pick((IMAGENET100, IMAGENET1K), (IMAGENET100, IMAGENET1K), (TINY,))


def main() -> None:
    options = parse(__doc__ or "")
    report = Report(f"MoCHi, D {DIM}, {best_precision(options.device)} encoders", options)
    for shape in shapes(options):
        contrast(report, options, shape)
    small = EncoderRecipe("resnet18", width=options.pick(1.0, 1.0, 0.125), stem="small")
    large = EncoderRecipe("resnet50", width=options.pick(1.0, 1.0, 0.125))
    small_size, large_size = options.pick((32, 224), (32, 224), (8, 32))
    whole_steps(report, options, small, small_size)
    if options.device.type == "cuda":
        whole_steps(report, options, large, large_size)
    else:
        part = options.pick(8, 8, 2)
        steps_in_parts(report, options, large, large_size, part, Goal(at_most=1.05))
    report.show()


if __name__ == "__main__":
    main()
