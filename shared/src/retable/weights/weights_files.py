"""Read the tensors of any weights file without running code from the file."""

from __future__ import annotations

import argparse
import hashlib
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from retable.errors import UserError


class WeightsFile(NamedTuple):
    """Tensors of a weights file by dotted name, and the strings of a safetensors header."""

    tensors: dict[str, Tensor]
    header: dict[str, str]


def read_weights(path: Path) -> WeightsFile:
    """Read a safetensors file or anything that ``torch.load(weights_only=True)`` accepts.

    The format is recognised by the content, not the name. Nested dictionaries become dotted names:
    ``{"state_dict": {"conv1.weight": w}}`` gives ``state_dict.conv1.weight``. Tensors are on the
    CPU; those of a zip-format file are memory-mapped, so that optimizer states cost nothing.

    Raises:
        UserError: the file is missing, damaged, or holds Python objects other than plain
            containers, numbers, ``argparse.Namespace`` and numpy scalars.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist. Pass a file with the weights of an encoder.")
    with path.open("rb") as file:
        start = file.read(9)
    # A safetensors file opens with the length of its JSON header: eight bytes, then the brace.
    if len(start) == 9 and start.endswith(b"{"):
        return _read_safetensors(path)
    return WeightsFile(dict(_flatten(_read_torch(path), "", depth=10)), {})


def _read_safetensors(path: Path) -> WeightsFile:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return WeightsFile(tensors, file.metadata() or {})
    except SafetensorError as error:
        raise _damaged(path, error) from error


def _read_torch(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_inert_globals()):
            return torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    # A damaged pickle can raise any exception, and all of them mean the same to the user.
    except Exception as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused is None:
            raise _damaged(path, error) from error
        raise UserError(
            f"{path} holds the Python object {refused[1]}, whose loading can run foreign code. "
            'Save torch.load(...)["state_dict"] alone where the file comes from, and pass that.'
        ) from error


def _damaged(path: Path, error: Exception) -> UserError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return UserError(
        f"{path} is damaged or no safetensors or PyTorch weights file ({reason}). Copy or download "
        "it again."
    )


def _inert_globals() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """List types of training checkpoints that can only hold values.

    Command-line arguments (MoCo v3, DINO) and accuracies as numpy scalars (many) must not make the
    weights of the same file unreadable.
    """
    import numpy

    # The function moved in numpy 2; files name it by either place.
    scalar: Callable[..., Any] = cast(Any, numpy.float64(0).__reduce__()[0])
    dtypes = {type(numpy.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "?")}
    return [
        argparse.Namespace,
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        numpy.dtype,
        *dtypes,
    ]


def _flatten(value: Any, name: str, depth: int) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of nested dictionaries; ``depth`` limits dictionaries in themselves."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping) and depth > 0:
        for key, inner in value.items():
            yield from _flatten(inner, f"{name}.{key}" if name else str(key), depth - 1)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as hexadecimal digits (what ``sha256sum`` prints)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
