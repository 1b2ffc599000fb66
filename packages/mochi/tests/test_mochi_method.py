import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from mochi import MoCHi, MoCHiRecipe
from mochi.analysis import false_negatives, proxy_accuracy
from mochi.logits import logits_from_draws
from retable.errors import UserError
from retable.methods.method import Batch
from retable.methods.moco import MoCo, moco_v2
from retable.nn.batch_norm import group_batch_norm
from retable.testing import TinyEncoder, make_batch, own_share, run_processes, train_steps
from retable.train.schedules import ScheduleRecipe, learning_rate

RECIPE = MoCHiRecipe(
    queue=32, dim=6, momentum=0.9, n_hard=8, s=10, s_prime=12, mixing_warmup_epochs=1
)
STEPS_PER_EPOCH = 5

Share = tuple[list[float], Tensor, Tensor, Tensor, Tensor]


MIXING = range(STEPS_PER_EPOCH, STEPS_PER_EPOCH + 3)


def cosines_of_step(method: MoCo, step: int) -> tuple[Tensor, Tensor, Tensor, Batch]:
    batch = make_batch(step)
    queries, keys = method.queries(batch.views[0]), method.keys(batch.views[1], batch)
    return method.logits(queries, keys, batch), queries, keys, batch


def labels_of(method: MoCo) -> Tensor:
    assert method.queue.labels is not None
    return method.queue.labels


# When it mixes


def test_without_synthetic_points_it_is_moco_v2_to_the_bit() -> None:
    plain = moco_v2(queue=32, dim=6, momentum=0.9).build(TinyEncoder(), 3)
    mochi = replace(RECIPE, s=0, s_prime=0).build(TinyEncoder(), 3)
    assert train_steps(plain, range(8)) == train_steps(mochi, range(8))
    for one, other in zip(plain.parameters(), mochi.parameters(), strict=True):
        assert torch.equal(one, other)
    assert cosines_of_step(mochi, 8)[0].shape == (8, 1 + 32)


def test_the_warm_up_is_moco_v2_to_the_bit_and_its_end_is_not() -> None:
    plain = moco_v2(queue=32, dim=6, momentum=0.9).build(TinyEncoder(), 3)
    mochi = RECIPE.build(TinyEncoder(), 3)
    before = [train_steps(method, range(STEPS_PER_EPOCH)) for method in (plain, mochi)]
    assert before[0] == before[1]
    after = [train_steps(method, [STEPS_PER_EPOCH])[0] for method in (plain, mochi)]
    assert after[1] > after[0]


@pytest.mark.parametrize(("s", "s_prime"), [(10, 12), (0, 12), (10, 0)])
def test_after_the_warm_up_synthetic_columns_join_positive_and_queue(s: int, s_prime: int) -> None:
    mochi = replace(RECIPE, s=s, s_prime=s_prime).build(TinyEncoder(), 3)
    assert cosines_of_step(mochi, STEPS_PER_EPOCH - 1)[0].shape == (8, 1 + 32)
    logits, queries, keys, batch = cosines_of_step(mochi, STEPS_PER_EPOCH)
    assert logits.shape == (8, 1 + 32 + s + s_prime)
    torch.testing.assert_close(logits[:, 0], cosine_similarity(queries, keys))
    cosines = queries @ mochi.queue.rows.T
    torch.testing.assert_close(logits[:, 1:33], cosines)
    pool, draws = mochi.pool_and_draws(cosines, batch)
    expected = logits_from_draws(queries, mochi.queue.rows, cosines, pool, draws)
    torch.testing.assert_close(logits[:, 33:], expected)


def test_paper_settings_with_more_points_than_hard_negatives_run() -> None:
    mochi = replace(RECIPE, n_hard=4, s=64, s_prime=48).build(TinyEncoder(), 3)
    assert all(math.isfinite(loss) for loss in train_steps(mochi, MIXING))


# What it leaves alone


def test_no_gradient_reaches_the_key_encoder_or_the_queue() -> None:
    mochi = RECIPE.build(TinyEncoder(), 3)
    mochi(make_batch(STEPS_PER_EPOCH)).loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in mochi.key_encoder.parameters())
    assert not mochi.queue.rows.requires_grad
    assert all(p.grad is not None for p in mochi.encoder.parameters())


def test_only_keys_enter_the_queue_after_the_loss() -> None:
    mochi = RECIPE.build(TinyEncoder(), 3)
    train_steps(mochi, range(STEPS_PER_EPOCH))  # 40 keys into 32 rows: the pointer is 8
    batch = make_batch(STEPS_PER_EPOCH)
    before = mochi.queue.rows.clone()
    mochi(batch)
    assert torch.equal(mochi.queue.rows, before)
    keys = mochi.keys(batch.views[1], batch)
    assert (keys @ before.T).max() < 1 - 1e-4
    mochi.after_step(batch.progress)
    torch.testing.assert_close(mochi.queue.rows[8:16], keys)
    assert torch.equal(mochi.queue.rows[16:], before[16:])
    assert torch.equal(mochi.queue.rows[:8], before[:8])
    torch.testing.assert_close(mochi.queue.rows.norm(dim=1), torch.ones(32))


