"""Time what feature transformation adds to MoCo: the contrastive part, whole steps, and watching.

The contrastive part is scores with the queue, the loss and its gradient, for the paper's batch and
queue and for the proxies'. Beside our forms stand those that a reader of the paper would write:
a plain mix of the whole queue with fresh draws of torch's own, and hard negatives as points, a
queue for each query. The points, 8.6 GB at the paper's shape for each of the tensors that autograd
keeps, are made at the proxies' shape only, and on a GPU.

Watching is what MoCo keeps of every step: statistics of raw scores, in closed form from the queue's
moments, and of transformed ones, from the logits; and the norms of the encoder's gradients. Of the
moments, all of `KeyQueue.enqueue` is timed, of which they are a part.

`_memory` says what peak memory is, `_whole_steps` what a whole step is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from unittest import mock

import torch
from _contrast import DIM, Contrast, Form, Shape, add_over, compare_forms, moco
from _memory import peak_memory
from _steps import Step, best_precision
from _timing import Goal, Options, Report, parse, ratios
from _whole_steps import Training, compare_steps, time_steps, whole
from torch import Tensor
from torch.distributions import Beta

from feature_transform import (
    MoCoFT,
    MoCoFTRecipe,
    TransformRecipe,
    extrapolate_positives,
    mix_with_query,
    transformed_logits,
)
from retable.encoders import ResNetRecipe
from retable.methods import Batch, MethodRecipe, Metrics, moco_v1
from retable.random import derive_key
from retable.train.gradients import GradientLandscape

MOCO, FT, HARD, DIMENSION = "MoCo", "FT", "FT, hard negatives", "FT by dimension"
GROUPS = "FT in groups of 32 queries"
PLAIN, PLAIN_DIMENSION, PLAIN_GROUPS = (f"plain {name}" for name in (FT, DIMENSION, GROUPS))
POINTS = "hard negatives as points"
TRANSFORMS = {
    FT: TransformRecipe(),
    GROUPS: TransformRecipe(draw_group=32),
    DIMENSION: TransformRecipe(level="dimension"),
    "FT, re-normalised": TransformRecipe(renormalise=True),
    "FT, negatives extrapolated": TransformRecipe(negatives="extrapolate"),
    HARD: TransformRecipe(negatives="hard"),
    "FT, hard negatives re-normalised": TransformRecipe(negatives="hard", renormalise=True),
}
PAPER, PROXY, TINY = Shape(256, 65536), Shape(64, 1024), Shape(4, 32)


# The contrastive part


def ours(contrast: Contrast[Shape], transform: TransformRecipe) -> Tensor:
    """Score transformed pairs the way the package does; draws cost the same with every key."""
    return transformed_logits(
        contrast.query, contrast.key, contrast.queue, transform, rng_key=derive_key(0, "draws")
    )


def plain_draw(a: float, b: float, like: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
    """Draw from Beta(a, b) with torch's own generator, where ``like`` lies."""
    return Beta(like.new_tensor(a), like.new_tensor(b)).sample(torch.Size(shape))


def plain(
    contrast: Contrast[Shape], group: int | None = None, by_dimension: bool = False
) -> Tensor:
    """Mix the whole queue for each group of queries, with torch's own draws."""

    def draw(alpha: float, like: Tensor) -> Tensor:
        return plain_draw(alpha, alpha, like, like.shape if by_dimension else ())

    queue, logits = contrast.queue, []
    groups = (torch.split(x, group or contrast.shape.batch) for x in (contrast.query, contrast.key))
    for query, key in zip(*groups, strict=True):
        query, key = extrapolate_positives(query, key, 1 + draw(2.0, query))
        weight, partners = draw(1.6, queue), torch.randperm(len(queue), device=queue.device)
        mixed = weight * queue + (1 - weight) * queue[partners]
        positive = (query * key).sum(dim=1, keepdim=True)
        logits.append(torch.cat([positive, query @ mixed.T], dim=1))
    return logits[0] if len(logits) == 1 else torch.cat(logits)


