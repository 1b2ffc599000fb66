"""Signals that ask a command to stop: a training saves its state before they take effect.

Ctrl-C (SIGINT), SIGTERM and SIGUSR1 end a command as soon as Python sees them. Within `deferred`
the first one only sets a flag, which a loop reads where it can save; the second takes effect at
once.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Deferred:
    """A signal that has arrived and waits."""

    def __init__(self) -> None:
        self._number: int | None = None
        self._before: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal has asked this process to stop."""
        return self._number is not None

    def take_effect(self) -> None:
        """Do what the signal does outside the block; without one, what SIGTERM does."""
        self.restore()
        signal.raise_signal(signal.SIGTERM if self._number is None else self._number)

    def install(self) -> None:
        """Wait with signals; ignored ones stay ignored, as Ctrl-C is in a background job."""
        for number in STOP_SIGNALS:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                self._before[number] = signal.signal(number, self._arrive)

    def restore(self) -> None:
        """Handle signals as before the block."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _arrive(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            self.take_effect()
        self._number = number


@contextlib.contextmanager
def deferred() -> Iterator[Deferred]:
    """Let the first signal wait until the block reads it or ends.

    Only the main thread receives signals; in another one the block changes nothing.
    """
    found = Deferred()
    if threading.current_thread() is threading.main_thread():
        found.install()
    try:
        yield found
    except BaseException:
        found.restore()
        raise
    found.restore()
    if found.requested:
        found.take_effect()
