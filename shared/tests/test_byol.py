from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from retable.methods import BYOL, Batch, BYOLRecipe, Progress
from retable.nn.momentum import MomentumRecipe
from retable.random import derive_key, initialising, normal


class Flat(nn.Module):
    """An encoder with batch norm: pixels through one matrix."""

    feature_dim = 12

    def __init__(self) -> None:
        super().__init__()
        with initialising(5):
            self.linear = nn.Linear(3 * 4 * 4, self.feature_dim)
        self.norm = nn.BatchNorm1d(self.feature_dim)

    def forward(self, images: Tensor) -> Tensor:
        return torch.tanh(self.norm(self.linear(images.flatten(1))))


def make_batch(step: int = 0, size: int = 8) -> Batch:
    views = [
        normal(derive_key(step, "v", n), torch.arange(size * 48)).view(size, 3, 4, 4)
        for n in (0, 1)
    ]
    rows = torch.arange(size)
    return Batch((views[0], views[1]), -torch.ones_like(rows), rows, rows, Progress(step, 2, 2), 7)


def make_byol(base: float = 0.8) -> BYOL:
    recipe = BYOLRecipe(dim=6, hidden_dim=10, momentum=MomentumRecipe(base, "cosine"))
    return recipe.build(Flat(), rng_key=3)


def squared_distance(one: Tensor, other: Tensor) -> Tensor:
    one, other = (x / x.norm(dim=1, keepdim=True) for x in (one, other))
    return ((one - other) ** 2).sum(dim=1)


def test_three_steps_are_those_of_the_paper() -> None:
    # Grill et al. (2020), equations 1 and 2 and algorithm 1, in float64 with torch's SGD: every
    # parameter and every running statistic, of both networks.
    method = make_byol()
    exact = copy.deepcopy(method).double()
    online = nn.Sequential(exact.encoder, exact.projector)
    target = copy.deepcopy(online).requires_grad_(False)
    trained = [*online.parameters(), *exact.predictor.parameters()]
    ours = torch.optim.SGD(
        [p for p in method.parameters() if p.requires_grad], lr=0.1, momentum=0.9
    )
    theirs = torch.optim.SGD(trained, lr=0.1, momentum=0.9)
    for step in range(3):
        batch = make_batch(step)
        loss = method(batch).loss
        first, second = (view.double() for view in batch.views)
        first_target, second_target = target(first), target(second)
        terms = squared_distance(exact.predictor(online(first)), second_target)
        terms = terms + squared_distance(exact.predictor(online(second)), first_target)
        expected = terms.mean()
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
        for optimizer, scalar in ((ours, loss), (theirs, expected)):
            optimizer.zero_grad()
            torch.autograd.backward(scalar)
            optimizer.step()
        method.after_step(batch.progress)
        momentum = 1 - (1 - 0.8) * (math.cos(math.pi * step / 4) + 1) / 2  # of 2 epochs of 2 steps
        for slow, fast in zip(target.parameters(), online.parameters(), strict=True):
            slow.copy_(momentum * slow + (1 - momentum) * fast.detach())
    reference = {
        **exact.state_dict(),
        **{f"target_encoder.module.{name}": value for name, value in target.state_dict().items()},
    }
    for name, value in method.state_dict().items():
        torch.testing.assert_close(value.double(), reference[name].double(), rtol=1e-4, atol=1e-5)


def test_the_target_moves_after_the_optimizer_and_not_before() -> None:
    method, batch = make_byol(), make_batch()
    before = [p.clone() for p in method.target_encoder.parameters()]
    torch.autograd.backward(method(batch).loss)
    assert all(map(torch.equal, before, method.target_encoder.parameters()))
    with torch.no_grad():
        method.encoder.linear.weight.add_(1.0)  # type: ignore[union-attr, operator]
    method.after_step(Progress(0, 2, 2))
    moved = next(method.target_encoder.parameters())
    torch.testing.assert_close(moved, before[0] + 0.2)


def test_no_gradient_reaches_the_target_network() -> None:
    method, batch = make_byol(), make_batch()
    assert not method.targets(batch.views[0]).requires_grad
    torch.autograd.backward(method(batch).loss)
    online = [*method.encoder.parameters(), *method.projector.parameters()]
    assert all(p.grad is not None for p in (*online, *method.predictor.parameters()))
    assert all(p.grad is None and not p.requires_grad for p in method.target_encoder.parameters())


def test_the_target_has_stopped_at_the_end_of_training() -> None:
    method = make_byol()
    before = [p.clone() for p in method.target_encoder.parameters()]
    with torch.no_grad():
        method.encoder.linear.weight.add_(1.0)  # type: ignore[union-attr, operator]
    method.after_step(Progress(4, 2, 2))
    for slow, start in zip(method.target_encoder.parameters(), before, strict=True):
        torch.testing.assert_close(slow, start, rtol=0, atol=1e-7)


def test_a_state_saved_and_loaded_continues_to_the_bit() -> None:
    def train(method: BYOL, steps: range) -> None:
        optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
        for step in steps:
            batch = make_batch(step)
            torch.autograd.backward(method(batch).loss)
            optimizer.step()
            optimizer.zero_grad()
            method.after_step(batch.progress)

    whole, first, second = make_byol(), make_byol(), make_byol()
    train(whole, range(4))
    train(first, range(2))
    second.load_state_dict(first.state_dict())
    train(second, range(2, 4))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_defaults_are_the_official_ones_at_1000_epochs() -> None:
    # Source: deepmind-research byol/configs/byol.py.
    recipe = BYOLRecipe()
    assert (recipe.dim, recipe.hidden_dim) == (256, 4096)
    assert recipe.momentum.at(0, 100) == pytest.approx(0.996)
    assert recipe.momentum.at(100, 100) == 1.0
    encoder = nn.Identity()
    encoder.feature_dim = 2048  # type: ignore[assignment]
    with torch.device("meta"):
        method = recipe.build(encoder, rng_key=0)
    heads = [*method.projector.parameters(), *method.predictor.parameters()]
    weights = [tuple(p.shape) for p in heads if p.ndim == 2]
    assert weights == [(4096, 2048), (256, 4096), (4096, 256), (256, 4096)]
