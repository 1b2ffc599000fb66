"""Learning-rate schedules as functions of the step, without state."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from retable.domains import Fraction, NonNegative
from retable.errors import UserError
from retable.settings import validate_fields


@dataclass(frozen=True)
class ScheduleRecipe:
    """Course of the learning rate from its base value to the end of training.

    Attributes:
        kind: ``cosine`` (half a period down to ``final``), ``step`` or ``constant``.
        milestones: epochs, counted from the start of training, at which ``step`` multiplies by
            ``gamma``; MoCo v1: 120 and 160 of 200.
        gamma: factor at a milestone.
        warmup_epochs: length of a linear rise from 0, updated at every step; the cosine takes the
            remaining epochs (SimCLR, BYOL: 10). 0 in MoCo.
        warmup_start: where the rise begins, as a share of the base rate (Detectron2: 1e-3).
        per: ``epoch`` sets the rate at the start of an epoch (MoCo's code), ``step`` at every step
            (SimCLR, BYOL).
        final: last value of the cosine, as a share of the base rate.
    """

    kind: Literal["cosine", "step", "constant"] = "cosine"
    milestones: tuple[NonNegative, ...] = ()
    gamma: NonNegative = 0.1
    warmup_epochs: NonNegative = 0.0
    per: Literal["epoch", "step"] = "epoch"
    final: NonNegative = 0.0
    warmup_start: Fraction = 0.0

    def __post_init__(self) -> None:
        validate_fields(self)
        if (self.kind == "step") != bool(self.milestones):
            raise UserError(
                f"`milestones` must be given for the step schedule only, got {self.milestones} for "
                f"{self.kind}. Change `milestones` or `kind`."
            )
        if list(self.milestones) != sorted(set(self.milestones)):
            raise UserError(
                f"`milestones` must be strictly ascending, got {self.milestones}. Sort them."
            )
        if self.final and self.kind != "cosine":
            raise UserError(
                f"`final` must be 0 for a {self.kind} schedule, got {self.final}. Leave it out."
            )


def learning_rate(
    recipe: ScheduleRecipe, base_lr: float, step: int, steps_per_epoch: int, epochs: float
) -> float:
    """Return the learning rate of an optimizer step from 0, in a training of ``epochs``.

    ``base_lr`` is the rate after warm-up. From the end of training on, the rate is the schedule's
    last value.

    >>> [learning_rate(ScheduleRecipe("cosine"), 0.03, step, 10, 200) for step in (0, 9, 1000)]
    [0.03, 0.03, 0.015]
    """
    now = step / steps_per_epoch
    if now < recipe.warmup_epochs:
        start = recipe.warmup_start
        return start * base_lr + (1 - start) * base_lr * now / recipe.warmup_epochs
    if recipe.per == "epoch":
        now = step // steps_per_epoch
    if recipe.kind == "step":
        return float(base_lr * recipe.gamma ** sum(now >= epoch for epoch in recipe.milestones))
    if recipe.kind == "constant":
        return base_lr
    # With one rate per epoch, the epoch may have started inside the warm-up.
    past = max(0.0, now - recipe.warmup_epochs) / max(epochs - recipe.warmup_epochs, 1e-12)
    cosine = (1 + math.cos(math.pi * min(past, 1.0))) / 2
    return base_lr * (recipe.final + (1 - recipe.final) * cosine)
