"""Open a data set for transfer by its name and a folder, or from the HF hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from retable import random
from retable.data.huggingface import open_hub
from retable.data.joined import Joined
from retable.data.readers import open_reader
from retable.data.source import TEST, TRAIN, Source
from retable.data.transfer.classification.layouts import LAYOUTS
from retable.data.transfer.classification.sets import CLASSIFICATION_SETS, ClassificationSet
from retable.errors import UserError
from retable.text import printable

HUB = "hub"
"""Address that reads a data set from the hub instead of a folder."""

VALIDATION_SHARE = 0.2
"""Share of a train split that chooses settings, where no validation split is official."""


def classification_opener(name: str) -> Callable[..., Source]:
    """Return the opener of a data set of `CLASSIFICATION_SETS`."""

    def open_set(
        address: str, split: str, *, complete: bool = True, skip_unreadable: bool = False
    ) -> Source:
        return open_classification(
            name, address, split, complete=complete, skip_unreadable=skip_unreadable
        )

    return open_set


def open_classification(
    name: str, address: str, split: str, *, complete: bool = True, skip_unreadable: bool = False
) -> Source:
    """Open the images to train on, whose `Source.validation` chooses settings, or those to test on.

    Args:
        name: one of `CLASSIFICATION_SETS`.
        address: folder that holds the unpacked archive, or `HUB`.
        split: "train", which has the official validation images too, or "test".
        complete: whether the counts must be those of the data set.
        skip_unreadable: replace images that cannot be decoded by the next ones.

    Raises:
        UserError: the files are missing or broken, the hub has no copy with the papers' splits, or
            counts differ.
    """
    known = CLASSIFICATION_SETS[name]
    if split not in (TRAIN, TEST):
        raise UserError(
            f"The data set {name!r} has no {split} split: use train, which holds the images that "
            "choose settings too, or test."
        )
    if address == HUB:
        parts = [_from_hub(name, known, split, skip_unreadable)]
    else:
        parts = _from_folder(name, known, Path(address), split, skip_unreadable)
    source = parts[0] if len(parts) == 1 else Joined(parts)
    source.description |= {"source": f"{name}:{address}", "split": split}
    source.description["accuracy"] = known.accuracy
    if known.not_comparable:
        source.description["not_comparable"] = known.not_comparable
    _check_counts(name, known, source, split, complete)
    if split == TRAIN:
        source.validation = _validation(name, parts)
    return source


def _from_folder(
    name: str, known: ClassificationSet, root: Path, split: str, skip: bool
) -> list[Source]:
    if not known.holds:
        raise UserError(
            f"The data set {name!r} has no archive, since {known.not_comparable}. Use {name}:{HUB}."
        )
    if not root.is_dir():
        raise UserError(
            f"The folder {printable(str(root))} does not exist. It must hold {known.holds}, as the "
            f"archive of {known.title} unpacks ({known.archive})."
        )
    try:
        if name in LAYOUTS:
            lists = LAYOUTS[name](root, split)
            return [lists.open({"part": split}, skip_unreadable=skip)]
        names = known.parts if split == TRAIN else (TEST,)
        return [
            open_reader(known.reader, split, root=str(root), split=part, skip_unreadable=skip)
            for part in names
        ]
    except UserError as error:
        raise UserError(
            f"{str(error).rstrip('.')}. The folder {printable(str(root))} must hold {known.holds}, "
            f"as the archive of {known.title} unpacks ({known.archive})."
        ) from error


def _from_hub(name: str, known: ClassificationSet, split: str, skip: bool) -> Source:
    copy = known.copy
    if copy is None:
        raise UserError(
            f"The data set {name!r} has no copy on the hub with the splits of papers. Unpack its "
            f"archive ({known.archive}) and use {name}:DIR."
        )
    return open_hub(
        copy.repository,
        split,
        image=copy.image,
        label=copy.label,
        revision=copy.revision,
        skip_unreadable=skip,
    )


def _check_counts(
    name: str, known: ClassificationSet, source: Source, split: str, complete: bool
) -> None:
    images = known.train if split == TRAIN else known.test
    if not images or (len(source), len(source.class_names)) == (images, known.classes):
        return
    if complete:
        raise UserError(
            f"The {split} split of the data set {name!r} must have {images:,} images of "
            f"{known.classes:,} classes, got {len(source):,} of {len(source.class_names):,}. "
            f"Unpack its archive again ({known.archive}), or add '?complete=false' to use what is "
            "there, which no paper's number can be compared with."
        )
    source.description["not_comparable"] = "images or classes are missing"


def _validation(name: str, parts: list[Source]) -> torch.Tensor:
    """Return the images that choose settings: the official ones, or a fifth, drawn once for all."""
    if len(parts) > 1:
        first = len(parts[0])
        return torch.arange(first, first + len(parts[1]))
    n = len(parts[0])
    order = random.permutation(random.derive_key(0, "validation images", name), n)
    return order[: max(1, round(VALIDATION_SHARE * n))].sort().values
