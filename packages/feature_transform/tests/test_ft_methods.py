"""Properties that MoCo, SimCLR, SimSiam and BYOL with feature transformation share."""

import json
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from feature_transform import (
    BYOLFTRecipe,
    MoCoFTRecipe,
    SimCLRFTRecipe,
    SimSiamFTRecipe,
    TransformRecipe,
)
from retable import random
from retable.errors import UserError
from retable.methods import BYOLRecipe, Method, MoCoRecipe, SimCLRRecipe, SimSiamRecipe
from retable.nn.batch_norm import group_batch_norm
from retable.nn.momentum import MomentumRecipe
from retable.settings import from_plain, to_plain
from retable.testing import (
    TinyEncoder,
    equal_states,
    make_batch,
    run_processes,
    train_steps,
)

NOTHING = TransformRecipe(positives="none", negatives="none")
PAIRS = TransformRecipe(negatives="none")
BOTH = TransformRecipe()
SIAMESE = {
    "batch": PAIRS,
    "groups": replace(PAIRS, draw_group=4),
    "dimension": replace(PAIRS, level="dimension"),
    "renormalised": replace(PAIRS, renormalise=True),
}
VARIANTS = {
    "moco": {
        "both": BOTH,
        "groups": TransformRecipe(draw_group=4),
        "a group beyond the batch": TransformRecipe(draw_group=16),
        "dimension": TransformRecipe(level="dimension", draw_group=1),
        "positives": PAIRS,
        "hard": TransformRecipe(positives="none", negatives="hard", hard_weight_on="negative"),
    },
    "simclr": {
        "both": BOTH,
        "groups": TransformRecipe(draw_group=2),
        "a group of two processes": TransformRecipe(draw_group=8),
        "dimension": TransformRecipe(level="dimension", draw_group=4),
        "negatives": TransformRecipe(positives="none", renormalise=True),
        "raw anchors": TransformRecipe(score_against="raw"),
    },
    "simsiam": SIAMESE,
    "byol": SIAMESE,
}
CASES = [(method, variant) for method, variants in VARIANTS.items() for variant in variants]
PLAIN: dict[str, Any] = {
    "moco": MoCoRecipe(queue=20, dim=6, temperature=0.2, momentum=0.9),
    "simclr": SimCLRRecipe(temperature=0.2, dim=6),
    "simsiam": SimSiamRecipe(dim=6, hidden_dim=10, predictor_hidden_dim=4),
    "byol": BYOLRecipe(dim=6, hidden_dim=10, momentum=MomentumRecipe(0.9, "cosine")),
}
RECIPES: dict[str, Any] = {
    "moco": MoCoFTRecipe(queue=20, dim=6, temperature=0.2, momentum=0.9),
    "simclr": SimCLRFTRecipe(temperature=0.2, dim=6),
    "simsiam": SimSiamFTRecipe(dim=6, hidden_dim=10, predictor_hidden_dim=4),
    "byol": BYOLFTRecipe(dim=6, hidden_dim=10, momentum=MomentumRecipe(0.9, "cosine")),
}
EACH = pytest.mark.parametrize(("name", "variant"), CASES)
METHODS = pytest.mark.parametrize("name", RECIPES)

Trained = tuple[list[float], dict[str, Tensor]]


def plain(name: str) -> Method:
    method: Method = PLAIN[name].build(TinyEncoder(), 3)
    return method


def build(name: str, variant: str = "", **changes: Any) -> Method:
    transform = VARIANTS[name][variant] if variant else next(iter(VARIANTS[name].values()))
    recipe = replace(RECIPES[name], transform=replace(transform, **changes))
    method: Method = recipe.build(TinyEncoder(), 3)
    return method


@METHODS
def test_no_transformation_equals_the_plain_method(name: str) -> None:
    reference = plain(name)
    method = replace(RECIPES[name], transform=NOTHING).build(TinyEncoder(), 3)
    assert train_steps(reference, range(6)) == train_steps(method, range(6))
    assert equal_states(reference, method)
    assert method(make_batch()).trace.keys() == reference(make_batch()).trace.keys()


