"""L-BFGS whose vectors stay on the device that computes the objective."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

SCIPY_DECREASE = 1e7 * 2.0**-52
"""The default of L-BFGS-B's ``ftol``, 2.2e-9: 1e7 times the precision of float64."""

Precondition = Callable[[Tensor], Tensor]
"""Multiplies a gradient (P,) by an estimate of the inverse Hessian; linear and positive."""


Differentiable = Callable[[Tensor], tuple[Tensor, Tensor]]
"""A function of a float64 vector (P,): value () and gradient (P,), float64."""


@dataclass(frozen=True)
class Stopping:
    """When L-BFGS ends; the defaults are those of SciPy's L-BFGS-B, except for ``updates``.

    Attributes:
        updates: most accepted steps (Kolesnikov et al. 2019, supplement: 800).
        gradient: ends when no entry of the gradient is larger.
        decrease: ends when an update lowers the value by less, relative to the larger of value and
            1; 0: never.
        evaluations: most evaluations of the objective.
    """

    updates: int = 800
    gradient: float = 1e-5
    decrease: float = SCIPY_DECREASE
    evaluations: int = 15000


@dataclass(frozen=True)
class Minimum:
    """Result of L-BFGS: (P,) float64, and the objective at the start and after every update."""

    point: Tensor
    values: tuple[float, ...]
    evaluations: int

    @property
    def value(self) -> float:
        """The objective at the point."""
        return self.values[-1]

    @property
    def updates(self) -> int:
        """Number of accepted steps."""
        return len(self.values) - 1


class _Memory:
    """The last pairs of steps s and gradient differences y, an estimate of the curvature."""

    def __init__(self, pairs: int, precondition: Precondition | None) -> None:
        self.precondition = precondition
        self.pairs: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=pairs)
        self.scale: Tensor | None = None

    def _first_estimate(self, gradient: Tensor) -> Tensor:
        return gradient if self.precondition is None else self.precondition(gradient)

    def direction(self, gradient: Tensor) -> Tensor:
        """Return minus the estimated inverse Hessian times the gradient.

        The two-loop recursion (Nocedal and Wright, algorithm 7.4).
        """
        q = gradient.neg()
        alphas = []
        for s, y, curvature in reversed(self.pairs):
            alphas.append(s @ q / curvature)
            q.addcmul_(y, alphas[-1], value=-1)
        q = self._first_estimate(q)
        if self.scale is not None:
            q = q * self.scale
        for (s, y, curvature), alpha in zip(self.pairs, reversed(alphas), strict=True):
            q.addcmul_(s, alpha - y @ q / curvature)
        return q

    def remember(self, s: Tensor, y: Tensor) -> None:
        """Add a pair in place of the oldest; its product must be positive."""
        curvature = s @ y
        self.pairs.append((s, y, curvature))
        self.scale = curvature / (y @ self._first_estimate(y))

    def forget(self) -> None:
        """Restart from steepest descent."""
        self.pairs.clear()
        self.precondition = self.scale = None


@dataclass(frozen=True)
class _Trial:
    """The objective at ``length`` times the direction from the start of a line search."""

    length: float
    value: float
    slope: float
    point: Tensor
    gradient: Tensor
    largest: float


def _line_search(
    evaluate: Callable[[float], _Trial], begin: _Trial, length: float, trials: int = 20
) -> _Trial | None:
    """Return a trial that meets Wolfe's conditions, None if none is found (scipy: 20 trials).

    The value decreases by at least 1e-3 of the slope at ``begin`` times the length, and the slope
    is at least 0.9 of that slope (L-BFGS-B's constants), so that the curvature along the step is
    positive.
    """
    low, high = begin, None
    for _ in range(trials):
        trial = evaluate(length)
        if not trial.value <= begin.value + 1e-3 * length * begin.slope:
            high = trial
        elif trial.slope < 0.9 * begin.slope:
            low = trial
        else:
            return trial
        length = _between(low, high) if high else _beyond(begin, low)
    return None


def _between(low: _Trial, high: _Trial) -> float:
    """Return where the cubic through two trials is least, a tenth of their distance from both."""
    width = high.length - low.length
    bend = low.slope + high.slope - 3 * (high.value - low.value) / width
    inside = bend * bend - low.slope * high.slope
    share = 0.5
    if 0 <= inside < float("inf"):
        root = inside**0.5
        share = 1 - (high.slope + root - bend) / (high.slope - low.slope + 2 * root)
    return low.length + min(max(share, 0.1), 0.9) * width


def _beyond(begin: _Trial, low: _Trial) -> float:
    """Return where the slope would be zero by its last change, two to ten times as far."""
    bend = (low.slope - begin.slope) / low.length
    ahead = low.length - low.slope / bend if bend > 0 else float("inf")
    return min(max(ahead, 2 * low.length), 10 * low.length)


def minimise(
    objective: Differentiable,
    start: Tensor,
    stopping: Stopping,
    *,
    pairs: int = 10,
    precondition: Precondition | None = None,
) -> Minimum:
    """Minimise a smooth function by L-BFGS on the device of ``start``.

    Where the objective returns the same bits on all processes, so does this. It starts at (P,)
    float64 and remembers ``pairs`` steps and gradient differences (SciPy's default: 10).
    ``precondition`` is a first estimate of the inverse Hessian; None: a multiple of the identity.
    """
    evaluations = 0

    def measure(point: Tensor, length: float, direction: Tensor) -> _Trial:
        nonlocal evaluations
        evaluations += 1
        value, gradient = objective(point)
        # The only wait for the device in a trial.
        facts = torch.stack([value, gradient @ direction, gradient.abs().amax()]).tolist()
        return _Trial(length, facts[0], facts[1], point, gradient, facts[2])

    memory = _Memory(pairs, precondition)
    now = measure(start.clone(), 0.0, torch.zeros_like(start))
    values = [now.value]
    while (
        now.largest > stopping.gradient
        and len(values) <= stopping.updates
        and evaluations < stopping.evaluations
    ):
        direction = memory.direction(now.gradient)
        begin = replace(now, length=0.0, slope=float(now.gradient @ direction))
        informed = bool(memory.pairs) or memory.precondition is not None
        found = None
        if begin.slope < 0:
            found = _line_search(
                lambda length: measure(begin.point + length * direction, length, direction),  # noqa: B023
                begin,
                1.0 if informed else min(1.0, (-begin.slope) ** -0.5),
            )
        if found is None:
            # Rounding ends the descent, unless a wrong estimate of the curvature did.
            if not informed:
                break
            memory.forget()
            continue
        memory.remember(found.point - now.point, found.gradient - now.gradient)
        values.append(found.value)
        least = stopping.decrease * max(abs(now.value), abs(found.value), 1)
        enough = now.value - found.value > least
        now = found
        if not enough:
            break
    return Minimum(now.point, tuple(values), evaluations)
