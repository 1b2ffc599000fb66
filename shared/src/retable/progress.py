"""Progress: a bar on a terminal, one line for each process; elsewhere a line every minute."""

from __future__ import annotations

import functools
import sys
import threading
import time
from typing import Any

from retable.distributed import process_index
from retable.extras import require

EVERY = 60.0
"""Seconds between two lines where there is no terminal."""

_line = 0
_drawing = threading.RLock()


def use_line(line: int) -> None:
    """Draw this process's bars on line ``line`` below the cursor, for runs in parallel."""
    global _line
    _line = line


def write(message: str) -> None:
    """Print a line on standard error, above the bars."""
    from tqdm import tqdm

    tqdm.write(message, file=sys.stderr)


def bar(
    total: int, unit: str, description: str = "", *, initial: int = 0, shown: bool = True
) -> Any:
    """Return a tqdm bar on standard error, in process 0; without a terminal it writes lines."""
    require("tqdm", "train", "A progress bar")
    from tqdm import tqdm

    # Other processes draw on other lines, so a lock within this process is enough. tqdm's default
    # is a semaphore that a process ended by Ctrl-C leaks, with a warning.
    tqdm.set_lock(_drawing)
    shown = shown and process_index() == 0
    on_terminal = sys.stderr is not None and sys.stderr.isatty()
    return (tqdm if on_terminal else _lines())(
        desc=description or None,
        initial=initial,
        total=total,
        unit=f" {unit}",
        unit_scale=total >= 10_000,
        dynamic_ncols=on_terminal,
        leave=False,
        position=_line,
        disable=not shown,
    )


@functools.cache
def _lines() -> type[Any]:
    """Return the bar of a log file: a line every minute; tqdm is imported where it is used."""
    from tqdm import tqdm

    base: Any = tqdm

    class Lines(base):
        """A bar that writes ``EVERY`` so many seconds how far it is and how long it will take."""

        disable: bool
        miniters: float

        def __init__(self, *words: Any, **options: Any) -> None:
            self._said = time.monotonic()
            super().__init__(*words, miniters=1, **options)

        def refresh(self, *words: Any, **options: Any) -> None:
            """Write a line if the last one was long enough ago."""
            if self.disable or time.monotonic() - self._said < EVERY:
                return
            self._said = time.monotonic()
            done, total = self.n, self.total or self.n
            rate = self.format_dict["rate"] or (done - self.initial) / self.format_dict["elapsed"]
            left = tqdm.format_interval((total - done) / rate) if rate else "?"
            share = 100 * done / max(total, 1)
            name = f"{self.desc.removesuffix(': ')}: " if self.desc else ""
            self.fp.write(
                f"{name}{done:,} of {total:,}{self.unit} ({share:.0f} %), about {left} left\n"
            )
            self.fp.flush()

        def clear(self, nolock: bool = False) -> None:
            """Leave what is written, also where a message follows."""

        def close(self) -> None:
            """End without a last drawing."""
            if not self.disable:
                self.disable = True
                with self._lock:
                    self._decr_instances(self)

    return Lines
