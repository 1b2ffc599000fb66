import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_transform import TransformRecipe
from retable.errors import UserError
from retable.methods.method import Progress
from retable.settings import from_plain, to_plain

NOTHING = TransformRecipe(positives="none", negatives="none")


def at(step: int, steps_per_epoch: int = 10) -> Progress:
    return Progress(step, steps_per_epoch, 200)


def test_the_defaults_are_those_of_the_papers_final_runs() -> None:
    """Both transformations from the first step on, one weight for all, no renormalising."""
    recipe = TransformRecipe()
    assert (recipe.positives, recipe.negatives) == ("extrapolate", "interpolate")
    assert (recipe.alpha_ex, recipe.alpha_in) == (2.0, 1.6)
    assert (recipe.level, recipe.renormalise, recipe.start_epoch) == ("batch", False, 0.0)
    assert recipe.score_against == "extrapolated"
    assert recipe.active(at(0))


@pytest.mark.wheel
def test_a_recipe_survives_json() -> None:
    for recipe in (TransformRecipe(), TransformRecipe(negatives="hard", hard_beta=(5.0, 2.0))):
        assert from_plain(TransformRecipe, json.loads(json.dumps(to_plain(recipe)))) == recipe


# From when on


@given(start=st.integers(0, 500), steps_per_epoch=st.integers(1, 500))
def test_a_start_that_is_a_step_begins_with_that_step(start: int, steps_per_epoch: int) -> None:
    recipe = TransformRecipe(start_epoch=start / steps_per_epoch)
    assert recipe.active(at(start, steps_per_epoch))
    assert start == 0 or not recipe.active(at(start - 1, steps_per_epoch))


@pytest.mark.parametrize(
    ("start_epoch", "steps_per_epoch", "first"),
    [(2.0, 495, 990), (0.0, 495, 0), (0.52, 495, 258), (0.07, 100, 7), (1.1, 10, 11), (0.5, 5, 3)],
)
def test_a_start_between_two_steps_begins_with_the_later_one(
    start_epoch: float, steps_per_epoch: int, first: int
) -> None:
    recipe = TransformRecipe(start_epoch=start_epoch)
    steps = range(3 * steps_per_epoch)
    assert next(step for step in steps if recipe.active(at(step, steps_per_epoch))) == first
    assert all(recipe.active(at(step, steps_per_epoch)) for step in steps[first:])


def test_a_recipe_that_transforms_nothing_is_never_active() -> None:
    assert not any(NOTHING.active(at(step)) for step in (0, 1, 1000))
    assert replace(NOTHING, positives="extrapolate").active(at(0))
    for negatives in ("interpolate", "extrapolate", "hard"):
        assert replace(NOTHING, negatives=negatives).active(at(0))


# By dimension where one side is transformed, as the official code does


def test_a_single_target_is_weighed_by_dimension_only_where_that_is_asked_for() -> None:
    for positives, negatives in (
        ("extrapolate", "none"),
        ("none", "interpolate"),
        ("none", "extrapolate"),
        ("none", "hard"),
    ):
        single: dict[str, Any] = {"positives": positives, "negatives": negatives}
        assert TransformRecipe(**single).effective_level == "batch"
        asked = TransformRecipe(**single, single_target_elementwise=True)
        assert asked.effective_level == "dimension"


def test_two_targets_keep_their_level() -> None:
    for level in ("batch", "sample", "dimension"):
        recipe = replace(TransformRecipe(single_target_elementwise=True), level=level)
        assert recipe.effective_level == level


# Invalid values


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha_ex": 0.0}, r"`alpha_ex` must be in \[0.1, 100\]"),
        ({"alpha_ex": math.nan}, r"`alpha_ex` must be in \[0.1, 100\]"),
        ({"alpha_in": -1.6}, r"`alpha_in` must be in \[0.1, 100\]"),
        ({"alpha_in": math.inf}, r"`alpha_in` must be in \[0.1, 100\]"),
        ({"hard_beta": (2.0, 0.0)}, r"`hard_beta` must be "),
        ({"hard_beta": (2.0,)}, r"`hard_beta` must be "),
        ({"draw_group": 0}, "`draw_group` must be at least 1"),
        ({"start_epoch": -0.5}, "`start_epoch` must be 0 or more"),
        ({"start_epoch": math.nan}, "`start_epoch` must be 0 or more"),
        ({"positives": "hard"}, "`positives` must be one of 'none', 'extrapolate'"),
        ({"negatives": "mix"}, "`negatives` must be one of 'none', 'interpolate', 'extrapolate'"),
        ({"level": "feature"}, "`level` must be one of 'batch', 'sample', 'dimension'"),
        ({"score_against": "both"}, "`score_against` must be one of 'extrapolated', 'raw'"),
        ({"hard_weight_on": "key"}, "`hard_weight_on` must be one of 'query', 'negative'"),
    ],
)
def test_invalid_values_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TransformRecipe(**change)


def test_weights_that_the_paper_tries_can_be_drawn() -> None:
    for alpha in (0.2, 0.4, 1.0, 1.4, 1.6, 2.0):
        assert TransformRecipe(alpha_ex=alpha, alpha_in=alpha).alpha_ex == alpha