@EACH
@pytest.mark.parametrize(("start_epoch", "first"), [(1.0, 5), (0.4, 2)])
def test_training_equals_the_plain_method_until_the_start_epoch(
    name: str, variant: str, start_epoch: float, first: int
) -> None:
    reference, method = plain(name), build(name, variant, start_epoch=start_epoch)
    for step in range(first):
        outputs = [one(make_batch(step)) for one in (reference, method)]
        for one in (reference, method):
            one.after_step(make_batch(step).progress)
        assert torch.equal(outputs[0].loss, outputs[1].loss)
        assert outputs[0].trace == outputs[1].trace
    assert equal_states(reference, method)
    expected, found = (one(make_batch(first)) for one in (reference, method))
    assert not torch.equal(found.loss, expected.loss)
    transformed = {name for name in found.trace if name.startswith("transformed_")}
    assert transformed
    assert transformed <= {f"transformed_{name}" for name in expected.trace}
    assert {name: found.trace[name] for name in expected.trace} == expected.trace


@METHODS
def test_nothing_is_drawn_before_the_start_epoch(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> Tensor:
        raise AssertionError("drawn")

    monkeypatch.setattr(random, "beta", refuse)
    monkeypatch.setattr(random, "permutation", refuse)
    method = build(name, start_epoch=1.0)
    train_steps(method, [4])
    with pytest.raises(AssertionError, match="drawn"):
        method(make_batch(5))


@EACH
def test_gradient_reaches_all_networks_but_moving_averages(name: str, variant: str) -> None:
    method = build(name, variant)
    torch.autograd.backward(method(make_batch()).loss)
    averages = ("key_encoder.", "target_encoder.")
    for key, parameter in method.named_parameters():
        if key.startswith(averages):
            assert parameter.grad is None, key
        elif not key.endswith("bias"):  # batch norm removes some biases
            assert parameter.grad is not None, key
            assert parameter.grad.abs().max() > 0, key


@METHODS
def test_logged_values_have_no_gradient(name: str) -> None:
    output = build(name)(make_batch())
    logged = [*output.trace.values(), *output.metrics.values()]
    assert not any(isinstance(value, Tensor) and value.requires_grad for value in logged)


@METHODS
def test_loss_is_float32_under_autocast(name: str) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = build(name)(make_batch()).loss
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(build(name)(make_batch()).loss.item(), abs=0.2)


@METHODS
def test_recipe_extends_the_plain_one_and_survives_json(name: str) -> None:
    recipe, reference = RECIPES[name], PLAIN[name]
    assert asdict(reference).items() <= asdict(recipe).items()
    assert from_plain(type(recipe), json.loads(json.dumps(to_plain(recipe)))) == recipe


@pytest.mark.parametrize("name", ["moco", "simclr"])
def test_a_group_that_does_not_fit_is_refused_in_the_first_step(name: str) -> None:
    with pytest.raises(UserError, match=r"`draw_group` must divide a process's 8 rows .* got 3"):
        build(name, draw_group=3, start_epoch=2.0)(make_batch())


def train_all() -> dict[tuple[str, str], Trained]:
    """Train every case on this process's share of the batches."""
    trained = {}
    for case in CASES:
        method = build(*case)
        group_batch_norm(method, 4)
        losses = train_steps(method, range(3))
        state = {k: v for k, v in method.state_dict().items() if v.is_floating_point()}
        # Each process has its own running statistics until they are averaged.
        trained[case] = losses, {k: v for k, v in state.items() if "running" not in k}
    return trained


@pytest.fixture(scope="module")
def one_process() -> dict[tuple[str, str], Trained]:
    return train_all()


@pytest.fixture(scope="module")
def two_processes() -> list[dict[tuple[str, str], Trained]]:
    return run_processes(train_all, 2)


@EACH
def test_two_processes_train_as_one(
    name: str, variant: str, one_process: Any, two_processes: Any
) -> None:
    losses, state = one_process[name, variant]
    for found in two_processes:
        found_losses, found_state = found[name, variant]
        assert found_losses == pytest.approx(losses, rel=1e-5, abs=1e-6)
        for key, value in state.items():
            torch.testing.assert_close(found_state[key], value, rtol=1e-5, atol=1e-5)
