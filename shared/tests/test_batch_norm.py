import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from retable import distributed
from retable.encoders import ResNetRecipe
from retable.errors import UserError
from retable.nn.batch_norm import (
    average_statistics,
    group_batch_norm,
    rows_per_image,
    shuffled,
    without_running_statistics,
)
from retable.testing import run_processes

torch.set_num_threads(1)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def disturbed(layer: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """Give scale, shift and running statistics values that are not their defaults."""
    with torch.no_grad():
        for seed, tensor in enumerate((layer.weight, layer.bias, layer.running_mean)):
            assert tensor is not None
            tensor.copy_(randn(*tensor.shape, seed=seed))
        assert layer.running_var is not None
        layer.running_var.uniform_(0.5, 2, generator=torch.Generator().manual_seed(3))
    return layer


@settings(max_examples=40, deadline=None)
@given(
    groups=st.integers(1, 4),
    size=st.integers(1, 5),
    momentum=st.sampled_from([0.1, 0.5, None]),
    channels_last=st.booleans(),
)
def test_groups_are_normalised_as_separate_batches(
    groups: int, size: int, momentum: float | None, channels_last: bool
) -> None:
    # Source: one ordinary layer called on each group alone, from the same starting state.
    layer = disturbed(nn.BatchNorm2d(3, momentum=momentum))
    images = randn(groups * size, 3, 4, 4, seed=5)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    grouped = group_batch_norm(copy.deepcopy(layer), size)
    alone = [copy.deepcopy(layer) for _ in range(groups)]
    result = grouped(images)
    parts = images.split(size)  # type: ignore[no-untyped-call]
    expected = torch.cat([one(part) for one, part in zip(alone, parts, strict=True)])
    torch.testing.assert_close(result, expected)
    # Each separate layer moved its statistics by its group's: their mean moved by the mean.
    for name in ("running_mean", "running_var"):
        mean = torch.stack([getattr(one, name) for one in alone]).mean(0)
        torch.testing.assert_close(getattr(grouped, name), mean)
    assert grouped.num_batches_tracked == 1
    assert torch.equal(grouped.eval()(images), group_batch_norm(copy.deepcopy(grouped), 1)(images))


def test_gradients_are_those_of_separate_batches() -> None:
    # Source: autograd through ordinary layers in float64.
    layer = disturbed(nn.BatchNorm2d(3)).double()
    grouped = group_batch_norm(copy.deepcopy(layer), 2)
    images = randn(6, 3, 4, 4).double().requires_grad_()
    weights = randn(6, 3, 4, 4, seed=1).double()
    ours = torch.autograd.grad((grouped(images) * weights).sum(), [images, *grouped.parameters()])
    separate = torch.cat([layer(images[start : start + 2]) for start in (0, 2, 4)])
    theirs = torch.autograd.grad((separate * weights).sum(), [images, *layer.parameters()])
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_one_group_is_the_ordinary_layer_to_the_bit() -> None:
    layer = disturbed(nn.BatchNorm2d(3))
    grouped = group_batch_norm(copy.deepcopy(layer), 4)
    images = randn(4, 3, 5, 5)
    assert torch.equal(grouped(images), layer(images))
    for one, other in zip(grouped.buffers(), layer.buffers(), strict=True):
        assert torch.equal(one, other)


def test_conversion_keeps_objects_names_and_weights() -> None:
    encoder = ResNetRecipe("small_resnet8").build(rng_key=0)
    before = dict(encoder.named_parameters())
    state = copy.deepcopy(encoder.state_dict())
    assert group_batch_norm(encoder, 2) is encoder
    group_batch_norm(encoder, 4)
    assert all(before[name] is parameter for name, parameter in encoder.named_parameters())
    assert list(state) == list(encoder.state_dict())
    assert "group_size=4" in repr(encoder)
    copied = copy.deepcopy(encoder)
    assert torch.equal(copied(randn(8, 3, 16, 16)), encoder(randn(8, 3, 16, 16)))


def test_layers_without_running_statistics_or_affine_parameters_work_too() -> None:
    layer = nn.BatchNorm1d(3, affine=False, track_running_stats=False)
    rows = randn(6, 3)
    expected = torch.cat([layer(rows[:3]), layer(rows[3:])])
    torch.testing.assert_close(group_batch_norm(layer, 3)(rows), expected)
    # Without running statistics the batch is normalised in eval mode too, as a whole.
    torch.testing.assert_close(layer.eval()(rows), nn.BatchNorm1d(3, affine=False)(rows))


def test_a_batch_that_groups_do_not_divide_is_refused_in_training_only() -> None:
    layer = group_batch_norm(nn.BatchNorm2d(3), 4)
    with pytest.raises(UserError, match=r"a process's batch of 6 images .* got 4"):
        layer(randn(6, 3, 2, 2))
    assert layer.eval()(randn(6, 3, 2, 2)).shape == (6, 3, 2, 2)
    with pytest.raises(UserError, match="must be at least 1 image"):
        group_batch_norm(layer, 0)


def test_a_group_holds_all_crops_of_its_images() -> None:
    # Source: one ordinary layer called on all crops of the images of one group.
    layer = disturbed(nn.BatchNorm2d(3))
    grouped = group_batch_norm(copy.deepcopy(layer), 2)
    crops = [randn(6, 3, 4, 4, seed=seed) for seed in range(3)]
    with rows_per_image(nn.Sequential(grouped, nn.ReLU()), 3):
        result = grouped(torch.stack(crops, dim=1).flatten(0, 1)).view(6, 3, 3, 4, 4)
    for start in (0, 2, 4):
        rows = slice(start, start + 2)
        alone = copy.deepcopy(layer)(torch.cat([crop[rows] for crop in crops]))
        for crop, expected in enumerate(alone.chunk(3)):
            torch.testing.assert_close(result[rows, crop], expected)
    assert grouped.group_size == 2


def test_rows_per_image_is_reset_after_an_error() -> None:
    layer = group_batch_norm(nn.BatchNorm2d(3), 4)
    with pytest.raises(UserError, match="got 8 with 1 processes"), rows_per_image(layer, 2):
        layer(randn(6, 3, 2, 2))
    assert layer.group_size == 4


@given(count=st.integers(1, 20), rng_key=st.integers(-(2**63), 2**63 - 1))
@settings(max_examples=50, deadline=None)
def test_shuffling_and_back_is_the_identity(count: int, rng_key: int) -> None:
    images = randn(count, 2, 3, 3)
    assert torch.equal(shuffled(lambda x: x.flatten(1), images, rng_key), images.flatten(1))


def test_shuffling_changes_the_groups() -> None:
    images = randn(8, 3, 4, 4)
    layer = group_batch_norm(nn.BatchNorm2d(3), 4)
    assert not torch.allclose(shuffled(layer, images, 1), layer(images))
    assert not torch.allclose(shuffled(layer, images, 1), shuffled(layer, images, 2))
    whole = nn.BatchNorm2d(3)
    torch.testing.assert_close(shuffled(whole, images, 1), whole(images).detach())


Statistics = dict[str, Tensor]


def encode(
    images: Tensor, group: int, shuffle: bool, steps: int, crops: int = 1
) -> tuple[Tensor, Statistics, list[Tensor]]:
    """Encode this process's share; return its outputs, and statistics and gradients averaged."""
    encoder = group_batch_norm(ResNetRecipe("small_resnet8").build(rng_key=0), group)
    outputs = []
    for step in range(steps):
        own = distributed.own_slice(images[step])
        with rows_per_image(encoder, crops):
            outputs.append(shuffled(encoder, own, rng_key=step) if shuffle else encoder(own))
    gradients: list[Tensor] = []
    if not shuffle:
        loss = torch.stack(outputs).sin().mean()
        gradients = [
            distributed.mean(gradient)
            for gradient in torch.autograd.grad(loss, list(encoder.parameters()))
        ]
    average_statistics(encoder)
    statistics = {name: value for name, value in encoder.state_dict().items() if "running" in name}
    return torch.stack(outputs).detach(), statistics, gradients


@pytest.mark.parametrize(
    ("count", "group", "shuffle", "crops"),
    [
        (2, 2, False, 1),
        (2, 2, True, 1),
        # Groups of 4 and of the whole batch of 8 span two and four processes.
        (4, 4, False, 1),
        (4, 8, True, 1),
        # Four images of two crops; groups of one image and of four, which span two processes.
        (2, 1, False, 2),
        (2, 4, False, 2),
    ],
)
def test_the_result_does_not_depend_on_the_number_of_processes(
    count: int, group: int, shuffle: bool, crops: int
) -> None:
    # Source: one process on the joined batch, with the same groups.
    images = randn(2, 8, 3, 16, 16)
    outputs, statistics, gradients = encode(images, group, shuffle, 2, crops)
    shares = run_processes(encode, count, images, group, shuffle, 2, crops)
    joined = torch.cat([share[0] for share in shares], dim=1)
    torch.testing.assert_close(joined, outputs, rtol=1e-4, atol=1e-5)
    for _, averaged, own_gradients in shares:
        torch.testing.assert_close(averaged, statistics, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(own_gradients, gradients, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("groups", [1, 4])
def test_a_pass_can_leave_the_running_statistics_as_they_are(
    momentum: float | None, groups: int
) -> None:
    layer = disturbed(nn.BatchNorm2d(3, momentum=momentum))
    group_batch_norm(layer, 8 // groups)
    images = randn(8, 3, 2, 2, seed=9)
    layer(randn(8, 3, 2, 2, seed=8))
    before = copy.deepcopy(layer.state_dict())
    with without_running_statistics(layer):
        output = layer(images)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    assert layer.momentum == momentum
    assert torch.equal(output, layer(images))
    assert not torch.equal(layer.state_dict()["running_mean"], before["running_mean"])
