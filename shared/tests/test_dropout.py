"""Dropout as a function of a key and of rows' numbers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retable.random import dropout


@pytest.mark.parametrize("rate", [0.0, 0.25, 0.5, 0.9])
def test_the_share_of_dropped_units_is_the_rate_and_the_mean_stays(rate: float) -> None:
    rows = torch.ones(400, 1000)
    dropped = dropout(rows, rate, 3, torch.arange(400))
    assert float((dropped == 0).float().mean()) == pytest.approx(rate, abs=0.004)
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.02)
    assert sorted(set(dropped.flatten().tolist())) == pytest.approx(
        [1.0] if rate == 0 else [0.0, 1 / (1 - rate)]
    )


def test_units_of_a_row_and_rows_are_dropped_independently() -> None:
    kept = (dropout(torch.ones(4000, 12), 0.5, 3, torch.arange(4000)) > 0).double()
    correlations = torch.corrcoef(kept.T) - torch.eye(12)
    assert correlations.abs().max() < 0.08  # five standard deviations
    of_neighbours = torch.corrcoef(torch.stack([kept[:-1].flatten(), kept[1:].flatten()]))[0, 1]
    assert of_neighbours.abs() < 0.03


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(1, 20), st.data())
def test_a_part_of_the_rows_is_dropped_as_in_the_full_batch(
    n: int, width: int, data: st.DataObject
) -> None:
    rows = torch.randn(n, width)
    whole = dropout(rows, 0.5, 7, torch.arange(n))
    start = data.draw(st.integers(0, n - 1))
    part = dropout(rows[start:], 0.5, 7, torch.arange(start, n))
    assert torch.equal(part, whole[start:])


def test_another_key_drops_other_units() -> None:
    rows = torch.ones(16, 64)
    first, second = (dropout(rows, 0.5, key, torch.arange(16)) for key in (1, 2))
    assert 0.3 < float((first == second).float().mean()) < 0.7


def test_the_gradient_reaches_only_what_was_kept_and_the_type_stays() -> None:
    rows = torch.randn(4, 16, dtype=torch.bfloat16, requires_grad=True)
    dropped = dropout(rows, 0.5, 1, torch.arange(4))
    assert dropped.dtype == torch.bfloat16
    torch.autograd.backward(dropped.sum())
    assert rows.grad is not None
    assert torch.equal(rows.grad, torch.where(dropped == 0, 0.0, 2.0).bfloat16())
