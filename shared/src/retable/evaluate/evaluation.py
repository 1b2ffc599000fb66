"""What every evaluation is: a frozen recipe with a name that turns an encoder into numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import nn

from retable.errors import UserError
from retable.evaluate.frozen import FrozenEncoder
from retable.views import ViewRecipe, center, crop_and_flip

if TYPE_CHECKING:
    from retable.data.source import Source

    OpenSource = Callable[[str, str | None], Source]


@dataclass(frozen=True)
class Where:
    """Where and how an evaluation is computed, none of which is a setting of its protocol.

    Attributes:
        device: where to compute.
        directory: where to keep what makes an interrupted evaluation resumable; None: nowhere.
        workers: decoding processes.
        precision: "float32", "bf16" or "fp16" for the encoder's forward passes.
        progress: whether process 0 shows a progress bar, if there is a terminal.
    """

    device: torch.device | str
    directory: Path | None = None
    workers: int = 0
    precision: str = "float32"
    progress: bool = False


class Evaluation(Protocol):
    """A frozen dataclass of settings; equal settings, encoder, data and seed give equal numbers."""

    @property
    def name(self) -> str:
        """What the result is filed under."""

    def run(
        self,
        encoder: nn.Module | FrozenEncoder,
        open_source: OpenSource,
        where: Where,
        *,
        seed: int,
    ) -> dict[str, float]:
        """Evaluate the encoder, which is left as it was.

        Args:
            encoder: images (B,3,H,W) -> (B,F).
            open_source: gives the source of a split ("train", "test") and a variant of it or None.
            where: where and how to compute.
            seed: seed of everything that is drawn.

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


def _side(source: Source) -> int | None:
    """Return the short side of images that are at hand and of one size, None for files."""
    pool = source.resident()
    return None if pool is None else min(pool.shape[-2:])


def natural_test_view(source: Source) -> ViewRecipe:
    """Return the view to test on where a recipe names none.

    Images at hand, all of one size, are taken as they are; images in files get ImageNet's usual
    view, short side to 256 and a centre crop of 224.
    """
    side = _side(source)
    return center(224, 256) if side is None else center(side)


def natural_train_view(source: Source) -> ViewRecipe:
    """Return the random crop and flip, scale (0.08, 1), of the size of `natural_test_view`."""
    side = _side(source)
    return crop_and_flip(224 if side is None else side)
