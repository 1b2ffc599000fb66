"""What is known of a worker process that has died: how it ended, where, and whether for memory."""

from __future__ import annotations

import faulthandler
import os
import signal
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from retable.text import one_line, printable

LINES = 3
"""Lines of a stack that are shown, the innermost ones."""


class CrashReports:
    """A folder in which workers write the stack at which a fatal signal has ended them.

    The parent enters it as a context and passes it to its workers, which call `begin`.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="retable-workers-")
        self.path = self._folder.name
        self._memory_kills = memory_kills()

    def __enter__(self) -> CrashReports:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._folder.cleanup()

    def describe(self, workers: Iterable[Any]) -> str:
        """Say how the first of some processes has ended that was not ended for another's sake."""
        ended = [worker for worker in workers if worker.exitcode is not None]
        own = [worker for worker in ended if worker.exitcode not in (0, -signal.SIGTERM)]
        worker = (own or ended or [None])[0]
        return "has ended" if worker is None else self.of(worker.pid, worker.exitcode)

    def of(self, number: int, status: int) -> str:
        """Say how the process ``number`` has ended, with its last lines.

        ``status`` is its exit status, negative for a signal.
        """
        said = ending(status, self._memory_kills)
        with suppress(OSError):
            lines = Path(self.path, str(number)).read_text(errors="replace").splitlines()
            places = [one_line(line, 160) for line in lines if line.lstrip().startswith("File ")]
            if places:
                said += f" in {printable('; '.join(places[:LINES]))}"
        return said


def begin(path: str) -> None:
    """Let this process write its stack into the folder of `CrashReports` if it dies."""
    faulthandler.disable()  # in a fork it would keep its handlers, or those that replaced them
    with suppress(OSError):
        # The module keeps the file open.
        report = open(Path(path, str(os.getpid())), "w", encoding="utf-8")  # noqa: SIM115
        faulthandler.enable(report, all_threads=False)


def ending(status: int, kills: int | None = None) -> str:
    """Say how a process has ended.

    ``kills`` is what `memory_kills` was before; None: it is not compared.

    >>> ending(3), ending(-9)
    ('ended with status 3', 'was ended by SIGKILL')
    """
    if status >= 0:
        return f"ended with status {status}"
    said = f"was ended by {signal.Signals(-status).name}"
    if kills is not None and memory_kills() > kills:
        said += " (the system says that it ended a process because memory ran out)"
    return said


def memory_kills() -> int:
    """Return how many processes of this container were ended because memory ran out.

    0 where it does not count them.
    """
    with suppress(OSError, ValueError):
        lines = Path("/sys/fs/cgroup/memory.events").read_text(encoding="utf-8").splitlines()
        return int(dict(line.split() for line in lines).get("oom_kill", 0))
    return 0
