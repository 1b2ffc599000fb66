"""Ctrl-C, as a terminal sends it, to a whole table: one sentence, nobody left, and it goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "reproductions" / "mochi" / "table1.py"
MARK = "RETABLE_TEST_INTERRUPT"


def start(runs: Path, *words: str) -> subprocess.Popen[str]:
    """Start the command in a process group of its own, as a terminal does."""
    command = [sys.executable, str(SCRIPT), "--runs", str(runs), "--scale", "smoke", "--quiet"]
    command += ["--rows", "moco_t02", "moco_v2", "--set", "pretrain.epochs=3", *words]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
        env={**os.environ, MARK: str(runs), "OMP_NUM_THREADS": "1"},
    )


def marked(runs: Path) -> list[int]:
    """List the living processes that descend from a command, by what they inherit from it."""
    wanted = f"{MARK}={runs}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            alive = (folder / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
            if alive and wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            pass
    return found


def wait_for(runs: Path, pattern: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not list(runs.glob(pattern)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--jobs", "1"], ["--jobs", "2"], ["--processes", "2"]])
@pytest.mark.parametrize("moment", ["moco-*/lock", "moco-*/checkpoints/step-*.pt"])
def test_an_interrupted_table_says_so_leaves_nobody_behind_and_goes_on(
    words: list[str], moment: str, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    process = start(runs, *words)
    wait_for(runs, moment, process)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert said.strip().splitlines()[-1] == "interrupted: the same command continues from here."
    assert "Traceback" not in said
    assert "arning" not in said
    deadline = time.monotonic() + 30
    while marked(runs) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not marked(runs)
    if "checkpoints" not in moment:
        return
    again = start(runs, *words)
    _, said = again.communicate(timeout=600)
    assert again.returncode == 0, said
    assert len(list(runs.glob("moco-*/result.json"))) == 2
