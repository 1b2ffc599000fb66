"""Directories of runs, named by the recipe and the seed.

Tables that need the same baseline share its run. The name does not depend on how a run is executed:
a run may be interrupted and finished on another number of processes.
"""

from __future__ import annotations

import dataclasses
import fcntl
import functools
import hashlib
import importlib
import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import torch

from retable import files
from retable.errors import UserError
from retable.settings import to_plain


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """The files of one run.

    ``result.json`` is written last: it exists exactly when the training has ended.
    """

    path: Path

    @property
    def recipe(self) -> Path:
        """The recipe that the run was started with."""
        return self.path / "recipe.json"

    @property
    def metrics(self) -> Path:
        """The log, one JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The folder of training checkpoints."""
        return self.path / "checkpoints"

    @property
    def encoder(self) -> Path:
        """The trained encoder."""
        return self.path / "encoder.safetensors"

    @property
    def result(self) -> Path:
        """The result of the training, written when it has ended."""
        return self.path / "result.json"

    @property
    def environment(self) -> Path:
        """Versions, hardware and commit."""
        return self.path / "environment.json"

    def write_recipe(self, recipe: object) -> None:
        """Write the recipe into a new directory, or verify the one of an existing directory.

        Raises:
            UserError: the directory was made for another recipe.
        """
        self.verify_recipe(recipe)
        if not self.recipe.exists():
            files.write_json(self.recipe, to_plain(recipe))

    def verify_recipe(self, recipe: object) -> None:
        """Check that the directory, if it exists, was made for this recipe.

        Raises:
            UserError: it was made for another recipe.
        """
        if not self.recipe.exists():
            return
        found, wanted = read_json(self.recipe), to_plain(recipe)
        if found != json.loads(json.dumps(wanted)):
            changed = ", ".join(_differences(found, wanted)) or "its fields"
            raise UserError(
                f"{self.path} holds a run of another recipe ({changed} differ). "
                "Use --fresh to train it again, or give another --runs folder."
            )

    @contextmanager
    def locked(self, patience: float = 3.0) -> Iterator[None]:
        """Lock the directory against other processes; the lock of a killed process is released.

        Args:
            patience: Seconds to wait for a process that is about to end.

        Raises:
            UserError: another process trains this run.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("w") as lock:
            deadline = time.monotonic() + patience
            while not _try_lock(lock):
                if time.monotonic() > deadline:
                    raise UserError(
                        f"{self.path} is being trained by another process. Wait for it to end, "
                        "or give another --runs folder."
                    )
                time.sleep(0.1)
            yield


def read_json(path: Path) -> Any:
    """Read a file that `files.write_json` wrote.

    Raises:
        UserError: the file is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(
            f"{path} is not readable JSON ({error}). Remove it and start again."
        ) from None


def _try_lock(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
    """
    packages = ["torch", "torchvision", "accelerate", "datasets", "safetensors", "retable"]
    versions: dict[str, str | None] = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "versions": versions,
        "processor": _processor_name(),
        "cores": os.cpu_count(),
        "gpus": gpus,
        "commit": _commit(),
    }


def code_digest(*objects: object) -> str:
    """Hash the source of the core and of the packages that the objects' classes come from.

    A run is named by its recipe alone; the digest shows whether the present code trained it.

    Returns:
        16 hexadecimal digits.
    """
    modules = {"retable", *(type(thing).__module__.partition(".")[0] for thing in objects)}
    digest = hashlib.sha256()
    for name in sorted(modules - {"__main__", "__mp_main__"}):
        for folder in getattr(importlib.import_module(name), "__path__", ()):  # none: a script
            for path in sorted(Path(folder).rglob("*.py")):
                digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """Return the commit of the working directory, with ``+changes`` if files differ from it."""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+changes" if changed else "")
