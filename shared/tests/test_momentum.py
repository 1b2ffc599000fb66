import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from retable.errors import UserError
from retable.nn.momentum import MomentumCopy, MomentumRecipe
from retable.random import initialising


def network() -> nn.Sequential:
    with initialising(0):
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def disturb(module: nn.Module) -> None:
    """Stand in for training: change every parameter and every floating-point buffer."""
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.add_(1)


@settings(max_examples=30, deadline=None)
@given(momentum=st.floats(0, 1))
def test_parameters_move_by_the_formula_and_buffers_stay(momentum: float) -> None:
    # Source: the formula m t + (1 - m) s in float64, parameter by parameter.
    source = network()
    target = MomentumCopy(source)
    disturb(source)
    before = copy.deepcopy(target.module)
    target.update(momentum)
    for new, old, online in zip(
        target.module.parameters(), before.parameters(), source.parameters(), strict=True
    ):
        expected = momentum * old.double() + (1 - momentum) * online.double()
        torch.testing.assert_close(new.double(), expected, rtol=1e-6, atol=1e-6)
    for kept, initial in zip(target.module.buffers(), before.buffers(), strict=True):
        assert torch.equal(kept, initial)


def test_momentum_one_keeps_every_bit_and_zero_copies_every_bit() -> None:
    source = network()
    target = MomentumCopy(source)
    start = copy.deepcopy(target.module.state_dict())
    disturb(source)
    target.update(1.0)
    assert all(torch.equal(target.module.state_dict()[name], start[name]) for name in start)
    target.update(0.0)
    for copied, online in zip(target.parameters(), source.parameters(), strict=True):
        assert torch.equal(copied, online)


def test_the_copy_is_exact_trains_nothing_and_stores_only_itself() -> None:
    source = network()
    target = MomentumCopy(source)
    rows = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(target.eval()(rows), copy.deepcopy(source).eval()(rows))
    assert not any(parameter.requires_grad for parameter in target.parameters())
    assert set(target.state_dict()) == {f"module.{name}" for name in source.state_dict()}


def test_a_copied_method_follows_its_own_source() -> None:
    class Method(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.online = network()
            self.target = MomentumCopy(self.online)

    original = Method()
    duplicate = copy.deepcopy(original)
    disturb(duplicate.online)
    duplicate.target.update(0.0)
    followed = next(duplicate.target.parameters())
    assert torch.equal(followed, next(duplicate.online.parameters()))
    assert not torch.equal(followed, next(original.online.parameters()))


def test_cosine_momentum_meets_its_known_points_and_rises() -> None:
    # Source: BYOL appendix C.1: tau = 1 - (1 - base)(cos(pi k / K) + 1) / 2.
    recipe = MomentumRecipe(0.996, "cosine")
    assert recipe.at(0, 1000) == pytest.approx(0.996)
    assert recipe.at(500, 1000) == pytest.approx(0.998)
    assert recipe.at(1000, 1000) == 1.0
    values = [recipe.at(step, 1000) for step in range(1001)]
    assert values == sorted(values)
    assert MomentumRecipe(0.99).at(123, 1000) == 0.99


def test_invalid_recipes_are_refused() -> None:
    with pytest.raises(UserError, match=r"must be in \[0, 1\], got 1\.5"):
        MomentumRecipe(1.5)
    with pytest.raises(UserError, match="`kind` must be one of 'constant', 'cosine', got 'linear'"):
        MomentumRecipe(0.9, "linear")  # type: ignore[arg-type]
