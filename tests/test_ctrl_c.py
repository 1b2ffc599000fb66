"""Ctrl-C, as a terminal sends it, to a whole table: one sentence, nobody left, and it goes on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

OPTIONS = [
    *("--scale", "smoke", "--rows", "moco_t02", "moco_v2"),
    *("--set", "pretrain.epochs=3"),
]
SWALLOWED = r"Exception ignored in: .*\n(?:Traceback.*\n(?: .*\n)*)?KeyboardInterrupt: *\n"


def interrupt(process: subprocess.Popen[str], errors: Path, timeout: float) -> str:
    """Press Ctrl-C until the command ends; return what it wrote besides swallowed interrupts.

    Python swallows an interrupt that arrives inside any ``__del__``, for example in that of the
    finished `Popen` of a call to git, and only prints it. A user then presses Ctrl-C again.
    """
    deadline = time.monotonic() + timeout
    pressed = 0
    while process.poll() is None:
        assert time.monotonic() < deadline, errors.read_text()
        if pressed == len(re.findall(SWALLOWED, errors.read_text())):
            os.killpg(process.pid, signal.SIGINT)
            pressed += 1
        time.sleep(0.05)
    return re.sub(SWALLOWED, "", errors.read_text())


def wait_for(runs: Path, pattern: str, process: subprocess.Popen[str], errors: Path) -> None:
    deadline = time.monotonic() + 300
    while not list(runs.glob(pattern)):
        assert process.poll() is None, errors.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def moved(before: dict[str, int], after: dict[str, int]) -> bool:
    """Say whether every run has a later state."""
    return all(after.get(run, 0) > step for run, step in before.items())


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--jobs", "1"], ["--jobs", "2"], ["--processes", "2"]])
@pytest.mark.parametrize("moment", ["moco-*/lock", "moco-*/checkpoints/step-*.pt"])
def test_an_interrupted_table_says_so_leaves_nobody_behind_and_goes_on(
    words: list[str], moment: str, reproduce: Any, tmp_path: Path
) -> None:
    runs, errors, mark = tmp_path / "runs", tmp_path / "errors", uuid.uuid4().hex
    with errors.open("w") as file:
        # In a process group of its own, as a terminal does.
        process = reproduce.start(
            "table1", runs, *OPTIONS, *words, mark=mark, stderr=file, process_group=0
        )
    wait_for(runs, moment, process, errors)
    said = interrupt(process, errors, timeout=120)
    process.communicate()
    assert process.returncode == 130, said
    assert said.strip().splitlines()[-1] == "interrupted: the same command continues from here."
    assert "Traceback" not in said
    assert "arning" not in said
    deadline = time.monotonic() + 30
    while reproduce.processes(mark) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not reproduce.processes(mark)
    if "checkpoints" in moment:
        reproduce.run("table1", runs, *OPTIONS, *words)
        assert len(list(runs.glob("moco-*/result.json"))) == 2


def newest_steps(runs: Path) -> dict[str, int]:
    """Return the step of the newest state of each run."""
    steps: dict[str, int] = {}
    for path in runs.glob("moco-*/checkpoints/step-*.pt"):
        run = path.parents[1].name
        steps[run] = max(steps.get(run, 0), int(path.stem.partition("-")[2]))
    return steps


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status", "words"),
    [
        (signal.SIGTERM, 143, ["--jobs", "1"]),
        (signal.SIGUSR1, 138, ["--jobs", "2"]),
        (signal.SIGINT, 130, ["--processes", "2"]),
    ],
    ids=["term-one", "usr1-jobs", "int-processes"],
)
def test_a_signal_to_the_command_alone_saves_every_training_first(
    number: int, status: int, words: list[str], reproduce: Any, tmp_path: Path
) -> None:
    runs, errors, mark = tmp_path / "runs", tmp_path / "errors", uuid.uuid4().hex
    options = [*OPTIONS[:-1], "pretrain.epochs=200"]
    with errors.open("w") as file:
        process = reproduce.start("table1", runs, *options, *words, mark=mark, stderr=file)
    wait_for(runs, "moco-*/checkpoints/step-*.pt", process, errors)
    time.sleep(1.0)
    os.kill(process.pid, number)
    process.communicate(timeout=120)
    said = errors.read_text()
    assert process.returncode == status, said
    assert said.strip().splitlines()[-1].endswith("the same command continues from here."), said
    assert not reproduce.processes(mark)
    # Eight steps are an epoch, after which a state is saved anyway; several processes stop where
    # they have just written their metrics, at the end of an epoch too.
    stopped = newest_steps(runs)
    assert stopped
    assert all(8 <= step < 1600 for step in stopped.values())
    again = reproduce.start("table1", runs, *options, *words, mark=mark)
    deadline = time.monotonic() + 120
    while not moved(stopped, newest_steps(runs)) and time.monotonic() < deadline:
        assert again.poll() is None
        time.sleep(0.05)
    again.kill()
    again.communicate()
    assert moved(stopped, newest_steps(runs))
