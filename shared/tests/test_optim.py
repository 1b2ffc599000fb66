import copy

import pytest
import torch
from torch import Tensor, nn

from retable.encoders import ResNetRecipe
from retable.errors import UserError
from retable.random import initialising
from retable.train.optim import (
    LARS,
    OptimizerRecipe,
    build_optimizer,
    parameter_groups,
    set_learning_rate,
)

torch.set_num_threads(1)


def network() -> nn.Sequential:
    with initialising(0):
        return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    """Give deterministic gradients that do not depend on anything but the step."""
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        optimizer.step()


def lars_by_loops(
    weights: list[Tensor],
    steps: int,
    *,
    lr: float,
    momentum: float,
    decay: float,
    nesterov: bool,
    adapt: list[bool],
) -> None:
    """LARS tensor by tensor: v = g + decay w; m = momentum m + eta |w|/|v| v; w -= lr m."""
    sums = [torch.zeros_like(weight) for weight in weights]
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        for index, weight in enumerate(weights):
            gradient = torch.randn(weight.shape, generator=generator).to(weight.dtype)
            if adapt[index]:
                gradient = gradient + decay * weight
                size, slope = weight.norm().item(), gradient.norm().item()
                if size > 0 and slope > 0:
                    gradient = gradient * (1e-3 * size / slope)
            sums[index] = momentum * sums[index] + gradient
            move = gradient + momentum * sums[index] if nesterov else sums[index]
            weight -= lr * move


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("exclude", [False, True])
def test_lars_is_its_formula_tensor_by_tensor(nesterov: bool, exclude: bool) -> None:
    # Source: the update of SimCLR's and BYOL's code, in loops and float64.
    model = network().double()
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = build_optimizer(
        OptimizerRecipe(
            "lars", lr=3.0, weight_decay=0.1, nesterov=nesterov, exclude_bias_and_norm=exclude
        ),
        model,
    )
    assert isinstance(optimizer, LARS)
    train(model, optimizer, 5)
    lars_by_loops(
        weights,
        5,
        lr=3.0,
        momentum=0.9,
        decay=0.1,
        nesterov=nesterov,
        adapt=[weight.ndim > 1 or not exclude for weight in weights],
    )
    for ours, expected in zip(model.parameters(), weights, strict=True):
        torch.testing.assert_close(ours.detach(), expected)


@pytest.mark.parametrize("nesterov", [False, True])
def test_lars_with_the_sum_of_norms_is_timms(nesterov: bool) -> None:
    # Source: timm.optim.Lars.
    from timm.optim.lars import Lars

    ours, theirs = network(), network()
    train(
        ours,
        LARS(
            ours.parameters(),
            2.0,
            weight_decay=0.05,
            nesterov=nesterov,
            denominator="sum_of_norms",
        ),
        6,
    )
    train(
        theirs,
        Lars(theirs.parameters(), 2.0, momentum=0.9, weight_decay=0.05, nesterov=nesterov),
        6,
    )
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_lars_step_has_the_length_that_the_weights_have() -> None:
    # Source: |dw| = lr eta |w| at the first step, whatever the gradient.
    weight = torch.full((4, 3), 2.0, requires_grad=True)
    before = weight.detach().clone()
    weight.grad = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)) * 1e-5
    LARS([weight], 0.5).step()
    torch.testing.assert_close(
        (weight - before).norm(), 0.5 * 1e-3 * before.norm(), rtol=1e-3, atol=0
    )


def test_zero_gradients_and_zero_weights_move_nothing_wrongly() -> None:
    still = torch.ones(2, 2, requires_grad=True)
    still.grad = torch.zeros(2, 2)
    born = torch.zeros(2, 2, requires_grad=True)
    born.grad = torch.ones(2, 2)
    LARS([still, born], 0.5).step()
    assert torch.equal(still, torch.ones(2, 2))
    assert torch.equal(born, torch.full((2, 2), -0.5))


def test_lars_leaves_gradients_and_untrained_parameters_alone() -> None:
    weight, idle = torch.ones(2, 2, requires_grad=True), torch.ones(2, requires_grad=True)
    weight.grad = torch.full((2, 2), 0.3)
    LARS([weight, idle], 0.5, weight_decay=0.1, momentum=0.0).step()
    assert torch.equal(weight.grad, torch.full((2, 2), 0.3))
    assert torch.equal(idle, torch.ones(2))