def hard_points(contrast: Contrast[Shape]) -> Tensor:
    """Make the hard negatives, B x K x D numbers."""
    query, key, queue = contrast.query, contrast.key, contrast.queue
    query, key = extrapolate_positives(query, key, 1 + plain_draw(2.0, 2.0, key))
    points = mix_with_query(contrast.query, queue, plain_draw(2.0, 1.0, key))
    positive = (query * key).sum(dim=1, keepdim=True)
    return torch.cat([positive, torch.einsum("bd,bkd->bk", query, points)], dim=1)


def contrastive_part(report: Report, options: Options, shape: Shape) -> None:
    """Add time and peak memory of the contrastive part in all its forms."""
    forms: dict[str, Form[Shape]] = {MOCO: moco}
    for name, transform in TRANSFORMS.items():
        forms[name] = functools.partial(ours, transform=_fitting(transform, shape))
    forms[PLAIN] = plain
    forms[PLAIN_GROUPS] = functools.partial(plain, group=32)
    forms[PLAIN_DIMENSION] = functools.partial(plain, by_dimension=True)
    if shape != PAPER or options.device.type == "cuda":
        forms[POINTS] = hard_points
    seconds, memory = compare_forms(report, options, shape, TINY, forms)
    for what, measured in (("time", seconds), ("peak memory", memory)):
        said = f"{shape}, {what}"
        # What a proxy's small matrices cost is the number of operations: goals are the paper's.
        goals = _goals(what) if shape == PAPER else {}
        for name in TRANSFORMS:
            add_over(report, measured, name, MOCO, said, goals.get(name))
        for name, below in (
            (FT, PLAIN),
            (GROUPS, PLAIN_GROUPS),
            (DIMENSION, PLAIN_DIMENSION),
            (HARD, POINTS),
        ):
            if below in measured:
                goal = goals and Goal(at_most=1.0)
                add_over(report, measured, name, below, said, goal or None)
    all_points = shape.batch * shape.queue * DIM * 4e-6
    for name in (FT, DIMENSION, HARD):
        said = f"{name}, {shape}: peak memory over B x K x D numbers'"
        report.add(said, [m / all_points for m in memory[name]], goal=_no_points(shape))


