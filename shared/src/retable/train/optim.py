"""Optimizers: SGD and LARS, and which parameters they decay and adapt."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from retable.errors import UserError
from retable.train.schedules import ScheduleRecipe


@dataclass(frozen=True)
class OptimizerRecipe:
    """An optimizer and its schedule; the defaults are MoCo's (He et al., 2020, section 4).

    Attributes:
        name: ``sgd`` or ``lars``.
        lr: base learning rate of the global batch, after any scaling by its size.
        momentum: factor of the update's moving sum.
        weight_decay: L2 penalty's gradient, added to the loss's. 1e-4 in MoCo, 1.5e-6 in BYOL.
        nesterov: Nesterov's momentum.
        exclude_bias_and_norm: spare biases and normalisation parameters weight decay and LARS's
            adaptation, as SimCLR and BYOL do; MoCo decays everything.
        trust_coefficient: LARS's eta, 1e-3 (You et al., 2017; SimCLR, BYOL). Without effect for
            ``sgd``.
        schedule: see `retable.train.schedules`.
        constant_rate: names of modules or parameters whose learning rate stays ``lr``, whatever the
            schedule: ("predictor",) in SimSiam (Chen & He, 2021, table 1 and official code).
        decays: pairs of a name of modules or parameters and the weight decay there, in place of
            ``weight_decay``: (("head", 5e-4),) for the patch tasks of Kolesnikov et al. (2019,
            official code). The longest name that fits decides.
        rate_factors: pairs of a name of modules or parameters and the factor of the learning rate
            there: a fresh classifier on a trained encoder takes larger steps. The longest name that
            fits decides.

    Raises:
        UserError: an unknown optimizer, a rate, decay or factor below 0, a name twice in ``decays``
            or ``rate_factors``, or Nesterov's momentum without momentum.
    """

    name: Literal["sgd", "lars"] = "sgd"
    lr: float = 0.03
    momentum: float = 0.9
    weight_decay: float = 1e-4
    nesterov: bool = False
    exclude_bias_and_norm: bool = False
    trust_coefficient: float = 1e-3
    schedule: ScheduleRecipe = field(default_factory=ScheduleRecipe)
    constant_rate: tuple[str, ...] = ()
    decays: tuple[tuple[str, float], ...] = ()
    rate_factors: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "constant_rate", tuple(self.constant_rate))  # JSON has no tuples
        for pairs in ("decays", "rate_factors"):
            values = tuple((name, value) for name, value in getattr(self, pairs))
            object.__setattr__(self, pairs, values)
        if self.name not in ("sgd", "lars"):
            raise UserError(f"The optimizer is {self.name!r}; use sgd or lars.")
        for name in ("lr", "momentum", "weight_decay"):
            value = getattr(self, name)
            if not value >= 0:
                raise UserError(f"The optimizer's {name} is {value}; use 0 or more.")
        for pairs in ("decays", "rate_factors"):
            names = [name for name, _ in getattr(self, pairs)]
            if len(set(names)) < len(names):
                raise UserError(f"`{pairs}` must name each module once, got {', '.join(names)}.")
            for name, value in getattr(self, pairs):
                if not value >= 0:
                    raise UserError(f"`{pairs}` of {name!r} must be at least 0, got {value}.")
        if self.nesterov and not self.momentum:
            raise UserError("Nesterov's momentum needs a momentum; set momentum or drop nesterov.")


def parameter_groups(
    model: nn.Module,
    weight_decay: float,
    exclude_bias_and_norm: bool,
    constant_rate: tuple[str, ...] = (),
    decays: tuple[tuple[str, float], ...] = (),
    rate_factors: tuple[tuple[str, float], ...] = (),
) -> list[dict[str, Any]]:
    """Return an optimizer's parameter groups, only of parameters that are trained.

    Args:
        model: the network.
        weight_decay: of every parameter that is neither spared nor under a name of ``decays``.
        exclude_bias_and_norm: whether parameters of at most one dimension, that is biases and
            scales and shifts of normalisation layers, form a group of their own, without decay
            and, in `LARS`, without adaptation.
        constant_rate: names of modules or parameters that form groups of their own, which
            `set_learning_rate` passes over.
        decays: names of modules or parameters and the weight decay there; of several names that fit
            a parameter the longest decides. What ``exclude_bias_and_norm`` spares stays without
            decay also there.
        rate_factors: names of modules or parameters and the factor of the learning rate there; of
            several names that fit a parameter the longest decides.

    Raises:
        UserError: there is nothing to train under one of these names.

    >>> groups = parameter_groups(nn.Linear(2, 3), 0.1, exclude_bias_and_norm=True)
    >>> [(group["weight_decay"], group["adapt"], len(group["params"])) for group in groups]
    [(0.1, True, 1), (0.0, False, 1)]
    """
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    _check_names("constant_rate", constant_rate, trained)
    _check_names("decays", [name for name, _ in decays], trained)
    _check_names("rate_factors", [name for name, _ in rate_factors], trained)
    kinds: dict[tuple[bool, bool, float, float], list[nn.Parameter]] = {}
    for name, value in trained.items():
        constant = _is_under(name, constant_rate)
        spared = exclude_bias_and_norm and value.ndim <= 1
        decay = 0.0 if spared else _value_at(name, decays, weight_decay)
        factor = _value_at(name, rate_factors, 1.0)
        kinds.setdefault((constant, spared, decay, factor), []).append(value)
    # Sorted: an optimizer's state names parameters by their place.
    return [
        {
            "params": members,
            "weight_decay": decay,
            "adapt": not spared,
            "constant_rate": constant,
            "rate_factor": factor,
        }
        for (constant, spared, decay, factor), members in sorted(kinds.items())
    ]


def _check_names(field: str, names: Iterable[str], trained: Iterable[str]) -> None:
    for chosen in names:
        if not any(_is_under(name, (chosen,)) for name in trained):
            parts = ", ".join(dict.fromkeys(name.partition(".")[0] for name in trained))
            raise UserError(
                f"The optimizer's {field} names {chosen!r}, under which nothing is trained: "
                f"expected names of modules such as {parts}."
            )


def _value_at(name: str, values: Iterable[tuple[str, float]], usual: float) -> float:
    """Return the value of the longest name that the parameter is under, else the usual one."""
    fitting = [(len(chosen), value) for chosen, value in values if _is_under(name, (chosen,))]
    return max(fitting)[1] if fitting else usual


def _is_under(name: str, modules: tuple[str, ...]) -> bool:
    """Say whether a parameter is one of these or belongs to one of these modules.

    >>> _is_under("head.0.weight", ("head",)), _is_under("head2.weight", ("head",))
    (True, False)
    """
    return any(f"{name}.".startswith(f"{module}.") for module in modules)


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the learning rate of every parameter group, by its factor, except constant rates."""
    for group in optimizer.param_groups:
        if not group.get("constant_rate", False):
            group["lr"] = rate * group.get("rate_factor", 1.0)


