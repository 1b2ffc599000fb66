"""Options of how runs are carried out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from retable.domains import Count, Small, SmallOrZero
from retable.settings import validate_fields


@dataclass(frozen=True)
class RunOptions:
    """How runs are carried out; no option changes the numbers beyond rounding.

    Attributes:
        folder: Folder that holds one directory for each run.
        processes: Training processes; None starts one for each GPU.
        jobs: Runs that are trained side by side on a CPU.
        threads: Threads of a CPU run. The default of one keeps the numbers independent of the
            machine.
        workers: Processes that decode images, for sources that are not resident.
        accumulate: Micro-batches of each step, where the method allows them.
        compile: Compile the encoders and, on a GPU, the views with ``torch.compile``.
        resident: Decode a source of files once and keep it on the device; needs equal image sizes.
        skip_unreadable: Leave out and count unreadable images.
        checkpoint_every: Steps between checkpoints; one more is written after each epoch.
        label: Name of the run on the terminal.
        quiet: Print no progress bar and no remarks.
        resume: Require earlier runs to continue from.
        fresh: Delete runs that began before this ``time.time()``; 0 deletes none.
        accepted: "code" or "data": keep runs that were made of other code or data.
        full: Print the whole comparison at the end, not the table and its verdicts alone.
        gpu: GPU whose published rate gives the hours of a dry run; "": this machine's.
        dry_run: Print the plan and its cost instead of training.
        record: Store the metrics as the table's proxy references.
        extend: Keep the seeds that are stored there.
    """

    folder: Path = Path("runs")
    processes: Small | None = None
    jobs: Small = 1
    threads: Small = 1
    workers: SmallOrZero = 0
    accumulate: Count = 1
    channels_last: bool = True
    compile: bool = False
    resident: bool = False
    skip_unreadable: bool = False
    log_every: Count = 100
    checkpoint_every: Count = 1000
    tensorboard: bool = False
    label: str = ""
    quiet: bool = False
    resume: bool = False
    fresh: float = 0.0
    accepted: tuple[str, ...] = ()
    full: bool = False
    gpu: str = ""
    dry_run: bool = False
    record: bool = False
    extend: bool = False

    def __post_init__(self) -> None:
        validate_fields(self)
