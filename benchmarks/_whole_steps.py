"""Methods compared by whole steps: real ones, or put together from measured parts.

Whole steps are real ones of the methods, with encoder, optimizer, queue and scalars for the log.
Where a CPU cannot hold them (ResNet-50, 224 px, batch 128 and 256) they are put together from
measured parts: the method's part at its real size, the encoder replaced by ready features, and the
encoder's at a small batch, scaled by the number of images. A larger batch is slightly cheaper for
each image, so that a ratio put together so is slightly too small.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from _steps import EncoderAlone, SkippedEncoder, Step, best_precision
from _timing import Goal, Options, Report, Seconds, interleave, ratios

from retable.encoders import ResNetRecipe
from retable.methods import MethodRecipe


@dataclass(frozen=True)
class Training:
    """What is trained, whatever the method.

    Attributes:
        encoder: its recipe.
        size: side of the views.
        batch: images of a step.
        part: images of which the encoder's work is timed, to be scaled; None: steps are real.
    """

    encoder: ResNetRecipe
    size: int
    batch: int
    part: int | None = None

    def __str__(self) -> str:
        return f"{self.encoder.name}, {self.size} px"

    def step(self, recipe: MethodRecipe, options: Options) -> Step:
        """Return the step of a method, without the encoder's work where that is timed apart."""
        encoder, size = self.encoder.build(rng_key=0), self.size
        if self.part is None:
            method = recipe.build(encoder, 0)
        else:
            method = recipe.build(SkippedEncoder(encoder, self.batch), 0)
            # Without an encoder, views are only shuffled: small ones will do.
            size = options.pick(32, 32, 8)
        return Step(method, size, self.batch, options.device, best_precision(options.device))


ENCODING = "encoder"


def time_steps(
    options: Options,
    training: Training,
    steps: Mapping[str, Step],
    others: Mapping[str, Callable[[], object]] | None = None,
) -> Seconds:
    """Return seconds of steps and of other calls, and those of the encoder where timed apart."""
    sides: dict[str, Callable[[], object]] = {**steps, **(others or {})}
    part = training.part
    rounds, warmup = options.pick(10, 3, 1), options.pick(2, 1, 0)
    if part is not None:
        rounds, warmup = options.pick(7, 2, 1), options.pick(1, 1, 0)
        precision = best_precision(options.device)
        alone = EncoderAlone(training.encoder, training.size, part, options.device, precision)
        sides = {"query": alone.query, "key": alone.key, **sides}
    seconds = interleave(sides, rounds, options, warmup=warmup)
    if part is None:
        return seconds
    scale = training.batch / part
    both = zip(seconds.pop("query"), seconds.pop("key"), strict=True)
    return seconds | {ENCODING: [scale * (query + key) for query, key in both]}


def whole(seconds: Seconds, name: str) -> list[float]:
    """Return the seconds of whole steps, put together where the encoder was timed apart."""
    if ENCODING not in seconds:
        return seconds[name]
    return [e + m for e, m in zip(seconds[ENCODING], seconds[name], strict=True)]


def compare_steps(
    report: Report,
    options: Options,
    training: Training,
    recipes: Mapping[str, MethodRecipe],
    shape: object,
    goal: Goal,
) -> None:
    """Add the steps of methods, and the ratio of each to the first one's.

    Args:
        report: where to.
        options: the command line's.
        training: what is trained.
        recipes: of the methods, by name.
        shape: the methods' sizes, to be named in the table.
        goal: of the ratios.
    """
    steps = {name: training.step(recipe, options) for name, recipe in recipes.items()}
    seconds = time_steps(options, training, steps)
    what, part = f"{training}, {shape}", training.part
    if part is not None:
        said = f"encoder, {what}: {training.batch / part:g} times {part} images"
        report.add(said, seconds[ENCODING], "s")
    kind = "whole step" if part is None else "method's part"
    for name in recipes:
        report.add(f"{kind}: {name}, {what}", [1e3 * s for s in seconds[name]], "ms")
    first, *rest = recipes
    how = "" if part is None else ", from parts"
    for name in rest:
        said = f"{name}: step over {first}'s, {what}{how}"
        values = ratios(whole(seconds, name), whole(seconds, first))
        report.add(said, values, name="R7", goal=goal)
