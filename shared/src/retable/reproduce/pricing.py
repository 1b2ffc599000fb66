"""What trainings cost: steps, images, operations, memory, and time where a rate is known.

Operations are those of the encoders; data, heads and optimizers come on top, so a time is a lower
bound.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from retable.encoders import EncoderRecipe, ResNetRecipe
from retable.evaluate.protocol import Evaluation
from retable.train.cost import forward_flops
from retable.train.memory import training_memory
from retable.train.recipe import PretrainRecipe
from retable.train.shape_inference import shapes_only

IMAGE = 3 * 8.2e9
"""Operations of a training image of ResNet-50 at 224 pixels: forward and backward."""


@dataclass(frozen=True)
class Rate:
    """Operations a second of one device, and where the number is from."""

    flops: float
    source: str


PUBLISHED: Mapping[str, Mapping[str, float]] = {
    "v100": {"float32": 367, "fp16": 1200},
    "a100": {"float32": 938, "fp16": 2470, "bf16": 2470},
    "rtx3090": {"fp16": 1218},
}
"""Training images of ResNet-50 at 224 pixels a second. V100 (16 GB) and A100 (80 GB, TF32 where
float32 is asked for): NVIDIA/DeepLearningExamples, resnet50v1.5 README. RTX 3090: timm's
``results/benchmark-train-amp-nhwc``."""


def published_rate(gpu: str, precision: str) -> Rate | None:
    """Return the rate of a GPU of `PUBLISHED`, None where nothing is published for a precision."""
    images = PUBLISHED[gpu].get(precision)
    if images is None:
        return None
    source = f"one {gpu} trains {images:,.0f} images of ResNet-50 a second in {precision}"
    return Rate(images * IMAGE, source)


def measured_rate(recipe: PretrainRecipe, seconds: float = 0.5) -> Rate:
    """Measure forward and backward passes of the recipe's encoder on this machine's device."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    side, _ = _encoder_inputs(recipe)[0]
    encoder = recipe.encoder.build(0).to(device).train()
    images = torch.randn(min(recipe.batch, 64), 3, side, side, device=device)

    def step() -> None:
        encoder(images).sum().backward()
        if device == "cuda":
            torch.cuda.synchronize()

    step()
    start, steps = time.perf_counter(), 0
    while steps < 3 or time.perf_counter() - start < seconds:
        step()
        steps += 1
    spent = (time.perf_counter() - start) / steps
    flops = 3 * len(images) * _forward_flops(recipe.encoder, side) / spent
    return Rate(flops, f"this machine makes {operations(flops)} a second with such an encoder")


def operations(flops: float) -> str:
    """Write floating-point operations with a unit."""
    for unit, size in (("EFLOP", 1e18), ("PFLOP", 1e15), ("TFLOP", 1e12)):
        if flops >= size:
            return f"{flops / size:,.1f} {unit}"
    return f"{flops / 1e9:,.1f} GFLOP"


@dataclass(frozen=True)
class Price:
    """Cost of a training: images seen, optimizer steps, floating-point operations.

    ``memory`` is in bytes, for one process that holds the whole batch; None: not estimated.
    """

    images: int
    steps: int
    flops: float
    memory: float | None = None

    def __str__(self) -> str:
        done = f"{self.steps:,} steps, {self.images:,} images"
        done = f"{done}, {operations(self.flops)} in the encoder"
        if self.memory is None:
            return done
        return f"{done}, memory about {gibibytes(self.memory)} GiB for a whole batch"


def price(recipe: PretrainRecipe, images: int) -> Price:
    """Estimate a pretraining on a data set of ``images`` training images."""
    steps = recipe.epochs * (images // recipe.batch)
    if recipe.max_steps is not None:
        steps = min(steps, recipe.max_steps)
    inputs = _encoder_inputs(recipe)
    per_image = sum(passes * _forward_flops(recipe.encoder, side) for side, passes in inputs)
    return Price(steps * recipe.batch, steps, steps * recipe.batch * per_image)


def price_evaluation(
    evaluation: Evaluation, encoder: EncoderRecipe, images: int, size: int = 224
) -> Price | None:
    """Estimate the training of ``encoder`` in an evaluation, None where there is none.

    ``images`` is the number of training images that keep their labels, ``size`` the side of the
    training view in pixels, where the evaluation states none.
    """
    budget = evaluation.budget(images, size)
    if budget is None:
        return None
    flops = budget.images * budget.passes * _forward_flops(encoder, budget.size)
    return Price(budget.images, budget.steps, flops, _memory(evaluation, encoder, images, size))


@functools.lru_cache(maxsize=256)
def _memory(evaluation: Evaluation, encoder: EncoderRecipe, images: int, size: int) -> float | None:
    return evaluation.memory(encoder, images, size)


@functools.lru_cache(maxsize=256)
def _forward_flops(recipe: EncoderRecipe, side: int) -> float:
    with shapes_only():
        return forward_flops(recipe.build(0), side)


@functools.lru_cache(maxsize=256)
def _encoder_inputs(recipe: PretrainRecipe) -> tuple[tuple[int, float], ...]:
    with shapes_only():  # around the smallest encoder: a method's inputs depend on none
        method = recipe.method.build(ResNetRecipe("small_resnet8").build(0), 0)
    return method.encoder_inputs([view.size for view in recipe.views])


def needed_memory(recipe: PretrainRecipe, parts: int) -> float:
    """Return the bytes of one of the ``parts`` that a batch is split into."""
    return _training_memory(recipe, recipe.batch // parts)


_training_memory = functools.lru_cache(maxsize=256)(training_memory)


def gibibytes(count: float) -> str:
    """Write a number of bytes in GiB."""
    needed = count / 2**30
    return f"{needed:,.1f}" if needed >= 1 else f"{needed:.2g}"
