"""Checkpoints of trainings and probes: written atomically, verified when read.

A checkpoint is a plain dictionary of tensors, numbers and text in one file, not accelerate's
``save_state``: every draw is a function of the step, so there is no random state to store, and one
file can be renamed into place at once and read back without unpickling code.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from retable import files
from retable.distributed import gather, process_index
from retable.errors import UserError

_DIGEST_BYTES = 32


def save(
    folder: Path,
    number: int,
    state: dict[str, Any],
    *,
    name: str = "step",
    owner: str = "",
    keep: int = 2,
) -> Path:
    """Write the state after ``number`` steps or epochs; remove all but the ``keep`` newest.

    The file, ``NAME-NUMBER.pt``, names its ``owner`` and ends with the digest of its content, so
    that a truncated, altered, renamed or foreign file is detected.
    """
    buffer = io.BytesIO()
    torch.save({"owner": owner, "number": number, "state": state}, buffer)
    content = buffer.getvalue()
    path = folder / f"{name}-{number:09d}.pt"
    files.write_bytes(path, content + hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest())
    for _, old in _files(folder, name)[keep:]:
        old.unlink(missing_ok=True)
    return path


def load_newest(
    folder: Path,
    *,
    name: str = "step",
    owner: str | None = None,
    fault_of: Callable[[dict[str, Any]], str] = lambda state: "",
) -> tuple[int, dict[str, Any]] | None:
    """Return (number, state) of the newest usable checkpoint, None if there is none.

    A damaged or foreign file, and one in whose state ``fault_of`` finds a fault, is reported on
    standard error and the one before it is used. None as ``owner`` accepts any.
    """
    for number, path in _files(folder, name):
        fault, state = _read(path, number, owner)
        fault = fault or fault_of(state)
        if not fault:
            return number, state
        print(f"{path} {fault}. Using the checkpoint before it, if any.", file=sys.stderr)
    return None


def _read(path: Path, number: int, owner: str | None) -> tuple[str, dict[str, Any]]:
    """Return the fault of a file, empty if it has none, and its state."""
    content = path.read_bytes()
    content, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    if hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest() != digest:
        return "is damaged", {}
    found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if not isinstance(found, dict) or found.keys() != {"owner", "number", "state"}:
        return "was written by another version", {}
    if owner is not None and found["owner"] != owner:
        return "belongs to another training", {}
    if found["number"] != number:
        return f"was written after {found['number']}, not {number}", {}
    return "", found["state"]


def _files(folder: Path, name: str) -> list[tuple[int, Path]]:
    """List (number, path), newest first."""
    pattern = re.compile(rf"{re.escape(name)}-(\d+)\.pt")
    found = [(pattern.fullmatch(path.name), path) for path in folder.glob("*.pt")]
    return sorted(((int(match[1]), path) for match, path in found if match), reverse=True)


class Saved(NamedTuple):
    """State after ``epoch`` finished epochs."""

    epoch: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]


class Checkpoints:
    """The two newest states of one probe in ``directory``; None keeps nothing.

    ``identity`` are JSON values: all that the probe's result depends on. See
    `retable.train.checkpoint` for what becomes of damaged files.
    """

    def __init__(self, directory: Path | None, name: str, **identity: Any) -> None:
        self.directory = directory
        self.name = name
        self.identity = json.dumps(identity, sort_keys=True)

    def save(self, epoch: int, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Write the state after ``epoch`` epochs, on process 0."""
        if self.directory is None or process_index() != 0:
            return
        on_cpu = {name: value.detach().cpu().clone() for name, value in tensors.items()}
        state = {"identity": self.identity, "tensors": on_cpu, "facts": facts}
        self.directory.mkdir(parents=True, exist_ok=True)
        save(self.directory, epoch, state, name=self.name)

    def load(self, device: torch.device | str = "cpu") -> Saved | None:
        """Return the newest undamaged state, None where there is none.

        The processes exchange a number on ``device``. A UserError is raised if the state belongs to
        another encoder, recipe, seed or data set, or if the processes see different files.
        """
        found = load_newest(self.directory, name=self.name) if self.directory else None
        saved = None if found is None else self._checked(*found)
        epochs = gather(torch.tensor([saved.epoch if saved else 0], device=device))
        if int(epochs.min()) != int(epochs.max()):
            raise UserError(
                f"The processes see different states of {self.name!r} in {self.directory}. Choose "
                "a folder on a shared file system."
            )
        return saved

    def _checked(self, epoch: int, state: dict[str, Any]) -> Saved:
        was, now = json.loads(state["identity"]), json.loads(self.identity)
        names = sorted(name for name in was.keys() | now.keys() if was.get(name) != now.get(name))
        if state["identity"] != self.identity:
            raise UserError(
                f"The state of {self.name!r} in {self.directory} was made by another "
                f"{', '.join(names)}. Remove it or choose another folder."
            )
        return Saved(epoch, state["tensors"], state["facts"])
