"""Features of some images in one file, mapped into memory when it is read."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from retable.files import write_bytes


class Chunk(NamedTuple):
    """What a file holds: vectors (r, F) float32 and which samples (r,) int64 they are of."""

    vectors: Tensor
    samples: Tensor


def checksum(content: Chunk) -> str:
    """Return a checksum of a chunk's content.

    >>> import torch
    >>> checksum(Chunk(torch.ones(2, 3), torch.arange(2)))
    '86fad647'
    """
    value = 0
    for tensor in content:
        array: Any = tensor.numpy()  # a buffer, which its type does not say
        value = zlib.crc32(array, value)
    return f"{value:08x}"


def write_chunk(path: Path, content: Chunk, what: str) -> None:
    """Write a chunk under a temporary name and rename it.

    Args:
        path: of the file.
        content: contiguous tensors on the CPU.
        what: what the chunk is of, asked for when it is read.
    """
    from safetensors.torch import save

    write_bytes(path, save(content._asdict(), {"of": what, "checksum": checksum(content)}))


def read_chunk(path: Path, what: str) -> Chunk:
    """Map a chunk into memory and check it.

    Raises:
        ValueError: it is damaged, or not what is wanted.
        FileNotFoundError: there is none.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            content = Chunk(*(file.get_tensor(name) for name in Chunk._fields))
    except SafetensorError as problem:
        raise ValueError(str(problem)) from problem
    if metadata.get("of") != what:
        raise ValueError("it is another file's content")
    if metadata.get("checksum") != checksum(content):
        raise ValueError("its contents do not match their checksum")
    return content