def build_optimizer(recipe: OptimizerRecipe, model: nn.Module) -> Optimizer:
    """Build the optimizer of a model's trained parameters, at the base learning rate.

    The loop sets the rate before each step from `retable.train.schedules.learning_rate`.
    """
    groups = parameter_groups(
        model,
        recipe.weight_decay,
        recipe.exclude_bias_and_norm,
        recipe.constant_rate,
        recipe.decays,
        recipe.rate_factors,
    )
    if recipe.name == "lars":
        return LARS(
            groups,
            recipe.lr,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            trust_coefficient=recipe.trust_coefficient,
        )
    # One kernel for all parameters: a third of the time of `foreach` on a CPU.
    return SGD(groups, recipe.lr, recipe.momentum, nesterov=recipe.nesterov, fused=True)


class LARS(Optimizer):
    """SGD with momentum whose steps are scaled layer by layer (You et al., 2017).

    With the gradient g' = g + decay * w of a layer: r = eta |w| / |g'| (1 where a norm is 0),
    m <- momentum * m + r g', w <- w - lr * m. Groups with ``adapt=False`` have r = 1. The host is
    never asked to wait for the device.

    Args:
        params: parameters or groups; a group may set ``adapt``, ``weight_decay`` and the rest.
        lr: learning rate, outside of the momentum as in PyTorch's SGD.
        momentum: factor of the moving sum.
        weight_decay: L2 penalty's gradient.
        nesterov: step along r g' + momentum * m instead of m.
        trust_coefficient: eta.
        denominator: norm that divides. ``decayed_gradient`` is |g + decay * w| (SimCLR's and BYOL's
            code), ``sum_of_norms`` |g| + decay * |w| (You et al., algorithm 1; timm, lightly). They
            differ by at most decay * |w|.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        trust_coefficient: float = 1e-3,
        denominator: Literal["decayed_gradient", "sum_of_norms"] = "decayed_gradient",
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "trust_coefficient": trust_coefficient,
            "denominator": denominator,
            "adapt": True,
        }
        super().__init__(params, defaults)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Make one step from the gradients that are there; they stay as they are."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                self._move(group, weights, [weight.grad for weight in weights])
        return loss

    def _move(self, group: dict[str, Any], weights: list[Tensor], gradients: list[Tensor]) -> None:
        decay, momentum = group["weight_decay"], group["momentum"]
        update: Any = torch._foreach_add(gradients, weights, alpha=decay) if decay else gradients
        if group["adapt"]:
            apart = group["denominator"] == "sum_of_norms"
            ratios = list(
                trust_ratios(
                    weights,
                    gradients if apart else update,
                    group["trust_coefficient"],
                    decay if apart else 0.0,
                )
            )
            if decay:
                torch._foreach_mul_(update, ratios)  # our own tensors, not the gradients
            else:
                update = torch._foreach_mul(update, ratios)
        if momentum:
            sums = self._moving_sums(weights)
            torch._foreach_mul_(sums, momentum)
            torch._foreach_add_(sums, update)
            nesterov = group["nesterov"]
            update = torch._foreach_add(update, sums, alpha=momentum) if nesterov else sums
        torch._foreach_add_(weights, update, alpha=-group["lr"])

    def _moving_sums(self, weights: list[Tensor]) -> list[Tensor]:
        for weight in weights:
            if "momentum_buffer" not in self.state[weight]:
                self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        return [self.state[weight]["momentum_buffer"] for weight in weights]


def trust_ratios(
    weights: list[Tensor], gradients: list[Tensor], coefficient: float, decay: float = 0.0
) -> Tensor:
    """Return LARS's factor of each of n layers: eta |w| / (|g| + decay |w|), 1 where a norm is 0.

    Args:
        weights: n tensors.
        gradients: n tensors like the weights.
        coefficient: eta.
        decay: weight decay, where it is not a part of the gradients already.

    >>> trust_ratios([torch.ones(4), torch.zeros(4)], [torch.ones(4)] * 2, 1e-3)
    tensor([0.0010, 1.0000])
    """
    sizes = torch.stack(torch._foreach_norm(weights))
    slopes = torch.stack(torch._foreach_norm(gradients))
    positive = (sizes > 0) & (slopes > 0)
    if decay:
        slopes = slopes + decay * sizes
    return torch.where(positive, coefficient * sizes / slopes, 1.0)
