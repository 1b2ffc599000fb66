"""SGD and LARS, and the parameter groups that they decay and adapt."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from retable.domains import NonNegative, Probability
from retable.errors import UserError
from retable.settings import validate_fields
from retable.train.schedules import ScheduleRecipe


@dataclass(frozen=True)
class OptimizerRecipe:
    """An optimizer and its schedule; the defaults are MoCo's (He et al., 2020, section 4).

    Attributes:
        lr: base learning rate of the global batch, after any scaling by its size.
        weight_decay: factor of the L2 penalty's gradient. 1e-4 in MoCo, 1.5e-6 in BYOL.
        exclude_bias_and_norm: whether biases and normalisation parameters get neither weight decay
            nor LARS's adaptation, as in SimCLR and BYOL; MoCo decays everything.
        trust_coefficient: LARS's eta, 1e-3 (You et al., 2017; SimCLR, BYOL); ``sgd`` ignores it.
        constant_rate: names of modules or parameters whose learning rate stays ``lr``:
            ("predictor",) in SimSiam (Chen & He, 2021, table 1 and official code).
        decays: pairs (name of modules or parameters, weight decay) that replace ``weight_decay``:
            (("head", 5e-4),) for the patch tasks of Kolesnikov et al. (2019, official code). The
            longest matching name applies.
        rate_factors: pairs (name of modules or parameters, factor of the learning rate there), for
            example a fresh classifier on a trained encoder. The longest matching name applies.
    """

    name: Literal["sgd", "lars"] = "sgd"
    lr: NonNegative = 0.03
    momentum: Probability = 0.9
    weight_decay: NonNegative = 1e-4
    nesterov: bool = False
    exclude_bias_and_norm: bool = False
    trust_coefficient: NonNegative = 1e-3
    schedule: ScheduleRecipe = field(default_factory=ScheduleRecipe)
    constant_rate: tuple[str, ...] = ()
    decays: tuple[tuple[str, NonNegative], ...] = ()
    rate_factors: tuple[tuple[str, NonNegative], ...] = ()

    def __post_init__(self) -> None:
        validate_fields(self)
        for pairs in ("decays", "rate_factors"):
            names = [name for name, _ in getattr(self, pairs)]
            if len(set(names)) < len(names):
                raise UserError(
                    f"`{pairs}` must name each module once, got {', '.join(names)}. Remove the "
                    "repeats."
                )
        check_nesterov(self.nesterov, self.momentum)


def check_nesterov(nesterov: bool, momentum: float) -> None:
    """Raise a `UserError` where Nesterov's step has no momentum to look ahead along."""
    if nesterov and not momentum:
        raise UserError(
            f"`momentum` must be positive with nesterov, got {momentum}. Set it or remove nesterov."
        )


def parameter_groups(recipe: OptimizerRecipe, model: nn.Module) -> list[dict[str, Any]]:
    """Return an optimizer's parameter groups of a model's trained parameters.

    With ``exclude_bias_and_norm``, which takes precedence over ``decays``, parameters of at most
    one dimension (biases, and scales and shifts of normalisation layers) form a group without decay
    and, in `LARS`, without adaptation. A name that matches no trained parameter is a UserError.
    """
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    _check_names("constant_rate", recipe.constant_rate, trained)
    _check_names("decays", [name for name, _ in recipe.decays], trained)
    _check_names("rate_factors", [name for name, _ in recipe.rate_factors], trained)
    kinds: dict[tuple[bool, bool, float, float], list[nn.Parameter]] = {}
    for name, value in trained.items():
        constant = _is_under(name, recipe.constant_rate)
        excluded = recipe.exclude_bias_and_norm and value.ndim <= 1
        decay = 0.0 if excluded else _value_at(name, recipe.decays, recipe.weight_decay)
        factor = _value_at(name, recipe.rate_factors, 1.0)
        kinds.setdefault((constant, excluded, decay, factor), []).append(value)
    # Sorted, because an optimizer's state refers to parameters by their index.
    return [
        {
            "params": members,
            "weight_decay": decay,
            "adapt": not excluded,
            "constant_rate": constant,
            "rate_factor": factor,
        }
        for (constant, excluded, decay, factor), members in sorted(kinds.items())
    ]


def _check_names(field: str, names: Iterable[str], trained: Iterable[str]) -> None:
    for chosen in names:
        if not any(_is_under(name, (chosen,)) for name in trained):
            parts = ", ".join(dict.fromkeys(name.partition(".")[0] for name in trained))
            raise UserError(
                f"`{field}` must name trained modules such as {parts}, got {chosen!r}. Correct the "
                "name."
            )


