"""Signals wait for a place where a state can be saved; a training continues at its step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from retable.data.sources import open_source
from retable.encoders import ResNetRecipe
from retable.methods import moco_v2
from retable.methods.moco import MoCo
from retable.stopping import STOP_SIGNALS, deferred
from retable.train.optim import OptimizerRecipe
from retable.train.options import RunOptions
from retable.train.pretrain import make_accelerator, pretrain, train
from retable.train.recipe import PretrainRecipe
from retable.train.runs import RunDirectory
from retable.views import crop_and_flip
from retable.weights import load_encoder

VIEW = crop_and_flip(16)
RECIPE = PretrainRecipe(
    moco_v2(queue=32, dim=8),
    "shapes?count=64&test_count=8&size=16&classes=4",
    (VIEW, VIEW),
    ResNetRecipe("small_resnet8", width=0.25),
    OptimizerRecipe(),
    epochs=3,
    batch=16,
    bn_group=8,
)


class SignalledError(Exception):
    def __init__(self, number: int) -> None:
        self.number = number


@pytest.fixture(autouse=True)
def handlers() -> Any:
    """Let every signal raise, and put the handlers back."""

    def handle(number: int, _: object) -> None:
        raise SignalledError(number)

    before = {number: signal.signal(number, handle) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_waits_until_the_block_lets_it_take_effect(number: int) -> None:
    passed = []

    def block() -> None:
        with deferred() as signals:
            signal.raise_signal(number)
            assert signals.requested
            passed.append("saved")
            signals.take_effect()

    with pytest.raises(SignalledError) as raised:
        block()
    assert passed == ["saved"]
    assert raised.value.number == number


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_that_no_one_read_takes_effect_at_the_end(number: int) -> None:
    passed = []

    def block() -> None:
        with deferred():
            signal.raise_signal(number)
            passed.append("to the end")

    with pytest.raises(SignalledError):
        block()
    assert passed


def test_a_second_signal_does_not_wait() -> None:
    def block() -> None:
        with deferred():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("not reached")

    with pytest.raises(SignalledError) as raised:
        block()
    assert raised.value.number == signal.SIGTERM
    with pytest.raises(SignalledError):
        signal.raise_signal(signal.SIGINT)  # as before the block


def test_an_error_of_the_block_itself_is_not_hidden() -> None:
    def block() -> None:
        with deferred():
            signal.raise_signal(signal.SIGTERM)
            raise ValueError("own")

    with pytest.raises(ValueError, match="own"):
        block()


def test_ignored_signals_stay_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with deferred() as signals:
        signal.raise_signal(signal.SIGINT)
        assert not signals.requested
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_other_threads_change_no_handler() -> None:
    found: list[bool] = []

    def block() -> None:
        with deferred() as signals:
            found.append(signals.requested)

    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    assert found == [False]


def run(folder: Path, after_step: Callable[[int], None] | None = None) -> dict[str, Any]:
    source = open_source(RECIPE.data, "train")
    options = RunOptions(quiet=True, log_every=3)
    accelerator = make_accelerator("float32", cpu=True)
    return pretrain(RECIPE, 5, source, RunDirectory(folder), accelerator, options)


def stopped_after(folder: Path, step: int, number: int, patch: pytest.MonkeyPatch) -> None:
    """Run until a signal arrives during a step."""
    after_step = MoCo.after_step
    made = []

    def signalled(self: MoCo, progress: Any) -> None:
        after_step(self, progress)
        made.append(progress.step)
        if progress.step == step - 1:
            signal.raise_signal(number)

    with patch.context() as context:
        context.setattr(MoCo, "after_step", signalled)
        with pytest.raises(SignalledError) as raised:
            run(folder)
    assert raised.value.number == number
    assert made[-1] == step - 1


def lines(folder: Path) -> list[dict[str, Any]]:
    log = RunDirectory(folder).metrics
    from retable.train.metrics import MetricsLog

    clocked = {"images_per_second", "utilisation"}
    return [
        {name: value for name, value in line.items() if name not in clocked}
        for line in MetricsLog(log).read()
    ]


@pytest.mark.parametrize(
    ("step", "number"), [(1, signal.SIGINT), (5, signal.SIGTERM), (8, signal.SIGUSR1), (12, 2)]
)
def test_a_training_continues_at_the_step_at_which_a_signal_stopped_it(
    step: int, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole")
    stopped_after(tmp_path / "stopped", step, number, monkeypatch)
    saved = [path.stem for path in (tmp_path / "stopped/checkpoints").glob("*.pt")]
    assert f"step-{step:09d}" in saved
    if step < 12:
        stopped_after(tmp_path / "stopped", step + 1, number, monkeypatch)
    assert run(tmp_path / "stopped") == whole
    assert lines(tmp_path / "stopped") == lines(tmp_path / "whole")
    states = [
        load_encoder(tmp_path / name / "encoder.safetensors") for name in ("whole", "stopped")
    ]
    for one, other in zip(*(state.encoder.state_dict().values() for state in states), strict=True):
        assert torch.equal(one, other)


def test_a_quiet_training_says_nothing_and_a_usual_one_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped_after(tmp_path / "quiet", 2, signal.SIGTERM, monkeypatch)
    assert "saved" not in capsys.readouterr().err
    source = open_source(RECIPE.data, "train")
    options = RunOptions(label="moco seed 5")
    accelerator = make_accelerator("float32", cpu=True)

    def signalled(*_: Any) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(MoCo, "after_step", signalled)
    with pytest.raises(SignalledError):
        train(replace(RECIPE), 5, source, RunDirectory(tmp_path / "told"), accelerator, options)
    assert "moco seed 5: saved after step 1." in capsys.readouterr().err
