"""Writing files so that an interruption leaves the old content or the new, never a part of it."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor


@contextmanager
def write_atomically(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Yield a binary file whose content becomes ``path`` when the block ends without an exception.

    The content goes to a hidden temporary name in the same folder, is flushed to the disk and then
    renamed, so that a reader at any moment, also after a crash, sees a whole file. Missing folders
    are made; a symbolic link is followed, not replaced; if the block raises, ``path`` keeps what it
    had. Only SIGKILL or a power cut inside the block can leave a ``.<name>.<hex>.tmp``.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with write_atomically(Path(folder) / "a" / "state") as file:
    ...         _ = file.write(b"whole")
    ...     (Path(folder) / "a" / "state").read_bytes()
    b'whole'
    """
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile: its files are private to the user, whereas results obey the umask.
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush_folder(target.parent)


def _flush_folder(folder: Path) -> None:
    """Make a rename survive a power cut: the name itself is content of the folder."""
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` to ``path`` atomically."""
    with write_atomically(path) as file:
        file.write(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` to ``path`` atomically, as UTF-8 with its newlines unchanged."""
    write_bytes(path, text.encode())


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` to ``path`` atomically as JSON: sorted keys, two spaces, a final newline.

    Equal values give equal bytes, and floats are written so that they read back to the bit.

    Raises:
        ValueError: for NaN or infinity, which JSON does not have; ``path`` keeps what it had.
        TypeError: for a value that JSON does not have.
    """
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def append_line(path: str | os.PathLike[str], line: str) -> None:
    """Append one line to a log such as ``metrics.jsonl``; missing file and folders are made.

    The line reaches the kernel in one write, so that it survives the death of this process (not a
    power cut: a flush to the disk at each line would cost more than it saves). What a killed writer
    left of an unfinished last line is removed first, hence every line of the log is whole. For one
    writer at a time.

    Raises:
        ValueError: if ``line`` contains a newline itself.
    """
    if "\n" in line:
        raise ValueError(f"one line expected, got a newline inside {line!r}")
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("ab+", buffering=0) as file:
        _remove_unfinished_line(file)
        file.write(f"{line}\n".encode())


def _remove_unfinished_line(file: Any, block: int = 4096) -> None:
    """Truncate a binary file after its last newline, reading backwards in blocks."""
    size = end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - block)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        file.truncate(end)


def digest_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of tensors' names, types, shapes and values, as hexadecimal digits.

    It names the values themselves: independent of a file, its format and the order of the names.

    >>> digest_of_tensors({"a": torch.zeros(2)}) == digest_of_tensors({"a": torch.zeros(2)})
    True
    >>> digest_of_tensors({"a": torch.zeros(2)}) == digest_of_tensors({"a": torch.zeros(1, 2)})
    False
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        values: Any = tensor.reshape(-1).view(torch.uint8).numpy()  # also for bfloat16
        digest.update(values)
    return digest.hexdigest()
