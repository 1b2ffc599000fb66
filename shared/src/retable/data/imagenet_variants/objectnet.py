"""ObjectNet (Barbu et al., NeurIPS 2019): 113 of its 313 classes are classes of ImageNet.

The published archive has images/FOLDER/IMAGE and mappings/*.json: folders are mapped to ObjectNet's
labels, and labels to ImageNet's words, several for some. An image shows a red border of 2 pixels,
which is cut off (abarbu/objectnet-template-pytorch, README).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retable.data.imagenet_variants.categories import Category
from retable.data.imagenet_variants.folders import check_folders, counts_of
from retable.data.subsets import wordnet_id
from retable.errors import UserError
from retable.text import printable

BORDER = 2
CLASSES = 113
IMAGES = 18_574
"""Images of the 113 classes in the published archive."""


def read_mapping(root: Path) -> dict[str, Category]:
    """Return the category of each folder that is mapped to ImageNet.

    Raises:
        UserError: a mapping is missing or names a class that ImageNet does not have.
    """
    labels = _read(root / "mappings" / "folder_to_objectnet_label.json")
    words = _read(root / "mappings" / "objectnet_to_imagenet_1k.json")
    found: dict[str, Category] = {}
    for folder, label in sorted(labels.items()):
        if label not in words:
            continue
        ids = []
        for text in words[label].split("; "):
            identity = wordnet_id(text)
            if identity is None:
                raise UserError(
                    f"ObjectNet's mapping of {label!r} must name classes of ImageNet, got "
                    f"{text!r}. Use the mappings of the published archive."
                )
            ids.append(identity)
        found[folder] = Category(label, tuple(ids))
    if not found:
        raise UserError(f"The mappings of {printable(str(root))} name no class of ImageNet.")
    return found


def check_images(root: Path, folders: Sequence[str]) -> None:
    """Check the number of images where the mapping is the published one, of 113 classes.

    Raises:
        UserError: there are more or fewer, as after a download that broke off.
    """
    if len(folders) != CLASSES:
        return
    check_folders(root / "images", folders)
    count = sum(counts_of(root / "images", folders).values())
    if count != IMAGES:
        raise UserError(
            f"ObjectNet must have {IMAGES:,} images of the {CLASSES} classes of ImageNet, got "
            f"{count:,} in {printable(str(root))}. Unpack the whole archive."
        )


def _read(path: Path) -> dict[str, str]:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"ObjectNet must have the file {printable(str(path))}. Unpack the whole archive."
        ) from None
    except ValueError as error:
        raise UserError(f"{printable(str(path))} is no JSON ({error}). Unpack it again.") from error
    pairs = content.items() if isinstance(content, dict) else ()
    if not pairs or not all(isinstance(text, str) for pair in pairs for text in pair):
        raise UserError(f"{printable(str(path))} must map names to names. Unpack it again.")
    return dict(pairs)
