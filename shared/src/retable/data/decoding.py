"""Decoding of images to uint8 tensors, and the treatment of files that are no images."""

from __future__ import annotations

import io
import os
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from retable.data.headers import (
    JPEG,
    START,
    file_fault,
    header_fault,
    image_size,
    open_regular,
    read_fault,
    size_fault,
)
from retable.errors import UserError
from retable.text import printable

_T = TypeVar("_T")
_R = TypeVar("_R")
_PART = 64  # calls that a thread makes in one go
_RGB = 3  # torchvision.io.ImageReadMode.RGB


class UnreadableImageError(UserError):
    """One image cannot be read or decoded."""

    def __init__(self, name: str, fault: str) -> None:
        super().__init__(
            f"The image {printable(name)} is unreadable ({printable(fault)}): replace the file, or "
            "pass --skip-unreadable to leave such images out."
        )
        self.name = name
        self.fault = fault

    def __reduce__(self) -> tuple[type[UnreadableImageError], tuple[str, str]]:
        # An exception is pickled with its one argument; this one takes two.
        return type(self), (self.name, self.fault)


def prepare() -> None:
    """Import the modules of `decode` before worker processes are forked, once for all of them."""
    import PIL.Image  # noqa: F401
    import torchvision.io.image  # noqa: F401


def decode(data: bytes, name: str) -> Tensor:
    """Decode a JPEG, PNG, GIF or WebP image: uint8 (3, H, W), RGB.

    JPEGs are decoded by torchvision, the others by Pillow: torchvision 0.29 ends the process with a
    segmentation fault on some damaged PNG files. Gray, palette and CMYK images become RGB,
    transparency is dropped, 16 bits keep the upper eight, an animation gives its first frame. The
    orientation that EXIF data may ask for is not applied, as in torchvision's ImageFolder.

    Raises:
        UnreadableImageError: the bytes are not a complete image, or one of more than
            `retable.data.headers.MAX_PIXELS` pixels; the error calls it ``name``.
    """
    prepare()
    fault = header_fault(data)
    if fault:
        raise UnreadableImageError(name, fault)
    if not data.startswith(JPEG):
        return _decode_by_pillow(data, name)
    try:
        # The operator itself, since its wrapper warns at every call, from release 0.29 on, that a
        # later one will leave decoding to torchcodec. A bytearray, since torch warns of tensors
        # that share read-only memory.
        image: Tensor = torch.ops.image.decode_jpeg(
            torch.frombuffer(bytearray(data), dtype=torch.uint8), _RGB, False
        )
    except RuntimeError as error:
        raise UnreadableImageError(name, _reason(error)) from error
    return image


def decode_map(data: bytes, name: str) -> Tensor:
    """Decode a map, such as a mask, without a conversion of colours: uint8 (1, H, W).

    The first channel of an image, or the numbers that stand in a palette image.

    Raises:
        UnreadableImageError: the bytes are not a complete image of at most 8 bits.
    """
    size = image_size(data)
    if size is not None and (fault := size_fault(*size)):
        raise UnreadableImageError(name, fault)
    with _opened_by_pillow(data, name) as image:
        if image.mode not in ("1", "L", "P", "LA", "RGB", "RGBA"):
            raise UnreadableImageError(name, f"mode {image.mode} is no map of 8 bits")
        width, height = image.size
        single = image.convert("L") if image.mode == "1" else image.getchannel(0)
        pixels = bytearray(single.tobytes())
    return torch.frombuffer(pixels, dtype=torch.uint8).view(1, height, width)


def _decode_by_pillow(data: bytes, name: str) -> Tensor:
    with _opened_by_pillow(data, name) as image:
        image.load()
        if image.mode.startswith("I"):
            # Pillow would clip 16 bits to eight.
            values = bytearray(image.convert("I").tobytes())
            gray = (torch.frombuffer(values, dtype=torch.int32) >> 8).to(torch.uint8)
            return gray.view(1, image.height, image.width).repeat(3, 1, 1)
        transparent = image.mode == "P" and "transparency" in image.info
        whole = image.convert("RGBA") if transparent else image
        return rgb_tensor(whole.convert("RGB"))


def rgb_tensor(image: Any) -> Tensor:
    """Return a PIL image of mode RGB as uint8 (3, H, W)."""
    width, height = image.size
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    # Channels last in memory, as torchvision's decoder leaves them.
    return pixels.view(height, width, 3).permute(2, 0, 1)


@contextmanager
def _opened_by_pillow(data: bytes, name: str) -> Iterator[Any]:
    import PIL.Image

    try:
        with PIL.Image.open(io.BytesIO(data)) as image:
            # A frame may be larger than the header said.
            if fault := size_fault(image.height, image.width):
                raise UnreadableImageError(name, fault)
            yield image
    except UserError:
        raise
    except PIL.UnidentifiedImageError as error:
        raise UnreadableImageError(name, "its header is damaged") from error
    except (
        OSError, SyntaxError, ValueError, struct.error, PIL.Image.DecompressionBombError,
    ) as error:  # fmt: skip
        raise UnreadableImageError(name, str(error).partition("\n")[0]) from error


def _reason(error: RuntimeError) -> str:
    """Cut torchvision's message to its first line, without the place in its own sources."""
    message = str(error).splitlines()[0]
    return message.rpartition(".cpp:")[2].partition(", ")[2] or message


def read_image_file(path: str, name: str | None = None) -> bytes:
    """Return the bytes of an image file, which an error calls ``name``.

    Raises:
        UnreadableImageError: it cannot be read, is no regular file or is too large.
    """
    try:
        with open_regular(path) as file:
            return file.read()
    except OSError as error:
        raise UnreadableImageError(name or path, read_fault(path, error)) from error


def file_size(path: str) -> tuple[int, int] | None:
    """Return the height and width that an image file states, None if it cannot be told."""
    try:
        with open_regular(path) as file:
            start = file.read(START)
            return image_size(start) or image_size(start + file.read())
    except OSError:
        return None


def first_faults(paths: Sequence[str], stop_at_first: bool) -> dict[int, str]:
    """Check all files' first bytes: {position: fault} of those that cannot be images."""
    # Threads, since the time goes into waiting for the file system, above all a remote one.
    faults: dict[int, str] = {}
    for position, fault in enumerate(by_threads(file_fault, paths, 16)):
        if fault:
            faults[position] = fault
            if stop_at_first:
                break
    return faults


def stamps(paths: Sequence[str]) -> Iterator[str]:
    """Yield each file's size and time of change: other pixels in a file show in them."""

    def stamp(path: str) -> str:
        try:
            found = os.stat(path)
        except OSError as error:
            return error.strerror or "missing"
        return f"{found.st_size} {found.st_mtime_ns}"

    return by_threads(stamp, paths, 16)


def by_threads(function: Callable[[_T], _R], items: Sequence[_T], threads: int) -> Iterator[_R]:
    """Yield the function's results in order.

    Items are passed on in parts, of which only a few run ahead of what is asked for: a future for
    each of a million calls would be slow.
    """

    def part(start: int) -> list[_R]:
        return [function(item) for item in items[start : start + _PART]]

    with ThreadPoolExecutor(threads) as pool:
        running: deque[Future[list[_R]]] = deque()
        for start in range(0, len(items), _PART):
            running.append(pool.submit(part, start))
            if len(running) > 2 * threads:
                yield from running.popleft().result()
        while running:
            yield from running.popleft().result()


def free_memory() -> int:
    """Return the bytes of memory that can be had without swapping."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
