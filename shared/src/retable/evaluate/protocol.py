"""What every evaluation is: a frozen recipe with a name that turns an encoder into numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor, nn

from retable import random
from retable.data.source import TEST, TRAIN
from retable.data.subsets import Subset
from retable.errors import UserError
from retable.evaluate.frozen import FrozenEncoder
from retable.views import ViewRecipe, center, crop_and_flip

if TYPE_CHECKING:
    from retable.data.source import Source


class OpenSource(Protocol):
    """Opens what an encoder is judged on."""

    def __call__(self, split: str, variant: str | None = None, data: str | None = None) -> Source:
        """Return a source.

        Args:
            split: "train" or "test".
            variant: a variant of the split that the data set knows; None: the split itself.
            data: the name of a data set (`retable.data.sources.open_source`); None: that of the
                pretraining, with its subset.
        """


@dataclass(frozen=True)
class EvalContext:
    """Where and how an evaluation is computed, none of which is a setting of its protocol.

    Attributes:
        device: where to compute.
        directory: where to keep what makes an interrupted evaluation resumable; None: nowhere.
        workers: decoding processes.
        precision: "float32", "bf16" or "fp16" for the encoder's forward passes.
        progress: whether process 0 shows a progress bar, if there is a terminal.
        features: where to keep features of views without random draws, for other evaluations of
            the same encoder to read (`retable.evaluate.cache`); None: nowhere.
    """

    device: torch.device | str
    directory: Path | None = None
    workers: int = 0
    precision: str = "float32"
    progress: bool = False
    features: Path | None = None


class Evaluation(Protocol):
    """A frozen dataclass of settings; equal settings, encoder, data and seed give equal numbers."""

    @property
    def name(self) -> str:
        """What the result is filed under."""

    def run(
        self,
        encoder: nn.Module | FrozenEncoder,
        open_source: OpenSource,
        context: EvalContext,
        *,
        seed: int,
    ) -> dict[str, float]:
        """Evaluate the encoder, which is left as it was.

        Args:
            encoder: images (B,3,H,W) -> (B,F).
            open_source: gives the source of a split.
            context: where and how to compute.
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


def split_facts(splits: Splits) -> dict[str, dict[str, Any]]:
    """Return the splits' descriptions as facts that a classifier's training depends on.

    Without "pixels", which a copy of the same files changes.
    """
    return {
        split: {name: value for name, value in source.description.items() if name != "pixels"}
        for split, source in (("train", splits.train), ("test", splits.test))
    }


def open_splits(open_source: OpenSource, data: str | None = None) -> Splits:
    """Open train and test split and check that they have the same classes.

    Args:
        open_source: opens them.
        data: see `OpenSource`.

    Raises:
        UserError: the classes differ.
    """
    train, test = (
        open_source(split, None) if data is None else open_source(split, None, data)
        for split in (TRAIN, TEST)
    )
    if list(train.class_names) != list(test.class_names):
        odd = sorted(set(train.class_names) ^ set(test.class_names))[:5]
        raise UserError(
            f"train and test split have different classes (for instance {', '.join(odd)}): expected"
            " the same list in both, so check the data set's folders."
        )
    return Splits(train, test, len(train.class_names))


@dataclass(frozen=True)
class EvalData:
    """Which images an encoder is judged on, and how many of their labels a classifier learns from.

    Attributes:
        source: another data set than the pretraining's (`retable.data.sources.open_source`); "":
            the pretraining's.
        labels: share of the training images that keep their labels, uniform over the images and not
            balanced over the classes (Kolesnikov et al. 2019, tables 2 and 4: "10%", "random 5%").
            A smaller share is contained in a larger one.
        split: "test" tests on the test split; "validation" on images cut out of the train split,
            which then teach nothing.
        validation_images: how many, but never more than a tenth of the train split. Default: those
            that the official code of Kolesnikov et al. 2019 keeps from ImageNet.
    """

    source: str = ""
    labels: float = 1.0
    split: Literal["test", "validation"] = "test"
    validation_images: int = 50_046

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        if not 0 < self.labels <= 1:
            raise UserError(f"the share of labels is {self.labels}: expected it above 0, up to 1.")
        if self.split not in ("test", "validation"):
            raise UserError(f"the split is {self.split!r}: expected 'test' or 'validation'.")
        if self.validation_images < 1:
            raise UserError(
                f"`validation_images` must be at least 1, got {self.validation_images}. Raise it "
                "or set `split` to 'test'."
            )


class EvalSubset(Subset):
    """Some of a source's images; a cache of features keeps the whole's, for all its parts."""


def split_permutation(n: int) -> Tensor:
    """Return the order (n,) int64 of a train split in which shares of its labels are beginnings.

    The images held out are its end. Uniformly random, always the same; no seed enters, so that all
    encoders are judged on the same images.

    >>> split_permutation(5).sort().values
    tensor([0, 1, 2, 3, 4])
    """
    return random.permutation(random.derive_key(0, "images of an evaluation"), n)


def _part(source: Source, rows: Tensor, what: str) -> EvalSubset:
    rows = rows.sort().values
    name = ", ".join(filter(None, (source.description.get("subset"), what)))
    return EvalSubset(source, rows, source.labels[rows], list(source.class_names), name)


def validation_count(n: int, images: int) -> int:
    """Return how many of n images are held out where ``images`` are asked for: at most a tenth."""
    return min(images, max(1, n // 10))


def without_validation(source: Source, images: int) -> Source:
    """Return the images of a train split but those that `EvalData` holds out of it.

    Args:
        source: a train split.
        images: as ``validation_images`` of `EvalData`; 0 leaves the source as it is.
    """
    if images == 0:
        return source
    n = len(source)
    count = validation_count(n, images)
    return _part(source, split_permutation(n)[: n - count], f"without {count} held out")


def open_eval_splits(open_source: OpenSource, data: EvalData) -> Splits:
    """Open the images that ``data`` names; a split of which not all images count is a `EvalSubset`.

    Raises:
        UserError: the classes of the splits differ, or there is nothing to hold out.
    """
    if data.split == "test":
        splits = open_splits(open_source, data.source or None)
    else:
        whole = open_source(TRAIN, None, data.source) if data.source else open_source(TRAIN, None)
        splits = Splits(whole, whole, len(whole.class_names))
    n = len(splits.train)
    order = split_permutation(n)
    test, rest = splits.test, order
    if data.split == "validation":
        if n < 2:
            raise UserError(f"the train split has {n} images: expected two or more to hold out of.")
        count = validation_count(n, data.validation_images)
        test, rest = _part(splits.train, order[-count:], f"{count} held out"), order[:-count]
    kept = rest[: max(1, round(data.labels * len(rest)))]
    train = splits.train
    if len(kept) < n:
        train = _part(train, kept, f"{len(kept)} to learn from")
    return Splits(train, test, splits.classes)


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
