"""The contrastive part of a step alone: scores with a queue, the loss and its gradient."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from _memory import peak_memory
from _timing import Goal, Options, Report, Seconds, interleave, ratios
from torch import Tensor

from retable.nn.losses import info_nce
from retable.random import derive_key, normal

DIM = 128
TEMPERATURE = 0.2


@dataclass(frozen=True)
class Shape:
    """B queries and K keys; a method adds its own sizes."""

    batch: int
    queue: int

    def __str__(self) -> str:
        return f"B {self.batch}, K {self.queue}"


ShapeT = TypeVar("ShapeT", bound=Shape)


class Contrast(Generic[ShapeT]):
    """Queries, keys and a queue: random unit vectors.

    Args:
        shape: how many.
        device: where.
    """

    def __init__(self, shape: ShapeT, device: torch.device) -> None:
        def unit(name: str, rows: int) -> Tensor:
            places = torch.arange(rows * DIM).view(rows, DIM)
            drawn = normal(derive_key(0, "contrast", name), places)
            return torch.nn.functional.normalize(drawn, dim=1).to(device)

        self.shape = shape
        self.query, self.key = unit("queries", shape.batch), unit("keys", shape.batch)
        self.queue = unit("queue", shape.queue)
        self.query.requires_grad_()

    def positive(self) -> Tensor:
        """Return the scores (B, 1) of positive pairs."""
        return (self.query * self.key).sum(dim=1, keepdim=True)

    def descend(self, form: Form[ShapeT]) -> None:
        """Take the gradient of InfoNCE with a form's logits."""
        loss = info_nce(form(self), TEMPERATURE)
        loss.backward()  # type: ignore[no-untyped-call]
        self.query.grad = None


Form = Callable[[Contrast[ShapeT]], Tensor]
"""One way to compute logits (B, n), the positive first; a function of a module, or a
`functools.partial` of one. What it holds on to when it returns would count as its memory."""


def moco(contrast: Contrast[Any]) -> Tensor:
    """Score the raw pairs."""
    return torch.cat([contrast.positive(), contrast.query @ contrast.queue.T], dim=1)


def prepare(shape: ShapeT, form: Form[ShapeT], device: torch.device) -> Callable[[], object]:
    """Return the call of a form on vectors of a shape."""
    return functools.partial(Contrast(shape, device).descend, form)


def compare_forms(
    report: Report,
    options: Options,
    shape: ShapeT,
    tiny: ShapeT,
    forms: Mapping[str, Form[ShapeT]],
) -> tuple[Seconds, Seconds]:
    """Add time and peak memory of each form; return seconds, and megabytes."""
    compute = Contrast(shape, options.device)
    sides = {name: functools.partial(compute.descend, form) for name, form in forms.items()}
    seconds = interleave(sides, options.pick(11, 4, 1), options, warmup=options.pick(2, 1, 0))
    for name, spent in seconds.items():
        report.add(f"{name}, {shape}", [1e3 * s for s in spent], "ms")
    memory = {
        name: [
            peak_memory(
                functools.partial(prepare, shape, form),
                functools.partial(prepare, tiny, form),
                options,
            )
            for _ in range(options.pick(3, 1, 1))
        ]
        for name, form in forms.items()
    }
    for name, peaks in memory.items():
        report.add(f"{name}, {shape}, peak memory", peaks, "MB")
    return seconds, memory


def add_over(
    report: Report, measured: Seconds, above: str, below: str, what: str, goal: Goal | None = None
) -> None:
    """Add the ratio of two forms, round by round."""
    report.add(f"{above} over {below}, {what}", ratios(measured[above], measured[below]), goal=goal)


def added_to(measured: Seconds, form: str, base: str) -> list[float]:
    """Return what a form costs beyond the base's median; never zero, as tiny sizes may have it."""
    median = statistics.median(measured[base])
    return [max(value - median, 1e-9) for value in measured[form]]
