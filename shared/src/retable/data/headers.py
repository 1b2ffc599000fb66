"""What the first bytes of an image file tell: whether it is an image, and its size.

Nothing is decoded here, so that a file which claims gigapixels costs nothing to refuse.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from typing import BinaryIO

MAX_PIXELS = 89_478_485
"""Most pixels of an image, 256 MiB as RGB: the number above which Pillow warns too."""

MAX_BYTES = 2**30
"""Most bytes of an image file."""

START = 4096
"""Bytes that are read to judge a file: one block of most file systems."""

JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG\r\n\x1a\n"
_GIF = b"GIF8"


def header_fault(start: bytes) -> str | None:
    """Return what is wrong with an image file that begins with these bytes, or None."""
    if not start:
        return "the file is empty"
    if not (_is_webp(start) or start.startswith((JPEG, _PNG, _GIF))):
        return "neither JPEG, PNG, GIF nor WebP"
    size = image_size(start)
    return None if size is None else size_fault(*size)


def size_fault(height: int, width: int) -> str | None:
    """Return why an image of this size is refused, or None."""
    if height * width <= MAX_PIXELS:
        return None
    return f"it claims {width:,} x {height:,} pixels, more than the limit of {MAX_PIXELS:,}"


def image_size(data: bytes) -> tuple[int, int] | None:
    """Return height and width as the beginning of an image file states them, None if it does not.

    >>> image_size(b"GIF89a" + bytes([32, 0, 16, 0]))
    (16, 32)
    """
    try:
        if data.startswith(JPEG):
            return _jpeg_size(data)
        if data.startswith(_PNG):
            width, height = struct.unpack_from(">II", data, 16)
        elif data.startswith(_GIF):
            width, height = struct.unpack_from("<HH", data, 6)
        else:
            return _webp_size(data) if _is_webp(data) else None
    except (struct.error, IndexError):
        return None
    return height, width


def _is_webp(data: bytes) -> bool:
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """Read the size of each of the three kinds (RFC 9649, section 2)."""
    kind = data[12:16]
    if kind == b"VP8X" and len(data) >= 30:
        width, height = (int.from_bytes(data[i : i + 3], "little") + 1 for i in (24, 27))
        return height, width
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return height & 0x3FFF, width & 0x3FFF
    return None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Walk the segments up to the frame header (ITU-T T.81, B.1.1.4 and B.2.2)."""
    at = 2
    while True:
        # A decoder skips what stands before a marker, and fill bytes.
        at = data.find(b"\xff", at)
        if at < 0:
            return None
        while data[at] == 0xFF:
            at += 1
        marker = data[at]
        at += 1
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:  # without a length
            continue
        if marker in (0xD9, 0xDA):  # end, or the beginning of the pixels
            return None
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 3)
            return height, width
        at += max(2, struct.unpack_from(">H", data, at)[0])


def file_fault(path: str) -> str | None:
    """Return why the first bytes of a file are not those of an image, or None."""
    try:
        with open_regular(path) as file:
            return header_fault(file.read(START))
    except OSError as error:
        return read_fault(path, error)


def open_regular(path: str) -> BinaryIO:
    """Open a file for reading; OSError, without waiting, if it is a pipe, device or socket."""
    # Without O_NONBLOCK a pipe would be waited for until somebody writes.
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | _NONBLOCK))  # noqa: SIM115
    found = os.fstat(file.fileno())
    if stat.S_ISREG(found.st_mode) and found.st_size <= MAX_BYTES:
        return file
    file.close()
    if stat.S_ISREG(found.st_mode):
        limit = f"it has {found.st_size:,} bytes, more than the limit of {MAX_BYTES:,}"
        raise OSError(errno.EFBIG, limit)
    raise OSError(errno.EINVAL, "not a regular file")


_NONBLOCK = getattr(os, "O_NONBLOCK", 0)


def read_fault(path: str, error: OSError) -> str:
    """Say why a file could not be read."""
    if os.path.islink(path) and not os.path.exists(path):
        return "a link to a file that does not exist"
    if os.path.exists(path) and not os.path.isfile(path):
        return "not a regular file"
    return error.strerror or str(error)
