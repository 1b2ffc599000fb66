"""What stands between a command and the processes that a launcher starts for it.

``python -m retable.processes PARENT MODULE ARGUMENTS`` is ``python -m MODULE ARGUMENTS`` with two
differences: it ends, and its processes end, when process PARENT has ended however that came about;
and a process's exit status is passed on without the launcher's traceback.
"""

from __future__ import annotations

import logging
import os
import runpy
import sys
import threading
import time

PARENT = "RETABLE_PARENT"
"""Names the launcher's process to those it starts: one that is already gone cannot be asked."""


def exit_with_parent(parent: int) -> None:
    """End this process, from a thread, when its parent ``parent`` has ended.

    A killed command must not train on in the dark. Nothing is tidied up: what a run writes is whole
    at any moment.
    """
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def exit_with_launcher() -> None:
    """Call `exit_with_parent` for the launcher that started this process, if one did."""
    if PARENT in os.environ:
        exit_with_parent(int(os.environ[PARENT]))


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def main(words: list[str]) -> int:
    """Run a launcher's module and return the status of the first process that failed, or 0."""
    parent, module, *arguments = words
    exit_with_parent(int(parent))
    os.environ[PARENT] = str(os.getpid())
    # It reports every status but 0 as a crash, also that of a table with a miss.
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        return max(1, failure.exitcode)
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
