"""Start one process for each device: one for each GPU, or gloo processes on a CPU.

The processes get torchrun's variables, which accelerate reads; a script that `accelerate launch` or
torchrun has started goes on as one of theirs. Not started through these: they end with a traceback
of their own where a table ends with status 1 or 2, and `accelerate launch --cpu --num_processes 2`
silently starts one process.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from retable.errors import UserError

_MISTAKES = "RETABLE_MISTAKES"
"""Environment variable of our children: the folder where they leave what to tell the user."""


def is_launched() -> bool:
    """Say whether a launcher has already started this process as one of several, or as the one."""
    return "WORLD_SIZE" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ


def rank() -> int:
    """Return this process's number, known before the processes have met."""
    return int(os.environ.get("RANK", "0"))


def wanted_processes(requested: int | None) -> int:
    """Return how many processes to start: as asked, else one for each GPU, one without a GPU.

    Where a launcher has started them already, their number.

    Raises:
        UserError: more processes than GPUs.
    """
    if is_launched():
        return int(os.environ.get("WORLD_SIZE", "1"))
    gpus = torch.cuda.device_count()
    processes = max(1, gpus) if requested is None else requested
    if gpus and processes > gpus:
        raise UserError(
            f"--processes {processes}: this machine has {gpus} GPUs, choose from 1 to {gpus}."
        )
    return processes


def relaunch(script: Path, arguments: Sequence[str], processes: int) -> int:
    """Run the script again in ``processes`` processes and return the first status that is not 0.

    A process that fails ends the others, which would wait for it; Ctrl-C ends all.

    Raises:
        UserError: what the first process to fail had to tell the user.
    """
    variables = {**os.environ, "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1"}
    variables["MASTER_PORT"] = str(_free_port())
    if not torch.cuda.device_count():
        variables |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as mistakes:
        variables[_MISTAKES] = mistakes
        children = [
            subprocess.Popen(
                [sys.executable, str(script), *arguments],
                env={**variables, "RANK": str(number), "LOCAL_RANK": str(number)},
                process_group=0,  # Ctrl-C is for this process, which ends them
            )
            for number in range(processes)
        ]
        try:
            failed, status = _first_failure(children)
        finally:
            _end(children)
        if status == 2 and (said := Path(mistakes) / str(failed)).exists():
            raise UserError(said.read_text())
        return status


def _first_failure(children: list[subprocess.Popen[bytes]]) -> tuple[int, int]:
    """Wait until all have ended well or one has not; return its number and status, (0, 0) if all."""
    while True:
        statuses = [child.poll() for child in children]
        for number, status in enumerate(statuses):
            if status:
                return number, status
        if None not in statuses:
            return 0, 0
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
    """Say whether `relaunch` has started this process."""
    return _MISTAKES in os.environ


def tell_parent(mistake: str) -> None:
    """Leave a sentence for the user with the process that has started this one."""
    (Path(os.environ[_MISTAKES]) / str(rank())).write_text(mistake)


def end_with(parent: int) -> None:
    """End this process when its parent has: a killed command must not train on in the dark."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
