"""Time how long importing takes, each in a process of its own, one after the other.

`retable` stands for all that a reproduction loads: loop, evaluation, tables and command line.
"""

from __future__ import annotations

import subprocess
import sys

import _lightly_moco as peer
from _timing import Goal, Report, Seconds, parse, ratios

MODULES = {
    "torch": "torch",
    "retable": "retable.train.pretrain, retable.evaluate, retable.tables, retable.reproduce, "
    "retable.cli",
    "mochi": "mochi",
    "lightly": "lightly.loss",
}

PROGRAM = """
import time
start = time.{clock}()
import {modules}
print(time.{clock}() - start)
"""


def seconds_to_import(modules: str, clock: str) -> float:
    """Import in a new process and return what it took there, after the interpreter's own start."""
    program = PROGRAM.format(modules=modules, clock=clock)
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(ended.stdout)


def main() -> None:
    options = parse(__doc__ or "")
    report = Report("Imports", options, lightly=peer.version())
    names = [name for name in MODULES if name != "lightly" or peer.installed()]
    rounds = options.pick(9, 4, 1)
    # The first round fills the system's file cache and writes byte code.
    warmup = options.pick(1, 1, 0)
    clock = options.clock.__name__
    seconds: Seconds = {name: [] for name in names}
    for number in range(warmup + rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            spent = seconds_to_import(MODULES[name], clock)
            if number >= warmup:
                seconds[name].append(spent)
    for name in names:
        report.add(f"import {name}", seconds[name], "s")
    for name in names[1:]:
        goal = None if name == "lightly" else Goal(at_most=1.2)
        shares = ratios(seconds[name], seconds["torch"])
        report.add(f"import {name} over import torch", shares, name="R8", goal=goal)
    report.show()


if __name__ == "__main__":
    main()
