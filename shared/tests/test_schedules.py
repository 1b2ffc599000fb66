import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retable.errors import UserError
from retable.train.schedules import ScheduleRecipe, learning_rate


def test_the_epoch_cosine_is_mocos() -> None:
    # Source: main_moco.py: lr *= 0.5 * (1 + cos(pi * epoch / epochs)), set once per epoch.
    for step in range(0, 200 * 7, 13):
        expected = 0.03 * 0.5 * (1 + math.cos(math.pi * (step // 7) / 200))
        assert learning_rate(ScheduleRecipe(), 0.03, step, 7, 200) == pytest.approx(expected)
    assert learning_rate(ScheduleRecipe(), 0.03, 0, 7, 200) == 0.03
    assert learning_rate(ScheduleRecipe(), 0.03, 100 * 7, 7, 200) == pytest.approx(0.015)


def test_the_step_cosine_and_its_warm_up_are_torchs() -> None:
    # Source: torch.optim.lr_scheduler LinearLR, then CosineAnnealingLR.
    from torch.optim import SGD
    from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

    recipe = ScheduleRecipe("cosine", warmup_epochs=2, per="step", final=0.1)
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=0.4)
    theirs = SequentialLR(
        optimizer,
        [
            LinearLR(optimizer, 1e-12, 1.0, total_iters=10),
            CosineAnnealingLR(optimizer, T_max=40, eta_min=0.04),
        ],
        milestones=[10],
    )
    for step in range(50):
        (expected,) = theirs.get_last_lr()
        assert learning_rate(recipe, 0.4, step, 5, 10) == pytest.approx(expected, abs=1e-9)
        optimizer.step()
        theirs.step()


def test_milestones_are_torchs() -> None:
    # Source: torch.optim.lr_scheduler.MultiStepLR.
    from torch.optim import SGD
    from torch.optim.lr_scheduler import MultiStepLR

    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=10.0)
    theirs = MultiStepLR(optimizer, [30, 40, 50], gamma=0.1)
    recipe = ScheduleRecipe("step", milestones=(30, 40, 50))
    for epoch in range(60):
        for step in (4 * epoch, 4 * epoch + 3):
            ours = learning_rate(recipe, 10.0, step, 4, 60)
            assert ours == pytest.approx(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()


@settings(max_examples=100, deadline=None)
@given(
    kind=st.sampled_from(["cosine", "step", "constant"]),
    per=st.sampled_from(["epoch", "step"]),
    warmup=st.sampled_from([0, 1, 2.5]),
    steps_per_epoch=st.integers(1, 7),
    epochs=st.integers(3, 9),
)
def test_rates_rise_in_the_warm_up_and_never_after(
    kind: str, per: str, warmup: float, steps_per_epoch: int, epochs: int
) -> None:
    recipe = ScheduleRecipe(
        kind,  # type: ignore[arg-type]
        milestones=(epochs - 2,) if kind == "step" else (),
        warmup_epochs=warmup,
        per=per,  # type: ignore[arg-type]
    )
    total = steps_per_epoch * epochs
    rates = [learning_rate(recipe, 1.0, step, steps_per_epoch, epochs) for step in range(total)]
    warm = [step < warmup * steps_per_epoch for step in range(total)]
    assert all(0 <= rate <= 1 for rate in rates)
    for step, (before, after) in enumerate(itertools.pairwise(rates)):
        if warm[step + 1]:
            assert after - before == pytest.approx(1 / (warmup * steps_per_epoch))
        elif not warm[step]:
            assert after <= before
    if per == "epoch" and not warmup:
        assert len(set(rates[:steps_per_epoch])) == 1
    if warmup:
        assert rates[0] == 0


def test_the_cosine_stays_at_its_end_when_training_goes_on() -> None:
    recipe = ScheduleRecipe("cosine", per="step", final=0.05)
    assert learning_rate(recipe, 2.0, 100, 10, 10) == pytest.approx(0.1)
    assert learning_rate(recipe, 2.0, 150, 10, 10) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"kind": "linear"}, "must be one of 'cosine', 'step', 'constant', got 'linear'"),
        ({"per": "batch"}, "`per` must be one of 'epoch', 'step', got 'batch'"),
        ({"kind": "step"}, "for the step schedule only"),
        ({"milestones": (3,)}, "for the step schedule only"),
        ({"kind": "step", "milestones": (3, 2)}, "strictly ascending"),
        ({"kind": "constant", "final": 0.1}, "`final` must be 0"),
        ({"warmup_epochs": -1}, "`warmup_epochs` must be 0 or more"),
    ],
)
def test_contradictory_recipes_are_refused(fields: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        ScheduleRecipe(**fields)  # type: ignore[arg-type]


def test_a_warm_up_may_begin_above_zero() -> None:
    # Detectron2: from a thousandth of the rate, linearly by step.
    recipe = ScheduleRecipe("constant", warmup_epochs=2.0, warmup_start=0.001, per="step")
    rates = [learning_rate(recipe, 0.02, step, 50, 10) for step in (0, 50, 100)]
    assert rates == pytest.approx([0.00002, 0.02 * (0.001 + 0.999 / 2), 0.02])
