"""Directories of runs, named by the recipe and the seed.

Tables that need the same baseline share its run. The name does not depend on how a run is executed:
a run may be interrupted and finished on another number of processes.
"""

from __future__ import annotations

import fcntl
import functools
import importlib.metadata
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch

from retable import files
from retable.errors import UserError
from retable.settings import to_plain


@dataclass(frozen=True)
class Claim:
    """What decides the numbers of a run, kept beside them.

    Attributes:
        recipe: The recipe, the seed and the names of the recipe's classes.
        data: `Source.description` of the training images.
        code: `retable.code.code_digest` of the core and of the recipe's classes.
    """

    recipe: Mapping[str, Any]
    data: Mapping[str, Any]
    code: str


_OTHER = {"recipe": "of another recipe", "data": "of other data", "code": "made by other code"}
"""Parts of a claim, and a run whose part differs, in words."""


class RunDirectory:
    """The files of one run.

    ``recipe`` holds the `Claim` that the run was started with. ``result`` is written last: it
    exists exactly when the training has ended. ``environment`` holds versions, hardware and commit.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe = path / "recipe.json"
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.encoder = path / "encoder.safetensors"
        self.result = path / "result.json"
        self.environment = path / "environment.json"
        self._lock: TextIO | None = None

    @property
    def name(self) -> str:
        """Name of the run, which its files carry as their owner."""
        return self.path.name

    def write_claim(self, claim: Claim, accepted: Collection[str] = ()) -> None:
        """Write what the run is made of into a new directory, or verify an existing one's."""
        self.verify_claim(claim, accepted)
        if not self.recipe.exists():
            files.write_record(self.recipe, self.name, to_plain(claim))

    def verify_claim(self, claim: Claim, accepted: Collection[str] = ()) -> None:
        """Raise a UserError if the directory holds a run of another claim.

        Its "data" or "code" may differ where they are ``accepted``.
        """
        if not (self.recipe.exists() or self.result.exists() or self.checkpoints.exists()):
            return
        remedy = "Use --fresh to train it again, or give another --runs folder."
        try:
            found = files.read_record(self.recipe, self.name)
        except files.DamagedFileError as error:
            raise UserError(f"{error} {remedy}") from None
        wanted = to_plain(claim)
        for part, other in _OTHER.items():
            if part in accepted or found.get(part) == wanted[part]:
                continue
            names = ", ".join(filter(None, _differences(found.get(part), wanted[part])))
            changed = f" ({names} differ)" if names else ""
            accept = "" if part == "recipe" else f" --accept-other {part} keeps it."
            raise UserError(f"{self.path} holds a run {other}{changed}. {remedy}{accept}")

    @contextmanager
    def locked(self, patience: float = 3.0) -> Iterator[None]:
        """Lock the directory against other processes; the lock of a killed process is released.

        A UserError is raised if another process still trains this run after ``patience`` seconds.
        """
        deadline = time.monotonic() + patience
        while True:
            self.path.mkdir(parents=True, exist_ok=True)
            with self._lock_file.open("w") as lock:
                if _try_lock(lock) and self._is_present(lock):
                    self._lock = lock
                    files.remove_abandoned(self.path)
                    try:
                        yield
                    finally:
                        self._lock = None
                    return
            if time.monotonic() > deadline:
                raise UserError(
                    f"{self.path} is being trained by another process. Wait for it to end, or give "
                    "another --runs folder."
                )
            time.sleep(0.1)

    def verify_present(self) -> None:
        """Check that the directory that this process has locked was not removed or replaced."""
        if self._lock is not None and not self._is_present(self._lock):
            raise UserError(
                f"{self.path} was removed while its run was trained. Start the same command again."
            )

    def is_older(self, moment: float) -> bool:
        """Say whether the directory holds a run that began before a ``time.time()``."""
        try:
            return self.recipe.stat().st_mtime < moment
        except FileNotFoundError:
            return False

    def remove(self) -> None:
        """Remove the files of a locked directory but for its lock."""
        for path in self.path.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path != self._lock_file:
                path.unlink()

    @property
    def _lock_file(self) -> Path:
        return self.path / "lock"

    def _is_present(self, lock: TextIO) -> bool:
        """Say whether an open lock is still the one in the directory."""
        try:
            return os.path.samestat(os.fstat(lock.fileno()), os.stat(self._lock_file))
        except FileNotFoundError:
            return False


def _try_lock(lock: TextIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _differences(found: Any, wanted: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        for name in sorted(found.keys() | wanted.keys()):
            yield from _differences(found.get(name), wanted.get(name), f"{prefix}{name}.")
    elif found != wanted:
        yield prefix.rstrip(".")


@functools.cache
def environment() -> dict[str, Any]:
    """Return versions, hardware and the commit of the working directory.

    Evaluated at the first call of a process, because files may change during a long run.
    ``instructions`` are the vector instructions that torch computes with, such as "AVX2": they
    decide the last digits, and processors of one name do not all have the same.
    """
    packages = ("torch", "torchvision", "accelerate", "datasets", "safetensors", "retable")
    versions: dict[str, str | None] = dict.fromkeys(packages)
    for package in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    # Of the commit of the working directory, "+changes" says that files differ from it.
    commit = _git("rev-parse", "--short=12", "HEAD")
    changed = commit and _git("status", "--porcelain", "--untracked-files=no")
    return {
        "python": platform.python_version(),
        "versions": versions,
        "processor": _processor_name(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "commit": commit and commit + ("+changes" if changed else ""),
    }


def _processor_name() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git(*words: str) -> str | None:
    # Without a lock, which would stay in the repository if Ctrl-C killed git.
    command = ["git", "--no-optional-locks", *words]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()