def _value_at(name: str, values: Iterable[tuple[str, float]], default: float) -> float:
    """Return the value of the longest name that matches the parameter, else the default."""
    fitting = [(len(chosen), value) for chosen, value in values if _is_under(name, (chosen,))]
    return max(fitting)[1] if fitting else default


def _is_under(name: str, modules: tuple[str, ...]) -> bool:
    """Return whether a parameter is, or belongs to, one of these modules."""
    return any(f"{name}.".startswith(f"{module}.") for module in modules)


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the learning rate of every parameter group, by its factor, except constant rates."""
    for group in optimizer.param_groups:
        if not group.get("constant_rate", False):
            group["lr"] = rate * group.get("rate_factor", 1.0)


def build_optimizer(recipe: OptimizerRecipe, model: nn.Module) -> Optimizer:
    """Build the optimizer of a model's trained parameters, at the base learning rate."""
    groups = parameter_groups(recipe, model)
    if recipe.name == "lars":
        return LARS(
            groups,
            recipe.lr,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            trust_coefficient=recipe.trust_coefficient,
        )
    # Fused: a third of the time of `foreach` on a CPU.
    return SGD(groups, recipe.lr, recipe.momentum, nesterov=recipe.nesterov, fused=True)


class LARS(Optimizer):
    """SGD with momentum whose steps are scaled layer by layer (You et al., 2017).

    With the gradient g' = g + decay * w of a layer: r = eta |w| / |g'| (1 where a norm is 0),
    m <- momentum * m + r g', w <- w - lr * m. Groups with ``adapt=False`` have r = 1. The host
    never waits for the device.

    Args:
        params: parameters or groups; a group may set ``adapt`` and the arguments below.
        lr: learning rate, not included in the momentum, as in PyTorch's SGD.
        nesterov: step along r g' + momentum * m instead of m.
        trust_coefficient: eta.
        denominator: the norm to divide by. ``decayed_gradient`` is |g + decay * w| (SimCLR's and
            BYOL's code), ``sum_of_norms`` |g| + decay * |w| (You et al., algorithm 1; timm,
            lightly). They differ by at most decay * |w|.
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

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make one step; the gradients stay unchanged."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                self._update(group, weights, [weight.grad for weight in weights])
        return loss

    def _update(
        self, group: dict[str, Any], weights: list[Tensor], gradients: list[Tensor]
    ) -> None:
        decay, momentum = group["weight_decay"], group["momentum"]
        update: Any = torch._foreach_add(gradients, weights, alpha=decay) if decay else gradients
        if group["adapt"]:
            separate = group["denominator"] == "sum_of_norms"
            slopes, added = (gradients, decay) if separate else (update, 0.0)
            ratios = list(trust_ratios(weights, slopes, group["trust_coefficient"], added))
            if decay:
                torch._foreach_mul_(update, ratios)  # new tensors, not the gradients
            else:
                update = torch._foreach_mul(update, ratios)
        if momentum:
            for weight in weights:
                if "momentum_buffer" not in self.state[weight]:
                    self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
            sums = [self.state[weight]["momentum_buffer"] for weight in weights]
            torch._foreach_mul_(sums, momentum)
            torch._foreach_add_(sums, update)
            nesterov = group["nesterov"]
            update = torch._foreach_add(update, sums, alpha=momentum) if nesterov else sums
        torch._foreach_add_(weights, update, alpha=-group["lr"])


def trust_ratios(
    weights: list[Tensor], gradients: list[Tensor], coefficient: float, decay: float = 0.0
) -> Tensor:
    """Return LARS's factors of n layers: eta |w| / (|g| + decay |w|), 1 where a norm is 0.

    ``coefficient`` is eta; ``decay`` is the weight decay if the gradients do not include it.

    >>> trust_ratios([torch.ones(4), torch.zeros(4)], [torch.ones(4)] * 2, 1e-3)
    tensor([0.0010, 1.0000])
    """
    sizes = torch.stack(torch._foreach_norm(weights))
    slopes = torch.stack(torch._foreach_norm(gradients))
    positive = (sizes > 0) & (slopes > 0)
    if decay:
        slopes = slopes + decay * sizes
    return torch.where(positive, coefficient * sizes / slopes, 1.0)
