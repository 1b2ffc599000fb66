"""Tries outputs before any work, so that hours of it are not lost for a path."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from retable.errors import UserError

_TRIED = b"\0" * 4096
"""One block: a file system may still accept the name of a file when it is full."""


def check_output_folder(path: Path, option: str) -> None:
    """Check that files can be written to a folder, which need not exist yet; leaves nothing.

    Raises:
        UserError: the path leads through or to a file; names the ``option``.
        OSError: the operating system refuses a file there.
    """
    _try_folder(path, option, "a folder", path)


def _try_folder(folder: Path, option: str, wanted: str, path: Path) -> None:
    nearest = _nearest(folder, option)
    if not nearest.is_dir():
        raise UserError(
            f"`{option}` must be {wanted}, got {path}, where {nearest} is a file. Name another one."
        )
    tried = nearest / f".retable-{secrets.token_hex(6)}.tmp"
    try:
        descriptor = os.open(tried, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            os.write(descriptor, _TRIED)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
            tried.unlink()
    except OSError as error:
        error.filename = os.fspath(path)  # the user knows no other name
        raise


def check_output_file(path: Path, option: str) -> None:
    """Check that a file can be written or replaced; leaves nothing.

    Raises:
        UserError: the path is no regular file, or its folder is none; names the ``option``.
        OSError: the operating system refuses a file there.
    """
    if _nearest(path, option) == path and not stat.S_ISREG(path.stat().st_mode):
        kind = "folder" if path.is_dir() else "device or pipe"
        raise UserError(f"`{option}` must be a file, got the {kind} {path}. Name a file.")
    folder = Path(os.path.realpath(path)).parent
    _try_folder(folder, option, "a file in a folder", path)


def _nearest(path: Path, option: str) -> Path:
    """Return the path itself, or the nearest folder or file above it that exists."""
    if "\0" in str(path):
        raise UserError(f"`{option}` must be a path, got {str(path)!r}. Correct it.")
    for place in (path, *path.parents):
        if place.exists():
            return place
    raise UserError(
        f"`{option}` must be a path in an existing folder, got {path} in {Path.cwd()}. Change to "
        "another folder."
    )
