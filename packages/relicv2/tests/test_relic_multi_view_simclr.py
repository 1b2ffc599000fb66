"""SimCLR on more than two views."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from relicv2.multi_view_simclr import MultiViewSimCLRRecipe, multi_view_nt_xent
from retable.encoders import ResNetRecipe
from retable.errors import UserError
from retable.methods import Batch, Progress, SimCLRRecipe
from retable.nn.losses import nt_xent


def unit(views: int, batch: int = 6) -> list[Tensor]:
    torch.manual_seed(views)
    rows = torch.randn(views, batch, 5, dtype=torch.float64)
    return [*F.normalize(rows, dim=2)]


@pytest.mark.parametrize(("views", "large"), [(2, 2), (2, 1)])
def test_the_loss_of_two_views_is_simclr_s(views: int, large: int) -> None:
    first, second = unit(views)
    assert torch.equal(multi_view_nt_xent([first, second], large, 0.1), nt_xent(first, second, 0.1))


def test_small_views_are_not_contrasted_with_each_other() -> None:
    views = unit(5)
    by_hand = [nt_xent(views[a], views[b], 0.2) for a in (0, 1) for b in range(a + 1, 5)]
    assert len(by_hand) == 7
    found = multi_view_nt_xent(views, 2, 0.2)
    torch.testing.assert_close(found, torch.stack(by_hand).mean())


def test_views_of_two_sizes_train() -> None:
    recipe = MultiViewSimCLRRecipe(large=2, dim=8, hidden_dim=16)
    method = recipe.build(ResNetRecipe("small_resnet8").build(0), 1).train()
    torch.manual_seed(0)
    views = (*torch.rand(2, 4, 3, 16, 16), *torch.rand(1, 4, 3, 8, 8))
    places = torch.arange(4)
    output = method(Batch(views, places, places, places, Progress(1, 1, 1), 0))
    output.loss.backward()
    assert all(parameter.grad is not None for parameter in method.parameters())


def test_small_views_stay_out_of_the_running_statistics() -> None:
    torch.manual_seed(0)
    large, small = torch.rand(2, 4, 3, 16, 16), 9 * torch.rand(3, 4, 3, 8, 8)
    statistics = []
    for views in ((*large,), (*large, *small)):
        method = MultiViewSimCLRRecipe(large=2, dim=8).build(
            ResNetRecipe("small_resnet8").build(0), 1
        )
        method.train().embeddings(views)
        statistics.append(method.state_dict())
    for name, value in statistics[0].items():
        assert torch.equal(value, statistics[1][name]), name


def test_the_first_step_of_two_views_is_that_of_simclr() -> None:
    torch.manual_seed(0)
    views = (*torch.rand(2, 4, 3, 16, 16),)
    places = torch.arange(4)
    batch = Batch(views, places, places, places, Progress(1, 1, 1), 0)
    found = [
        recipe.build(ResNetRecipe("small_resnet8").build(0), 1).train()(batch)
        for recipe in (MultiViewSimCLRRecipe(dim=8, large=2), SimCLRRecipe(dim=8))
    ]
    torch.testing.assert_close(found[0].loss, found[1].loss)
    assert found[0].metrics.keys() == found[1].metrics.keys()


def test_too_few_views_are_refused() -> None:
    with pytest.raises(UserError, match="at most the number of views"):
        multi_view_nt_xent(unit(3), 4, 0.1)
