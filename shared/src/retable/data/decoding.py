"""Decoding of images to uint8 tensors, and the treatment of files that are no images."""

from __future__ import annotations

import io
import os
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from retable.errors import UserError

if TYPE_CHECKING:
    from retable.data.source import Sample, Source

_T = TypeVar("_T")
_PART = 64  # calls that a thread makes in one go
_HEADER = 16
_RGB = 3  # torchvision.io.ImageReadMode.RGB
_JPEG = b"\xff\xd8\xff"
_PILLOW_ERRORS = (OSError, SyntaxError, ValueError, struct.error)
_SIGNATURES = (_JPEG, b"\x89PNG\r\n\x1a\n", b"GIF8")


class UnreadableImageError(UserError):
    """One image cannot be read or decoded."""

    def __init__(self, name: str, fault: str) -> None:
        super().__init__(
            f"The image {name} is unreadable ({fault}): replace the file, or pass "
            "--skip-unreadable to leave such images out."
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

    Args:
        data: the file's bytes.
        name: what to call the image in an error.

    Raises:
        UnreadableImageError: the bytes are not a complete image.
    """
    prepare()
    fault = header_fault(data)
    if fault:
        raise UnreadableImageError(name, fault)
    if not data.startswith(_JPEG):
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
    import PIL.Image

    try:
        with PIL.Image.open(io.BytesIO(data)) as image:
            if image.mode not in ("1", "L", "P", "LA", "RGB", "RGBA"):
                raise UnreadableImageError(name, f"mode {image.mode} is no map of 8 bits")
            width, height = image.size
            single = image.convert("L") if image.mode == "1" else image.getchannel(0)
            pixels = bytearray(single.tobytes())
    except PIL.UnidentifiedImageError as error:
        raise UnreadableImageError(name, "its header is damaged") from error
    except _PILLOW_ERRORS as error:
        raise UnreadableImageError(name, str(error).partition("\n")[0]) from error
    return torch.frombuffer(pixels, dtype=torch.uint8).view(1, height, width)


def _decode_by_pillow(data: bytes, name: str) -> Tensor:
    import PIL.Image

    try:
        with PIL.Image.open(io.BytesIO(data)) as image:
            image.load()
            width, height = image.size
            if image.mode.startswith("I"):
                # Pillow would clip 16 bits to eight.
                values = bytearray(image.convert("I").tobytes())
                gray = (torch.frombuffer(values, dtype=torch.int32) >> 8).to(torch.uint8)
                return gray.view(1, height, width).repeat(3, 1, 1)
            transparent = image.mode == "P" and "transparency" in image.info
            whole = image.convert("RGBA") if transparent else image
            pixels = bytearray(whole.convert("RGB").tobytes())
    except PIL.UnidentifiedImageError as error:
        raise UnreadableImageError(name, "its header is damaged") from error
    except (*_PILLOW_ERRORS, PIL.Image.DecompressionBombError) as error:
        raise UnreadableImageError(name, str(error).partition("\n")[0]) from error
    # Channels last in memory, as torchvision's decoder leaves them.
    return torch.frombuffer(pixels, dtype=torch.uint8).view(height, width, 3).permute(2, 0, 1)


def _reason(error: RuntimeError) -> str:
    """Cut torchvision's message to its first line, without the place in its own sources."""
    message = str(error).splitlines()[0]
    return message.rpartition(".cpp:")[2].partition(", ")[2] or message


def header_fault(start: bytes) -> str | None:
    """Return what is wrong with the first bytes of an image file, or None.

    Cheap enough to check every file before training starts.

    >>> header_fault(b"")
    'the file is empty'
    """
    if not start:
        return "the file is empty"
    webp = start[:4] == b"RIFF" and start[8:12] == b"WEBP"
    if webp or start.startswith(_SIGNATURES):
        return None
    return "neither JPEG, PNG, GIF nor WebP"


def file_fault(path: str) -> str | None:
    """Return why the first bytes of a file are not those of an image, or None."""
    try:
        with open(path, "rb") as file:
            return header_fault(file.read(_HEADER))
    except OSError as error:
        return error.strerror or str(error)


def first_faults(paths: Sequence[str], stop_at_first: bool) -> dict[int, str]:
    """Check all files' first bytes: {position: fault} of those that cannot be images.

    Args:
        paths: the files.
        stop_at_first: return as soon as one fault is known.
    """

    def check(position: int) -> tuple[int, str] | None:
        fault = file_fault(paths[position])
        return (position, fault) if fault else None

    # Threads, since the time goes into waiting for the file system, above all a remote one.
    faults: dict[int, str] = {}
    for found in _by_threads(check, len(paths), 16):
        faults.update(filter(None, found))
        if faults and stop_at_first:
            break
    return faults


def stamps(paths: Sequence[str]) -> Iterator[str]:
    """Yield each file's size and time of change: other pixels in a file show in them."""

    def stamp(position: int) -> str:
        found = os.stat(paths[position])
        return f"{found.st_size} {found.st_mtime_ns}"

    for part in _by_threads(stamp, len(paths), 16):
        yield from part


def _by_threads(function: Callable[[int], _T], count: int, threads: int) -> Iterator[list[_T]]:
    """Yield function(0) to function(count - 1) in order and in parts, as they are asked for.

    Parts, and only a few of them ahead: a future for each of a million calls would be slow.
    """

    def part(start: int) -> list[_T]:
        return [function(i) for i in range(start, min(start + _PART, count))]

    with ThreadPoolExecutor(threads) as pool:
        running: deque[Future[list[_T]]] = deque()
        for start in range(0, count, _PART):
            running.append(pool.submit(part, start))
            if len(running) > 2 * threads:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def read_sample(source: Source, index: int, layers: Sequence[str] = ()) -> Sample:
    """Return a sample with the layers that are named, or its replacement.

    A source opened with ``skip_unreadable`` replaces an unreadable sample by the next readable one
    in its order, in every epoch and on every process the same. The replacement brings its own
    layers.

    Raises:
        UnreadableImageError: nothing may be skipped, or nothing is left.
    """
    for candidate in range(index, index + len(source)):
        try:
            return source.sample(candidate % len(source), layers)
        except UnreadableImageError:
            if not source.skip_unreadable or candidate == index + len(source) - 1:
                raise
    raise AssertionError("an empty source has no index")


def decode_all(source: Source, *, limit_bytes: int | None = None) -> Tensor | None:
    """Read all images of a source into memory: uint8 (n, 3, H, W), or None if their sizes differ.

    An unreadable sample becomes a copy of its replacement, label included.

    Args:
        source: whose ``labels``, ``unreadable`` and ``replacements`` are updated.
        limit_bytes: largest size of the result; None: nine tenths of the free memory.

    Raises:
        UserError: the images do not fit into memory.
    """
    first = read_sample(source, 0).image
    _check_memory("images", len(source), first, limit_bytes)
    pool = torch.empty((len(source), *first.shape), dtype=torch.uint8)

    def read(index: int) -> int | None:
        sample = read_sample(source, index)
        if sample.image.shape != first.shape:
            return None
        pool[index] = sample.image
        return sample.index

    # torchvision decodes without holding the interpreter's lock.
    actual: list[int] = []
    for found in _by_threads(read, len(source), os.cpu_count() or 1):
        known = [index for index in found if index is not None]
        if len(known) < len(found):
            return None
        actual += known
    source.replacements = {i: index for i, index in enumerate(actual) if i != index}
    source.unreadable.update(source.replacements)
    source.labels = source.labels[torch.tensor(actual)]
    return pool


def as_layer(value: Tensor, kind: str) -> Tensor:
    """Return a layer in the form in which it is cut: maps (C, H, W), boxes float32."""
    if kind == "map" and value.dim() == 2:
        return value[None]
    return value.float() if kind == "boxes" else value


def decode_layer(source: Source, name: str) -> Tensor | list[Tensor] | None:
    """Read a layer of all samples into memory, see `Source.resident_layer`.

    Raises:
        UserError: a layer is unreadable, or they do not fit into memory.
    """
    kind = source.layers[name]

    def read(index: int) -> Tensor:
        return as_layer(source.layer(source.replacements.get(index, index), name), kind)

    _check_memory(f"layers {name!r}", len(source), read(0), None)
    found: list[Tensor] = []
    for part in _by_threads(read, len(source), os.cpu_count() or 1):
        found += part
    if kind == "boxes":
        return found
    return torch.stack(found) if len({layer.shape for layer in found}) == 1 else None


def _check_memory(what: str, count: int, first: Tensor, limit_bytes: int | None) -> None:
    needed = count * first.numel() * first.element_size()
    limit = free_memory() * 9 // 10 if limit_bytes is None else limit_bytes
    if needed > limit:
        raise UserError(
            f"The {count} {what} need {needed / 2**30:.1f} GiB of memory, of which "
            f"{limit / 2**30:.1f} GiB may be used: leave them on disk."
        )


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
