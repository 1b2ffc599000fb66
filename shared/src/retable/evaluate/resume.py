"""Where a probe stands, kept in files so that an interrupted one goes on and ends the same."""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retable.distributed import gather, process_index
from retable.errors import UserError
from retable.files import write_bytes


def digest(tensors: dict[str, Tensor]) -> str:
    """Hash names, types, shapes and values of tensors.

    >>> digest({"a": torch.ones(2)}) == digest({"a": torch.ones(3)})
    False
    """
    state = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        state.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        state.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


@dataclass(frozen=True)
class Saved:
    """State after ``epoch`` finished epochs."""

    epoch: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]


class Checkpoints:
    """The two newest states of one probe in ``directory``; None keeps nothing.

    ``facts`` are JSON values: all that the probe's result depends on. A file is written under a
    temporary name and renamed, so that a kill leaves whole files only. A file that is damaged all
    the same is named in a warning and the one before it is used.
    """

    def __init__(self, directory: Path | None, name: str, **facts: Any) -> None:
        self.directory = directory
        self.name = name
        self.identity = json.dumps(facts, sort_keys=True)

    def _paths(self) -> list[Path]:
        if self.directory is None:
            return []
        return sorted(self.directory.glob(f"{self.name}-[0-9][0-9][0-9][0-9][0-9].safetensors"))

    def save(self, epoch: int, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Write the state after ``epoch`` epochs, on process 0."""
        if self.directory is None or process_index() != 0:
            return
        from safetensors.torch import save

        on_cpu = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        metadata = {
            "identity": self.identity,
            "facts": json.dumps(facts, sort_keys=True),
            "digest": digest(on_cpu),
        }
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / f"{self.name}-{epoch:05d}.safetensors"
        write_bytes(path, save(on_cpu, metadata))
        for old in self._paths()[:-2]:
            old.unlink()

    def load(self, device: torch.device | str = "cpu") -> Saved | None:
        """Return the newest undamaged state, None where there is none.

        Args:
            device: where the processes' backend can exchange a number.

        Raises:
            UserError: the state belongs to another encoder, recipe, seed or data set, or the
                processes see different files.
        """
        saved = self._newest()
        epochs = gather(torch.tensor([saved.epoch if saved else 0], device=device))
        if int(epochs.min()) != int(epochs.max()):
            raise UserError(
                f"the processes see different states of {self.name!r} in {self.directory}: expected"
                " one folder for all, so choose a folder on a shared file system."
            )
        return saved

    def _newest(self) -> Saved | None:
        for path in reversed(self._paths()):
            try:
                metadata, tensors = _read(path)
            except ValueError as problem:
                warnings.warn(f"{path} is damaged ({problem}); going back one.", stacklevel=3)
                continue
            if metadata["identity"] != self.identity:
                raise UserError(
                    f"{path} was made by {_difference(metadata['identity'], self.identity)}: "
                    "expected the same as now, so remove the file or choose another folder."
                )
            epoch = int(path.stem.rsplit("-", 1)[1])
            return Saved(epoch, tensors, json.loads(metadata["facts"]))
        return None


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as problem:
        raise ValueError(str(problem)) from problem
    if metadata.get("digest") != digest(tensors):
        raise ValueError("its contents do not match their checksum")
    return metadata, tensors


def _difference(then: str, now: str) -> str:
    was, is_now = json.loads(then), json.loads(now)
    names = sorted(name for name in was.keys() | is_now.keys() if was.get(name) != is_now.get(name))
    return f"another {', '.join(names)}"