def test_the_key_encoder_is_updated_and_has_its_own_statistics() -> None:
    # Source: theta_k <- m theta_k + (1 - m) theta_q over parameters, with theta_q of this forward.
    mochi = RECIPE.build(TinyEncoder(norm=True), 3)
    train_steps(mochi, range(2))
    query_parameters = [*mochi.encoder.parameters(), *mochi.head.parameters()]
    expected = [
        0.9 * k + (1 - 0.9) * q.detach()
        for k, q in zip(mochi.key_encoder.parameters(), query_parameters, strict=True)
    ]
    mochi(make_batch(2))
    torch.testing.assert_close(list(mochi.key_encoder.parameters()), expected)
    own = dict(mochi.encoder.named_buffers())["norm.running_mean"]
    copied = dict(mochi.key_encoder.named_buffers())["module.0.norm.running_mean"]
    assert not torch.allclose(own, copied)


def test_the_pool_is_ranked_in_float32_under_autocast() -> None:
    mochi = RECIPE.build(TinyEncoder(), 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = mochi(make_batch(STEPS_PER_EPOCH))
    assert output.loss.dtype == torch.float32


def test_state_saved_in_the_middle_of_mixing_continues_to_the_bit() -> None:
    whole = RECIPE.build(TinyEncoder(), 3)
    losses = train_steps(whole, range(8))
    first = RECIPE.build(TinyEncoder(), 3)
    start = train_steps(first, range(6))
    second = RECIPE.build(TinyEncoder(), 4)
    second.load_state_dict(first.state_dict())
    assert start + train_steps(second, range(6, 8)) == losses
    assert torch.equal(whole.queue.rows, second.queue.rows)


# The oracle


def test_an_oracle_without_false_negatives_trains_as_without_oracle() -> None:
    def losses(oracle: bool) -> list[float]:
        mochi = replace(RECIPE, oracle=oracle).build(TinyEncoder(), 3)
        mochi.queue.enqueue(mochi.queue.rows.clone(), torch.full((32,), 99))
        return train_steps(mochi, [STEPS_PER_EPOCH])

    assert losses(True) == losses(False)


def test_an_oracle_without_negatives_has_no_loss_and_no_nan() -> None:
    mochi = replace(RECIPE, oracle=True, analyse=True).build(TinyEncoder(), 3)
    mochi.queue.enqueue(mochi.queue.rows.clone(), torch.zeros(32).long())
    batch = replace(make_batch(STEPS_PER_EPOCH), labels=torch.zeros(8).long())
    output = mochi(batch)
    output.loss.backward()
    assert output.loss == 0
    for parameter in mochi.encoder.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
    assert output.metrics["false_negatives"] == 1


def test_an_oracle_excludes_false_negatives_and_counts_them() -> None:
    metrics = {}
    for oracle in (True, False):
        mochi = replace(RECIPE, oracle=oracle, analyse=True, analysed_negatives=16).build(
            TinyEncoder(), 3
        )
        mochi.queue.enqueue(mochi.queue.rows.clone(), torch.arange(32) % 3)
        metrics[oracle] = mochi(make_batch(STEPS_PER_EPOCH)).metrics
    assert metrics[True]["false_negatives"] == metrics[False]["false_negatives"] > 0
    for name in ("false_pairs_definite", "false_pairs_partial", "false_query_mixed"):
        assert metrics[True][name] == 0
        assert metrics[False][name] > 0


# What it logs


def test_metrics_are_those_of_the_steps_logits() -> None:
    mochi = replace(RECIPE, analyse=True, analysed_negatives=16).build(TinyEncoder(), 3)
    train_steps(mochi, MIXING)
    logits, queries, keys, batch = cosines_of_step(mochi, 8)
    metrics = mochi.metrics(logits.detach(), queries.detach(), keys, batch)
    assert metrics["proxy_accuracy"] == proxy_accuracy(logits)
    assert metrics["proxy_accuracy_real"] == proxy_accuracy(logits[:, :33])
    blocks = torch.split(logits.detach(), [1, 32, 10, 12], dim=1)
    hardest = [block.amax(dim=1) for block in blocks]
    torch.testing.assert_close(
        metrics["hardness_gap_pairs"], (hardest[2] - hardest[1]).mean().detach()
    )
    torch.testing.assert_close(
        metrics["hardness_gap_query_mixed"], (hardest[3] - hardest[1]).mean().detach()
    )
    classes = labels_of(mochi)
    expected = false_negatives(queries @ mochi.queue.rows.T, batch.labels, classes, 16)
    assert metrics["false_negatives"] == expected
    probabilities = [metrics[f"probability_of_rank_{rank}"] for rank in (1, 4, 16)]
    assert probabilities == sorted(probabilities, reverse=True)


def test_query_mixed_points_keep_the_proxy_task_hard() -> None:
    """Two claims that must hold: accuracy falls with synthetics, and their hardest are harder."""
    mochi = replace(RECIPE, dim=64).build(TinyEncoder(), 3)  # random rows are nearly orthogonal
    metrics = mochi(make_batch(STEPS_PER_EPOCH, noise=2.0)).metrics
    assert metrics["proxy_accuracy"] < metrics["proxy_accuracy_real"]
    assert metrics["harder_than_real_query_mixed"] == 1


def test_the_warm_up_logs_no_synthetic_metrics() -> None:
    mochi = replace(RECIPE, analyse=True).build(TinyEncoder(), 3)
    metrics = mochi(make_batch(0)).metrics
    assert metrics["proxy_accuracy"] == metrics["proxy_accuracy_real"]
    assert not [name for name in metrics if "pairs" in name or "query_mixed" in name]


@pytest.mark.parametrize("step", [0, STEPS_PER_EPOCH])
@pytest.mark.parametrize("oracle", [False, True])
def test_the_trace_has_raw_and_transformed_scores(oracle: bool, step: int) -> None:
    mochi = replace(RECIPE, oracle=oracle).build(TinyEncoder(), 3)
    mochi.queue.enqueue(mochi.queue.rows.clone(), torch.arange(32) % 3)
    logits, queries = (x.detach() for x in cosines_of_step(mochi, step)[:2])
    seen = [row[1:][row[1:].isfinite()].double() for row in logits]
    raw = (queries @ mochi.queue.rows.T).double()
    expected = {
        "positive_mean": float(logits[:, 0].mean()),
        "negative_mean": float(raw.mean()),
        "negative_variance": float(raw.var(dim=1).mean()),
        "transformed_positive_mean": float(logits[:, 0].mean()),
        "transformed_negative_mean": float(torch.stack([row.mean() for row in seen]).mean()),
        "transformed_negative_variance": float(torch.stack([row.var() for row in seen]).mean()),
    }
    trace = {name: float(value) for name, value in mochi(make_batch(step)).trace.items()}
    assert trace == pytest.approx(expected, rel=1e-5)
    as_in_the_queue = trace["negative_mean"] == pytest.approx(trace["transformed_negative_mean"])
    assert as_in_the_queue == (step == 0 and not oracle)


# Processes


def train_share(recipe: MoCHiRecipe, steps: Iterable[int], norm: bool) -> Share:
    method = recipe.build(TinyEncoder(norm), 3)
    if norm:
        group_batch_norm(method, 4)
    losses = train_steps(method, steps)
    batch = own_share(make_batch(8))
    queries = method.queries(batch.views[0]).detach()
    draws = method.pool_and_draws(queries @ method.queue.rows.T, batch)[1]
    weight = next(method.encoder.parameters())
    return losses, method.queue.rows, labels_of(method), draws.alpha, weight


@pytest.mark.parametrize("norm", [False, True])
def test_two_processes_train_as_one(norm: bool) -> None:
    """Theorem: mean of the processes' losses and gradients = those of the global batch."""
    steps = list(range(STEPS_PER_EPOCH - 1, STEPS_PER_EPOCH + 3))
    one = train_share(RECIPE, steps, norm)
    first, second = run_processes(train_share, 2, RECIPE, steps, norm)
    assert first[0] == pytest.approx(one[0], abs=1e-6)
    assert torch.equal(first[1], second[1])  # identical queues on both ranks
    torch.testing.assert_close(first[1], one[1], rtol=0, atol=1e-5)  # keys in rank order
    assert torch.equal(first[2], one[2])
    torch.testing.assert_close(first[4], one[4], rtol=0, atol=1e-5)
    # Ranks draw differently, together what one process draws.
    assert not torch.equal(first[3], second[3])
    assert torch.equal(torch.cat([first[3], second[3]]), one[3])


# Usage


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"n_hard": 33}, "`n_hard` must be .* the queue's 32 rows, got 33"),
        ({"s": -1}, "must be at least 0, got -1"),
        ({"beta_max": 0.0}, "`beta_max` must be in .* got 0.0"),
    ],
)
def test_a_wrong_recipe_is_a_user_error_before_training(
    change: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        replace(RECIPE, **change).build(TinyEncoder(), 3)


def test_the_recipe_builds_the_method_and_defaults_to_table_1() -> None:
    recipe = MoCHiRecipe()
    assert (recipe.n_hard, recipe.s, recipe.s_prime) == (1024, 1024, 128)
    assert (recipe.queue, recipe.temperature, recipe.head) == (16384, 0.2, "mlp")
    assert (recipe.momentum, recipe.mixing_warmup_epochs, recipe.beta_max) == (0.999, 10, 0.5)
    assert isinstance(RECIPE.build(TinyEncoder(), 3), MoCHi)


def test_the_learning_rate_has_no_warm_up_and_is_halved_half_way() -> None:
    # Source: lr(e) = lr / 2 (1 + cos(pi e / E)), set once for each zero-based epoch e.
    cosine = ScheduleRecipe("cosine")
    rates = [learning_rate(cosine, 0.03, step, 10, 200) for step in (0, 9, 1000, 1009)]
    assert rates == pytest.approx([0.03, 0.03, 0.015, 0.015])
