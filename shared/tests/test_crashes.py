"""Workers that die: the sentence says how they ended and where, and guesses nothing."""

from __future__ import annotations

import ctypes
import os
import re
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset

from retable import crashes
from retable.data.worker_processes import results_by_step
from retable.errors import MachineError
from retable.processes import worker_pool
from retable.reproduce.launch import run_side_by_side


def exit_oddly() -> None:
    os._exit(5)


def be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def read_nothing() -> None:
    ctypes.string_at(0)


HOW = {
    exit_oddly: r"ended with status 5\. ",
    be_killed: r"was ended by SIGKILL(?: \(the system says .*\))?\. ",
    read_nothing: r"was ended by SIGSEGV in File .*test_crashes\.py\", line \d+ in read_nothing",
}
each = pytest.mark.parametrize("die", HOW, ids=lambda die: die.__name__)


@each
def test_a_run_beside_others(die: Callable[[], None]) -> None:
    with pytest.raises(MachineError) as raised:
        run_side_by_side([die, partial(os.getpid)], 2, print)  # type: ignore[list-item]
    assert re.match(f"A worker process {HOW[die]}", str(raised.value)), raised.value
    assert "Start the same command again to continue" in str(raised.value)


@each
def test_a_process_of_a_pool(die: Callable[[], None]) -> None:
    def use() -> None:
        with worker_pool(2, "masks") as pool:
            pool.submit(die).result()

    with pytest.raises(MachineError) as raised:
        use()
    assert re.match(f"A process that makes masks {HOW[die]}", str(raised.value)), raised.value


class Dying(Dataset[torch.Tensor | str]):
    def __init__(self, die: Callable[[], None]) -> None:
        self.die = die

    def __getitem__(self, index: int) -> torch.Tensor | str:
        if index == 3:
            self.die()
        return torch.tensor(index)


@each
def test_a_decoding_worker(die: Callable[[], None]) -> None:
    with pytest.raises(MachineError) as raised:
        list(results_by_step(Dying(die), range(8), 2, torch.device("cpu")))
    assert re.match(f"A decoding worker {HOW[die]}", str(raised.value)), raised.value


def test_the_system_s_own_count_of_killed_processes_is_stated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts = iter([2, 2, 3])
    monkeypatch.setattr(crashes, "memory_kills", lambda: next(counts))
    with crashes.CrashReports() as reports:
        assert reports.of(0, -9) == "was ended by SIGKILL"
        assert reports.of(0, -9) == (
            "was ended by SIGKILL (the system says that it ended a process because memory ran out)"
        )


def test_reports_leave_nothing_behind() -> None:
    with crashes.CrashReports() as reports:
        path = Path(reports.path)
        assert path.is_dir()
    assert not path.exists()
