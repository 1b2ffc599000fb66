"""Recognise files that are no weights files, to say what they are."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

from retable.text import printable

_DOWNLOAD = "Download the weights themselves"
_UNPACK = "Unpack it and pass the weights file inside"
_CONVERT = "Convert it to a PyTorch or safetensors file"

#: Start of a file, what the file is, and the remedy.
_STARTS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer", "Run `git lfs pull`, which downloads it"),
    (b"\x1f\x8b", "a gzip archive", _UNPACK),
    (b"BZh", "a bzip2 archive", _UNPACK),
    (b"\xfd7zXZ\0", "an xz archive", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive", _UNPACK),
    (b"7z\xbc\xaf", "a 7z archive", _UNPACK),
    (b"Rar!", "a RAR archive", _UNPACK),
    (b"\x89HDF", "an HDF5 file, as Keras writes it", _CONVERT),
    (b"\x93NUMPY", "a NumPy array", _CONVERT),
    (b"GGUF", "a GGUF file", _CONVERT),
    (b"%PDF", "a PDF document", _DOWNLOAD),
    (b"\x89PNG", "a PNG image", _DOWNLOAD),
    (b"\xff\xd8\xff", "a JPEG image", _DOWNLOAD),
)
_LEVELDB_END = bytes.fromhex("57fb808b247547db")


def other_kind(path: Path) -> tuple[str, str] | None:
    """Return what a file is and the remedy, or None if it can be a weights file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(1024)
        file.seek(max(0, size - 8))
        end = file.read(8)
    if not size:
        return "an empty file", "Copy or download it again"
    for magic, kind, remedy in _STARTS:
        if start.startswith(magic):
            return kind, remedy
    if start[257:262] == b"ustar":
        return "a tar archive", _UNPACK
    if end == _LEVELDB_END or re.search(r"\.(data-\d+-of-\d+|ckpt.*\.(meta|index))$", path.name):
        return "part of a TensorFlow checkpoint", _CONVERT
    if start.startswith(b"PK"):
        return _other_zip(path)
    if not any(start) and not any(end):
        return "a file of zero bytes, as an interrupted download leaves it", "Download it again"
    return _text(start)


def _text(start: bytes) -> tuple[str, str] | None:
    try:
        # The last character may be cut.
        text = start.decode("utf-8-sig", errors="strict" if len(start) < 1024 else "ignore").strip()
    except UnicodeDecodeError:
        return None
    if any(ord(character) < 32 and character not in "\t\r\n\f\x1b" for character in text):
        return None
    if re.match(r"<!doctype html|<html|<head|<\?xml[^>]*>\s*<!doctype html", text, re.IGNORECASE):
        return "a web page", f"{_DOWNLOAD}: the address may need a login or another link"
    if text.startswith("<"):
        return "an XML page, such as a server's error message", _DOWNLOAD
    if re.match(r"[{\[]\s*([\"{\[\]}]|$)", text):
        return "JSON text, such as a server's error message", _DOWNLOAD
    if len(start) < 9 and not text.isascii():
        return None
    begins = printable(text[:40])
    return f"a text file that begins with {begins!r}", _DOWNLOAD


def _other_zip(path: Path) -> tuple[str, str] | None:
    if not zipfile.is_zipfile(path):
        return "a zip archive whose end is missing: it was cut off", "Copy or download it again"
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    # A damaged archive can raise many kinds of exceptions.
    except Exception:
        return "a damaged zip archive", "Copy or download it again"
    inside = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in inside:
        return "a TorchScript program", "Save its state_dict() with torch.save, and pass that file"
    if "data.pkl" in inside:
        return None
    return f"a zip archive without PyTorch weights ({printable(', '.join(names[:3]))})", _UNPACK
