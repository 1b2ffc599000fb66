"""Texture twins of a folder of images: one PNG for each image, in the same folders.

A twin depends on its image, the path of the image below the source folder, the settings and the
seed, and on nothing else, so that the work can be interrupted, shared by processes and continued.
The settings stand in ``textures.json`` beside the twins. Each PNG names the size of the image file
that it was made of; where that has changed, the twin is made again.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from nonsemantic_negatives.textures.exemplars import SIDE, cut_exemplars
from nonsemantic_negatives.textures.quilting import Quilting
from nonsemantic_negatives.textures.synthesis import Backend, synthesize
from retable.data.decoding import decode, read_image_file
from retable.data.walk import Walk
from retable.domains import Pixels, Seed
from retable.errors import UserError
from retable.files import DamagedFileError, read_record, write_atomically, write_record
from retable.random import derive_key
from retable.settings import to_plain, validate_fields
from retable.text import printable

PROVENANCE = "textures.json"
_OWNER = "textures"
_SOURCE_BYTES = "SourceBytes"
_PNG_START = 512  # bytes of a PNG that hold its texts: they come before the pixels


@dataclass(frozen=True)
class TwinRecipe:
    """How twins are made; the defaults make ImageNet-Texture (supplement, section A.1).

    Attributes:
        size: side of a twin in pixels.
        exemplar: side of the two patches in pixels of the image's own resolution.
        backend: synthesis, see `nonsemantic_negatives.textures.synthesize`.
        seed: seed of all draws.
    """

    size: Pixels = 224
    exemplar: Pixels = SIDE
    backend: Backend = field(default_factory=Quilting)
    seed: Seed = 0

    def __post_init__(self) -> None:
        validate_fields(self)
        if isinstance(self.backend, Quilting) and self.backend.block > self.exemplar:
            raise UserError(
                f"`block` must be at most `exemplar`, {self.exemplar} pixels, got "
                f"{self.backend.block}. Make the blocks smaller or the exemplars larger."
            )


def find_images(source: Path) -> tuple[list[str], Walk]:
    """Return the images below a folder as paths relative to it, and what the walk left out.

    Raises:
        UserError: there is no such folder or no image in it, or two images would have one twin.
    """
    if not source.is_dir():
        raise UserError(f"`SOURCE` must be a folder of images, got {printable(str(source))}.")
    walk = Walk({os.path.realpath(source)})
    names = list(walk.images(str(source), ""))
    if not names:
        raise UserError(f"The folder {printable(str(source))} has no image. Name another one.")
    seen: dict[str, str] = {}
    for name in names:
        twin = twin_name(name)
        if twin in seen:
            raise UserError(
                f"The images {printable(seen[twin])} and {printable(name)} would have one twin, "
                f"{printable(twin)}. Rename one of them."
            )
        seen[twin] = name
    return names, walk


def twin_name(name: str) -> str:
    """Return the path of an image's twin.

    >>> twin_name("train/n01440764/n01440764_18.JPEG")
    'train/n01440764/n01440764_18.png'
    """
    return f"{os.path.splitext(name)[0]}.png"


def claim_target(source: Path, target: Path, recipe: TwinRecipe) -> None:
    """Write the provenance of a folder of twins, or check that it is the one that stands there.

    Raises:
        UserError: the folder lies in the source or around it, or holds twins of another recipe.
    """
    inner, outer = Path(os.path.realpath(target)), Path(os.path.realpath(source))
    if inner == outer or outer in inner.parents or inner in outer.parents:
        raise UserError(
            f"`TARGET` must lie beside {printable(str(source))}, got {printable(str(target))}: "
            "twins among the images would be images of the data set. Name another folder."
        )
    content = {"recipe": to_plain(recipe), "twins_of": outer.name}
    path = target / PROVENANCE
    if not path.exists():
        write_record(path, _OWNER, content)
        return
    try:
        found = read_record(path, _OWNER)
    except DamagedFileError as error:
        raise UserError(f"{error} Remove the folder, or name another `TARGET`.") from error
    if found != content:
        raise UserError(
            f"`TARGET` must hold twins of this recipe, {content}, got {found}. Name another folder."
        )


def is_made(source: Path, target: Path, name: str) -> bool:
    """Return whether an image's twin is there and was made of a file of the image's size."""
    try:
        size = os.stat(source / name).st_size
        with open(target / twin_name(name), "rb") as file:
            start = file.read(_PNG_START)
    except OSError:
        return False
    return _texts(start).get(_SOURCE_BYTES) == str(size)


def make_twins(
    source: Path, target: Path, names: Sequence[str], recipe: TwinRecipe, device: str = "cpu"
) -> None:
    """Make the twins of some images in one batch and write them, each atomically.

    Raises:
        UnreadableImageError: an image cannot be decoded. The others of the batch have no twin then.
    """
    exemplars, numbers, sizes = [], [], []
    for name in names:
        data = read_image_file(str(source / name), name)
        number = number_of(name)
        image = decode(data, name)
        exemplars.append(cut_exemplars(image, recipe.seed, number, side=recipe.exemplar))
        numbers.append(number)
        sizes.append(len(data))
    textures = synthesize(
        torch.stack(exemplars).to(device),
        recipe.size,
        derive_key(recipe.seed, "textures"),
        torch.tensor(numbers, device=device),
        backend=recipe.backend,
    ).cpu()
    for name, texture, size in zip(names, textures, sizes, strict=True):
        _write(target / twin_name(name), texture, {_SOURCE_BYTES: str(size)})


def number_of(name: str) -> int:
    """Return the number of an image, which its draws are counted by: 40 bits of its path."""
    return derive_key(0, "twin", *Path(name).with_suffix("").parts) & (2**40 - 1)


def _write(path: Path, texture: Tensor, texts: dict[str, str]) -> None:
    import PIL.Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, text in texts.items():
        info.add_text(key, text)
    stream = io.BytesIO()
    pixels = texture.permute(1, 2, 0).contiguous().numpy()
    PIL.Image.fromarray(pixels).save(stream, "PNG", pnginfo=info)
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
