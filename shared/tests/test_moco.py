from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from retable.methods import MoCo, MoCoRecipe, moco_v1, moco_v2
from retable.testing import TinyEncoder, make_batch


def make_moco(**changes: object) -> MoCo:
    return MoCo(TinyEncoder(), moco_v2(queue=8, dim=6, **changes), rng_key=3)


def test_loss_equals_the_formula_in_plain_loops() -> None:
    # He et al. (2020), equation 1, in float64, one query and one negative at a time.
    moco, batch = make_moco(), make_batch(size=4)
    q = moco.queries(batch.views[0]).detach().double()
    k = moco.keys(batch.views[1], batch).double()
    for rows in (q, k):
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(4).double())
    losses = []
    for b in range(4):
        positive = math.exp(float(q[b] @ k[b]) / 0.2)
        negatives = sum(math.exp(float(q[b] @ moco.queue.rows[j].double()) / 0.2) for j in range(8))
        losses.append(-math.log(positive / (positive + negatives)))
    assert moco(batch).loss.item() == pytest.approx(sum(losses) / 4, abs=1e-6)


def test_keys_are_enqueued_after_the_step_only() -> None:
    moco, batch = make_moco(), make_batch(size=4)
    keys = moco.keys(batch.views[1], batch)
    before = moco.queue.rows.clone()
    moco(batch).loss.backward()
    assert torch.equal(moco.queue.rows, before)
    moco.after_step(batch.progress)
    torch.testing.assert_close(moco.queue.rows[:4], keys)
    assert torch.equal(moco.queue.rows[4:], before[4:])


def test_a_missing_after_step_is_an_error() -> None:
    moco = make_moco()
    moco(make_batch(size=4))
    with pytest.raises(RuntimeError, match="after_step"):
        moco(make_batch(1, size=4))


def test_key_encoder_is_updated_before_it_encodes_keys() -> None:
    moco = make_moco(momentum=0.9)
    parameter, copy = next(moco.encoder.parameters()), next(moco.key_encoder.parameters())
    with torch.no_grad():
        parameter.add_(1.0)
    expected = 0.9 * copy + 0.1 * parameter
    batch = make_batch(size=4)
    moco(batch)
    torch.testing.assert_close(copy, expected)
    moco.after_step(batch.progress)
    torch.testing.assert_close(moco.queue.rows[:4], moco.keys(batch.views[1], batch))


def test_the_shuffle_changes_nothing_without_batch_norm() -> None:
    batch = make_batch(size=4)
    torch.testing.assert_close(
        make_moco(shuffle=True).keys(batch.views[1], batch),
        make_moco(shuffle=False).keys(batch.views[1], batch),
    )


def test_oracle_without_false_negatives_equals_moco() -> None:
    batch = make_batch(size=4, labels=[1, 2, 3, 4])
    assert torch.equal(make_moco(oracle=True)(batch).loss, make_moco(oracle=False)(batch).loss)


def test_oracle_without_any_negative_left_has_loss_zero_and_a_finite_gradient() -> None:
    moco = make_moco(oracle=True)
    moco.queue.enqueue(moco.queue.rows.clone(), torch.full((8,), 7))
    loss = moco(make_batch(size=4, labels=[7] * 4)).loss
    loss.backward()
    assert loss.item() == 0.0
    assert all(torch.isfinite(p.grad).all() for p in moco.encoder.parameters())  # type: ignore[arg-type]


def test_proxy_accuracy_is_the_share_of_queries_whose_key_outranks_the_queue() -> None:
    moco, batch = make_moco(), make_batch(size=4)
    logits = torch.tensor([[0.5, 0.4, 0.3], [0.1, 0.2, 0.0], [0.9, 0.8, 0.7], [0.0, -0.1, 0.3]])
    metrics = moco.metrics(logits, torch.randn(4, 6), torch.randn(4, 6), batch)
    assert float(metrics["proxy_accuracy"]) == 0.5
    assert metrics["chance_loss"] == math.log(3)
    assert metrics["queue_full_step"] == 2


def test_queue_fill_is_compared_with_the_expected_fill() -> None:
    moco, idle = make_moco(), make_moco()
    fills = []
    for step in range(4):
        for method in (moco, idle):
            metrics = method(make_batch(step, size=3)).metrics
            fills.append((metrics["queue_fill"], metrics["queue_expected_fill"]))
        moco.after_step(make_batch(step).progress)
        idle._unqueued = None  # as a method would whose after_step enqueues nothing
    assert fills[::2] == [(fill, fill) for fill in (0.0, 3 / 8, 6 / 8, 1.0)]
    assert fills[1::2] == [(0.0, fill) for fill in (0.0, 3 / 8, 6 / 8, 1.0)]


def test_the_trace_has_raw_scores_with_all_rows_of_the_queue() -> None:
    for oracle in (False, True):
        moco, batch = make_moco(oracle=oracle), make_batch(size=4, labels=[7, 1, 7, 1])
        moco.queue.enqueue(moco.queue.rows.clone(), torch.arange(8))
        queries, keys = moco.queries(batch.views[0]).detach(), moco.keys(batch.views[1], batch)
        scores = (queries @ moco.queue.rows.T).double()
        expected = {
            "positive_mean": float((queries * keys).sum(1).mean()),
            "negative_mean": float(scores.mean()),
            "negative_variance": float(scores.var(dim=1).mean()),
        }
        trace = moco(batch).trace
        assert {name: float(value) for name, value in trace.items()} == pytest.approx(expected)
        assert not any(v.requires_grad for v in trace.values() if isinstance(v, Tensor))


def test_versions_differ_in_head_and_temperature() -> None:
    assert moco_v1() == MoCoRecipe(temperature=0.07, head="linear")
    assert moco_v2() == MoCoRecipe(temperature=0.2, head="mlp")
