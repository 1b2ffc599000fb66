"""What every evaluation is: a frozen recipe with a name that turns an encoder into numbers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from retable.distributed import process_index
from retable.errors import UserError
from retable.evaluate.frozen import FrozenEncoder

if TYPE_CHECKING:
    from retable.data.sources import Source

    OpenSource = Callable[[str, str | None], Source]


class Evaluation(Protocol):
    """A frozen dataclass of settings; equal settings, encoder, data and seed give equal numbers."""

    @property
    def name(self) -> str:
        """What the result is filed under."""

    def run(
        self,
        encoder: nn.Module | FrozenEncoder,
        open_source: OpenSource,
        *,
        seed: int,
        device: torch.device | str,
        directory: Path | None = None,
        workers: int = 0,
        precision: str = "float32",
        progress: bool = False,
    ) -> dict[str, float]:
        """Evaluate the encoder, which is left as it was.

        Args:
            encoder: images (B,3,H,W) -> (B,F).
            open_source: gives the source of a split ("train", "test") and a variant of it or None.
            seed: seed of everything that is drawn.
            device: where to compute.
            directory: where to keep what makes an interrupted evaluation resumable; None: nowhere.
            workers: decoding processes.
            precision: "float32", "bf16" or "fp16" for the encoder's forward passes.
            progress: whether process 0 shows a progress bar.

        Returns:
            Named numbers; accuracies are in percent.
        """


@dataclass(frozen=True)
class Splits:
    """The training and the test images of one evaluation, and their number of classes."""

    train: Source
    test: Source
    classes: int


def open_splits(open_source: OpenSource) -> Splits:
    """Open train and test split and check that they have the same classes.

    Raises:
        UserError: the classes differ.
    """
    train, test = open_source("train", None), open_source("test", None)
    if list(train.class_names) != list(test.class_names):
        odd = sorted(set(train.class_names) ^ set(test.class_names))[:5]
        raise UserError(
            f"train and test split have different classes (for instance {', '.join(odd)}): expected"
            " the same list in both, so check the data set's folders."
        )
    return Splits(train, test, len(train.class_names))


class _Silent:
    def update(self, n: int) -> None:
        """Count n more."""

    def set_postfix(self, values: dict[str, Any]) -> None:
        """Show values behind the bar."""


class _SilentContext(AbstractContextManager[_Silent]):
    def __enter__(self) -> _Silent:
        return _Silent()

    def __exit__(self, *error: object) -> None:
        pass


def progress_bar(images: int, name: str, shown: bool) -> AbstractContextManager[Any]:
    """Return a bar over images (rate, time left) on process 0, or one that shows nothing."""
    if not shown or process_index() != 0:
        return _SilentContext()
    from tqdm import tqdm

    bar: AbstractContextManager[Any] = tqdm(
        total=images, desc=name, unit=" images", unit_scale=True, dynamic_ncols=True
    )
    return bar
