from collections import deque
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from retable.errors import UserError
from retable.nn.queues import KeyQueue
from retable.random import normal


@settings(max_examples=200, deadline=None)
@given(size=st.integers(1, 12), data=st.data())
def test_the_queue_equals_a_deque_for_any_batch_sizes(size: int, data: st.DataObject) -> None:
    # Source: collections.deque(maxlen=K).
    batches = data.draw(st.lists(st.integers(0, size), max_size=8))
    queue = KeyQueue(size, 3, rng_key=5, labels=True)
    reference = deque(zip(queue.rows.tolist(), [-1] * size, strict=True), maxlen=size)
    position = 0
    for count in batches:
        keys = torch.arange(position, position + 3 * count).view(count, 3).float()
        labels = torch.arange(count) + position
        queue.enqueue(keys, labels)
        reference.extend(zip(keys.tolist(), labels.tolist(), strict=True))
        position += 3 * count + 1
    assert queue.labels is not None
    oldest_first = torch.arange(queue.pointer, queue.pointer + size) % size
    assert queue.rows[oldest_first].tolist() == [row for row, _ in reference]
    assert queue.labels[oldest_first].tolist() == [label for _, label in reference]
    assert queue.filled == min(sum(batches), size)


@settings(max_examples=50, deadline=None)
@given(
    size=st.integers(1, 9),
    before=st.lists(st.integers(1, 9), max_size=5),
    after=st.lists(st.integers(1, 9), max_size=5),
)
def test_a_loaded_queue_continues_exactly(size: int, before: list[int], after: list[int]) -> None:
    def push(queue: KeyQueue, counts: list[int], start: int) -> None:
        for step, count in enumerate(counts, start):
            queue.enqueue(torch.full((min(count, size), 2), float(step)))

    straight = KeyQueue(size, 2, rng_key=0)
    push(straight, before + after, 0)
    stopped, resumed = KeyQueue(size, 2, rng_key=0), KeyQueue(size, 2, rng_key=99)
    push(stopped, before, 0)
    resumed.load_state_dict(stopped.state_dict())
    push(resumed, after, len(before))
    assert torch.equal(resumed.rows, straight.rows)
    assert (resumed.pointer, resumed.filled) == (straight.pointer, straight.filled)


def assert_moments_are_those_of_the_rows(queue: KeyQueue) -> None:
    rows = queue.rows.double()
    size, mean, products = queue.moments
    assert size == len(rows)
    assert mean.dtype == products.dtype == torch.float64
    torch.testing.assert_close(mean, rows.mean(0), rtol=0, atol=1e-14)
    expected = torch.einsum("ki,kj->ij", rows, rows) / size
    torch.testing.assert_close(products, expected, rtol=0, atol=1e-14)


@settings(max_examples=100, deadline=None)
@given(size=st.integers(1, 40), data=st.data())
def test_the_moments_are_those_of_all_rows_after_any_batches_and_restarts(
    size: int, data: st.DataObject
) -> None:
    queue = KeyQueue(size, 3, rng_key=5)
    assert_moments_are_those_of_the_rows(queue)
    for step, count in enumerate(data.draw(st.lists(st.integers(0, size), max_size=30))):
        queue.enqueue(nn.functional.normalize(normal(step, torch.arange(3 * count).view(-1, 3))))
        if data.draw(st.booleans()):
            loaded = KeyQueue(size, 3, rng_key=6)
            loaded.load_state_dict(queue.state_dict())
            assert all(map(torch.equal, loaded.moments[1:], queue.moments[1:]))
            queue = loaded
    assert_moments_are_those_of_the_rows(queue)


def test_moments_do_not_drift() -> None:
    queue = KeyQueue(100, 4, rng_key=0)
    keys = nn.functional.normalize(normal(1, torch.arange(64 * 7 * 4).view(64, 7, 4)), dim=2)
    for step in range(3000):
        queue.enqueue(keys[step % 64])
    assert_moments_are_those_of_the_rows(queue)


def test_nonfinite_keys_leave_the_moments_when_overwritten() -> None:
    queue = KeyQueue(6, 2, rng_key=0)
    queue.enqueue(torch.full((4, 2), torch.nan))
    assert queue.moments.mean.isnan().any()
    for _ in range(3):
        queue.enqueue(torch.ones(4, 2))
    assert_moments_are_those_of_the_rows(queue)


def test_the_state_survives_safe_files(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    queue = KeyQueue(5, 2, rng_key=0, labels=True)
    queue.enqueue(torch.ones(3, 2), torch.arange(3))
    torch.save(queue.state_dict(), tmp_path / "queue.pt")
    save_file(queue.state_dict(), tmp_path / "queue.safetensors")
    for state in (
        torch.load(tmp_path / "queue.pt", weights_only=True),
        load_file(tmp_path / "queue.safetensors"),
    ):
        loaded = KeyQueue(5, 2, rng_key=1, labels=True)
        loaded.load_state_dict(state)
        assert loaded.pointer == loaded.filled == 3
        assert torch.equal(loaded.rows, queue.rows)


def test_the_first_rows_are_isotropic_unit_vectors() -> None:
    rows = KeyQueue(4096, 16, rng_key=0).rows
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(4096))
    # The mean of K isotropic unit vectors has length about 1/sqrt(K); their covariance is I/D.
    assert rows.mean(0).norm() < 3 / 64
    torch.testing.assert_close(rows.T @ rows / 4096, torch.eye(16) / 16, atol=0.01, rtol=0)


def test_enqueueing_before_the_backward_pass_is_an_error() -> None:
    queue = KeyQueue(4, 2, rng_key=0)
    queries = torch.randn(2, 2, requires_grad=True, generator=torch.Generator().manual_seed(0))
    loss = (queries @ queue.rows.T).logsumexp(1).sum()
    queue.enqueue(torch.ones(2, 2))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, queries)


def test_enqueued_keys_carry_no_gradient() -> None:
    queue = KeyQueue(4, 2, rng_key=0)
    queue.enqueue(torch.ones(2, 2, requires_grad=True) * 2)
    assert not queue.rows.requires_grad


def test_misuse_is_refused() -> None:
    with pytest.raises(UserError, match="`keys` must have at most the queue's 4 rows, got 5"):
        KeyQueue(4, 2, rng_key=0).enqueue(torch.ones(5, 2))
    with pytest.raises(UserError, match="`labels` must be given"):
        KeyQueue(4, 2, rng_key=0, labels=True).enqueue(torch.ones(1, 2))
    with pytest.raises(UserError, match="Build it with labels=True"):
        KeyQueue(4, 2, rng_key=0).enqueue(torch.ones(1, 2), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(UserError, match="at least 1 row"):
        KeyQueue(0, 2, rng_key=0)
