from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from retable.methods import BYOL, BYOLRecipe, Progress
from retable.nn.momentum import MomentumRecipe
from retable.testing import TinyEncoder, make_batch


def make_byol(base: float = 0.8) -> BYOL:
    recipe = BYOLRecipe(dim=6, hidden_dim=10, momentum=MomentumRecipe(base, "cosine"))
    return recipe.build(TinyEncoder(norm=True), rng_key=3)


def squared_distance(one: Tensor, other: Tensor) -> Tensor:
    one, other = (x / x.norm(dim=1, keepdim=True) for x in (one, other))
    return ((one - other) ** 2).sum(dim=1)


def test_three_steps_equal_the_papers_equations() -> None:
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
        batch = make_batch(step, steps_per_epoch=2, epochs=2)
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


def test_the_target_is_updated_after_the_optimizers_step() -> None:
    method, batch = make_byol(), make_batch()
    before = [p.clone() for p in method.target_encoder.parameters()]
    torch.autograd.backward(method(batch).loss)
    assert all(map(torch.equal, before, method.target_encoder.parameters()))
    with torch.no_grad():
        method.encoder.conv.weight.add_(1.0)  # type: ignore[union-attr, operator]
    method.after_step(Progress(0, 2, 2))
    moved = next(method.target_encoder.parameters())
    torch.testing.assert_close(moved, before[0] + 0.2)


def test_the_target_stops_at_the_end_of_training() -> None:
    method = make_byol()
    before = [p.clone() for p in method.target_encoder.parameters()]
    with torch.no_grad():
        method.encoder.conv.weight.add_(1.0)  # type: ignore[union-attr, operator]
    method.after_step(Progress(4, 2, 2))
    for slow, start in zip(method.target_encoder.parameters(), before, strict=True):
        torch.testing.assert_close(slow, start, rtol=0, atol=1e-7)


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
