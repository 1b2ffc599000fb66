"""Progress bars: one line for each process that works on this machine."""

from __future__ import annotations

import sys
import threading
from typing import Any

from retable.distributed import process_index
from retable.extras import require

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
    """Return a tqdm bar on standard error, shown only on a terminal and only in process 0."""
    require("tqdm", "train", "A progress bar")
    from tqdm import tqdm

    # Other processes draw on other lines, so a lock within this process is enough. tqdm's default
    # is a semaphore that a process ended by Ctrl-C leaks, with a warning.
    tqdm.set_lock(_drawing)
    return tqdm(
        desc=description or None,
        initial=initial,
        total=total,
        unit=f" {unit}",
        unit_scale=total >= 10_000,
        dynamic_ncols=True,
        leave=False,
        position=_line,
        disable=None if shown and process_index() == 0 else True,
    )
