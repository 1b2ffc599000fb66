"""L-BFGS twice: scipy's, and one whose vectors stay on the device that computes the objective."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from retable.errors import UserError

Solver = Literal["scipy", "torch"]
SOLVERS: tuple[Solver, ...] = ("scipy", "torch")


class Differentiable(Protocol):
    """A function of a float64 vector (P,): value () and gradient (P,), float64."""

    def __call__(self, point: Tensor, /) -> tuple[Tensor, Tensor]:
        """Return value and gradient."""


@dataclass(frozen=True)
class Stopping:
    """When L-BFGS ends; the defaults are those of scipy's L-BFGS-B, but for ``updates``.

    Attributes:
        updates: accepted steps at most (Kolesnikov et al. 2019, supplement: 800).
        gradient: ends when no entry of the gradient is larger.
        decrease: ends when an update lowers the value by less, relative to the larger of value and
            1; 0: never.
        evaluations: of the objective at most.
    """

    updates: int = 800
    gradient: float = 1e-5
    decrease: float = 1e7 * 2.0**-52
    evaluations: int = 15000


@dataclass(frozen=True)
class Minimum:
    """Where L-BFGS ended.

    Attributes:
        point: (P,) float64.
        values: of the objective, at the start and after every update.
        evaluations: of the objective.
    """

    point: Tensor
    values: tuple[float, ...]
    evaluations: int

    @property
    def value(self) -> float:
        """The objective at the point."""
        return self.values[-1]

    @property
    def updates(self) -> int:
        """How many steps were accepted."""
        return len(self.values) - 1


def minimise(
    objective: Differentiable,
    start: Tensor,
    *,
    solver: Solver = "torch",
    stopping: Stopping = Stopping(),
    pairs: int = 10,
) -> Minimum:
    """Minimise a smooth function by L-BFGS.

    Where the objective returns the same bits on all processes, so does this.

    Args:
        objective: see `Differentiable`.
        start: (P,) float64.
        solver: "scipy" keeps its vectors in the memory of a CPU, "torch" on the start's device.
        stopping: when to end.
        pairs: of steps and gradient differences that are remembered (scipy's default: 10).

    Raises:
        UserError: the solver is unknown.

    >>> minimise(lambda x: ((x - 3).square().sum(), 2 * (x - 3)), torch.zeros(2).double()).point
    tensor([3., 3.], dtype=torch.float64)
    """
    if solver == "scipy":
        return _by_scipy(objective, start, stopping, pairs)
    if solver == "torch":
        return _by_torch(objective, start, stopping, pairs)
    raise UserError(f"the solver {solver!r} is unknown: expected one of {', '.join(SOLVERS)}.")


def _by_scipy(objective: Differentiable, start: Tensor, stopping: Stopping, pairs: int) -> Minimum:
    from scipy.optimize import minimize

    values: list[float] = []

    def value_and_gradient(x: Any) -> tuple[float, Any]:
        value, gradient = objective(torch.from_numpy(x).to(start.device))
        if not values:
            values.append(value.item())
        return value.item(), gradient.cpu().numpy()

    found = minimize(  # type: ignore[no-untyped-call]
        value_and_gradient,
        start.cpu().numpy(),
        jac=True,
        method="L-BFGS-B",
        callback=lambda intermediate_result: values.append(float(intermediate_result.fun)),
        options={
            "maxiter": stopping.updates,
            "maxcor": pairs,
            "ftol": stopping.decrease,
            "gtol": stopping.gradient,
            "maxfun": stopping.evaluations,
        },
    )
    return Minimum(torch.from_numpy(found.x).to(start.device), tuple(values), int(found.nfev))


class _Memory:
    """The last pairs of steps s and gradient differences y, and the gradient g, as rows (2m+1, P).

    The two-loop recursion (Nocedal and Wright, algorithm 7.4) needs nothing of the rows but their
    scalar products, so it runs on 2m+1 coefficients (Chen et al. 2014, "Large-scale L-BFGS using
    MapReduce"): an update reads the rows twice, and a device is waited for once.
    """

    def __init__(self, pairs: int, like: Tensor) -> None:
        self.pairs = pairs
        self.rows = like.new_zeros(2 * pairs + 1, len(like))
        self.products = torch.zeros(2 * pairs + 1, 2 * pairs + 1, dtype=torch.float64)
        self.order: list[int] = []

    def direction(self, gradient: Tensor) -> tuple[Tensor, float]:
        """Return minus the estimated inverse Hessian times the gradient, and the slope along it."""
        last = 2 * self.pairs
        self.rows[last] = gradient
        newest = self.order[-1:]
        self._multiply([*newest, *(slot + self.pairs for slot in newest), last])
        products, q = self.products, torch.zeros(last + 1, dtype=torch.float64)
        q[last] = -1.0
        alphas: dict[int, Tensor] = {}
        for s in reversed(self.order):
            y = s + self.pairs
            alphas[s] = products[s] @ q / products[s, y]
            q[y] -= alphas[s]
        for s in newest:
            y = s + self.pairs
            q *= products[s, y] / products[y, y]
        for s in self.order:
            y = s + self.pairs
            q[s] += alphas[s] - products[y] @ q / products[s, y]
        return q.to(self.rows.device) @ self.rows, float(products[last] @ q)

    def _multiply(self, changed: list[int]) -> None:
        found = (self.rows @ self.rows[changed].T).cpu()
        self.products[:, changed] = found
        self.products[changed, :] = found.T

    def remember(self, step: Tensor, difference: Tensor) -> None:
        """Take in a pair in place of the oldest; its product must be positive."""
        full = len(self.order) == self.pairs
        slot = self.order.pop(0) if full else len(self.order)
        self.rows[slot], self.rows[slot + self.pairs] = step, difference
        self.order.append(slot)

    def forget(self) -> None:
        """Begin anew, with the steepest descent."""
        self.order.clear()


@dataclass(frozen=True)
class _Trial:
    """The objective at ``length`` times the direction from where a line search began."""

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

    The value lies below ``begin`` by 1e-3 of what the slope there promises, and the slope is at
    least 0.9 of it (L-BFGS-B's constants), which makes the curvature along the step positive.
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


def _by_torch(objective: Differentiable, start: Tensor, stopping: Stopping, pairs: int) -> Minimum:
    evaluations = 0

    def measure(point: Tensor, length: float, direction: Tensor) -> _Trial:
        nonlocal evaluations
        evaluations += 1
        value, gradient = objective(point)
        # The only wait for the device in a trial.
        facts = torch.stack([value, gradient @ direction, gradient.abs().amax()]).tolist()
        return _Trial(length, facts[0], facts[1], point, gradient, facts[2])

    memory = _Memory(pairs, start)
    now = measure(start.clone(), 0.0, torch.zeros_like(start))
    values = [now.value]
    while (
        now.largest > stopping.gradient
        and len(values) <= stopping.updates
        and evaluations < stopping.evaluations
    ):
        direction, slope = memory.direction(now.gradient)
        begin = replace(now, length=0.0, slope=slope)
        found = _line_search(
            lambda length: measure(begin.point + length * direction, length, direction),  # noqa: B023
            begin,
            1.0 if memory.order else min(1.0, (-slope) ** -0.5),
        )
        if found is None:
            # Rounding has the last word, unless it was the estimate of the curvature that misled.
            if not memory.order:
                break
            memory.forget()
            continue
        memory.remember(found.point - now.point, found.gradient - now.gradient)
        values.append(found.value)
        if now.value - found.value <= stopping.decrease * max(abs(now.value), abs(found.value), 1):
            now = found
            break
        now = found
    return Minimum(now.point, tuple(values), evaluations)
