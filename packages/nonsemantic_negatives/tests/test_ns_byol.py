import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.nn.functional import normalize

from nonsemantic_negatives import BYOLNS, BYOLNSRecipe, PatchNegatives
from nonsemantic_negatives.byol import other_samples
from retable.errors import UserError
from retable.methods import BYOLRecipe
from retable.methods.method import Batch
from retable.nn.batch_norm import group_batch_norm
from retable.nn.momentum import MomentumRecipe
from retable.random import derive_key
from retable.testing import TinyEncoder, make_batch, run_processes, train_steps

PATCHES = PatchNegatives(low=2, high=5)
SMALL: dict[str, Any] = {"dim": 6, "hidden_dim": 10, "momentum": MomentumRecipe(0.9, "cosine")}
VARIANTS = {
    "patches": BYOLNSRecipe(**SMALL, negatives=PATCHES),
    "two of patches": BYOLNSRecipe(**SMALL, negatives=replace(PATCHES, count=2)),
    "regular": BYOLNSRecipe(**SMALL, negatives=None, regular=True),
    "both": BYOLNSRecipe(**SMALL, negatives=PATCHES, regular=True, alpha=0.5),
}
EACH = pytest.mark.parametrize("recipe", VARIANTS.values(), ids=VARIANTS)


def batch_of(step: int) -> Batch:
    return make_batch(step, sides=(8, 8))


def loss_by_loops(method: BYOLNS, batch: Batch) -> float:
    """Source: sum over both terms of |p - t|^2 - alpha sum |p - n|^2, mean over samples."""
    recipe, total = method.recipe, 0.0
    with torch.no_grad():
        outputs = [method.branches(view) for view in batch.views]
    for term in (0, 1):
        predictions = normalize(outputs[term][0], dim=1)
        targets = normalize(outputs[1 - term][1], dim=1)
        for i in range(len(predictions)):
            negatives = []
            if recipe.negatives is not None:
                images = recipe.negatives.images(batch, term)
                negatives += [normalize(method.target_encoder(one), dim=1)[i] for one in images]
            if recipe.regular:
                key = derive_key(batch.rng_key, "regular negative", term)
                negatives.append(targets[int(other_samples(key, batch.positions, 8)[i])])
            total += float((predictions[i] - targets[i]).square().sum())
            total -= recipe.alpha * sum(
                float((predictions[i] - negative).square().sum()) for negative in negatives
            )
            total += 2 * recipe.alpha * len(negatives)  # the constant that the method leaves out
    return total / len(batch.positions)


@EACH
def test_the_loss_regresses_targets_and_pushes_negatives_away(recipe: BYOLNSRecipe) -> None:
    method = recipe.build(TinyEncoder(), 3)
    train_steps(method, range(2), batch_of)
    batch = batch_of(2)
    assert method(batch).loss.item() == pytest.approx(loss_by_loops(method, batch), abs=2e-5)


def test_with_a_vanishing_alpha_it_is_byol() -> None:
    plain = BYOLRecipe(**SMALL).build(TinyEncoder(), 3)
    losses = train_steps(plain, range(3), batch_of)
    for recipe in VARIANTS.values():
        method = replace(recipe, alpha=1e-12).build(TinyEncoder(), 3)
        assert train_steps(method, range(3), batch_of) == pytest.approx(losses, abs=1e-6)


def test_a_term_is_minus_two_alpha_at_the_target_with_an_orthogonal_negative() -> None:
    # Up to the constant 2 alpha that the method leaves out.
    method = VARIANTS["patches"].build(TinyEncoder(), 3)
    rows = torch.eye(6)[:4]
    method._negatives = (torch.eye(6)[2:][None], torch.eye(6)[2:][None])
    similarities = method.similarity(rows, rows, make_batch(0, 4), 0)
    assert torch.equal(method.loss(torch.stack([similarities] * 2)), torch.tensor(0.0))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_term_lies_between_minus_four_alpha_and_four(sign: float) -> None:
    alpha = 0.5
    method = replace(VARIANTS["patches"], alpha=alpha).build(TinyEncoder(), 3)
    rows = torch.eye(6)[:4]
    method._negatives = ((-sign * rows)[None],) * 2
    similarity = method.similarity(rows, sign * rows, make_batch(0, 4), 0)
    term = 2 - 2 * similarity - 2 * alpha  # with the constant
    expected = -4 * alpha if sign > 0 else 4.0
    torch.testing.assert_close(term, torch.full((4,), expected))


