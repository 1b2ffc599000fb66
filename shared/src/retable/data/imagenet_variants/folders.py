"""Class folders of a published set: which are there, and how many images each has."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from retable.data.image_files import ImageFiles
from retable.data.walk import Walk, class_folders, scan
from retable.errors import UserError
from retable.text import printable


def read_folders(
    root: Path,
    labels: Mapping[str, int],
    names: Sequence[str],
    facts: Mapping[str, object],
    *,
    border: int = 0,
    skip_unreadable: bool = False,
) -> ImageFiles:
    """Return the images of some class folders below ``root``.

    ``labels`` are the number of each folder's category, ``names`` the categories.

    Raises:
        UserError: a folder is missing or has no image.
    """
    check_folders(root, labels)
    walk = Walk({os.path.realpath(root)})
    files: list[str] = []
    numbers: list[int] = []
    for folder, label in labels.items():
        found = list(walk.images(str(root / folder), folder))
        if not found:
            raise UserError(
                f"The folder {printable(str(root / folder))} holds no image. Complete the set."
            )
        files += found
        numbers += [label] * len(found)
    described = {**facts, "skipped": walk.skipped.facts()}
    return ImageFiles(
        root,
        files,
        torch.tensor(numbers),
        names,
        described,
        border=border,
        skip_unreadable=skip_unreadable,
    )


def check_folders(root: Path, wanted: Mapping[str, int] | Sequence[str]) -> None:
    """Raise a UserError that names the first class folder that is missing, if one is."""
    if not root.is_dir():
        raise UserError(
            f"The folder {printable(str(root))} does not exist. Unpack the published set there."
        )
    present = set(class_folders(root))
    if missing := [name for name in wanted if name not in present]:
        lacks = f" and {len(missing) - 1} more are" if len(missing) > 1 else " is"
        raise UserError(
            f"The folder {printable(str(root))} must have {len(wanted)} class folders, but "
            f"{printable(missing[0])}{lacks} missing. Complete the set."
        )


def counts_of(root: Path, folders: Sequence[str]) -> dict[str, int]:
    """Return the number of images in each class folder, by the names of their files alone."""
    from retable.data.walk import EXTENSIONS

    return {
        name: sum(entry.name.lower().endswith(EXTENSIONS) for entry in scan(str(root / name)))
        for name in folders
    }
