"""The handler of every command: each error ends in a sentence and a status of its own.

Only `MISSED` says something about a table. All other ends have another status, so that a script can
tell a number that missed from a disk that was full.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any

from retable.errors import MachineError, UserError
from retable.text import one_line, printable

OK = 0
MISSED = 1
WRONG_USAGE = 2
MACHINE = 3
UNEXPECTED = 70
INTERRUPTED = 130
ASKED_TO_STOP = 138
CLOSED_PIPE = 141
TERMINATED = 143

UNEXPECTED_SENTENCE = (
    "This error is a bug of Retable (status 70), unless it is one of your own script. Please "
    "report it with the lines above and the command."
)

_AGAIN = "start the same command again"
_REMEDIES = {
    errno.ENOSPC: f"Free some space and {_AGAIN}",
    errno.EDQUOT: f"Free some space of your quota and {_AGAIN}",
    errno.EFBIG: f"Raise the limit of file sizes and {_AGAIN}",
    errno.EACCES: "Name a place that this user may use",
    errno.EPERM: "Name a place that this user may use",
    errno.EROFS: "Name a place that is not read-only",
    errno.EISDIR: "Name a file instead",
    errno.ENOTDIR: "Name a folder instead",
    errno.EEXIST: "Name another place",
    errno.ENAMETOOLONG: "Use a shorter name",
    errno.ENOENT: "Name one that exists",
    errno.EMFILE: f"Raise the limit of open files (ulimit -n) and {_AGAIN}",
    errno.ENFILE: f"Raise the limit of open files (ulimit -n) and {_AGAIN}",
    errno.ENOMEM: f"Free some memory and {_AGAIN}",
    errno.EAGAIN: f"Raise the limit of processes (ulimit -u) and {_AGAIN}",
}

# Parts of the messages of torch, safetensors and the libraries below them, which raise a
# RuntimeError for everything.
_GPU_MEMORY = ("CUDA out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDA error: out of memory")
_MEMORY = ("can't allocate memory", "not enough memory", "Cannot allocate memory", "bad_alloc")
_PEERS = ("gloo/", "Connection closed by peer", "Connection reset by peer", "NCCL", "TCPStore")


STOPPED = frozenset({INTERRUPTED, TERMINATED, ASKED_TO_STOP})
"""Statuses of commands that a signal has stopped, and that continue when they are given again."""


class Terminated(BaseException):
    """SIGTERM or SIGUSR1 arrived; like Ctrl-C, so that files and processes are tidied."""

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__()
        self.number = number


def run_guarded(
    command: Callable[[], int],
    report: Callable[[str], None] | None = None,
    *,
    interrupted: str = "interrupted.",
    terminated: str = "terminated.",
    tell: Callable[[str], None] | None = None,
) -> int:
    """Run a command and return its status; every error becomes a sentence and a status.

    Args:
        command: Returns a status.
        report: Prints the sentence of an error; "error: " and the sentence to standard error by
            default.
        interrupted: Printed after Ctrl-C.
        terminated: Printed after SIGTERM and SIGUSR1.
        tell: Prints the two sentences above; standard error by default.
    """
    say = tell or _print_error
    try:
        try:
            prepare_streams()
            with _signals_raise():
                status = command()
            flush_output()
            return status
        except SystemExit:
            flush_output()
            raise
    except KeyboardInterrupt:
        say(interrupted)
        return INTERRUPTED
    except Terminated as signalled:
        say(terminated)
        return 128 + signalled.number
    except Exception as error:
        return _end(error, report or _report)


def run_resumable(command: Callable[[], int]) -> int:
    """Run a command that continues when it is given again, as `run_guarded` does, and say so."""
    again = "the same command continues"
    return run_guarded(
        command, interrupted=f"interrupted; {again}.", terminated=f"terminated; {again}."
    )


def _end(error: Exception, report: Callable[[str], None]) -> int:
    """Report an error and return its status."""
    if isinstance(error, BrokenPipeError) and _nobody_reads():
        _discard_output()
        return CLOSED_PIPE
    sentence, status = explain(error) or ("", UNEXPECTED)
    with contextlib.suppress(OSError, ValueError):  # standard error may be closed or full
        if status == UNEXPECTED:
            sys.stderr.write(printable(traceback_text(error), kept="\n\t"))
            sentence = UNEXPECTED_SENTENCE
        report(sentence)
    if isinstance(error, OSError) and error.filename == "standard output":
        _discard_output()
    return status


def explain(error: BaseException) -> tuple[str, int] | None:
    """Return the sentence and the status of an error, None if nobody expects it."""
    if isinstance(error, UserError):
        return str(error), WRONG_USAGE
    if isinstance(error, MachineError):
        return str(error), MACHINE
    if isinstance(error, RuntimeError):  # torch's; it hides what the operating system said
        return _explain_runtime_error(error)
    if isinstance(error, MemoryError):
        return "Memory ran out. Use a smaller batch, or fewer --jobs and --workers.", MACHINE
    if isinstance(error, OSError):
        return _explain_os_error(error), MACHINE
    if type(error).__name__ == "SafetensorError" and "I/O error" in str(error):
        return f"{one_line(str(error))}. Free some space and {_AGAIN}.", MACHINE
    return None


def _explain_runtime_error(error: RuntimeError) -> tuple[str, int] | None:
    text = str(error)
    if type(error).__name__ == "OutOfMemoryError" or any(part in text for part in _GPU_MEMORY):
        return (
            "The GPU ran out of memory. Use a smaller batch, more --processes, "
            "--mixed-precision bf16, or another --device."
        ), MACHINE
    if any(part in text for part in _MEMORY):
        return "Memory ran out. Use a smaller batch, or fewer --jobs and --workers.", MACHINE
    if any(part in text for part in _PEERS):
        reason = one_line(re.sub(r"\[/[^\]]*\]", "", text), 120)  # without torch's source lines
        return (
            f"Another process of this run has ended or no longer answers ({reason}). "
            f"See its messages, and {_AGAIN} to continue."
        ), MACHINE
    hidden = error.__cause__ or error.__context__
    return explain(hidden) if isinstance(hidden, OSError | MemoryError | RuntimeError) else None


def _explain_os_error(error: OSError) -> str:
    name = error.filename
    place = os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else ""
    reason = one_line(error.strerror or str(error) or type(error).__name__).removesuffix(".")
    subject = f"{place} cannot be used" if place else "A file or stream cannot be used"
    remedy = _REMEDIES.get(error.errno or 0, f"Correct this and {_AGAIN}")
    return f"{subject} ({reason}). {remedy}."


def traceback_text(error: BaseException) -> str:
    """Return the traceback of an error as Python prints it."""
    return "".join(traceback.format_exception(error))


def prepare_streams() -> None:
    """Make standard output accept every character, and refuse to start if it is closed.

    A terminal or file whose encoding lacks a character gets its escape instead.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if sys.stdout is None:
        raise MachineError(
            "Standard output is closed, so the result would be lost. Send it to a file, or to "
            "/dev/null."
        )


