"""Directories of runs, named by the recipe and the seed.

Tables that need the same baseline share its run. The name does not depend on how a run is executed:
a run may be interrupted and finished on another number of processes.
"""

from __future__ import annotations

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
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from retable import files
from retable.errors import UserError
from retable.settings import to_plain


class RunDirectory:
    """The files of one run.

    ``result`` is written last: it exists exactly when the training has ended. ``environment`` holds
    versions, hardware and commit.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe = path / "recipe.json"
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.encoder = path / "encoder.safetensors"
        self.result = path / "result.json"
        self.environment = path / "environment.json"

    def write_recipe(self, recipe: object) -> None:
        """Write the recipe into a new directory, or verify the one of an existing directory."""
        self.verify_recipe(recipe)
        if not self.recipe.exists():
            files.write_json(self.recipe, to_plain(recipe))

    def verify_recipe(self, recipe: object) -> None:
        """Raise a UserError if the directory was made for another recipe."""
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

        A UserError is raised if another process still trains this run after ``patience`` seconds.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("w") as lock:
            deadline = time.monotonic() + patience
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise UserError(
                            f"{self.path} is being trained by another process. Wait for it to end, "
                            "or give another --runs folder."
                        ) from None
                time.sleep(0.1)
            files.remove_abandoned(self.path)
            yield


def read_json(path: Path) -> Any:
    """Read a file that `files.write_json` wrote; another content is a `UserError`."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(
            f"{path} is not readable JSON ({error}). Remove it and start again."
        ) from None


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
        "cores": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "commit": commit and commit + ("+changes" if changed else ""),
    }


def code_digest(*objects: object) -> str:
    """Hash the source of the core and of the objects' packages to 16 hexadecimal digits.

    A run is named by its recipe alone; the digest shows whether the present code trained it.
    """
    modules = {"retable", *(type(thing).__module__.partition(".")[0] for thing in objects)}
    digest = hashlib.sha256()
    for name in sorted(modules - {"__main__", "__mp_main__"}):
        for folder in getattr(importlib.import_module(name), "__path__", ()):  # none: a script
            for path in sorted(Path(folder).rglob("*.py")):
                digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


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
