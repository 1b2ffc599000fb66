from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retable import distributed
from retable.errors import UserError
from retable.testing import run_processes
from retable.train.metrics import MetricsLog
from retable.train.traces import TraceLog, read_traces


def lines(folder: Path) -> list[dict[str, Any]]:
    return MetricsLog.of(folder).read()


def test_a_line_has_one_number_for_each_step_and_name(tmp_path: Path) -> None:
    trace = TraceLog(tmp_path)
    trace.add(1, {"a": torch.tensor(0.5), "b": 3})
    trace.add(2, {"a": torch.tensor(0.25)})
    trace.add(3, {})
    trace.write()
    trace.add(4, {"b": torch.tensor(1, dtype=torch.int64)})
    trace.write()
    assert lines(tmp_path) == [
        {"kind": "trace", "step": 3, "first": 1, "a": [0.5, 0.25, None], "b": [3.0, None, None]},
        {"kind": "trace", "step": 4, "first": 4, "b": [1.0]},
    ]
    assert read_traces(tmp_path) == {"a": ([1, 2], [0.5, 0.25]), "b": ([1, 4], [3.0, 1.0])}


def test_untraced_steps_are_null(tmp_path: Path) -> None:
    with TraceLog(tmp_path / "metrics.jsonl") as trace:
        trace.add(10, {"a": 1.0})
        trace.add(13, {"a": 2.0})
    assert lines(tmp_path) == [
        {"kind": "trace", "step": 13, "first": 10, "a": [1.0, None, None, 2.0]}
    ]
    assert read_traces(tmp_path / "metrics.jsonl")["a"].steps == [10, 13]


def test_an_empty_trace_writes_no_line(tmp_path: Path) -> None:
    with TraceLog(tmp_path) as trace:
        trace.add(1, {})
        trace.write()
    assert not (tmp_path / "metrics.jsonl").exists()


def test_numbers_keep_six_digits_and_their_size_in_the_file_is_bounded(tmp_path: Path) -> None:
    with TraceLog(tmp_path) as trace:
        for step in range(1, 1001):
            trace.add(step, {"a": torch.tensor(step / 7, dtype=torch.float64) * 1e-4})
    (_, values) = read_traces(tmp_path)["a"]
    assert values == pytest.approx([step / 7 * 1e-4 for step in range(1, 1001)], rel=5e-6)
    assert (tmp_path / "metrics.jsonl").stat().st_size < 14 * 1000


def test_numbers_that_are_not_finite_are_read_back(tmp_path: Path) -> None:
    with TraceLog(tmp_path) as trace:
        trace.add(1, {"a": torch.tensor(math.nan)})
        trace.add(2, {"a": torch.tensor(-math.inf)})
    first, second = read_traces(tmp_path)["a"].values
    assert math.isnan(first)
    assert second == -math.inf


STEPS = st.lists(st.dictionaries(st.sampled_from("ab"), st.floats(-1e3, 1e3, width=32)), max_size=9)


@given(steps=STEPS, cuts=st.sets(st.integers(0, 8)))
def test_how_often_lines_are_written_does_not_change_the_curves(
    tmp_path_factory: pytest.TempPathFactory, steps: list[dict[str, float]], cuts: set[int]
) -> None:
    def curves(cuts: set[int]) -> Any:
        folder = tmp_path_factory.mktemp("trace")
        (folder / "metrics.jsonl").touch()
        with TraceLog(folder) as trace:
            for step, scalars in enumerate(steps):
                trace.add(step, {name: torch.tensor(value) for name, value in scalars.items()})
                if step in cuts:
                    trace.write()
        return read_traces(folder)

    assert curves(cuts) == curves(set())


def test_values_are_taken_when_added_and_hold_no_graph(tmp_path: Path) -> None:
    weight = torch.tensor(2.0, requires_grad=True)
    with TraceLog(tmp_path) as trace:
        trace.add(1, {"a": weight * 3})
        (kept,) = trace._steps[1].values()
    assert isinstance(kept, torch.Tensor)
    assert not kept.requires_grad
    assert read_traces(tmp_path)["a"].values == [6.0]


def test_adding_reads_nothing_from_the_device(tmp_path: Path) -> None:
    trace = TraceLog(tmp_path)  # a tensor on the meta device has no value to wait for
    trace.add(1, {"a": torch.zeros((), device="meta")})
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        trace.write()


def test_steps_come_in_order_until_training_goes_back(tmp_path: Path) -> None:
    trace = TraceLog(tmp_path)
    for step in (1, 2):
        trace.add(step, {"a": float(step)})
        trace.write()
    trace.add(3, {"a": 3.0})
    with pytest.raises(
        UserError, match=r"greater than the previous step 3, got 2\. .* rewind\(step\)"
    ):
        trace.add(2, {"a": 0.0})
    trace.rewind(1)
    trace.add(2, {"a": -2.0})
    trace.write()
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]
    assert read_traces(tmp_path) == {"a": ([1, 2], [1.0, -2.0])}


def test_later_lines_override_overlapping_ones(tmp_path: Path) -> None:
    for start, value in ((1, 1.0), (2, 2.0)):
        with TraceLog(tmp_path) as trace:
            trace.add(start, {"a": value})
            trace.add(start + 1, {"a": value})
    assert read_traces(tmp_path) == {"a": ([1, 2, 3], [1.0, 2.0, 2.0])}


def test_what_was_traced_before_an_error_is_written(tmp_path: Path) -> None:
    def train() -> None:
        with TraceLog(tmp_path) as trace:
            trace.add(1, {"a": 1.0})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()
    assert read_traces(tmp_path) == {"a": ([1], [1.0])}


def test_traces_share_a_log_with_other_lines(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    trace = TraceLog(log)
    log.write("steps", 1, {"a": 9.0})
    trace.add(1, {"a": 1.0})
    trace.write()
    assert read_traces(tmp_path) == {"a": ([1], [1.0])}
    assert len(log.read()) == 2


def test_a_missing_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere.*does not exist\. Pass the folder of a run"):
        read_traces(tmp_path / "nowhere")


def test_every_step_becomes_an_event(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with TraceLog(MetricsLog(tmp_path / "metrics.jsonl", tmp_path / "events")) as trace:
        for step in (1, 2, 3):
            trace.add(step, {"a": step / 2})
    events: Any = EventAccumulator(str(tmp_path / "events"))  # type: ignore[no-untyped-call]
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("trace/a")]
    assert found == [(1, 0.5), (2, 1.0), (3, 1.5)]


def trace_rank(folder: str) -> None:
    with TraceLog(folder) as trace:
        for step in (1, 2):
            rank = float(distributed.process_index())
            trace.add(step, {"number": 5.0, "rank": torch.tensor(rank + step)})


def test_processes_share_one_file_of_means(tmp_path: Path) -> None:
    run_processes(trace_rank, 2, str(tmp_path))
    assert lines(tmp_path) == [
        {"kind": "trace", "step": 2, "first": 1, "number": [5.0, 5.0], "rank": [1.5, 2.5]}
    ]
