"""Properties of the Siamese step, for BYOL and SimSiam."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from retable.data.sources import open_source
from retable.methods import (
    Batch,
    BYOLRecipe,
    MethodRecipe,
    Siamese,
    SimSiamRecipe,
)
from retable.testing import StoppedError, TinyEncoder, make_batch
from retable.train import checkpoint, health
from retable.train.optim import OptimizerRecipe
from retable.train.options import RunOptions
from retable.train.pretrain import Training, make_accelerator, pretrain
from retable.train.recipe import PretrainRecipe
from retable.train.runs import RunDirectory
from retable.train.schedules import ScheduleRecipe

RECIPES: dict[str, MethodRecipe] = {
    "byol": BYOLRecipe(dim=6, hidden_dim=10),
    "simsiam": SimSiamRecipe(dim=6, hidden_dim=10, predictor_hidden_dim=4),
}
PERFECT = {"byol": 0.0, "simsiam": -1.0}
OPPOSITE = {"byol": 8.0, "simsiam": 1.0}
SLOPE = {"byol": -4.0, "simsiam": -1.0}
"""Of the loss over a similarity that all samples and both terms have."""


@pytest.fixture(params=RECIPES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def method(name: str) -> Siamese:
    built = RECIPES[name].build(TinyEncoder(), rng_key=3)
    assert isinstance(built, Siamese)
    return built


def trained(method: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in method.parameters() if parameter.requires_grad]


@given(similarity=st.floats(-1, 1))
@pytest.mark.parametrize("name", RECIPES)
def test_the_loss_is_linear_between_its_bounds(name: str, similarity: float) -> None:
    built = RECIPES[name].build(TinyEncoder(), rng_key=3)
    assert isinstance(built, Siamese)
    loss = float(built.loss(torch.full((2, 5), similarity)))
    assert loss == pytest.approx(PERFECT[name] + SLOPE[name] * (similarity - 1), abs=1e-5)
    assert PERFECT[name] - 1e-5 <= loss <= OPPOSITE[name] + 1e-5


def test_both_terms_have_equal_weight(name: str, method: Siamese) -> None:
    terms = torch.tensor([[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]])
    middle = (PERFECT[name] + OPPOSITE[name]) / 2
    assert float(method.loss(terms)) == float(method.loss(terms.flip(0))) == middle


def test_similarity_gets_each_prediction_with_the_target_of_the_other_view(
    method: Siamese,
) -> None:
    batch = make_batch()
    seen: list[tuple[int, Tensor, Tensor]] = []

    class Watched(type(method)):  # type: ignore[misc]
        def similarity(
            self, predictions: Tensor, targets: Tensor, batch: Batch, term: int
        ) -> Tensor:
            seen.append((term, predictions, targets))
            return super().similarity(predictions, targets, batch, term)  # type: ignore[no-any-return]

    method.__class__ = Watched
    method(batch)
    (first, target_of_first), (second, target_of_second) = (
        [x / x.norm(dim=1, keepdim=True) for x in method.branches(view)] for view in batch.views
    )
    expected = [(0, first, target_of_second), (1, second, target_of_first)]
    for (term, *ours), (number, *theirs) in zip(seen, expected, strict=True):
        assert term == number
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other)
        assert ours[0].requires_grad
        assert not ours[1].requires_grad


def test_an_overridden_similarity_changes_the_gradient_and_not_the_trace(method: Siamese) -> None:
    batch = make_batch()
    output = method(batch)
    gradients = torch.autograd.grad(output.loss, trained(method))

    class Weighted(type(method)):  # type: ignore[misc]
        def similarity(
            self, predictions: Tensor, targets: Tensor, batch: Batch, term: int
        ) -> Tensor:
            raw = super().similarity(predictions, targets, batch, term)
            return 2.5 * raw - 1.5  # type: ignore[no-any-return]

    method.__class__ = Weighted
    found = method(batch)
    for one, other in zip(torch.autograd.grad(found.loss, trained(method)), gradients, strict=True):
        torch.testing.assert_close(one, 2.5 * other, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.trace["positive_mean"], output.trace["positive_mean"])


def test_the_trace_is_the_mean_cosine_of_both_terms(method: Siamese) -> None:
    batch = make_batch()
    with torch.no_grad():
        (first, target_of_first), (second, target_of_second) = map(method.branches, batch.views)
    cosines = [
        float(one @ other / one.norm() / other.norm())
        for pair in ((first, target_of_second), (second, target_of_first))
        for one, other in zip(*pair, strict=True)
    ]
    output = method(batch)
    assert float(output.trace["positive_mean"]) == pytest.approx(sum(cosines) / 16, abs=1e-6)
    assert float(output.metrics["positive_score"]) == pytest.approx(sum(cosines) / 16, abs=1e-6)


def test_a_collapse_has_the_best_loss_and_is_detected(name: str, method: Siamese) -> None:
    class Collapsed(type(method)):  # type: ignore[misc]
        def branches(self, view: Tensor) -> tuple[Tensor, Tensor]:
            return torch.ones(len(view), 6), torch.ones(len(view), 6)

    healthy = method(make_batch()).metrics
    assert 0.3 < float(healthy["embedding_spread"]) < 1.2
    method.__class__ = Collapsed
    output = method(make_batch())
    assert output.loss.item() == pytest.approx(PERFECT[name], abs=1e-5)
    metrics = {key: float(value) for key, value in output.metrics.items()}
    assert metrics["embedding_spread"] == pytest.approx(0.0, abs=1e-5)
    failure = health.failure_reason({"loss": output.loss.item(), **metrics})
    assert failure is not None
    assert failure.kind == health.COLLAPSE


def train(recipe: PretrainRecipe, folder: Path) -> dict[str, Tensor]:
    """Train in the loop; return the method's state."""
    directory = RunDirectory(folder)
    source, accelerator = open_source(recipe.data, "train"), make_accelerator("float32")
    execution = RunOptions(log_every=1, checkpoint_every=1, quiet=True)
    pretrain(recipe, 3, source, directory, accelerator, execution)
    found = checkpoint.load_newest(directory.checkpoints)
    assert found is not None
    state: dict[str, Tensor] = found[1]["method"]
    return state


def test_a_predictor_of_constant_rate_is_trained_at_learning_rate_zero(
    contrastive: Callable[..., PretrainRecipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = contrastive(
        method=SimSiamRecipe(dim=16, predictor_hidden_dim=4),
        optimizer=OptimizerRecipe(
            lr=0.05,
            schedule=ScheduleRecipe("step", milestones=(1,), gamma=0.0),
            constant_rate=("predictor",),
        ),
    )
    make_step = Training.make_step

    def stop_at_6(self: Any, *arguments: Any) -> Any:
        if self.step == 6:
            raise StoppedError
        return make_step(self, *arguments)

    first_epoch = train(replace(recipe, max_steps=4), tmp_path / "first")
    whole = train(recipe, tmp_path / "whole")
    monkeypatch.setattr(Training, "make_step", stop_at_6)
    with pytest.raises(StoppedError):
        train(recipe, tmp_path / "pieces")
    monkeypatch.undo()
    pieces = train(recipe, tmp_path / "pieces")
    for name, value in whole.items():
        assert torch.equal(value, pieces[name]), name
        if name.endswith(("weight", "bias")):
            moved = not torch.equal(value, first_epoch[name])
            assert moved == name.startswith("predictor."), name
