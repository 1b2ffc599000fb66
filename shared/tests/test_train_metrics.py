from __future__ import annotations

import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retable.errors import UserError
from retable.train.metrics import EMPTY, Averages, MetricsLog

VALUES = st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=12)


@given(VALUES, st.sets(st.integers(1, 11)))
def test_an_epochs_mean_does_not_depend_on_interruptions(
    values: list[float], cuts: set[int]
) -> None:
    whole, cut = Averages(), Averages()
    for value in values:
        whole.add({"loss": torch.tensor(value), "rate": value})
    whole.fold()
    ends = sorted({0, *(c for c in cuts if c < len(values)), len(values)})
    for start, end in pairwise(ends):
        for value in values[start:end]:
            cut.add({"loss": torch.tensor(value), "rate": value})
        piece = cut.fold()
        assert piece["loss"] == pytest.approx(sum(values[start:end]) / (end - start), abs=1e-9)
        resumed = Averages()  # as after an interruption
        resumed.restore(cut.state())
        cut = resumed
    expected = pytest.approx(sum(values) / len(values), abs=1e-9)
    assert whole.means() == {"loss": expected, "rate": expected}
    assert cut.means() == {"loss": expected, "rate": expected}


def test_missing_scalars_are_averaged_over_the_other_steps() -> None:
    averages = Averages()
    averages.add({"loss": torch.tensor(1.0), "rare": torch.tensor(8.0)})
    averages.add({"loss": torch.tensor(3.0)})
    assert averages.fold() == {"loss": 2.0, "rare": 8.0}
    averages.add({"loss": torch.tensor(5.0)})
    assert averages.fold() == {"loss": 5.0}
    assert averages.means() == {"loss": 3.0, "rare": 8.0}


def test_a_scalar_may_be_a_number_in_one_step_and_a_tensor_in_the_next() -> None:
    averages = Averages()
    averages.add({"share": 0.0})
    averages.add({"share": torch.tensor(0.5)})
    averages.add({"share": 1.0})
    assert averages.fold() == {"share": 0.5}


def test_empty_averages_have_no_means() -> None:
    averages = Averages()
    assert averages.fold() == {}
    assert averages.means() == {}


def test_lines_are_read_back_by_kind(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    assert log.read() == []
    log.write("steps", 2, {"loss": 0.1})
    log.write("epoch", 4, {"epoch": 1, "loss": 0.2})
    assert log.read("epoch") == [{"kind": "epoch", "step": 4, "epoch": 1, "loss": 0.2}]
    assert [line["step"] for line in log.read()] == [2, 4]


def test_an_unfinished_last_line_is_skipped(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.write("steps", 2, {"loss": 0.1})
    with log.path.open("a") as file:
        file.write('{"kind": "steps", "st')
    assert [line["step"] for line in log.read()] == [2]
    log.write("steps", 4, {"loss": 0.2})
    assert [line["step"] for line in log.read()] == [2, 4]


def test_a_log_is_rewound_to_the_step_of_the_state(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.rewind(0)
    assert not log.path.exists()
    for step in (2, 4, 6):
        log.write("steps", step, {"loss": 0.1 * step})
    before = log.read()
    log.rewind(4)
    assert log.read() == before[:2]


def test_events_without_tensorboard_are_refused_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(UserError, match="--tensorboard needs tensorboard, which is not inst"):
        MetricsLog(tmp_path / "metrics.jsonl", tmp_path / "events")


@pytest.mark.parametrize("damage", [b'{"kind": "ste\n', b"[3]\n", b'{"step": 3}\n', b"\xff\xfe\n"])
def test_a_damaged_line_is_named(damage: bytes, tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.write("steps", 1, {"loss": 1.0})
    with log.path.open("ab") as file:
        file.write(damage)
    with pytest.raises(UserError, match=r"Line 2 of .*metrics.jsonl is damaged"):
        log.read("steps")
    with pytest.raises(UserError, match=r"Line 2 of .*metrics.jsonl is damaged"):
        log.write("steps", 2, {"loss": 1.0})


LINES: list[tuple[str, int, dict[str, Any]]] = [
    ("steps", 2, {"loss": 0.5}),
    ("trace", 2, {"first": 1, "a": [1.5, None]}),
] * 3


@given(st.data())
def test_a_log_that_was_altered_is_never_read_as_another(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        log = MetricsLog(Path(folder) / "metrics.jsonl")
        for line in LINES:
            log.write(*line)
        before, texts = log.read(), log.path.read_text().splitlines(keepends=True)
        first, second = sorted(data.draw(st.permutations(range(6)))[:2])
        change = data.draw(st.sampled_from(["swap", "remove", "twice", "flip"]))
        if change == "swap":
            texts[first], texts[second] = texts[second], texts[first]
        elif change == "remove":
            del texts[first]
        elif change == "twice":
            texts.insert(first, texts[first])
        else:
            place = data.draw(st.integers(0, len(texts[first]) - 2))
            flipped = chr(ord(texts[first][place]) ^ 1)
            texts[first] = texts[first][:place] + flipped + texts[first][place + 1 :]
        log.path.write_text("".join(texts))
        try:
            found = MetricsLog(log.path).read()
        except UserError:
            return
        assert found == before[: len(found)]


def test_two_writers_may_share_a_log(tmp_path: Path) -> None:
    one, other = (MetricsLog(tmp_path / "metrics.jsonl") for _ in range(2))
    for step in (1, 2):
        one.write("steps", step, {})
        other.write("gradients", step, {})
    assert [line["kind"] for line in one.read()] == ["steps", "gradients"] * 2


def test_a_log_is_rewound_to_the_line_with_a_checksum(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    assert log.checksum() == EMPTY
    checksums = []
    for line in LINES:
        log.write(*line)
        checksums.append(log.checksum())
    before = log.read()
    assert not log.reaches("12345678")
    assert log.reaches(checksums[3])
    log.rewind_to(checksums[3])
    assert (log.read(), log.checksum()) == (before[:4], checksums[3])
    assert not log.reaches(checksums[4])
    log.write(*LINES[4])
    assert log.checksum() == checksums[4]
    log.rewind_to(EMPTY)
    assert log.read() == []
