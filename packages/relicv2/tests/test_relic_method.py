import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relicv2.candidates import draw_candidates
from relicv2.loss import pair_losses
from relicv2.method import ReLICv2, ReLICv2Recipe
from retable.data.batch import Batch, Progress
from retable.encoders import ResNetRecipe
from retable.errors import UserError
from retable.nn.momentum import MomentumRecipe

SMALL_HEADS = {"dim": 8, "hidden_dim": 16}
IMAGES = 6


def encoder() -> nn.Module:
    return ResNetRecipe("resnet18", width=0.0625).build(rng_key=1)


def method(**options: object) -> ReLICv2:
    recipe = ReLICv2Recipe(**(SMALL_HEADS | {"large": 2, "negatives": 3} | options))  # type: ignore[arg-type]
    return recipe.build(encoder(), rng_key=0)


def batch(large: int = 2, small: int = 1, step: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(step)
    sizes = [32] * large + [16] * small
    views = tuple(torch.randn(IMAGES, 3, size, size, generator=generator) for size in sizes)
    positions = torch.arange(IMAGES)
    return Batch(views, positions, positions, positions, Progress(step, 10, 2), step)


def test_the_target_sees_large_views_only_and_every_view_passes_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained = method()
    seen: dict[str, list[tuple[int, ...]]] = {"online": [], "target": []}
    for name, network in (("online", trained.encoder), ("target", trained.target_encoder)):
        network.register_forward_pre_hook(
            lambda _, inputs, name=name: seen[name].append(tuple(inputs[0].shape))
        )
    trained(batch(2, 3))
    large, small = (IMAGES, 3, 32, 32), (IMAGES, 3, 16, 16)
    assert seen["online"] == [large, large, small, small, small]
    assert seen["target"] == [large, large]
    assert trained.encoder_inputs((32, 32, 16)) == ((32, 4.0), (32, 4.0), (16, 3.0))


def test_small_views_stay_out_of_the_running_statistics() -> None:
    with_small, without = method(), method()
    with_small(batch(2, 3)).loss.backward()
    without(batch(2, 0)).loss.backward()
    for name, value in with_small.state_dict().items():
        assert torch.equal(value, without.state_dict()[name]), name


def test_the_target_network_has_its_own_statistics_and_is_changed_by_its_update_alone() -> None:
    trained = method()
    assert not trained.outputs(batch())[1].requires_grad
    before = copy.deepcopy(trained.target_encoder.state_dict())
    trained(batch()).loss.backward()
    parameters = [p for p in trained.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in parameters)
    torch.optim.SGD(parameters, lr=0.1).step()
    fixed = dict(trained.target_encoder.named_parameters()).keys()
    after = trained.target_encoder.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert not changed & fixed
    assert {name for name in after if "running" in name} <= changed  # its batches', in training
    trained.after_step(Progress(0, 10, 2))
    assert any(not torch.equal(p, before[n]) for n, p in trained.target_encoder.named_parameters())


def test_a_step_is_the_loss_of_the_networks_outputs_with_the_recipe_s_settings() -> None:
    settings = {
        "temperature": 0.7,
        "contrast_scale": 0.5,
        "invariance_scale": 2.5,
        "same_view_pairs": False,
        "reference": "transpose",
        "stop_gradient": "none",
    }
    one = batch(2, 1)
    trained, twin = method(**settings), method(**settings)
    output = trained(one)
    output.loss.backward()
    online = [twin.predictor(twin.projector(twin.encoder(view))) for view in one.views]
    targets = [twin.target_encoder(view) for view in one.views[:2]]
    losses = pair_losses(
        F.normalize(torch.stack(online), dim=2),
        F.normalize(torch.stack(targets), dim=2),
        draw_candidates(one.rng_key, one.positions, IMAGES, negatives=3),
        temperature=0.7,
        same_view_pairs=False,
        reference="transpose",
        stop_gradient="none",
    )
    expected = losses.total(0.5, 2.5)
    expected.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(output.loss, expected)
    assert output.metrics["contrastive"] == losses.means()[0]
    for ours, theirs in zip(trained.encoder.parameters(), twin.encoder.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize(("momentum", "moves"), [(1.0, False), (0.0, True)])
def test_the_ends_of_the_momentum_freeze_or_copy(momentum: float, moves: bool) -> None:
    trained = method(momentum=MomentumRecipe(momentum))
    before = copy.deepcopy(list(trained.target_encoder.parameters()))
    online = nn.Sequential(trained.encoder, trained.projector)
    with torch.no_grad():
        for parameter in online.parameters():
            parameter.add_(1.0)
    trained.after_step(Progress(0, 10, 2))
    expected = list(online.parameters()) if moves else before
    for found, wanted in zip(trained.target_encoder.parameters(), expected, strict=True):
        assert torch.equal(found, wanted)


def test_the_momentum_rises_to_one() -> None:
    momentum = ReLICv2Recipe().momentum
    assert [momentum.at(step, 100) for step in (0, 50, 100)] == pytest.approx([0.996, 0.998, 1.0])


def test_the_loss_is_that_of_chance_where_all_images_are_alike() -> None:
    # In evaluation mode: batch norm of equal images divides rounding errors by nearly 0.
    trained = method().eval()
    one = batch(2, 1)
    same = Batch(
        tuple(view[:1].expand(IMAGES, -1, -1, -1) for view in one.views),
        *(one.labels, one.indices, one.positions, one.progress, one.rng_key),
    )
    output = trained(same)
    chance = output.metrics["contrastive_chance"]
    assert float(output.metrics["contrastive"]) == pytest.approx(chance, abs=1e-4)
    assert float(output.loss.detach()) == pytest.approx(0.3 * chance, abs=1e-4)
    assert float(output.metrics["invariance"]) == pytest.approx(0.0, abs=1e-6)


def test_negatives_differ_between_steps() -> None:
    trained = method(negatives=1).eval()

    def contrastive(step: int) -> Tensor:
        views = batch().views
        positions = torch.arange(IMAGES)
        one = Batch(views, positions, positions, positions, Progress(step, 10, 2), step)
        found = trained(one).metrics["contrastive"]
        assert isinstance(found, Tensor)
        return found

    assert torch.equal(contrastive(0), contrastive(0))
    assert not torch.equal(contrastive(0), contrastive(1))


def test_state_saved_in_the_middle_continues_to_the_bit() -> None:
    def train_steps(trained: ReLICv2, steps: range) -> list[float]:
        optimizer = torch.optim.SGD([p for p in trained.parameters() if p.requires_grad], 0.1)
        losses = []
        for step in steps:
            output = trained(batch(2, 1, step))
            optimizer.zero_grad()
            output.loss.backward()
            optimizer.step()
            trained.after_step(Progress(step, 10, 2))
            losses.append(float(output.loss.detach()))
        return losses

    losses = train_steps(method(), range(4))
    first = method()
    start = train_steps(first, range(2))
    second = first.recipe.build(encoder(), rng_key=7)
    second.load_state_dict(first.state_dict())
    assert start + train_steps(second, range(2, 4)) == losses


@pytest.mark.parametrize(("large", "small"), [(1, 0), (1, 2), (2, 0), (3, 2)])
def test_any_number_of_views_trains(large: int, small: int) -> None:
    trained = method(large=large)
    output = trained(batch(large, small))
    output.loss.backward()
    assert torch.isfinite(output.loss)
    assert ("invariance_small" in output.metrics) == (small > 0)
    assert ("positive_score" in output.metrics) == (large > 1)


def test_more_negatives_than_other_images_are_all_others() -> None:
    output = method(negatives=100)(batch())
    assert output.metrics["contrastive_chance"] == pytest.approx(math.log(IMAGES))


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_losses_and_metrics_are_float32_under_autocast(precision: torch.dtype) -> None:
    with torch.autocast("cpu", precision):
        output = method()(batch(2, 1))
    values = [output.loss, *output.metrics.values()]
    tensors = [value for value in values if isinstance(value, Tensor)]
    assert len(tensors) > 4
    assert {value.dtype for value in tensors} == {torch.float32}
    output.loss.backward()
    assert output.loss.isfinite()


def test_a_single_view_has_no_pair_but_with_itself() -> None:
    with pytest.raises(UserError, match="`same_view_pairs` must be true for a single view"):
        method(large=1, same_view_pairs=False).encoder_inputs((32,))


def test_more_large_views_than_there_are_views_are_refused() -> None:
    for use in (
        lambda: method(large=4)(batch(2, 0)),
        lambda: method(large=4).encoder_inputs((8, 8)),
    ):
        with pytest.raises(
            UserError, match="`large` must be at most the number of views, 2, got 4"
        ):
            use()
