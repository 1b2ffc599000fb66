"""Names for contents: equal tensors have equal digests, whatever file or order they came in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def digest_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of tensors' names, types, shapes and values, as hexadecimal digits.

    It names the values themselves: independent of a file, its format and the order of the names.

    >>> digest_of_tensors({"a": torch.zeros(2)}) == digest_of_tensors({"a": torch.zeros(2)})
    True
    >>> digest_of_tensors({"a": torch.zeros(2)}) == digest_of_tensors({"a": torch.zeros(1, 2)})
    False
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        values: Any = tensor.reshape(-1).view(torch.uint8).numpy()  # also for bfloat16
        digest.update(values)
    return digest.hexdigest()
