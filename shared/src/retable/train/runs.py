"""Results by content: a recipe and a seed name one directory, whoever asks for it.

Two tables that need the same baseline find the same run. Nothing in the name depends on how a run
is executed: it may be interrupted and finished on another number of processes.
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

    ``recipe.json`` what was asked for, ``metrics.jsonl`` the log, ``checkpoints/`` the training
    state, ``encoder.safetensors`` the product, ``result.json`` the figures (written last: it exists
    exactly when the run is complete), ``environment.json`` where and with what it ran.
    """

    path: Path

    @property
    def recipe(self) -> Path:
        """What was asked for."""
        return self.path / "recipe.json"

    @property
    def metrics(self) -> Path:
        """The log, one JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The folder of training states."""
        return self.path / "checkpoints"

    @property
    def encoder(self) -> Path:
        """The trained encoder."""
        return self.path / "encoder.safetensors"

    @property
    def result(self) -> Path:
        """The figures of a complete run."""
        return self.path / "result.json"

    @property
    def environment(self) -> Path:
        """Versions, hardware and commit."""
        return self.path / "environment.json"

    def finished(self) -> dict[str, Any] | None:
        """Return the result of a complete run, None before."""
        return read_json(self.result) if self.result.exists() else None

    def claim(self, recipe: object) -> None:
        """Write the recipe into a new directory, or check that an old one holds the same.

        Raises:
            UserError: the directory was made for another recipe.
        """
        self.check(recipe)
        if not self.recipe.exists():
            files.write_json(self.recipe, to_plain(recipe))

    def check(self, recipe: object) -> None:
        """Check that the directory, if it exists, was made for this recipe.

        Raises:
            UserError: it was made for another.
        """
        if not self.recipe.exists():
            return
        found, wanted = read_json(self.recipe), to_plain(recipe)
        if found != json.loads(json.dumps(wanted)):
            changed = ", ".join(_differences(found, wanted)) or "its fields"
            raise UserError(
                f"{self.path} holds a run of another recipe ({changed} differ): "
                "start with --fresh to train it anew, or give another --runs folder."
            )

    @contextmanager
    def locked(self, patience: float = 3.0) -> Iterator[None]:
        """Keep other processes out while the run is being made; a killed owner's lock is gone.

        Args:
            patience: seconds to wait for an owner that is just ending.

        Raises:
            UserError: another process is making this run.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("w") as lock:
            deadline = time.monotonic() + patience
            while not _try_lock(lock):
                if time.monotonic() > deadline:
                    raise UserError(
                        f"{self.path} is being trained by another process: wait for it to end, "
                        "or give another --runs folder."
                    )
                time.sleep(0.1)
            yield


def read_json(path: Path) -> Any:
    """Read a file that `files.write_json` wrote.

    Raises:
        UserError: it has been altered and is no JSON any more.
    """
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(
            f"{path} is not readable JSON ({error}): remove it and start again."
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

    Read at the first call of a process, for files may change under a long run.
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

    A run is named by its recipe alone; this tells whether the code that made it is today's.

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
