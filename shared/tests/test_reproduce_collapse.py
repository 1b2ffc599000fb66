"""When a run counts as collapsed, from its figures alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retable.reproduce import CollapseCriterion, FinishedRun

SOUND = {
    "pretrain.loss": 7.0,
    "pretrain.positive_mean": 0.8,
    "pretrain.negative_mean": -0.03,
    "pretrain.negative_variance": 0.0144,
    "linear.top1": 56.2,
}


def reason_of(
    metrics: Mapping[str, float], chance: float = 1.0, probe: str = "linear.top1"
) -> str | None:
    criterion = CollapseCriterion(("row",), ("top1",), {"proxy": chance}, probe)
    return criterion.reason(FinishedRun(Path(), metrics=metrics), "proxy")


def reason(changes: Mapping[str, float], chance: float = 1.0) -> str | None:
    return reason_of({**SOUND, **changes}, chance)


def test_a_sound_run_has_not_collapsed() -> None:
    assert reason({}) is None


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_a_collapse(loss: float) -> None:
    assert reason({"pretrain.loss": loss}) == f"the loss is not finite ({loss})"


@pytest.mark.parametrize("side", [-1.0, 1.0])
@pytest.mark.parametrize(("stds", "collapsed"), [(0.0, True), (0.049, True), (0.051, False)])
def test_positives_within_a_twentieth_of_the_negatives_std_are_a_collapse(
    stds: float, collapsed: bool, side: float
) -> None:
    # Variance 0.0144: a std of 0.12, a twentieth of it 0.006.
    said = reason({"pretrain.positive_mean": -0.03 + side * stds * 0.12})
    assert (said is not None) is collapsed
    assert said is None or said.startswith("the mean score of positives, ")


@given(
    mean=st.floats(-1e3, 1e3),
    gap=st.floats(-1.0, 1.0),
    std=st.floats(1e-3, 1.0),
    scale=st.sampled_from([0.5, 2.0, 1024.0]),
)
def test_the_scale_of_the_scores_does_not_matter(
    mean: float, gap: float, std: float, scale: float
) -> None:
    # Without unit sphere scores have any size. Powers of two scale exactly.
    def judged(factor: float) -> bool:
        scores = {
            "pretrain.positive_mean": factor * (mean + gap),
            "pretrain.negative_mean": factor * mean,
            "pretrain.negative_variance": (factor * std) ** 2,
        }
        return reason(scores) is not None

    assert judged(scale) is judged(1.0)


def test_equal_scores_without_any_spread_are_a_collapse() -> None:
    constant = {"pretrain.positive_mean": 1.0, "pretrain.negative_mean": 1.0}
    assert reason({**constant, "pretrain.negative_variance": 0.0}) is not None


@pytest.mark.parametrize(("top1", "collapsed"), [(2.9, True), (3.0, False)])
def test_a_probe_below_three_times_chance_is_a_collapse(top1: float, collapsed: bool) -> None:
    said = reason({"linear.top1": top1})
    assert said == (
        f"the probe finds {top1:.2f} %, less than 3 times the 1 % of chance" if collapsed else None
    )
    assert (reason({"linear.top1": 10.0 * top1}, chance=10.0) is not None) is collapsed


@pytest.mark.parametrize("missing", [*SOUND, *(("all",))])
def test_a_test_whose_figures_are_missing_is_left_out(missing: str) -> None:
    figures = {name: value for name, value in SOUND.items() if missing not in (name, "all")}
    assert reason_of(figures) is None


def test_the_probe_is_the_one_that_is_named() -> None:
    figures = {"linear.top1": 56.0, "knn.top1": 1.0}
    assert reason_of(figures) is None
    assert reason_of(figures, probe="knn.top1") is not None