def test_another_sample_is_never_the_sample_itself_and_all_others_are_equally_likely() -> None:
    positions = torch.arange(8)
    drawn = torch.stack([other_samples(key, positions, 8) for key in range(3000)])
    assert (drawn != positions).all()
    for sample in range(8):
        counts = torch.bincount(drawn[:, sample], minlength=8)
        others = [int(counts[other]) for other in range(8) if other != sample]
        assert stats.chisquare(others).pvalue > 0.001


def test_a_batch_of_one_has_no_other_sample() -> None:
    with pytest.raises(UserError, match="A regular negative needs another sample"):
        other_samples(0, torch.arange(1), 1)


def test_negatives_pass_through_the_target_network_without_gradient() -> None:
    method = VARIANTS["patches"].build(TinyEncoder(), 3)
    seen: list[Tensor] = []
    method.target_encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    batch = batch_of(0)
    method(batch).loss.backward()
    negatives = [PATCHES.images(batch, view)[0] for view in (0, 1)]
    for found, expected in zip(seen, [*negatives, *batch.views], strict=True):
        assert torch.equal(found, expected)
    assert all(parameter.grad is None for parameter in method.target_encoder.parameters())


def test_a_regular_negative_needs_no_further_pass() -> None:
    method = VARIANTS["regular"].build(TinyEncoder(), 3)
    seen: list[Tensor] = []
    method.target_encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    method(batch_of(0))
    assert len(seen) == 2
    assert method.encoder_inputs((32, 32)) == ((32, 4.0), (32, 4.0))
    with_patches = VARIANTS["two of patches"].build(TinyEncoder(), 3)
    expected = ((32, 4.0), (32, 4.0), (32, 2.0), (32, 2.0))
    assert with_patches.encoder_inputs((32, 32)) == expected


@EACH
def test_the_mean_cosine_with_negatives_is_logged(recipe: BYOLNSRecipe) -> None:
    method = recipe.build(TinyEncoder(), 3)
    batch = batch_of(0)
    output = method(batch)
    found = float(output.trace["negative_mean"])
    count = (recipe.negatives.count if recipe.negatives else 0) + recipe.regular
    pulled = float(output.trace["positive_mean"])
    expected = (pulled - (4 - output.loss.item()) / 4) / (recipe.alpha * count)
    assert found == pytest.approx(expected, abs=1e-5)
    assert -1 <= found <= 1


@EACH
def test_steps_are_finite_and_continue_to_the_bit(recipe: BYOLNSRecipe) -> None:
    losses = train_steps(recipe.build(TinyEncoder(), 3), range(4), batch_of)
    assert all(math.isfinite(loss) for loss in losses)
    first = recipe.build(TinyEncoder(), 3)
    start = train_steps(first, range(2), batch_of)
    second = recipe.build(TinyEncoder(), 4)
    second.load_state_dict(first.state_dict())
    assert start + train_steps(second, range(2, 4), batch_of) == losses


def train_share(recipe: BYOLNSRecipe, steps: Iterable[int], group: int) -> tuple[Any, ...]:
    method = group_batch_norm(recipe.build(TinyEncoder(norm=True), 3), group)
    assert isinstance(method, BYOLNS)
    losses = train_steps(method, steps, batch_of)
    return losses, next(method.encoder.parameters()), next(method.predictor.parameters())


@pytest.mark.parametrize("name", ["patches", "both"])
@pytest.mark.parametrize("group", [4, 8])
def test_two_processes_train_as_one(name: str, group: int) -> None:
    """Theorem: mean of the processes' losses and gradients = those of the global batch."""
    one = train_share(VARIANTS[name], range(3), group)
    first, second = run_processes(train_share, 2, VARIANTS[name], range(3), group)
    assert first[0] == pytest.approx(one[0], abs=1e-5)
    assert first[0] == pytest.approx(second[0], abs=1e-6)
    for found, expected in zip(first[1:], one[1:], strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


def test_a_recipe_without_negatives_is_refused() -> None:
    with pytest.raises(UserError, match="`negatives` must be a recipe unless `regular` is True"):
        BYOLNSRecipe(negatives=None)
    assert isinstance(VARIANTS["both"].build(TinyEncoder(), 3), BYOLNS)
