from __future__ import annotations

import math

import pytest

from retable.health import COLLAPSED_SPREAD, fatal, sentences


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_ends_a_run(loss: float) -> None:
    assert fatal({"loss": loss, "embedding_spread": 1.0}) == f"the loss is not finite ({loss})"


@pytest.mark.parametrize("spread", [0.0, 0.99 * COLLAPSED_SPREAD, math.nan])
def test_a_collapsed_embedding_ends_a_run(spread: float) -> None:
    assert "the embedding has collapsed" in str(fatal({"loss": 1.0, "embedding_spread": spread}))


@pytest.mark.parametrize("metrics", [{}, {"loss": 9.0}, {"loss": 1.0, "embedding_spread": 0.02}])
def test_a_run_that_may_still_come_right_goes_on(metrics: dict[str, float]) -> None:
    assert fatal(metrics) is None


def test_nothing_is_said_of_what_was_not_logged() -> None:
    assert sentences({"loss": 1.0}) == []


@pytest.mark.parametrize(("loss", "standing"), [(4.0, "below"), (5.0, "not below")])
def test_the_loss_is_held_against_chance(loss: float, standing: str) -> None:
    (said,) = sentences({"loss": loss, "chance_loss": math.log(101)})
    assert said == f"loss {loss:.3f}, {standing} the chance level log(ways) = 4.615"


def test_a_loss_that_rises_while_the_queue_fills_is_called_normal() -> None:
    (said,) = sentences({"loss": 1.0, "queue_fill": 0.25, "queue_full_step": 256.0})
    assert "25% filled" in said
    assert "full at step 256: normal" in said
    assert sentences({"loss": 1.0, "queue_fill": 1.0, "queue_full_step": 256.0}) == []


def test_positives_among_the_hardest_negatives_are_pointed_out() -> None:
    negatives = {"negative_score_q50": 0.1, "negative_score_q95": 0.6}
    scores = {"loss": 1.0, "positive_score_q05": 0.3, **negatives}
    (apart,) = sentences({**scores, "positive_score_q50": 0.7})
    (among,) = sentences({**scores, "positive_score_q50": 0.6})
    assert "do not stand out" not in apart
    assert "do not stand out" in among


def test_an_embedding_near_collapse_is_pointed_out() -> None:
    assert "close to collapse" in sentences({"loss": 1.0, "embedding_spread": 0.05})[0]
    assert sentences({"loss": 1.0, "embedding_spread": 0.9}) == []
