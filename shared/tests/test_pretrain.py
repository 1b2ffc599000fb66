from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from retable.data.sources import open_source
from retable.encoders import ResNetRecipe
from retable.errors import UserError
from retable.methods import Batch, Method, Metrics, StepOutput, SupervisedRecipe
from retable.testing import StoppedError
from retable.train import checkpoint
from retable.train.cost import Throughput
from retable.train.health import COLLAPSE, DIVERGED
from retable.train.metrics import MetricsLog
from retable.train.options import RunOptions
from retable.train.pretrain import (
    Training,
    TrainingFailedError,
    load_method,
    make_accelerator,
    pretrain,
)
from retable.train.recipe import PretrainRecipe, build_method, check_fit
from retable.train.recorder import Recorder
from retable.train.runs import RunDirectory
from retable.train.traces import read_traces
from retable.weights import load_encoder

Changed = Callable[..., PretrainRecipe]
OFTEN = RunOptions(log_every=2, checkpoint_every=3, quiet=True)


def watch(method: Method, epoch: int) -> dict[str, float]:
    """Monitor a run by its weights."""
    return {"sum": float(sum(p.detach().double().sum() for p in method.parameters()))}


def train(recipe: PretrainRecipe, folder: Path, execution: RunOptions = OFTEN) -> dict[str, Any]:
    torch.set_num_threads(1)
    source = open_source(recipe.data, "train")
    return pretrain(
        recipe, 3, source, RunDirectory(folder), make_accelerator("float32"), execution, watch
    )


def log_without_clock(folder: Path) -> list[dict[str, Any]]:
    lines = MetricsLog.of(folder).read()
    clock = {"images_per_second", "utilisation"}
    return [{k: v for k, v in line.items() if k not in clock} for line in lines]


