"""The files of made images: one PNG for each image, in the same folders.

The settings stand in a file beside them. Each PNG names the size of the image file that it was made
of; where that has changed, it is made again.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from retable.data.decoding import decode, read_image_file
from retable.data.walk import Walk, images_of
from retable.errors import UserError
from retable.files import claim, write_atomically
from retable.text import printable

_SOURCE_BYTES = "SourceBytes"
_PNG_START = 512  # bytes of a PNG that hold its texts: they come before the pixels
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"


class ImageMaker(Protocol):
    """A frozen dataclass that makes an image of each image."""

    @property
    def at_once(self) -> int:
        """Number of images that a process makes together."""

    @property
    def settings(self) -> object:
        """All that decides what is made, as plain values (`retable.settings.to_plain`)."""

    def make(self, images: Sequence[Tensor], names: Sequence[str], device: str) -> Sequence[Tensor]:
        """Return what is made of images uint8 (3, H, W): uint8 (3, H', W') or (1, H', W') on CPU.

        ``names`` are the images' paths below the source folder.
        """


@dataclass(frozen=True)
class Derivation:
    """A folder of images, the folder of what is made of them, and how.

    Attributes:
        source: folder of images, at any depth.
        target: folder of the made images.
        maker: the settings.
        noun: what is made, in the singular: "twin", "mask".
        device: "cpu", "cuda" or "cuda:N".
    """

    source: Path
    target: Path
    maker: ImageMaker
    noun: str
    device: str = "cpu"

    def find_images(self) -> tuple[list[str], Walk]:
        """Return the images' paths below the source folder, and what the walk left out.

        Raises:
            UserError: there is no such folder or no image in it, or two images would have one file.
        """
        names, walk = images_of(self.source)
        seen: dict[str, str] = {}
        for name in names:
            made = made_name(name)
            if made in seen:
                raise UserError(
                    f"The images {printable(seen[made])} and {printable(name)} would have one "
                    f"{self.noun}, {printable(made)}. Rename one of them."
                )
            seen[made] = name
        return names, walk

    def check_target(self) -> None:
        """Raise a UserError where the target folder lies in the source or around it."""
        inner, outer = Path(os.path.realpath(self.target)), Path(os.path.realpath(self.source))
        if inner == outer or outer in inner.parents or inner in outer.parents:
            raise UserError(
                f"`TARGET` must lie beside {printable(str(self.source))}, got "
                f"{printable(str(self.target))}: {self.noun}s among the images would be images of "
                "the data set. Name another folder."
            )

    def claim_target(self) -> None:
        """Write the settings of the target folder, or check that they are those that stand there.

        Raises:
            UserError: the folder has other settings.
        """
        source = os.path.basename(os.path.realpath(self.source))
        content = {"recipe": self.maker.settings, f"{self.noun}s_of": source}
        claim(self.target / f"{self.noun}s.json", f"{self.noun}s", content)

    def is_made(self, name: str) -> bool:
        """Return whether an image's file is there, whole and made of a file of this size."""
        try:
            size = os.stat(self.source / name).st_size
            with open(self.target / made_name(name), "rb") as file:
                start = file.read(_PNG_START)
                file.seek(-min(len(_PNG_END), file.seek(0, os.SEEK_END)), os.SEEK_END)
                whole = file.read() == _PNG_END
        except OSError:
            return False
        return whole and _texts(start).get(_SOURCE_BYTES) == str(size)

    def make(self, names: Sequence[str]) -> None:
        """Make some images' files in one batch and write them, each atomically.

        Raises:
            UnreadableImageError: an image cannot be decoded. No file of the batch is written then.
        """
        read = [read_image_file(str(self.source / name), name) for name in names]
        images = [decode(data, name) for data, name in zip(read, names, strict=True)]
        found = self.maker.make(images, names, self.device)
        for name, image, data in zip(names, found, read, strict=True):
            _write(self.target / made_name(name), image, {_SOURCE_BYTES: str(len(data))})


def made_name(name: str) -> str:
    """Return the path of what is made of an image.

    >>> made_name("train/n01440764/n01440764_18.JPEG")
    'train/n01440764/n01440764_18.png'
    """
    return f"{os.path.splitext(name)[0]}.png"


def _write(path: Path, image: Tensor, texts: dict[str, str]) -> None:
    import PIL.Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, text in texts.items():
        info.add_text(key, text)
    stream = io.BytesIO()
    pixels = image[0] if len(image) == 1 else image.permute(1, 2, 0)
    PIL.Image.fromarray(pixels.contiguous().numpy()).save(stream, "PNG", pnginfo=info)
    with write_atomically(path) as file:
        file.write(stream.getbuffer())


def _texts(start: bytes) -> dict[str, str]:
    """Return the texts at the start of a PNG file, none of another file."""
    return dict(_text_chunks(start)) if start.startswith(b"\x89PNG\r\n\x1a\n") else {}


def _text_chunks(start: bytes) -> Iterator[tuple[str, str]]:
    place = 8
    while place + 8 <= len(start):
        length, kind = struct.unpack_from(">I4s", start, place)
        if kind == b"tEXt":
            key, _, text = start[place + 8 : place + 8 + length].partition(b"\0")
            yield key.decode("latin-1"), text.decode("latin-1")
        place += 12 + length