def flush_output() -> None:
    """Write what standard output still holds; Python would do so after the status is decided."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        error.filename = "standard output"
        raise


def _nobody_reads() -> bool:
    """Return whether the reader of standard output or standard error has gone."""
    poll = select.poll()
    for number in (1, 2):
        poll.register(number, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _discard_output() -> None:
    """Send what standard output still holds nowhere: Python's last flush would fail again."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _report(sentence: str) -> None:
    _print_error(f"error: {sentence}")


def _print_error(sentence: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(printable(sentence), file=sys.stderr)


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    """Let SIGTERM and SIGUSR1 raise `Terminated` in a command that stands alone.

    A process of a launch must end at once, also while it waits for the others inside a library,
    where Python would not notice the signal.
    """
    alone = not ({"WORLD_SIZE", "RANK"} & os.environ.keys())
    main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGTERM, signal.SIGUSR1) if alone and main else ()
    ours = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second one ends the process
        raise Terminated(number)

    for number in ours:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def guard_script() -> None:
    """Let errors outside a guarded command, such as those of a script's recipes, end alike.

    Python would end with status 1, which means a miss.
    """
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _excepthook


def _excepthook(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> Any:
    if not isinstance(error, Exception):
        sys.__excepthook__(kind, error, trace)
        return
    sys.exit(_end(error, _report))