@pytest.mark.parametrize("name", ["sgd", "lars"])
def test_a_loaded_optimizer_continues_to_the_bit(name: str) -> None:
    recipe = OptimizerRecipe(name, lr=0.1)  # type: ignore[arg-type]
    stopped = network()
    first = build_optimizer(recipe, stopped)
    train(stopped, first, 2)
    resumed = copy.deepcopy(stopped)
    second = build_optimizer(recipe, resumed)
    # Through a copy, as through a file: torch shares the tensors otherwise.
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(stopped, first, 2)
    train(resumed, second, 2)
    for one, other in zip(stopped.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_sgd_is_the_formula_of_moco() -> None:
    # Source: torch.optim.SGD one tensor at a time, with weight decay on everything.
    ours, theirs = network(), network()
    train(ours, build_optimizer(OptimizerRecipe(), ours), 4)
    plain = torch.optim.SGD(theirs.parameters(), 0.03, 0.9, weight_decay=1e-4, foreach=False)
    train(theirs, plain, 4)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_groups_spare_biases_and_norms_only() -> None:
    encoder = ResNetRecipe("small_resnet8").build(rng_key=0)
    recipe = OptimizerRecipe(weight_decay=0.1, exclude_bias_and_norm=True)
    decayed, spared = parameter_groups(recipe, encoder)
    norms = [layer for layer in encoder.modules() if isinstance(layer, nn.BatchNorm2d)]
    expected = {id(parameter) for layer in norms for parameter in layer.parameters()}
    assert {id(parameter) for parameter in spared["params"]} == expected
    everything = {id(parameter) for parameter in encoder.parameters()}
    assert {id(parameter) for parameter in decayed["params"]} == everything - expected
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)


def test_frozen_parameters_are_in_no_group() -> None:
    model = network()
    model[0].requires_grad_(False)
    for exclude in (False, True):
        groups = parameter_groups(OptimizerRecipe(exclude_bias_and_norm=exclude), model)
        assert sum(len(group["params"]) for group in groups) == 4


def named_network() -> nn.ModuleDict:
    return nn.ModuleDict({"encoder": network(), "predictor": network(), "predictor2": network()})


@pytest.mark.parametrize("exclude", [False, True])
def test_every_trained_parameter_is_in_one_group_of_its_kind(exclude: bool) -> None:
    model = named_network()
    model["encoder"][0].requires_grad_(False)  # type: ignore[index]
    recipe = OptimizerRecipe(
        weight_decay=0.1,
        exclude_bias_and_norm=exclude,
        constant_rate=("predictor", "encoder.2.bias"),
    )
    groups = parameter_groups(recipe, model)
    kinds = {
        id(parameter): (group["weight_decay"], group["adapt"], group["constant_rate"])
        for group in groups
        for parameter in group["params"]
    }
    assert sum(len(group["params"]) for group in groups) == len(kinds) == 4 + 6 + 6
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            spared = exclude and parameter.ndim <= 1
            constant = name.startswith("predictor.") or name == "encoder.2.bias"
            assert kinds[id(parameter)] == (0.0 if spared else 0.1, not spared, constant), name


def test_a_constant_rate_is_that_of_an_optimizer_whose_schedule_stands_still() -> None:
    # Source: SimSiam's main_simsiam.py, fix_lr: torch's SGD with one group that is not adjusted.
    ours, theirs = named_network(), named_network()
    optimizer = build_optimizer(OptimizerRecipe(lr=0.5, constant_rate=("predictor",)), ours)
    fixed = list(theirs["predictor"].parameters())
    decaying = [*theirs["encoder"].parameters(), *theirs["predictor2"].parameters()]
    plain = torch.optim.SGD(
        [{"params": decaying}, {"params": fixed}], 0.5, 0.9, weight_decay=1e-4, foreach=False
    )
    for rate in (0.5, 0.3, 0.0):
        set_learning_rate(optimizer, rate)
        plain.param_groups[0]["lr"] = rate
        train(ours, optimizer, 1)
        train(theirs, plain, 1)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_constant_rate_of_nothing_is_refused() -> None:
    recipe = OptimizerRecipe(constant_rate=("predictor", "predict"))
    with pytest.raises(
        UserError, match=r"`constant_rate` must name trained modules.*predictor2, got 'predict'"
    ):
        build_optimizer(recipe, named_network())


