"""Start one process for each device: accelerate on GPUs, gloo processes on a CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from retable.errors import UserError


def is_launched() -> bool:
    """Say whether a launcher has already started this process as one of several, or as the one."""
    return "WORLD_SIZE" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ


def wanted_processes(requested: int | None) -> int:
    """Return how many processes to start: as asked, else one for each GPU, one without a GPU.

    Raises:
        UserError: more processes than GPUs, or less than one.
    """
    gpus = torch.cuda.device_count()
    processes = requested or max(1, gpus)
    if processes < 1 or (gpus and processes > gpus):
        raise UserError(
            f"--processes {processes}: this machine has {gpus} GPUs, choose 1 to {gpus}."
        )
    return processes


def relaunch(script: Path, arguments: Sequence[str], processes: int) -> int:
    """Run the script again in ``processes`` processes and return its exit status."""
    if torch.cuda.device_count():
        launcher = ["accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"]
        launcher += ["--mixed_precision", "no", "--dynamo_backend", "no"]
        command = [*launcher, "--num_processes", str(processes)]
        variables = {}
    else:
        # `accelerate launch --cpu --num_processes 2` would silently start one process.
        command = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        variables = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(
        [sys.executable, "-m", *command, str(script), *arguments], env={**os.environ, **variables}
    )
    try:
        return child.wait()
    except KeyboardInterrupt:
        child.wait()  # the terminal has sent Ctrl-C to the children too
        raise
