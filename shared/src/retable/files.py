"""Atomic writes: after an interruption a file holds its old content or its new one.

Records are JSON files that results are read from: they carry a checksum and the name of the run or
evaluation that they belong to.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from retable.errors import UserError


@contextlib.contextmanager
def write_atomically(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Yield a binary file whose content becomes ``path`` when the block ends without an exception.

    The content goes to a hidden temporary file in the same folder, is flushed to the disk and then
    renamed, so that a reader always sees a complete file, also after a crash. Missing folders are
    created; a symbolic link is followed, not replaced; if the block raises, ``path`` stays
    unchanged. Only SIGKILL or a power failure inside the block can leave a ``.<name>.<hex>.tmp``,
    which `remove_abandoned` finds by its missing lock.
    """
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    # tempfile would make files that only the user can read; results follow the umask.
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    try:
        with temporary.open("xb") as file:
            _lock(file)
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            error.filename = str(target)  # of a full disk, and not a name that nobody knows
        raise
    if os.name == "posix":  # elsewhere a folder cannot be opened
        descriptor = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # the rename survives a power failure
        finally:
            os.close(descriptor)


def _lock(file: BinaryIO) -> bool:
    """Lock a file without waiting; return whether nobody else holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def lock_folder(folder: str | os.PathLike[str], option: str) -> Iterator[None]:
    """Let no other command work in a folder, which is made, until the block ends.

    Raises:
        UserError: another one does; names the ``option`` that the folder was given by.
    """
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, ".lock"), "wb") as file:
        if not _lock(file):
            raise UserError(
                f"`{option}` must be a folder of one command, got {os.fspath(folder)}, in which "
                "another one works. Wait for it to end, or name another folder."
            )
        yield


def remove_abandoned(folder: str | os.PathLike[str]) -> None:
    """Remove the temporary files of killed writers from a folder and those below it."""
    for path in Path(folder).rglob(".*.tmp"):
        if re.fullmatch(r"\..+\.[0-9a-f]{12}\.tmp", path.name):
            with contextlib.suppress(OSError), path.open("rb") as file:
                if _lock(file):
                    path.unlink()


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` to ``path`` atomically."""
    with write_atomically(path) as file:
        file.write(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` to ``path`` atomically, as UTF-8 with its newlines unchanged."""
    write_bytes(path, text.encode())


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` to ``path`` atomically as JSON: sorted keys, two spaces, a final newline.

    Equal values give equal bytes, and floats are read back exactly. NaN or infinity, which JSON
    does not have, is a ValueError; ``path`` stays unchanged. Names of files that are not UTF-8
    become JSON's own escapes, which are read back equal.
    """
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_bytes(path, f"{text}\n".encode(errors="backslashreplace"))


class DamagedFileError(UserError):
    """A file is not what was written, or was written for another owner."""


def write_record(path: str | os.PathLike[str], owner: str, content: Any) -> None:
    """Write JSON values atomically, with their checksum and their owner, such as a run's name."""
    record = {"owner": owner, "checksum": _checksum_of(owner, content), "content": content}
    write_json(path, record)


def read_record(path: str | os.PathLike[str], owner: str | None = None) -> Any:
    """Return the content of a file of `write_record`; None as owner accepts any.

    Raises:
        DamagedFileError: the file is missing, truncated or altered, or belongs to another owner.
    """
    try:
        record = json.loads(Path(path).read_bytes())
        found, content = record["owner"], record["content"]
        intact = record["checksum"] == _checksum_of(found, content)
    except FileNotFoundError:
        raise DamagedFileError(f"{path} does not exist.") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        intact, found = False, owner
    if not intact:
        raise DamagedFileError(f"{path} is damaged: its content does not have its checksum.")
    if owner is not None and found != owner:
        raise DamagedFileError(f"{path} must belong to {owner}, got a file of {found}.")
    return content


def claim(path: str | os.PathLike[str], owner: str, content: Any) -> None:
    """Write the settings of a command's ``TARGET``, or check that they are those that stand there.

    Raises:
        UserError: they are others, or damaged.
    """
    if not os.path.exists(path):
        write_record(path, owner, content)
        return
    try:
        found = read_record(path, owner)
    except DamagedFileError as error:
        raise UserError(f"{error} Remove the folder, or name another `TARGET`.") from error
    if found != content:
        raise UserError(
            f"`TARGET` must hold {owner} of this recipe, {content}, got {found}. Name another "
            "folder."
        )


def _checksum_of(owner: str, content: Any) -> str:
    text = json.dumps([owner, content], sort_keys=True, allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def append_line(path: str | os.PathLike[str], line: str) -> None:
    """Append one line to a log such as ``metrics.jsonl``; missing file and folders are created.

    The line reaches the kernel at once, so that it survives the death of this process, but not
    a power failure. An unfinished last line of a killed writer is removed first, so that every line
    of the log is complete. For one writer at a time.

    Raises:
        OSError: the line could not be written whole, as on a full disk.
    """
    if "\n" in line:
        raise ValueError(f"`line` must not contain a newline, got {line!r}")
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("ab+", buffering=0) as file:
        _remove_unfinished_line(file)
        try:
            content = memoryview(f"{line}\n".encode())
            while content:  # a full disk takes a part first, and refuses the rest
                content = content[file.write(content) :]
        except OSError as error:
            error.filename = error.filename or str(target)
            raise


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

    It does not depend on a file, its format or the order of the names.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        values: Any = tensor.reshape(-1).view(torch.uint8).numpy()  # also for bfloat16
        digest.update(values)
    return digest.hexdigest()
