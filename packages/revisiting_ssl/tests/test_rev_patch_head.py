"""The head of the patch tasks: its layers, its start, its dropout."""

import math

import pytest
import torch
from torch import nn

from retable.nn.batch_norm import group_batch_norm
from revisiting_ssl import PatchHead


def build(**changes: float) -> PatchHead:
    return PatchHead(20, 5, hidden_dim=300, rng_key=0, **changes)


def rows(images: int = 6, each: int = 4) -> torch.Tensor:
    return torch.randn(images, each, 20, generator=torch.Generator().manual_seed(0))


def test_the_layers_are_those_of_the_official_code() -> None:
    head = PatchHead(2000, 8, rng_key=0)
    assert head.hidden.weight.shape == (4096, 2000)
    assert head.scores.weight.shape == (8, 4096)
    assert (head.norm.eps, head.norm.momentum, head.dropout_rate) == (1e-5, 0.003, 0.5)
    for weight in (head.hidden.weight, head.scores.weight):
        # A normal distribution cut at two deviations keeps 0.8796 of its deviation.
        assert weight.std().item() == pytest.approx(0.005 * 0.8796, rel=0.02)
        assert 0.0099 < weight.abs().max().item() <= 0.01
    assert head.hidden.bias.detach().tolist() == pytest.approx([0.1] * 4096)
    assert head.scores.bias.abs().max() == 0


def test_in_evaluation_it_is_five_lines_of_torch() -> None:
    head, given = build().eval(), rows()
    with torch.no_grad():
        head.norm.running_mean.normal_()  # type: ignore[union-attr]
        head.norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
        head.norm.weight.normal_()
    hidden = head.norm(given.view(24, 20) @ head.hidden.weight.T + head.hidden.bias)
    expected = hidden.clamp(min=0) @ head.scores.weight.T + head.scores.bias
    torch.testing.assert_close(head(given, 0, torch.arange(6)), expected.view(6, 4, 5))


def test_dropout_leaves_the_mean_of_the_scores() -> None:
    head, given = build(), rows()
    with torch.no_grad():
        head.scores.weight.mul_(100)
    positions = torch.arange(6)
    drawn = torch.stack([head(given, key, positions) for key in range(400)]).detach()
    head.dropout_rate = 0.0
    expected = head(given, 0, positions).detach()
    error = drawn.std(dim=0) / math.sqrt(400)
    assert ((drawn.mean(dim=0) - expected).abs() < 5 * error).all()
    assert error.min() > 0


def test_rows_of_an_image_and_images_are_dropped_on_their_own() -> None:
    head = build()
    alike = rows(1, 1).expand(6, 4, 20)
    with torch.no_grad():
        head.norm.weight.zero_()  # the hidden units are all one: scores tell the dropout alone
        head.norm.bias.fill_(1)
    scores = head(alike, 0, torch.arange(6)).detach().view(24, 5)
    assert len({tuple(row) for row in scores.tolist()}) == 24


def test_a_part_of_the_images_is_dropped_as_in_the_whole_batch() -> None:
    head, given = group_batch_norm(build(), 2), rows()
    whole = head(given, 7, torch.arange(6))
    parts = [head(given[i : i + 2], 7, torch.arange(i, i + 2)) for i in (0, 2, 4)]
    torch.testing.assert_close(torch.cat(parts), whole)
    assert not torch.allclose(head(given, 8, torch.arange(6)), whole)


def test_groups_of_batch_norm_count_images_and_not_rows() -> None:
    head, given = build(dropout_rate=0.0), rows()
    expected = [head(given[i : i + 3], 0, torch.arange(3)) for i in (0, 3)]
    group_batch_norm(head, 3)
    torch.testing.assert_close(head(given, 0, torch.arange(6)), torch.cat(expected))


def test_running_statistics_follow_at_the_momentum_that_was_asked_for() -> None:
    moved = []
    for momentum in (0.003, 0.1):
        head = build(norm_momentum=momentum)
        head(rows(), 0, torch.arange(6))
        assert isinstance(head.norm, nn.BatchNorm1d)
        assert head.norm.running_mean is not None
        moved.append(head.norm.running_mean)
    torch.testing.assert_close(moved[0] / 0.003, moved[1] / 0.1)
    assert moved[0].abs().max() > 0
