"""Sweeps: settings are chosen on held-out images, then used on all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from retable.data.source import Source
from retable.data.sources import open_source
from retable.encoders import ResNetRecipe
from retable.errors import UserError
from retable.evaluate import named_protocol
from retable.evaluate.data import EvalData, OpenSource, source_opener
from retable.evaluate.linear import LinearProbe
from retable.evaluate.protocol import Budget, EvalContext
from retable.evaluate.sweep import Sweep
from retable.evaluate.transfer.classification import (
    PENALTIES,
    finetuning_transfer,
    linear_transfer,
    sgd_transfer,
)
from retable.evaluate.transfer.finetune import FineTuning
from retable.settings import to_plain, with_field
from retable.testing import announce_processes, run_processes
from retable.views import center, crop_and_flip
from retable.weights import save_encoder

DATA = "shapes?count=600&test_count=60&size=16&classes=4"
ENCODER = ResNetRecipe("small_resnet8", width=0.25)
PROBE = LinearProbe(batch=32, epochs=4, milestones=(), train_view=center(16), test_view=center(16))
TUNING = FineTuning(
    batch=16,
    bn_group=8,
    epochs=1,
    milestones=(),
    train_view=crop_and_flip(16),
    test_view=center(16),
)
RATES = (1e-9, 3.0, 0.1)
SWEEP = Sweep(PROBE, (("lr", RATES),))

open_shapes = source_opener(DATA)


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    path = tmp_path / "encoder.safetensors"
    save_encoder(path, ENCODER.build(5), ENCODER, {})
    return str(path)


def test_the_best_candidate_on_held_out_images_learns_from_all(tmp_path: Path) -> None:
    encoder = ENCODER.build(5)
    held_out = EvalData(split="validation")
    context = EvalContext("cpu", features=tmp_path)
    found = {
        lr: replace(PROBE, lr=lr, data=held_out).run(encoder, open_shapes, context, seed=3)
        for lr in RATES
    }
    best = max(RATES, key=lambda lr: found[lr]["top1"])
    assert best != RATES[0]
    results = SWEEP.run(encoder, open_shapes, EvalContext("cpu"), seed=3)
    assert results["chosen_lr"] == best
    assert results["validation"] == found[best]["top1"]
    expected = replace(PROBE, lr=best).run(encoder, open_shapes, context, seed=3)
    assert {name: results[name] for name in expected} == expected
    assert results.keys() == SWEEP.metrics.keys()


def test_a_data_set_s_own_accuracy_chooses() -> None:
    def open_named(split: str, variant: str | None = None, data: str | None = None) -> Source:
        source = open_source(DATA, split)
        source.description["accuracy"] = "mean_per_class"
        source.labels = torch.where(source.labels > 0, 1, 0)  # one class of a quarter
        source.class_names = ["a", "b"]
        if split == "train":
            source.validation = torch.arange(40)
        return source

    kept: OpenSource = open_named
    encoder = ENCODER.build(5)
    results = SWEEP.run(encoder, kept, EvalContext("cpu"), seed=0)
    held_out = EvalData(split="validation")
    accuracies = [
        replace(PROBE, lr=lr, data=held_out).run(encoder, kept, EvalContext("cpu"), seed=0)
        for lr in RATES
    ]
    assert results["validation"] == max(each["mean_per_class"] for each in accuracies)
    by_top1 = replace(SWEEP, chosen_by="top1").run(encoder, kept, EvalContext("cpu"), seed=0)
    assert by_top1["validation"] == max(each["top1"] for each in accuracies)


def test_an_interrupted_sweep_goes_on_with_the_same_bits(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = Sweep(TUNING, (("lr", (0.01, 0.1)), ("nesterov", (False, True))))
    encoder = ENCODER.build(5)
    whole = sweep.run(encoder, open_shapes, EvalContext("cpu", checkpoint=checkpoint), seed=1)
    context = EvalContext("cpu", directory=tmp_path / "state", checkpoint=checkpoint)
    made: list[float] = []
    run = FineTuning.run

    def counted(self: FineTuning, *arguments: Any, **options: Any) -> dict[str, float]:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(self.lr or 0)
        return run(self, *arguments, **options)

    monkeypatch.setattr(FineTuning, "run", counted)
    with pytest.raises(KeyboardInterrupt):
        sweep.run(encoder, open_shapes, context, seed=1)
    monkeypatch.undo()
    assert sweep.run(encoder, open_shapes, context, seed=1) == whole
    # Everything is kept: the same command again trains nothing.
    monkeypatch.setattr("retable.evaluate.transfer.base.train", None)
    assert sweep.run(encoder, open_shapes, context, seed=1) == whole


def _run_both(folder: Path) -> list[dict[str, float]]:
    context = EvalContext("cpu", checkpoint=str(folder / "encoder.safetensors"))
    sweeps = (SWEEP, Sweep(TUNING, (("lr", (0.01, 0.1)),)))
    return [each.run(ENCODER.build(5), open_shapes, context, seed=3) for each in sweeps]


def _two_processes(folder: Path) -> list[dict[str, float]]:
    announce_processes()
    return _run_both(folder)


def test_two_processes_choose_as_one(checkpoint: str, tmp_path: Path) -> None:
    first, second = run_processes(_two_processes, 2, tmp_path)
    assert first == second
    alone = _run_both(tmp_path)
    for found, expected in zip(first, alone, strict=True):
        assert found["chosen_lr"] == expected["chosen_lr"]
        assert found["validation"] == pytest.approx(expected["validation"], abs=2.0)


def test_candidates_are_drawn_once_for_all_and_without_repetition() -> None:
    grid = (("lr", (0.1, 0.2, 0.3)), ("batch", (8, 16)), ("nesterov", (False, True)))
    every = Sweep(PROBE, grid).settings()
    assert len(every) == 12
    assert every[:2] == [
        {"lr": 0.1, "batch": 8, "nesterov": False},
        {"lr": 0.1, "batch": 8, "nesterov": True},
    ]
    some = Sweep(PROBE, grid, candidates=5).settings()
    assert some == Sweep(replace(PROBE, epochs=9), grid, candidates=5).settings()
    assert len({tuple(each.items()) for each in some}) == 5
    assert [each for each in every if each in some] == some
    assert Sweep(PROBE, grid, candidates=99).settings() == every


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"grid": (("rate", (0.1,)),)}, "must name fields of LinearProbe with values, got 'rate'"),
        ({"grid": (("lr", ()),)}, "got 'lr' with 0 values"),
        ({"grid": (("lr", (-1.0,)),)}, "`lr` must be"),
        ({"grid": (("momentum", (0.0,)), ("nesterov", (True,)))}, "must be positive with nesterov"),
        ({"chosen_by": "map"}, "`chosen_by` must be one of top1, .*, got 'map'"),
        ({"data": EvalData(split="validation")}, "must be 'test', got 'validation'"),
    ],
)
def test_wrong_settings_end_with_a_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        replace(SWEEP, **options)


def test_the_price_is_that_of_all_trainings() -> None:
    sweep = Sweep(TUNING, (("epochs", (2, 5)),))
    one, two = (replace(TUNING, epochs=epochs).budget(600, 16) for epochs in (2, 5))
    assert sweep.budget(600, 16) == Budget(
        one.steps + 2 * two.steps, one.images + 2 * two.images, 16
    )
    assert SWEEP.budget(600, 16) is None


def test_limits_and_small_scales_reach_the_evaluation() -> None:
    sweep = finetuning_transfer()
    limited = sweep.limited(7)
    assert isinstance(limited.base, FineTuning)
    assert (limited.base.max_steps, len(limited.settings())) == (7, 1)
    small = sweep.shrunk(4)
    assert small.settings() == [{"lr": 0.01}, {"lr": 0.03}]
    assert small.base.epochs == 4
    changed = with_field(sweep, ["grid"], [["lr", [0.5]]], "finetune.grid")
    assert changed.settings() == [{"lr": 0.5}]
    assert to_plain(sweep)["base"]["kind"] == "FineTuning"


def test_the_papers_sweeps_have_the_numbers_of_values_that_they_state() -> None:
    # ReLICv2, appendix D: 9 rates, 4 batches, 6 decays, 2 momenta, with and without Nesterov, 5
    # numbers of epochs and 3 more for fine-tuning, warm-up or none.
    sizes = {name: len(values) for name, values in finetuning_transfer().grid}
    assert sizes == {
        "lr": 9,
        "batch": 4,
        "weight_decay": 6,
        "momentum": 2,
        "nesterov": 2,
        "epochs": 8,
        "warmup_epochs": 2,
    }
    assert dict(sgd_transfer().grid).keys() == sizes.keys() - {"warmup_epochs"}
    assert len(dict(sgd_transfer().grid)["epochs"]) == 5
    assert len(PENALTIES) == 45
    assert PENALTIES[0] == pytest.approx(1e-6)
    assert PENALTIES[-1] == pytest.approx(1e5)
    assert PENALTIES[4] == pytest.approx(1e-5)  # 44 ratios for eleven powers of ten


def test_linear_transfer_upsamples_small_images() -> None:
    assert named_protocol("transfer") == linear_transfer()
    view = linear_transfer().view
    assert view is not None
    assert (view.size, view.resize, view.interpolation) == (224, 224, "bicubic")
    small = named_protocol("transfer", 64)
    assert small == linear_transfer(64)
    encoder = ENCODER.build(5)
    results = replace(linear_transfer(16), l2=(1e-3, 1e3)).run(
        encoder, open_shapes, EvalContext("cpu"), seed=0
    )
    assert results["l2"] in (1e-3, 1e3)
