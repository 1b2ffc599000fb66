"""Momentum copies: networks whose parameters are a moving average of a trained network's.

Only parameters are averaged; the copy's batch-norm buffers come from its own forward passes, as in
MoCo's and BYOL's code.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from retable.domains import Probability
from retable.errors import UserError
from retable.settings import validate_fields


class MomentumCopy(nn.Module):
    """A copy of ``source`` without gradient, equal at the start, that `update` moves towards it.

    Call it like the source, which it does not register as a submodule.
    """

    def __init__(self, source: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(source).requires_grad_(False)
        self._source = (source,)  # in a tuple, so that the source is not registered and saved twice

    def forward(self, *inputs: Any) -> Any:
        """Call the copied module."""
        return self.module(*inputs)

    @torch.no_grad()
    def update(self, momentum: float) -> None:
        """Set each parameter t to ``momentum * t + (1 - momentum) * source``."""
        if not 0 <= momentum <= 1:
            raise UserError(
                f"`momentum` must be in [0, 1], got {momentum}. Use, for example, 0.999."
            )
        sources = [parameter.detach() for parameter in self._source[0].parameters()]
        torch._foreach_lerp_(list(self.module.parameters()), sources, 1.0 - momentum)


@dataclass(frozen=True)
class MomentumRecipe:
    """Momentum of a copy as a function of the step.

    Attributes:
        base: momentum at the first step. 0.999 in MoCo (section 3.2), 0.996 in BYOL at 1000 epochs
            (appendix C.1).
        kind: ``constant``, or ``cosine`` from ``base`` to 1 over the whole run (BYOL).
    """

    base: Probability = 0.999
    kind: Literal["constant", "cosine"] = "constant"

    def __post_init__(self) -> None:
        validate_fields(self)

    def at(self, step: int, total_steps: int) -> float:
        """Return the momentum of a zero-based step: ``1 - (1 - base)(1 + cos(pi k / K)) / 2``.

        >>> MomentumRecipe(0.996, "cosine").at(50, 100)
        0.998
        """
        if not 0 <= step <= total_steps or total_steps == 0:
            raise UserError(
                f"`step` must be in [0, {total_steps}], the steps of the run, got {step}. Count "
                "steps from 0."
            )
        if self.kind == "constant":
            return self.base
        return 1 - (1 - self.base) * (1 + math.cos(math.pi * step / total_steps)) / 2
