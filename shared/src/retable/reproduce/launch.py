"""Start one process for each device: accelerate on GPUs, gloo processes on a CPU.

A script that `accelerate launch` or torchrun has started goes on as one of theirs.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from retable.errors import UserError
from retable.processes import PARENT

_MISTAKES = "RETABLE_MISTAKES"
"""Environment variable of our children: the folder for their messages to the user."""


def is_launched() -> bool:
    """Return whether a launcher has started this process."""
    return "WORLD_SIZE" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ


def rank() -> int:
    """Return this process's number; known before the processes are connected."""
    return int(os.environ.get("RANK", "0"))


def wanted_processes(requested: int | None) -> int:
    """Return the number of processes to start: as requested, or one for each GPU.

    If a launcher has started the processes already, return their number.

    Raises:
        UserError: more processes than GPUs.
    """
    if is_launched():
        return int(os.environ.get("WORLD_SIZE", "1"))
    gpus = torch.cuda.device_count()
    processes = max(1, gpus) if requested is None else requested
    if gpus and processes > gpus:
        raise UserError(
            f"`--processes` must be at most the {gpus} GPUs of this machine, got {processes}."
        )
    return processes


def relaunch(script: Path, arguments: Sequence[str], processes: int) -> int:
    """Run the script again in several processes and return the first status that is not 0.

    A process that fails ends the others, which would wait for it. Ctrl-C ends all.

    Raises:
        UserError: a process reported a user's mistake.
    """
    words = [str(script), *arguments]
    with tempfile.TemporaryDirectory() as mistakes:
        variables = {**os.environ, _MISTAKES: mistakes}
        if torch.cuda.device_count():
            children = [_start_accelerate(words, processes, variables)]
        else:
            children = _start_gloo(words, processes, variables)
        try:
            status = _first_failure(children)
        finally:
            _end(children)
        if status == 2 and (messages := sorted(Path(mistakes).iterdir())):
            raise UserError(messages[0].read_text())
        return status


def _start_accelerate(
    words: list[str], processes: int, variables: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start accelerate's launcher, which starts one process for each GPU."""
    launcher = [sys.executable, "-m", "retable.processes", str(os.getpid())]
    launcher += ["accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    launcher += ["--num_processes", str(processes)]
    return subprocess.Popen([*launcher, *words], env=variables, process_group=0)


def _start_gloo(
    words: list[str], processes: int, variables: Mapping[str, str]
) -> list[subprocess.Popen[bytes]]:
    """Start CPU processes; `accelerate launch --cpu` would silently start one."""
    shared = {
        **variables,
        PARENT: str(os.getpid()),
        "WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
    }
    return [
        # In another process group: Ctrl-C reaches only this process, which ends them.
        subprocess.Popen(
            [sys.executable, *words],
            env={**shared, "RANK": str(number), "LOCAL_RANK": str(number)},
            process_group=0,
        )
        for number in range(processes)
    ]


def _first_failure(children: list[subprocess.Popen[bytes]]) -> int:
    """Wait until all have ended or one has failed; return its status, else 0."""
    while True:
        statuses = [child.poll() for child in children]
        if failed := [status for status in statuses if status]:
            return failed[0]
        if None not in statuses:
            return 0
        time.sleep(0.05)


def _end(children: list[subprocess.Popen[bytes]]) -> None:
    for child in children:
        if child.poll() is None:
            child.terminate()
    for child in children:
        child.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_child() -> bool:
    """Return whether `relaunch` has started this process."""
    return _MISTAKES in os.environ


def tell_parent(mistake: str) -> None:
    """Pass a message for the user to the parent process."""
    (Path(os.environ[_MISTAKES]) / str(rank())).write_text(mistake)
