"""Peak memory of a call beside its inputs.

On a CPU it is that of a fresh process: its largest resident set (VmHWM of Linux) less the one
before the call, so inputs do not count and torch's own scratch does. On a GPU it is the
allocator's (`torch.cuda.max_memory_allocated`) less what inputs occupy.
"""

from __future__ import annotations

import gc
import multiprocessing
import multiprocessing.connection
from collections.abc import Callable
from pathlib import Path

import torch
from _timing import Options, wait

Prepare = Callable[[torch.device], Callable[[], object]]
"""Makes inputs and returns the call; sent to another process, so a function of a module, or a
`functools.partial` of one."""


def peak_memory(prepare: Prepare, tiny: Prepare, options: Options) -> float:
    """Return the megabytes that a call needs at most beside its inputs.

    Args:
        prepare: makes the inputs at their real size.
        tiny: the same at a size at which no memory counts. Code and threads that a first call
            brings into memory are not what is asked for.
        options: where to compute.
    """
    if options.device.type == "cuda":
        call = prepare(options.device)
        call()
        gc.collect()
        torch.cuda.reset_peak_memory_stats(options.device)
        before = torch.cuda.memory_allocated(options.device)
        call()
        wait(options.device)
        return (torch.cuda.max_memory_allocated(options.device) - before) / 1e6
    # Processes start from one that has imported torch and done nothing else.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "_contrast"])
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(
        target=_send_peak, args=(sending, prepare, tiny, torch.get_num_threads())
    )
    process.start()
    sending.close()
    peak: float = receiving.recv()
    process.join()
    return peak


def _send_peak(
    sending: multiprocessing.connection.Connection, prepare: Prepare, tiny: Prepare, threads: int
) -> None:
    torch.set_num_threads(threads)
    cpu = torch.device("cpu")
    tiny(cpu)()
    call = prepare(cpu)
    before = _status_megabytes("VmRSS")
    for _ in range(2):
        call()
    sending.send(max(_status_megabytes("VmHWM") - before, 0.001))


def _status_megabytes(field: str) -> float:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return float(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"this system does not tell {field}: peak memory needs Linux")
