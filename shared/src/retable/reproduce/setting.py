"""Where and how a table's runs are carried out, and where each of them lies."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from retable.evaluate.protocol import Evaluation
from retable.reproduce.plan import Run
from retable.settings import fingerprint
from retable.train.loop import Execution
from retable.train.runs import RunDirectory


@dataclass(frozen=True)
class Setting:
    """Where and how runs are carried out; nothing that changes their numbers.

    Attributes:
        folder: holds one directory for each run.
        execution: options of the training loop.
        skip_unreadable: leave out and count unreadable images.
        threads: threads of a CPU run; one by default, so that figures do not depend on the machine.
        jobs: runs side by side on a CPU.
    """

    folder: Path
    execution: Execution = field(default_factory=Execution)
    skip_unreadable: bool = False
    threads: int = 1
    jobs: int = 1


def directory_of(run: Run, setting: Setting) -> RunDirectory:
    """Return the run's directory."""
    return RunDirectory(setting.folder / run.name)


def evaluation_directory(run: Run, evaluation: Evaluation, setting: Setting) -> Path:
    """Return where an evaluation of the run's encoder is kept."""
    name = f"{evaluation.name}-{fingerprint(evaluation, run.seed)}"
    return directory_of(run, setting).path / "evaluations" / name
