import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retable.data.sampler import Sampler
from retable.errors import UserError


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 5), st.booleans())
def test_an_epoch_visits_every_sample_at_most_once(
    length: int, batch_size: int, epoch: int, drop_last: bool
) -> None:
    batch_size = min(batch_size, length)
    sampler = Sampler(length, batch_size, seed=3, drop_last=drop_last)
    first = epoch * sampler.steps_per_epoch
    batches = [sampler.global_batch(first + i) for i in range(sampler.steps_per_epoch)]
    visited = torch.cat(batches).tolist()
    assert len(set(visited)) == len(visited)
    assert length - len(visited) == (length % batch_size if drop_last else 0)
    assert [sampler.batch_length(first + i) for i in range(len(batches))] == [
        len(batch) for batch in batches
    ]


@settings(deadline=None)
@given(st.integers(0, 100), st.integers(0, 100))
def test_a_batch_depends_on_seed_and_step_only_not_on_what_was_asked_before(
    before: int, step: int
) -> None:
    used, fresh = Sampler(50, 8, seed=1), Sampler(50, 8, seed=1)
    used.global_batch(before)
    assert torch.equal(used.global_batch(step), fresh.global_batch(step))


def test_every_epoch_and_every_seed_has_its_own_order() -> None:
    orders = [
        tuple(Sampler(100, 10, seed=seed).epoch_order(epoch).tolist())
        for seed in range(3)
        for epoch in range(3)
    ]
    assert len(set(orders)) == 9
    assert all(sorted(order) == list(range(100)) for order in orders)


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 9))
def test_the_processes_shares_join_to_the_global_batch(
    share: int, processes: int, step: int
) -> None:
    sampler = Sampler(100, share * processes, seed=0)
    parts = [sampler.local_positions(step, process, processes) for process in range(processes)]
    assert torch.equal(torch.cat(parts), torch.arange(share * processes))


def test_a_batch_larger_than_the_data_set_is_refused() -> None:
    with pytest.raises(UserError, match="batch size 11 exceeds the 10 samples"):
        Sampler(10, 11, seed=0)


def test_an_empty_data_set_is_refused() -> None:
    with pytest.raises(UserError, match="empty"):
        Sampler(0, 1, seed=0)


def test_processes_that_do_not_divide_the_batch_are_refused() -> None:
    with pytest.raises(UserError, match="divides 8"):
        Sampler(10, 8, seed=0).local_positions(0, 0, 3)
