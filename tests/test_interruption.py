"""Killed at any moment and started again, a command ends with the bits of an uninterrupted one.

The same command line each time, killed with SIGKILL, which nothing can catch: once the process
that the user started, with its children left to find out, once all of them together.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retable.train.runs import RunDirectory

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="processes are found by their environment"
)

# Two rows side by side in two worker processes; long enough to be killed three times in each part.
OPTIONS = [
    *("--scale", "smoke", "--rows", "moco_v2", "mochi_1024_1024_128", "--jobs", "2"),
    *("--set", "pretrain.epochs=14", "--set", "linear.epochs=16"),
]
PATIENCE = 300.0


def wait_until(condition: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.005)


def kill(reproduce: Any, command: Any, mark: str, *, alone: bool) -> None:
    """Kill the process that the user started, alone or with all others of the command."""
    for process in [command.pid] if alone else reproduce.processes(mark):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    command.communicate()


def outcome(runs: Path) -> dict[str, bytes]:
    """Return every byte that a command leaves for its user, but for where and when it ran."""
    names = ("recipe.json", "result.json", "encoder.safetensors", "metrics.json")
    found = sorted(path for name in names for path in runs.rglob(name))
    return {str(path.relative_to(runs)): path.read_bytes() for path in found}


def the_run(runs: Path) -> Path:
    """Return the directory of MoCHi, the longer of the two runs."""
    (directory,) = runs.glob("mochi-*")
    return directory


def states(runs: Path) -> set[Path]:
    """List MoCHi's states, of pretraining and of the probe."""
    return {*runs.glob("mochi-*/checkpoints/*.pt"), *probe_states(runs)}


def probe_states(runs: Path) -> set[Path]:
    return set(runs.glob("mochi-*/evaluations/linear-*/linear-*.pt"))


def await_state(command: Any, runs: Path, known: set[Path], part: str) -> None:
    """Wait until the command has written a state of its own, or has ended."""
    seen = probe_states if part == "probe" else states
    wait_until(lambda: seen(runs) - known or command.poll() is not None, f"a state of the {part}")


def seconds_between(paths: set[Path]) -> float:
    """Return how long an epoch took, from the two newest states."""
    *_, before, last = sorted(path.stat().st_mtime for path in paths)
    return last - before


@pytest.fixture(scope="module")
def uninterrupted(reproduce: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("uninterrupted")
    reproduce.run("table1", runs, *OPTIONS)
    return runs


@pytest.mark.slow
def test_three_kills_in_pretraining_and_three_in_the_probe_change_no_bit(
    reproduce: Any, uninterrupted: Path, tmp_path: Path
) -> None:
    draw = random.Random(20)
    epoch = seconds_between(set(uninterrupted.glob("mochi-*/checkpoints/*.pt")))
    probe_epoch = seconds_between(probe_states(uninterrupted))
    marks = []
    for part, seconds in [("pretraining", epoch)] * 3 + [("probe", probe_epoch)] * 3:
        known = states(tmp_path)
        marks.append(uuid.uuid4().hex)
        command = reproduce.start("table1", tmp_path, *OPTIONS, mark=marks[-1])
        await_state(command, tmp_path, known, part)
        time.sleep(draw.uniform(0.0, 1.2) * seconds)
        # Started again at once: orphans hold their runs' locks until they notice, a moment later.
        kill(reproduce, command, marks[-1], alone=draw.random() < 0.5)
        pretrained = (the_run(tmp_path) / "result.json").exists()
        assert pretrained == (part == "probe"), f"the kill was meant for the {part}"
        assert not list(tmp_path.glob("mochi-*/evaluations/linear-*/result.json"))
    reproduce.run("table1", tmp_path, *OPTIONS)
    assert outcome(tmp_path).keys() == outcome(uninterrupted).keys()
    for name, content in outcome(uninterrupted).items():
        assert outcome(tmp_path)[name] == content, name
    assert [reproduce.processes(mark) for mark in marks] == [[]] * 6


@pytest.mark.slow
def test_a_damaged_state_is_named_and_the_one_before_it_used(
    reproduce: Any, uninterrupted: Path, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(uninterrupted, runs)
    for path in [*runs.rglob("result.json"), *runs.rglob("encoder.safetensors")]:
        path.unlink()
    damaged = [max(runs.glob("mochi-*/checkpoints/*.pt")), max(probe_states(runs))]
    for path in damaged:
        os.truncate(path, path.stat().st_size // 2)
    ended = reproduce.run("table1", runs, *OPTIONS)
    for path in damaged:
        assert f"{path} is damaged" in ended.stderr
    assert outcome(runs) == outcome(uninterrupted)


@pytest.mark.slow
def test_the_processes_of_a_killed_command_end_and_free_its_run(
    reproduce: Any, tmp_path: Path
) -> None:
    mark = uuid.uuid4().hex
    command = reproduce.start(
        "table1", tmp_path, *OPTIONS[:3], "moco_v2", "--processes", "2", mark=mark
    )
    wait_until(lambda: list(tmp_path.glob("*/checkpoints/*.pt")), "a state")
    assert len(reproduce.processes(mark)) >= 3
    kill(reproduce, command, mark, alone=True)
    wait_until(lambda: not reproduce.processes(mark), "the end of the others", patience=60.0)
    (directory,) = tmp_path.glob("moco-*")
    assert not (directory / "result.json").exists()
    with RunDirectory(directory).locked(patience=0.0):
        pass


@pytest.mark.slow
def test_a_killed_training_with_masks_and_views_of_two_sizes_ends_with_the_same_bits(
    reproduce: Any, tmp_path: Path
) -> None:
    options = ["--scale", "smoke", "--rows", "imagenet_p1", "--set", "pretrain.epochs=6"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    reproduce.run("table18", whole, *options, package="relicv2")
    mark = uuid.uuid4().hex
    command = reproduce.start("table18", killed, *options, package="relicv2", mark=mark)
    wait_until(lambda: len(list(killed.glob("relicv2-*/checkpoints/*.pt"))) > 1, "two states")
    kill(reproduce, command, mark, alone=False)
    (directory,) = killed.glob("relicv2-*")
    assert not (directory / "result.json").exists()
    reproduce.run("table18", killed, *options, package="relicv2")
    assert outcome(whole)
    assert outcome(killed) == outcome(whole)
