"""Properties that all methods share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from retable.methods import (
    BYOLRecipe,
    Method,
    SimCLRRecipe,
    SimSiamRecipe,
    SupervisedRecipe,
    moco_v2,
)
from retable.nn.batch_norm import group_batch_norm
from retable.nn.momentum import MomentumRecipe
from retable.testing import TinyEncoder, equal_states, make_batch, train_steps

RECIPES: dict[str, Any] = {
    "moco": moco_v2(queue=20, dim=6, momentum=0.9),
    "simclr": SimCLRRecipe(dim=6),
    "simsiam": SimSiamRecipe(dim=6, hidden_dim=10, predictor_hidden_dim=4),
    "byol": BYOLRecipe(dim=6, hidden_dim=10, momentum=MomentumRecipe(0.9, "cosine")),
    "supervised": SupervisedRecipe(classes=3),
}
ACCUMULATING = ("simsiam", "byol", "supervised")
METHODS = pytest.mark.parametrize("name", RECIPES)


def build(name: str, rng_key: int = 3) -> Method:
    method: Method = RECIPES[name].build(TinyEncoder(), rng_key)
    return method


def sides(name: str) -> tuple[int, ...]:
    return (4,) if name == "supervised" else (4, 4)


def gradients(method: Method, batch: Any) -> list[Tensor]:
    trained = [parameter for parameter in method.parameters() if parameter.requires_grad]
    return list(torch.autograd.grad(method(batch).loss, trained))


@METHODS
def test_initial_weights_are_a_function_of_the_key(name: str) -> None:
    assert equal_states(build(name, 4), build(name, 4))
    assert not equal_states(build(name, 4), build(name, 5))


@METHODS
def test_loss_is_float32_under_autocast(name: str) -> None:
    batch = make_batch(sides=sides(name))
    expected = build(name)(batch).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = build(name)(batch).loss
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), abs=0.1)


@METHODS
def test_logged_values_have_no_gradient(name: str) -> None:
    output = build(name)(make_batch(sides=sides(name)))
    logged = [*output.trace.values(), *output.metrics.values()]
    assert not any(isinstance(value, Tensor) and value.requires_grad for value in logged)


@METHODS
def test_gradient_reaches_every_network_but_moving_averages(name: str) -> None:
    method = build(name)
    torch.autograd.backward(method(make_batch(sides=sides(name))).loss)
    averages = ("key_encoder.", "target_encoder.")
    for key, parameter in method.named_parameters():
        assert (parameter.grad is None) == key.startswith(averages), key
        assert parameter.requires_grad != key.startswith(averages), key


@pytest.mark.parametrize("name", ACCUMULATING)
def test_gradient_of_a_batch_is_the_mean_over_its_parts(name: str) -> None:
    method, batch = build(name), make_batch(sides=sides(name))
    assert method.accumulates
    group_batch_norm(method, 4)
    parts = [gradients(method, batch.rows(rows)) for rows in (slice(4), slice(4, 8))]
    for first, second, whole in zip(*parts, gradients(method, batch), strict=True):
        torch.testing.assert_close((first + second) / 2, whole, rtol=1e-4, atol=1e-6)


@METHODS
def test_a_loaded_state_continues_with_equal_bits(name: str) -> None:
    def batch_of(step: int) -> Any:
        return make_batch(step, sides=sides(name))

    whole, first, second = (build(name) for _ in range(3))
    losses = train_steps(whole, range(5), batch_of)
    train_steps(first, range(3), batch_of)
    second.load_state_dict(first.state_dict())
    assert train_steps(second, range(3, 5), batch_of) == losses[3:]
    assert equal_states(whole, second)


@METHODS
def test_a_wrong_number_of_views_is_refused(name: str) -> None:
    batch = make_batch(sides=sides(name))
    with pytest.raises(ValueError, match="unpack"):
        build(name)(replace(batch, views=(*batch.views, batch.views[0])))