def train_in_pieces(
    recipe: PretrainRecipe, folder: Path, stops: list[int], monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    make_step = Training.make_step
    for stop in stops:

        def step(self: Any, *arguments: Any, stop: int = stop) -> Any:
            if self.step == stop:
                raise StoppedError
            return make_step(self, *arguments)

        monkeypatch.setattr(Training, "make_step", step)
        with pytest.raises(StoppedError):
            train(recipe, folder)
    monkeypatch.setattr(Training, "make_step", make_step)
    return train(recipe, folder)


@pytest.mark.parametrize("method", ["contrastive", "supervised"])
@pytest.mark.parametrize("stops", [[2], [7], [3, 4, 7]])
def test_a_run_stopped_inside_an_epoch_ends_with_the_bits_of_an_uninterrupted_one(
    method: str,
    stops: list[int],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = request.getfixturevalue(method)()
    whole = train(recipe, tmp_path / "whole")
    pieces = train_in_pieces(recipe, tmp_path / "pieces", stops, monkeypatch)
    assert pieces == whole
    assert whole["steps"] == 8
    assert whole["complete"]
    assert [line["epoch"] for line in whole["epochs"]] == [1, 2]
    first, second = (
        load_encoder(tmp_path / run / "encoder.safetensors") for run in ("whole", "pieces")
    )
    for name, value in first.encoder.state_dict().items():
        assert torch.equal(value, second.encoder.state_dict()[name]), name
    assert log_without_clock(tmp_path / "pieces") == log_without_clock(tmp_path / "whole")


def test_the_trace_of_every_step_is_kept_however_often_lines_are_written(
    contrastive: Changed, tmp_path: Path
) -> None:
    result = train(contrastive(), tmp_path / "often")
    train(contrastive(), tmp_path / "seldom", RunOptions(quiet=True))
    traces = read_traces(tmp_path / "often")
    assert traces == read_traces(tmp_path / "seldom")
    assert list(traces) == ["negative_mean", "negative_variance", "positive_mean"]
    for name, (steps, values) in traces.items():
        assert steps == list(range(1, 9))
        assert len(set(values)) == 8  # a number of each step's own
        for number, epoch in enumerate(result["epochs"]):
            of_epoch = values[4 * number : 4 * number + 4]
            assert epoch[name] == pytest.approx(sum(of_epoch) / 4, rel=1e-5)


def test_traces_of_parts_are_averaged_to_those_of_their_step(
    supervised: Changed, tmp_path: Path
) -> None:
    recipe = supervised(method=FailingRecipe(at=99, how="never"), bn_group=8, max_steps=3)
    train(recipe, tmp_path / "whole")
    train(recipe, tmp_path / "parts", replace(OFTEN, accumulate=2))
    whole, parts = (read_traces(tmp_path / run)["mean_position"] for run in ("whole", "parts"))
    assert whole.values == parts.values == [7.5] * 3


def test_a_damaged_state_costs_the_steps_since_the_one_before_not_the_result(
    contrastive: Changed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = train(contrastive(), tmp_path / "whole")
    folder = tmp_path / "pieces"
    monkeypatch.setattr(Training, "save", stop_after_save_at(6))
    with pytest.raises(StoppedError):
        train(contrastive(), folder)
    monkeypatch.undo()
    newest = max((folder / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:-1])
    assert train(contrastive(), folder) == whole
    assert f"{newest} is damaged" in capsys.readouterr().err


def stop_after_save_at(step: int) -> Callable[[Any], None]:
    save = Training.save

    def save_and_stop(self: Any) -> None:
        save(self)
        if self.step == step:
            raise StoppedError

    return save_and_stop


def test_a_finished_run_repeats_nothing(contrastive: Changed, tmp_path: Path) -> None:
    result = train(contrastive(), tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    assert train(contrastive(), tmp_path) == result
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_how_often_states_are_kept_and_logged_does_not_change_the_weights(
    contrastive: Changed, tmp_path: Path
) -> None:
    train(contrastive(), tmp_path / "often")
    train(contrastive(), tmp_path / "seldom", RunOptions(quiet=True))
    often, seldom = ((tmp_path / run / "encoder.safetensors") for run in ("often", "seldom"))
    for a, b in zip(*(load_encoder(f).encoder.parameters() for f in (often, seldom)), strict=True):
        assert torch.equal(a, b)


def test_the_method_of_a_run_is_loaded_as_the_training_left_it(
    contrastive: Changed, tmp_path: Path
) -> None:
    sums: list[float] = []

    def watch_last(method: Method, epoch: int) -> dict[str, float]:
        sums.append(watch(method, epoch)["sum"])
        return {}

    recipe, directory = contrastive(), RunDirectory(tmp_path)
    torch.set_num_threads(1)
    source = open_source(recipe.data, "train")
    pretrain(recipe, 3, source, directory, make_accelerator("float32"), OFTEN, watch_last)
    method = load_method(recipe, 3, directory)
    assert watch(method, 0)["sum"] == sums[-1]
    assert not method.training
    encoder = load_encoder(directory.encoder).encoder
    for a, b in zip(method.encoder.parameters(), encoder.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(UserError, match=r"must hold a checkpoint of the run, got none.*--fresh"):
        load_method(recipe, 4, directory)  # of another seed


def test_a_run_that_max_steps_has_cut_says_so(contrastive: Changed, tmp_path: Path) -> None:
    result = train(contrastive(max_steps=3), tmp_path)
    assert result["steps"] == 3
    assert not result["complete"]
    assert result["epochs"] == []
    assert (tmp_path / "encoder.safetensors").exists()


@pytest.mark.parametrize(("norm", "group"), [("group", None), ("batch", 8)])
def test_accumulated_gradients_are_those_of_the_whole_batch(
    norm: Literal["batch", "group"], group: int | None, supervised: Changed, tmp_path: Path
) -> None:
    # The mean over equal parts of means is the mean over the whole; batch norm must not mix parts.
    recipe = supervised(bn_group=group, max_steps=3)
    recipe = replace(recipe, encoder=ResNetRecipe("small_resnet8", width=0.25, norm=norm))
    train(recipe, tmp_path / "whole")
    train(recipe, tmp_path / "parts", replace(OFTEN, accumulate=2))
    whole, parts = (load_encoder(tmp_path / run).encoder for run in ("whole", "parts"))
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_a_contrastive_batch_cannot_be_accumulated(contrastive: Changed, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"`--accumulate` must be 1 for MoCo, .* got 2\."):
        train(contrastive(), tmp_path, replace(OFTEN, accumulate=2))
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    ("changes", "processes", "sentence"),
    [
        ({}, 3, r"16 images cannot be split over 3 processes\. Choose a divisor of the batch"),
        ({"bn_group": 12}, 2, "must divide a process's 8 images or be a multiple of them, got 12"),
        ({"bn_group": 16}, 1, None),
        ({"bn_group": 16}, 4, None),
        ({"bn_group": None}, 16, None),
        ({"precision": "half"}, 1, "must be one of float32, bf16, fp16, got 'half'"),
        ({"epochs": 0}, 1, "`epochs` must be at least 1, got 0"),
        ({"max_steps": 0}, 1, "`max_steps` must be at least 1, got 0"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused_with_the_reason(
    changes: dict[str, Any], processes: int, sentence: str | None, supervised: Changed
) -> None:
    refused = nullcontext() if sentence is None else pytest.raises(UserError, match=sentence)
    with refused:
        recipe = supervised(**changes)
        check_fit(recipe, build_method(recipe, 0), processes, RunOptions())


def test_batch_norm_groups_may_span_processes_but_not_the_parts_of_a_batch(
    supervised: Changed,
) -> None:
    recipe = supervised(bn_group=16)
    method = build_method(recipe, 0)
    check_fit(recipe, method, 2, RunOptions())
    with pytest.raises(UserError, match="a process's 4 images"):
        check_fit(recipe, method, 2, RunOptions(accumulate=2))


@dataclass(frozen=True)
class FailingRecipe:
    """Supervised training that goes wrong at a step."""

    at: int
    how: str

    def build(self, encoder: nn.Module, rng_key: int) -> Method:
        return Failing(encoder, self, rng_key)


class Failing(Method):
    accumulates = True

    def __init__(self, encoder: nn.Module, recipe: FailingRecipe, rng_key: int) -> None:
        super().__init__()
        self.recipe = recipe
        self.inner = SupervisedRecipe(4).build(encoder, rng_key)
        self.encoder = encoder

    def forward(self, batch: Batch) -> StepOutput:
        loss, metrics, _ = self.inner(batch)
        spread = 1.0
        if batch.progress.step >= self.recipe.at:
            loss = loss * float("nan") if self.recipe.how == "nan" else loss
            spread = 0.0 if self.recipe.how == "collapse" else 1.0
        trace: Metrics = {"mean_position": batch.positions.double().mean()}
        if self.recipe.how == "alike":
            trace |= {"positive_mean": 0.7, "negative_mean": 0.7, "negative_variance": 0.01}
        return StepOutput(loss, {**metrics, "embedding_spread": spread}, trace)


def finite(value: Any) -> bool:
    if isinstance(value, Tensor):
        return bool(torch.isfinite(value.float()).all())
    if isinstance(value, dict):
        return all(finite(part) for part in value.values())
    return True


@pytest.mark.parametrize(
    ("how", "kind", "reason"),
    [
        ("nan", DIVERGED, "loss is not finite"),
        ("collapse", COLLAPSE, "embedding has collapsed"),
    ],
)
def test_a_failing_run_stops_with_its_last_good_state_kept(
    how: str, kind: str, reason: str, supervised: Changed, tmp_path: Path
) -> None:
    with pytest.raises(TrainingFailedError, match=f"stopped at step 6: the {reason}") as failure:
        train(supervised(method=FailingRecipe(at=4, how=how)), tmp_path)
    assert failure.value.kind == kind
    assert str(tmp_path / "checkpoints") in str(failure.value)
    found = checkpoint.load_newest(tmp_path / "checkpoints")
    assert found is not None
    assert found[0] == 4
    assert finite(found[1])
    assert not (tmp_path / "encoder.safetensors").exists()
    # The trace leads up to the failure.
    assert read_traces(tmp_path)["mean_position"].steps == list(range(1, 7))


@pytest.mark.parametrize("stops", [[], [9, 13]])
def test_positives_like_negatives_stop_a_run_after_some_epochs_interrupted_or_not(
    stops: list[int], supervised: Changed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It takes 13 epochs of four steps to make 50, and the very first does not count.
    recipe = supervised(method=FailingRecipe(at=0, how="alike"), epochs=16)
    with pytest.raises(TrainingFailedError, match="stopped at step 56: the embed") as failure:
        train_in_pieces(recipe, tmp_path, stops, monkeypatch)
    assert failure.value.kind == COLLAPSE
    assert len(MetricsLog.of(tmp_path).read("epoch")) == 14


def test_the_rate_of_a_line_is_that_of_the_steps_since_the_line_before(
    supervised: Changed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restart, restarts = Throughput.restart, []

    def counted(self: Throughput, step: int) -> None:
        restarts.append(step)
        restart(self, step)

    monkeypatch.setattr(Throughput, "restart", counted)
    train(supervised(), tmp_path)
    lines = [line["step"] for line in MetricsLog.of(tmp_path).read("steps")]
    assert lines == [2, 3, 4, 6, 8]
    assert list(dict.fromkeys(restarts)) == [0, *lines]


def test_what_is_recorded_of_a_step_holds_no_graph(
    supervised: Changed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = Recorder.add
    graphs: list[bool] = []

    def watched(self: Recorder, step: int, metrics: dict[str, Any], traced: dict[str, Any]) -> None:
        graphs.extend(v.requires_grad for v in metrics.values() if isinstance(v, Tensor))
        add(self, step, metrics, traced)

    monkeypatch.setattr(Recorder, "add", watched)
    train(supervised(max_steps=2), tmp_path)
    assert graphs
    assert not any(graphs)
