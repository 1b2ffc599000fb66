"""Where a probe stands, kept in files so that an interrupted one goes on and ends the same."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retable.distributed import gather, process_index
from retable.errors import UserError
from retable.train import checkpoint


@dataclass(frozen=True)
class Saved:
    """State after ``epoch`` finished epochs."""

    epoch: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]


class Checkpoints:
    """The two newest states of one probe in ``directory``; None keeps nothing.

    ``identity`` are JSON values: all that the probe's result depends on. See
    `retable.train.checkpoint` for what becomes of damaged files.
    """

    def __init__(self, directory: Path | None, name: str, **identity: Any) -> None:
        self.directory = directory
        self.name = name
        self.identity = json.dumps(identity, sort_keys=True)

    def save(self, epoch: int, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Write the state after ``epoch`` epochs, on process 0."""
        if self.directory is None or process_index() != 0:
            return
        on_cpu = {name: value.detach().cpu().clone() for name, value in tensors.items()}
        state = {"identity": self.identity, "tensors": on_cpu, "facts": facts}
        self.directory.mkdir(parents=True, exist_ok=True)
        checkpoint.save(self.directory, epoch, state, name=self.name)

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
        found = checkpoint.load_newest(self.directory, name=self.name) if self.directory else None
        if found is None:
            return None
        epoch, state = found
        if state["identity"] != self.identity:
            raise UserError(
                f"the state of {self.name!r} in {self.directory} was made by "
                f"{_difference(state['identity'], self.identity)}: expected the same as now, so "
                "remove it or choose another folder."
            )
        return Saved(epoch, state["tensors"], state["facts"])


def _difference(then: str, now: str) -> str:
    was, is_now = json.loads(then), json.loads(now)
    names = sorted(name for name in was.keys() | is_now.keys() if was.get(name) != is_now.get(name))
    return f"another {', '.join(names)}"
