"""Read the tensors of any weights file without running code from the file."""

from __future__ import annotations

import hashlib
import io
import mmap
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import torch
from torch import Tensor

from retable.errors import UserError
from retable.text import printable
from retable.weights.file_kinds import other_kind
from retable.weights.pickles import (
    Contents,
    Placeholder,
    UnreadablePickleError,
    check_old_format,
    check_pickle,
)

_MOST_NAMES = 1_000_000
_LONGEST_NAME = 1000

# Names under which programs keep the name of the architecture.
_NAMES_OF_THE_ARCHITECTURE = ("arch", "architecture", "backbone", "encoder", "model", "model_name")


class WeightsFile(NamedTuple):
    """What a weights file holds.

    Attributes:
        tensors: tensors by dotted name; control characters of names are escaped.
        header: the strings of a safetensors header.
        architecture: what the file calls its architecture, by the name of the entry.
        ignored: types of the objects beside the tensors, which were not built.
    """

    tensors: dict[str, Tensor]
    header: dict[str, str]
    architecture: dict[str, str]
    ignored: tuple[str, ...] = ()


def read_weights(path: Path) -> WeightsFile:
    """Read a safetensors file or anything that ``torch.load(weights_only=True)`` accepts.

    The format is recognised by the content, not the name. Nested dictionaries become dotted names:
    ``{"state_dict": {"conv1.weight": w}}`` gives ``state_dict.conv1.weight``. Tensors are on the
    CPU; those of a zip-format file are memory-mapped, so that optimizer states cost nothing.

    Raises:
        UserError: the file is missing, damaged or no weights file, or holds Python objects other
            than plain containers, numbers and inert types such as ``argparse.Namespace``.
    """
    if not path.is_file():
        what = "is neither a file nor a folder" if path.exists() else "does not exist"
        if Path(f"{path}.index").is_file():
            what = "is a TensorFlow checkpoint"
        raise UserError(f"{path} {what}. Pass a PyTorch or safetensors file with weights.")
    try:
        with path.open("rb") as file:
            start = file.read(9)
        # A safetensors file opens with the length of its JSON header, eight bytes, and the brace.
        # A text that has a brace there reads as a length of more than 10^18.
        if start[8:] == b"{" and (not _is_text(start) or start[4:8] == bytes(4)):
            return _read_safetensors(path)
        if kind := other_kind(path):
            raise UserError(f"{path} is {kind[0]}, no weights file. {kind[1]}.")
        return _read_torch(path)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(
            f"{path} cannot be read: {reason}. Check the file's permissions."
        ) from error


def _is_text(start: bytes) -> bool:
    return all(byte >= 32 or byte in b"\t\r\n" for byte in start)


def _read_safetensors(path: Path) -> WeightsFile:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {printable(name): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            header = dict(file.metadata() or {})
    # Damaged headers and types that PyTorch lacks raise many kinds of exceptions.
    except Exception as error:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
        size = path.stat().st_size
        reason = _first_line(error)
        if length + 8 > size:
            reason = f"its header claims {length:,} bytes and the file has {size:,}"
        elif "IncompleteMetadata" in reason or "not fully covered" in reason:
            reason = "it is shorter or longer than its header says"
        raise _damaged(path, reason) from error
    names = {key: text for key, text in header.items() if key in _NAMES_OF_THE_ARCHITECTURE}
    return WeightsFile(tensors, header, names)


def _read_torch(path: Path) -> WeightsFile:
    zipped = zipfile.is_zipfile(path)
    try:
        contents = _check_zip(path) if zipped else _check_old(path)
        placeholders = contents.placeholders()
        allowed: list[Any] = [(made, name) for name, made in placeholders.items()]
        # PyTorch warns of pickle protocols and deprecated storages, which users cannot change.
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except UnreadablePickleError as error:
        raise _damaged(path, printable(str(error)), error.remedy) from error
    # A damaged pickle can raise any exception, and all of them mean the same to the user.
    except Exception as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused is None:
            raise _damaged(path, _first_line(error)) from error
        raise UserError(
            f"{path} holds the Python object {printable(refused[1])}, whose loading can run "
            "foreign code. Save the state dict alone where the file comes from "
            "(`torch.save(model.state_dict(), FILE)`), and pass that file."
        ) from error
    found = _Found(path)
    found.look(content, "", depth=10)
    return WeightsFile(found.tensors, {}, found.architecture, tuple(sorted(placeholders)))


def _check_zip(path: Path) -> Contents:
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [each for each in archive.infolist() if each.filename.endswith("data.pkl")]
            names = archive.namelist()
            if len(entries) != 1 or len(names) != len(set(names)):
                raise UnreadablePickleError("its zip archive holds one entry several times")
            if entries[0].file_size > size:
                raise UnreadablePickleError("its pickle is longer than the file")
            text = archive.read(entries[0])
    except UnreadablePickleError:
        raise
    # A damaged archive can raise many kinds of exceptions.
    except Exception as error:
        raise UnreadablePickleError(f"its zip archive is damaged: {_first_line(error)}") from error
    return check_pickle(io.BytesIO(text), size)


def _check_old(path: Path) -> Contents:
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        return check_old_format(cast("IO[bytes]", content), len(content))


def _damaged(path: Path, reason: str, remedy: str = "Copy or download it again") -> UserError:
    return UserError(f"{path} cannot be read as a weights file: {reason}. {remedy}.")


def _first_line(error: Exception) -> str:
    """Return an exception's reason, without PyTorch's advice to load files that can run code."""
    text = str(error)
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in text:
        found = re.search(r"WeightsUnpickler error: *([^\n]*)", text)
        text = found[1] if found and "weights_only" not in found[1] else "its pickle is damaged"
    lines = text.strip().splitlines()
    return printable(lines[0].rstrip(".") if lines else type(error).__name__)[:300]


class _Found:
    """Collects the tensors and the architecture's name of nested dictionaries."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tensors: dict[str, Tensor] = {}
        self.architecture: dict[str, str] = {}
        self.names = 0

    def look(self, value: Any, name: str, depth: int) -> None:
        """Collect what ``value`` holds; ``depth`` limits dictionaries in themselves."""
        if isinstance(value, Tensor):
            self.tensors[name] = value
        elif isinstance(value, str):
            if name.rpartition(".")[2] in _NAMES_OF_THE_ARCHITECTURE and len(value) < 100:
                self.architecture[name] = value
        elif depth > 0:
            for key, inner in _items(value):
                self.names += 1
                if self.names > _MOST_NAMES or len(key) + len(name) > _LONGEST_NAME:
                    raise _damaged(self.path, "it names too many values, or too long")
                self.look(inner, f"{name}.{key}" if name else key, depth - 1)


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Placeholder):
        value = value.content
        # The arguments of a program name its architecture; its weights are elsewhere.
        if isinstance(value, Mapping):
            value = {key: text for key, text in value.items() if isinstance(text, str)}
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if isinstance(key, str | int):
                yield printable(str(key)), inner


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as hexadecimal digits (what ``sha256sum`` prints)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
