from __future__ import annotations

import math

import pytest

from retable.train.health import (
    COLLAPSE,
    COLLAPSED_SPREAD,
    DIVERGED,
    CollapseDetector,
    failure_reason,
    messages,
    scores_alike,
)


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_nonfinite_loss_stops_a_run(loss: float) -> None:
    # Also where the embedding has gone with the loss: one word for one ending.
    for spread in (1.0, math.nan):
        failure = failure_reason({"loss": loss, "embedding_spread": spread})
        assert failure == (DIVERGED, f"the loss is not finite ({loss})")


@pytest.mark.parametrize("spread", [0.0, 0.99 * COLLAPSED_SPREAD, math.nan])
def test_a_collapsed_embedding_stops_a_run(spread: float) -> None:
    failure = failure_reason({"loss": 1.0, "embedding_spread": spread})
    assert failure is not None
    assert failure.kind == COLLAPSE
    assert "the embedding has collapsed" in failure.reason


@pytest.mark.parametrize("metrics", [{}, {"loss": 9.0}, {"loss": 1.0, "embedding_spread": 0.02}])
def test_a_healthy_run_continues(metrics: dict[str, float]) -> None:
    assert failure_reason(metrics) is None


def test_metrics_that_were_not_logged_have_no_message() -> None:
    assert messages({"loss": 1.0}) == []


def test_a_loss_that_ends_above_chance_is_reported() -> None:
    (said,) = messages({"loss": 5.0, "chance_loss": math.log(101)})
    assert said == "loss 5.000, not below the chance level log(ways) = 4.615"
    assert messages({"loss": 4.0, "chance_loss": math.log(101)}) == []
    assert messages({"loss": 5.0, "chance_loss": math.log(101)}, ended=False) == []


def test_a_queue_that_fills_as_expected_is_normal() -> None:
    for fill in (0.25, 1.0):
        assert messages({"loss": 1.0, "queue_fill": fill, "queue_full_step": 256.0}) == []


def test_a_queue_below_its_expected_fill_is_reported() -> None:
    fill = {"loss": 1.0, "queue_full_step": 256.0}
    assert messages({**fill, "queue_fill": 0.25, "queue_expected_fill": 0.25}) == []
    for found, expected in ((0.6, 1.0), (0.0, 0.25)):
        (said,) = messages({**fill, "queue_fill": found, "queue_expected_fill": expected})
        assert f"queue only {found:.0%} filled with keys, expected {expected:.0%}" in said
        assert "full at step 256" in said
        assert "after_step" in said
        assert messages(
            {**fill, "queue_fill": found, "queue_expected_fill": expected}, ended=False
        ) == [said]
    assert messages({**fill, "queue_fill": 1.0, "queue_expected_fill": 1.0}) == []


def scores(apart: float, std: float = 0.1) -> dict[str, float]:
    """Return what an epoch logs whose positives score so many std above its negatives."""
    mean = 0.7
    return {
        "loss": 1.0,
        "positive_mean": mean + apart * std,
        "negative_mean": mean,
        "negative_variance": std**2,
    }


@pytest.mark.parametrize("std", [0.3, 1e-3])
def test_scores_are_alike_within_five_percent_of_the_standard_deviation(std: float) -> None:
    assert all(scores_alike(scores(apart, std)) for apart in (-0.049, 0.0, 0.049))
    assert not any(scores_alike(scores(apart, std)) for apart in (-0.051, 0.051, 0.5))
    assert scores_alike({**scores(0.0), "negative_variance": 0.0})  # all features are one
    assert not scores_alike({**scores(0.0), "positive_mean": math.nan})
    assert not scores_alike({"loss": 1.0})


def test_indistinguishable_scores_stop_a_run_after_two_later_epochs() -> None:
    watch = CollapseDetector()
    failures = [watch.failure_reason(epoch, 25, scores(0.01)) for epoch in (1, 2, 3)]
    assert failures[:2] == [None, None]
    assert failures[2] is not None
    assert failures[2].kind == COLLAPSE
    assert "the embedding has collapsed" in failures[2].reason
    assert "0.7" in failures[2].reason


def test_an_epoch_with_distinct_positives_resets_the_count() -> None:
    watch = CollapseDetector()
    apart = [0.0, 0.0, 0.5, 0.0, 0.5, 0.5, 0.0]
    assert not any(
        watch.failure_reason(epoch, 100, scores(x)) for epoch, x in enumerate(apart, start=1)
    )


def test_few_steps_do_not_stop_a_run() -> None:
    watch = CollapseDetector()
    failures = [watch.failure_reason(epoch, 10, scores(0.0)) for epoch in range(1, 7)]
    assert [failure is None for failure in failures] == [True] * 5 + [False]


def test_a_method_without_scores_is_never_stopped() -> None:
    watch = CollapseDetector()
    assert not any(watch.failure_reason(epoch, 100, {"loss": 1.0}) for epoch in range(1, 9))


def test_indistinguishable_scores_are_reported() -> None:
    (said,) = messages(scores(0.01))
    assert "collapsed or not begun to learn" in said
    assert messages(scores(0.5)) == []


def test_positives_below_the_hardest_negatives_are_reported() -> None:
    negatives = {"negative_score_q50": 0.1, "negative_score_q95": 0.6}
    scores = {"loss": 1.0, "positive_score_q05": 0.3, **negatives}
    assert messages({**scores, "positive_score_q50": 0.7}) == []
    assert messages({**scores, "positive_score_q50": 0.6}, ended=False) == []
    (among,) = messages({**scores, "positive_score_q50": 0.6})
    assert "do not stand out" in among


def test_an_embedding_near_collapse_is_reported() -> None:
    assert "close to collapse" in messages({"loss": 1.0, "embedding_spread": 0.05})[0]
    assert messages({"loss": 1.0, "embedding_spread": 0.9}) == []
