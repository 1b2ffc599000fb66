"""Published sets by name, opened for the classes of one classifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from retable.data.imagenet_variants.categories import (
    Category,
    VariantImages,
    classes_of,
    imagenet_ids,
    listed,
    shape_categories,
    single,
)
from retable.data.imagenet_variants.corruptions import KINDS, SEVERITIES, check_corruptions
from retable.data.imagenet_variants.cue_conflict import read_conflicts
from retable.data.imagenet_variants.folders import counts_of, read_folders
from retable.data.imagenet_variants.objectnet import BORDER, check_images, read_mapping
from retable.errors import UserError
from retable.text import printable

Opener = Callable[[Path, Sequence[str], bool], VariantImages]


def open_variants(
    name: str, directory: str, class_names: Sequence[str], *, skip_unreadable: bool = False
) -> VariantImages:
    """Open a published set.

    Args:
        name: one of `VARIANTS`.
        directory: folder that the set is unpacked in.
        class_names: classes of the classifier, as WordNet ids or in ImageNet's words. Only images
            of these are opened.
        skip_unreadable: replace images that cannot be decoded by the next ones.

    Raises:
        UserError: the set is unknown, a part of it is missing, counts differ, or the classifier
            knows none of its classes.
    """
    if name not in _OPENERS:
        raise UserError(f"The set {name!r} is unknown. Use one of {', '.join(_OPENERS)}.")
    return _OPENERS[name](Path(directory), class_names, skip_unreadable)


def _known(
    name: str, categories: Sequence[Category], class_names: Sequence[str]
) -> tuple[tuple[Category, ...], torch.Tensor]:
    """Return the categories that a classifier knows a class of, and these classes."""
    classes = classes_of(categories, class_names)
    kept = [
        category for category, known in zip(categories, classes.any(dim=1), strict=True) if known
    ]
    if not kept:
        raise UserError(
            f"The set {name!r} must share a class with the classifier, which knows none of its "
            f"{len(categories)}. Leave the set out."
        )
    return tuple(kept), classes[classes.any(dim=1)]


def _of_wordnet_folders(name: str, ids: Callable[[], Sequence[str]]) -> Opener:
    """Return the opener of a set with a folder for each WordNet id."""

    def open_folders(root: Path, class_names: Sequence[str], skip: bool) -> VariantImages:
        categories, classes = _known(name, single(ids()), class_names)
        folders = {category.name: number for number, category in enumerate(categories)}
        facts = {"source": f"{name}:{root}"}
        source = read_folders(root, folders, list(folders), facts, skip_unreadable=skip)
        return VariantImages({"": source}, categories, classes)

    return open_folders


def _open_corruptions(name: str) -> Opener:
    def open_parts(root: Path, class_names: Sequence[str], skip: bool) -> VariantImages:
        categories, classes = _known(name, single(imagenet_ids()), class_names)
        folders = {category.name: number for number, category in enumerate(categories)}
        check_corruptions(root, list(folders))
        parts = {
            f"{kind}:{severity}": read_folders(
                root / kind / str(severity),
                folders,
                list(folders),
                {"source": f"{name}:{root}", "part": f"{kind}:{severity}"},
                skip_unreadable=skip,
            )
            for kind in KINDS
            for severity in SEVERITIES
        }
        return VariantImages(parts, categories, classes)

    return open_parts


def _of_numbered_folders(name: str) -> Opener:
    """Return the opener of a set of ImageNet-V2.

    Its folders 0 to 999 are labels: as text 10 would come before 2.
    """

    def open_folders(root: Path, class_names: Sequence[str], skip: bool) -> VariantImages:
        numbered = [str(number) for number in range(len(imagenet_ids()))]
        if root.is_dir() and not (root / numbered[-1]).is_dir():
            raise UserError(
                f"ImageNet-V2 must have the folders 0 to 999, but {printable(str(root))} has no "
                "999. Unpack the published archive, whose folders are numbers and no WordNet ids."
            )
        categories, classes = _known(name, single(imagenet_ids()), class_names)
        labels = {identity: number for number, identity in enumerate(imagenet_ids())}
        folders = {str(labels[category.name]): place for place, category in enumerate(categories)}
        facts = {"source": f"{name}:{root}"}
        names = [category.name for category in categories]
        source = read_folders(root, folders, names, facts, skip_unreadable=skip)
        _check_equal_counts(root, counts_of(root, list(folders)))
        return VariantImages({"": source}, categories, classes)

    return open_folders


def _check_equal_counts(root: Path, counts: Mapping[str, int]) -> None:
    usual = max(set(counts.values()), key=list(counts.values()).count)
    for folder, count in counts.items():
        if count != usual:
            raise UserError(
                f"ImageNet-V2 must have equally many images in each folder, {usual:,}, got "
                f"{count:,} in {printable(str(root / folder))}. Unpack the archive again."
            )


def _open_objectnet(root: Path, class_names: Sequence[str], skip: bool) -> VariantImages:
    mapping = read_mapping(root)
    check_images(root, list(mapping))
    categories, classes = _known("objectnet", list(mapping.values()), class_names)
    places = {category: place for place, category in enumerate(categories)}
    folders = {
        folder: places[category] for folder, category in mapping.items() if category in places
    }
    source = read_folders(
        root / "images",
        folders,
        [category.name for category in categories],
        {"source": f"objectnet:{root}"},
        border=BORDER,
        skip_unreadable=skip,
    )
    return VariantImages({"": source}, categories, classes)


def _open_cue_conflict(root: Path, class_names: Sequence[str], skip: bool) -> VariantImages:
    categories, classes = _known("cue_conflict", shape_categories(), class_names)
    source, textures = read_conflicts(root, categories, skip)
    shown = torch.nn.functional.one_hot(textures, len(categories)).bool()
    return VariantImages({"": source}, categories, classes, shown)


_OPENERS: dict[str, Opener] = {
    "c": _open_corruptions("c"),
    "c_generated": _open_corruptions("c_generated"),
    "r": _of_wordnet_folders("r", lambda: listed("imagenet_r")),
    "a": _of_wordnet_folders("a", lambda: listed("imagenet_a")),
    "sketch": _of_wordnet_folders("sketch", imagenet_ids),
    "v2": _of_numbered_folders("v2"),
    "v2_threshold": _of_numbered_folders("v2_threshold"),
    "v2_top": _of_numbered_folders("v2_top"),
    "stylized": _of_wordnet_folders("stylized", imagenet_ids),
    "objectnet": _open_objectnet,
    "texture": _of_wordnet_folders("texture", imagenet_ids),
    "cue_conflict": _open_cue_conflict,
}

VARIANTS = tuple(_OPENERS)
"""Names of the sets:

- c: ImageNet-C as published; c_generated: corruptions in its layout that somebody generated;
- r, a, sketch: ImageNet-R, -A and -Sketch;
- v2, v2_threshold, v2_top: ImageNet-V2's MatchedFrequency, Threshold0.7 and TopImages;
- stylized: Stylized-ImageNet's validation images;
- objectnet: ObjectNet's classes that ImageNet has;
- texture: texture twins of ImageNet's validation images (ImageNet-Texture);
- cue_conflict: the images of Geirhos et al. with conflicting cues.
"""
