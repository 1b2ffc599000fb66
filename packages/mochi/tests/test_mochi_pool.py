import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mochi.pool import hardest
from retable.errors import UserError


@given(
    batch=st.integers(1, 4),
    # Powers of two with small pools take the two rounds, the others one.
    size=st.sampled_from([1, 7, 64, 1000, 1024, 2048, 4096]),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**32),
)
def test_the_pool_is_the_top_of_a_full_sort(batch: int, size: int, share: float, seed: int) -> None:
    # Independent reference: torch.sort of whole rows.
    cosines = torch.randn(batch, size, generator=torch.Generator().manual_seed(seed))
    n_hard = max(1, round(share**3 * size))
    expected = cosines.sort(dim=1, descending=True).values[:, :n_hard]
    pool = hardest(cosines, n_hard)
    assert torch.equal(cosines.gather(1, pool.rows), expected)
    assert all(len(set(rows)) == n_hard for rows in pool.rows.tolist())
    assert pool.sizes.tolist() == [n_hard] * batch


@pytest.mark.parametrize("size", [40, 4096])
def test_masked_rows_shrink_the_pool_and_are_never_at_a_usable_position(size: int) -> None:
    cosines = torch.randn(3, size, generator=torch.Generator().manual_seed(0))
    cosines[0, 5:] = -math.inf
    cosines[1] = -math.inf
    pool = hardest(cosines, 8)
    assert pool.sizes.tolist() == [5, 0, 8]
    assert sorted(pool.rows[0, :5].tolist()) == [0, 1, 2, 3, 4]


def test_all_rows_may_tie() -> None:
    pool = hardest(torch.zeros(2, 4096), 16)
    assert all(len(set(rows)) == 16 for rows in pool.rows.tolist())


@pytest.mark.parametrize("temperature", [0.07, 0.2, 3.0])
def test_the_pool_does_not_depend_on_the_temperature(temperature: float) -> None:
    cosines = torch.randn(4, 512, dtype=torch.float64)
    assert torch.equal(hardest(cosines, 32).rows, hardest(cosines / temperature, 32).rows)


@pytest.mark.parametrize("n_hard", [0, 9])
def test_a_pool_that_does_not_fit_the_queue_is_a_user_error(n_hard: int) -> None:
    with pytest.raises(UserError, match=f"`n_hard` must be .* the queue's 8 rows, got {n_hard}"):
        hardest(torch.randn(2, 8), n_hard)