def _fitting(transform: TransformRecipe, shape: Shape) -> TransformRecipe:
    """Return a transformation whose groups a tiny batch can be cut into."""
    if transform.draw_group and shape.batch < transform.draw_group:
        return replace(transform, draw_group=shape.batch // 2)
    return transform


def _goals(what: str) -> dict[str, Goal]:
    """Return the goals over MoCo's contrastive part."""
    if what == "time":
        most = {FT: 1.25, GROUPS: 1.6, DIMENSION: 2.5, HARD: 1.1}
    else:
        most = dict.fromkeys((FT, GROUPS, DIMENSION, HARD), 1.5)
    return {name: Goal(at_most=value) for name, value in most.items()}


def _no_points(shape: Shape) -> Goal | None:
    """Return the goal that shows that no such tensor exists, where it would be seen."""
    return Goal(at_most=0.1) if shape == PAPER else None


# Whole steps


def recipes(shape: Shape) -> dict[str, MethodRecipe]:
    """Return MoCo version 1 and three transformations of it."""

    def transformed(name: str) -> MoCoFTRecipe:
        return MoCoFTRecipe(queue=shape.queue, transform=TRANSFORMS[name])

    named = {name: transformed(name) for name in (FT, HARD, DIMENSION)}
    return {MOCO: moco_v1(queue=shape.queue), **named}


def prepare_step(
    training: Training, recipe: MethodRecipe, options: Options, device: torch.device
) -> Callable[[], object]:
    """Return a step for `_memory.peak_memory`."""
    return training.step(recipe, replace(options, device=device))


def memory_of_method(
    report: Report, options: Options, training: Training, tiny: Training, shape: Shape
) -> None:
    """Add the peak memory of a step whose encoder is left out, its scalars for the log with it."""
    skipped = replace(training, part=1)
    tiny = replace(tiny, part=1)
    for name in (FT, HARD):
        peaks = [
            peak_memory(
                functools.partial(prepare_step, skipped, recipes(shape)[name], options),
                functools.partial(prepare_step, tiny, recipes(TINY)[name], options),
                options,
            )
            for _ in range(options.pick(3, 1, 1))
        ]
        report.add(f"{name}: method's part, {shape}, peak memory", peaks, "MB")
        all_points = shape.batch * shape.queue * DIM * 4e-6
        said = f"{name}: method's part, {shape}: peak memory over B x K x D numbers'"
        report.add(said, [peak / all_points for peak in peaks], goal=_no_points(shape))


# Watching

STATISTICS, ENQUEUE, LANDSCAPE = "score statistics", "enqueue with moments", "gradient landscape"


def watching(
    step: Step, encoder: ResNetRecipe, times: int, options: Options
) -> dict[str, Callable[[], object]]:
    """Return what a step watches itself, and its encoder's gradients, each so many times a call."""
    method = step.method
    assert isinstance(method, MoCoFT)
    seen: list[tuple[Tensor, Tensor, Tensor, Batch]] = []
    trace = method.step_metrics

    def watched(logits: Tensor, queries: Tensor, keys: Tensor, batch: Batch) -> Metrics:
        seen.append((logits, queries, keys, batch))
        return trace(logits, queries, keys, batch)

    with mock.patch.object(method, "step_metrics", watched):
        step()
    logits, queries, keys, batch = seen[0]
    network = encoder.build(rng_key=0).to(options.device)
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    landscape = GradientLandscape(network)

    def look() -> None:
        for _ in range(times):
            trace(logits, queries, keys, batch)

    def enqueue() -> None:
        for _ in range(times):
            method.queue.enqueue(keys, batch.labels)

    def measure() -> None:
        for _ in range(times):
            landscape.measure()
        landscape.statistics()  # what comes once in an epoch: sums over steps, a read of the device

    return {STATISTICS: look, ENQUEUE: enqueue, LANDSCAPE: measure}


def overheads(report: Report, options: Options, training: Training, queue: int) -> None:
    """Add what watching costs, and its share of a transformed step."""
    recipe = MoCoFTRecipe(queue=queue, transform=TRANSFORMS[FT])
    step = training.step(recipe, options)
    times = options.pick(16, 16, 1)
    beside = watching(step, training.encoder, times, options)
    seconds = time_steps(options, training, {FT: step}, beside)
    steps = whole(seconds, FT)
    what = f"{training}, B {training.batch}, K {queue}"
    report.add(f"{FT}: step, {what}", [1e3 * s for s in steps], "ms")
    for name in beside:
        spent = [s / times for s in seconds[name]]
        report.add(f"{name}, {what}", [1e3 * s for s in spent], "ms")
        report.add(f"{name} over step, {what}", ratios(spent, steps), goal=Goal(at_most=0.02))


def main() -> None:
    options = parse(__doc__ or "")
    title = f"Feature transformation, D {DIM}, {best_precision(options.device)} encoders"
    report = Report(title, options)
    for shape in options.pick((PAPER, PROXY), (PAPER, PROXY), (TINY,)):
        contrastive_part(report, options, shape)
    shape, proxy = options.pick((PAPER, PROXY), (PAPER, PROXY), (TINY, TINY))
    width, on_gpu = options.pick(1.0, 1.0, 0.125), options.device.type == "cuda"
    size, large_size = options.pick((32, 224), (32, 224), (8, 32))
    part = None if on_gpu else options.pick(8, 8, 2)
    small = Training(ResNetRecipe("resnet18", width=width, stem="small"), size, shape.batch)
    large = Training(ResNetRecipe("resnet50", width=width), large_size, shape.batch, part)
    tiny = Training(ResNetRecipe("small_resnet8", width=width), 8, TINY.batch)
    compare_steps(report, options, small, recipes(shape), shape, Goal(at_most=1.10))
    compare_steps(report, options, large, recipes(shape), shape, Goal(at_most=1.02))
    memory_of_method(report, options, small, tiny, shape)
    overheads(report, options, small, shape.queue)
    overheads(report, options, large, shape.queue)
    own = Training(ResNetRecipe("small_resnet8", width=width), size, proxy.batch)
    compare_steps(report, options, own, recipes(proxy), proxy, Goal(at_most=1.10))
    overheads(report, options, own, proxy.queue)
    report.show()


if __name__ == "__main__":
    main()