DECAYS = (("encoder", 0.2), ("encoder.2", 0.0), ("predictor", 0.1), ("predictor2.0.weight", 0.3))


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("order", [1, -1])
def test_the_longest_name_decides_a_parameters_decay_and_exclusion_above_it(
    exclude: bool, order: int
) -> None:
    model = named_network()
    recipe = OptimizerRecipe(
        weight_decay=0.1,
        exclude_bias_and_norm=exclude,
        constant_rate=("encoder.0",),
        decays=DECAYS[::order],
    )
    groups = parameter_groups(recipe, model)
    found = {
        id(parameter): (group["weight_decay"], group["adapt"], group["constant_rate"])
        for group in groups
        for parameter in group["params"]
    }
    assert sum(len(group["params"]) for group in groups) == len(found) == 18
    usual = {"encoder": 0.2, "predictor": 0.1, "predictor2": 0.1}
    for name, parameter in model.named_parameters():
        decay = usual[name.partition(".")[0]]
        if name.startswith("encoder.2."):
            decay = 0.0
        elif name == "predictor2.0.weight":
            decay = 0.3
        spared = exclude and parameter.ndim <= 1
        constant = name.startswith("encoder.0.")
        assert found[id(parameter)] == (0.0 if spared else decay, not spared, constant), name
    kinds = {(group["weight_decay"], group["adapt"], group["constant_rate"]) for group in groups}
    assert len(kinds) == len(groups), "parameters that are treated alike share a group"


def test_without_decays_of_their_own_the_groups_and_their_order_are_as_they_were() -> None:
    model = named_network()
    recipe = OptimizerRecipe(exclude_bias_and_norm=True, constant_rate=("predictor",))
    groups = parameter_groups(recipe, model)
    flags = [(group["constant_rate"], group["adapt"]) for group in groups]
    assert flags == [(False, True), (False, False), (True, True), (True, False)]


def test_sgd_decays_each_module_by_its_own_share() -> None:
    # Source: TensorFlow's l2_regularizer(s) adds s/2 |w|^2 to the loss: s w to the gradient.
    model = named_network().double()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    recipe = OptimizerRecipe(
        lr=0.5,
        momentum=0.0,
        weight_decay=0.1,
        exclude_bias_and_norm=True,
        decays=(("predictor", 0.4), ("encoder.0", 0.0)),
    )
    optimizer = build_optimizer(recipe, model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, value in model.named_parameters():
        decay = 0.4 if name.startswith("predictor.") else 0.1
        if value.ndim <= 1 or name.startswith("encoder.0."):
            decay = 0.0
        torch.testing.assert_close(value.detach(), before[name] * (1 - 0.5 * decay))


def test_lars_decays_each_module_by_its_own_share() -> None:
    # Source: two optimizers, one for each decay.
    ours, theirs = named_network(), named_network()
    recipe = OptimizerRecipe("lars", lr=3.0, weight_decay=0.1, decays=(("predictor", 0.4),))
    other = [*theirs["encoder"].parameters(), *theirs["predictor2"].parameters()]
    optimizer = build_optimizer(recipe, ours)
    train(ours, optimizer, 3)
    apart = [
        LARS(theirs["predictor"].parameters(), 3.0, weight_decay=0.4),
        LARS(other, 3.0, weight_decay=0.1),
    ]
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        for parameter in theirs.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        for one in apart:
            one.step()
    for mine, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, expected)


def test_a_module_without_decay_is_still_adapted_by_lars() -> None:
    recipe = OptimizerRecipe(exclude_bias_and_norm=True, decays=(("predictor", 0.0),))
    groups = parameter_groups(recipe, named_network())
    spared = [group for group in groups if group["weight_decay"] == 0]
    assert sorted(group["adapt"] for group in spared) == [False, True]


def test_decays_of_nothing_are_refused() -> None:
    recipe = OptimizerRecipe(decays=(("encoder.root", 0.0),))
    with pytest.raises(
        UserError, match=r"`decays` must name trained modules .* got 'encoder.root'"
    ):
        build_optimizer(recipe, named_network())


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"name": "adam"}, "`name` must be one of 'sgd', 'lars', got 'adam'"),
        ({"lr": -1.0}, "`lr` must be 0 or more, got -1.0"),
        ({"decays": (("head", -0.1),)}, "`decays` must be 0 or more in each item"),
        (
            {"decays": (("head", 0.0), ("head", 0.1))},
            "once, got head, head",
        ),
        ({"rate_factors": (("head", -2.0),)}, "`rate_factors` must be 0 or more in each item"),
        ({"momentum": 0.0, "nesterov": True}, "`momentum` must be positive with nesterov"),
    ],
)
def test_invalid_recipes_are_refused(fields: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        OptimizerRecipe(**fields)  # type: ignore[arg-type]
