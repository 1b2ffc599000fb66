"""The state from which training continues: written whole, checked when read.

A plain dictionary of tensors and numbers in one file, not accelerate's ``save_state``: since every
draw is a function of the step there is no random state to keep, and one file can be renamed into
place at once and read back without unpickling code.
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

_NAME = re.compile(r"step-(\d+)\.pt")
_DIGEST_BYTES = 32


def save(folder: Path, step: int, state: dict[str, Any], *, keep: int = 2) -> Path:
    """Write the state after ``step`` steps and remove all but the newest ``keep``.

    The file ends with the digest of what precedes it: a state that was cut or altered is known.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    path = folder / f"step-{step:09d}.pt"
    files.write_bytes(path, content + hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest())
    for _, old in _states(folder)[keep:]:
        old.unlink(missing_ok=True)
    return path


def load_newest(folder: Path) -> tuple[int, dict[str, Any]] | None:
    """Return (steps made, state) of the newest undamaged state, None if there is none.

    A damaged state is named on standard error and the one before it is used.
    """
    for step, path in _states(folder):
        content = path.read_bytes()
        content, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
        if hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest() == digest:
            state: dict[str, Any] = torch.load(
                io.BytesIO(content), map_location="cpu", weights_only=True
            )
            return step, state
        print(f"{path} is damaged: using the state before it, if any.", file=sys.stderr)
    return None


def _states(folder: Path) -> list[tuple[int, Path]]:
    """List (step, path), newest first."""
    found = [(_NAME.fullmatch(path.name), path) for path in folder.glob("step-*.pt")]
    return sorted(((int(match[1]), path) for match, path in found if match), reverse=True)
