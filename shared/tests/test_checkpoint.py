from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retable.train import checkpoint


def state(number: float) -> dict[str, Any]:
    return {"weights": {"w": torch.full((3,), number)}, "sums": {"loss": number}, "scaler": None}


def test_a_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 7, state(0.1))
    found = checkpoint.load_newest(tmp_path)
    assert found is not None
    step, loaded = found
    assert step == 7
    assert torch.equal(loaded["weights"]["w"], torch.full((3,), 0.1))
    assert loaded["sums"] == {"loss": 0.1}
    assert loaded["scaler"] is None


def test_where_nothing_was_written_there_is_no_state(tmp_path: Path) -> None:
    assert checkpoint.load_newest(tmp_path) is None
    assert checkpoint.load_newest(tmp_path / "nowhere") is None


def test_the_newest_states_are_kept_by_step_not_by_name(tmp_path: Path) -> None:
    for step in (9, 10, 1_000_000_000):
        checkpoint.save(tmp_path, step, state(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-000000010.pt",
        "step-1000000000.pt",
    ]
    found = checkpoint.load_newest(tmp_path)
    assert found is not None
    assert found[0] == 1_000_000_000


def test_states_of_several_things_in_one_folder_do_not_meet(tmp_path: Path) -> None:
    for name, number in (("linear", 3), ("linear-2", 4), ("linear_30", 5)):
        checkpoint.save(tmp_path, number, state(number), name=name, keep=1)
    for name, number in (("linear", 3), ("linear-2", 4), ("linear_30", 5)):
        found = checkpoint.load_newest(tmp_path, name=name)
        assert found is not None
        assert found[0] == number
    assert checkpoint.load_newest(tmp_path) is None


def test_a_damaged_state_is_named_and_the_one_before_it_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint.save(tmp_path, 4, state(4))
    newest = checkpoint.save(tmp_path, 8, state(8))
    newest.write_bytes(newest.read_bytes()[:-100])
    found = checkpoint.load_newest(tmp_path)
    assert found is not None
    assert found[0] == 4
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{newest} is damaged" in said


def test_what_a_killed_writer_left_is_no_state(tmp_path: Path) -> None:
    (tmp_path / ".step-000000004.pt.0a1b.tmp").write_bytes(b"half")
    assert checkpoint.load_newest(tmp_path) is None


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_a_state_cut_or_altered_anywhere_is_refused(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = checkpoint.save(Path(folder), 1, state(1))
        content = path.read_bytes()
        position = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            path.write_bytes(content[:position])
        else:
            changed = bytes([content[position] ^ data.draw(st.integers(1, 255))])
            path.write_bytes(content[:position] + changed + content[position + 1 :])
        assert checkpoint.load_newest(Path(folder)) is None
