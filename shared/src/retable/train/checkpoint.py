"""Checkpoints of trainings and probes: written atomically, verified when read.

A checkpoint is a plain dictionary of tensors, numbers and text in one file, not accelerate's
``save_state``: every draw is a function of the step, so there is no random state to store, and one
file can be renamed into place at once and read back without unpickling code.
"""

from __future__ import annotations

import hashlib
import io
import re
import sys
from pathlib import Path
from typing import Any

import torch

from retable import files

_DIGEST_BYTES = 32


def save(
    folder: Path, number: int, state: dict[str, Any], *, name: str = "step", keep: int = 2
) -> Path:
    """Write the state after ``number`` steps or epochs; remove all but the ``keep`` newest.

    The file, ``NAME-NUMBER.pt``, ends with the digest of its content, so that a truncated or
    altered file is detected.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    path = folder / f"{name}-{number:09d}.pt"
    files.write_bytes(path, content + hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest())
    for _, old in _files(folder, name)[keep:]:
        old.unlink(missing_ok=True)
    return path


def load_newest(folder: Path, *, name: str = "step") -> tuple[int, dict[str, Any]] | None:
    """Return (number, state) of the newest undamaged checkpoint, None if there is none.

    A damaged file is reported on standard error and the one before it is used.
    """
    for number, path in _files(folder, name):
        content = path.read_bytes()
        content, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
        if hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest() == digest:
            state: dict[str, Any] = torch.load(
                io.BytesIO(content), map_location="cpu", weights_only=True
            )
            return number, state
        print(f"{path} is damaged. Using the checkpoint before it, if any.", file=sys.stderr)
    return None


def _files(folder: Path, name: str) -> list[tuple[int, Path]]:
    """List (number, path), newest first."""
    pattern = re.compile(rf"{re.escape(name)}-(\d+)\.pt")
    found = [(pattern.fullmatch(path.name), path) for path in folder.glob("*.pt")]
    return sorted(((int(match[1]), path) for match, path in found if match), reverse=True)
