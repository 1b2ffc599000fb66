"""Images that evaluations learn from and are tested on."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from retable import random
from retable.data.skipped import left_out
from retable.data.source import TEST, TRAIN, VAL
from retable.data.sources import open_source, with_parameter
from retable.data.subsets import Subset, share_of_classes
from retable.domains import Count, Share
from retable.errors import UserError
from retable.evaluate.classifier import check_labels
from retable.settings import validate_fields
from retable.text import printable
from retable.views import ViewRecipe, center, crop_and_flip

if TYPE_CHECKING:
    from retable.data.source import Source


class OpenSource(Protocol):
    """Opens the images of an evaluation."""

    def __call__(self, split: str, variant: str | None = None, data: str | None = None) -> Source:
        """Open a split, "train", "val" or "test", or a variant of it that the data set knows.

        ``data`` names a data set (`retable.data.sources.open_source`); None: that of the
        pretraining, with its subset.
        """


def source_opener(
    data: str, subset: str | None = None, *, skip_unreadable: bool = False
) -> OpenSource:
    """Return a function that opens ``subset`` of ``data``, a variant of it, or other data.

    Equal calls return the same source, also those of another opener in this process.
    """
    own = data, subset

    def open_variant(split: str, variant: str | None = None, data: str | None = None) -> Source:
        address, subset = own if data is None else (data, None)
        if variant is not None:
            address = with_parameter(address, "variant", variant)
        return _open_once(address, split, subset, skip_unreadable)

    return open_variant


@functools.lru_cache(maxsize=32)
def _open_once(data: str, split: str, subset: str | None, skip_unreadable: bool) -> Source:
    return open_source(data, split, subset=subset, skip_unreadable=skip_unreadable)


@runtime_checkable
class NamedImages(Protocol):
    """A source whose images have file names, such as `retable.data.folders.FolderSource`."""

    @property
    def names(self) -> Sequence[str]:
        """Names as CLASS/FILE, in the order of the images."""


@dataclass(frozen=True)
class Splits:
    """The training and the test images of one evaluation, and their number of classes."""

    train: Source
    test: Source
    classes: int

    def check_labels(self) -> None:
        """Check that a classifier can learn the labels and be tested on them."""
        check_labels(self.train.labels, self.classes, "train")
        check_labels(self.test.labels, self.classes, "test")


@dataclass(frozen=True)
class EvalData:
    """Which images an evaluation uses, and how many of their labels a classifier learns from.

    Attributes:
        source: another data set than the pretraining's (`retable.data.sources.open_source`); "":
            the pretraining's.
        labels: share of the training images that keep their labels. A smaller share is contained in
            a larger one.
        split: "test" tests on the test split; "val" on the validation split of a data set that has
            a test split too; "validation" on images that are held out of the train split and
            excluded from training: those that the data set names (`Source.validation`), or drawn
            ones. Only "validation" changes what is trained on. Where a data set has a folder or
            table "val" beside "test", "test" means it too (`retable.data.sources.open_source`).
        validation_images: number of images drawn for "validation", at most a tenth of the train
            split. Default: what the official code of Kolesnikov et al. (2019) holds out of
            ImageNet.
        balanced: whether ``labels`` is a share of each class, as in semi-supervised evaluation
            (`retable.data.subsets.share_of_classes`), and not of all images (Kolesnikov et al.
            2019, tables 2 and 4: "10%", "random 5%").
        files: path of a list of the training images that keep their labels, one CLASS/FILE or FILE
            a line, for example SimCLR's lists of 1 % and 10 % of ImageNet; "": ``labels`` decides.
    """

    source: str = ""
    labels: Share = 1.0
    split: Literal["test", "val", "validation"] = "test"
    validation_images: Count = 50_046
    balanced: bool = False
    files: str = ""

    def __post_init__(self) -> None:
        """Validate the fields."""
        validate_fields(self)
        if self.split == "val" and self.validation_images != EvalData.validation_images:
            raise UserError(
                "`validation_images` must be the default with split 'val', got "
                f"{self.validation_images}. Leave it out or set `split` to 'validation'."
            )
        if self.files and (self.labels < 1 or self.balanced):
            raise UserError(
                f"`labels` must be 1 and `balanced` false where `files` names a list, got "
                f"{self.labels} and {self.balanced}. Use either the list or the share."
            )

    @property
    def tested_split(self) -> str:
        """Split of the data set that the test images are from."""
        return {"test": TEST, "val": VAL, "validation": TRAIN}[self.split]

    def training_images(self, images: int) -> int:
        """Return about how many of a train split's images keep their labels."""
        if self.files:
            return len(_listed_names(self.files))
        if self.split == "validation":
            images -= validation_count(images, self.validation_images)
        return max(1, round(self.labels * images))


class EvalSubset(Subset):
    """Some images of a source; a cache keeps features of the base for all its subsets."""


def split_facts(splits: Splits) -> dict[str, dict[str, Any]]:
    """Return the splits' descriptions as facts that a classifier's training depends on.

    Without "skipped", which no image is.
    """
    return {
        split: {name: value for name, value in source.description.items() if name != "skipped"}
        for split, source in (("train", splits.train), ("test", splits.test))
    }


def open_splits(open_source: OpenSource, data: str = "", tested: str = TEST) -> Splits:
    """Open the train split of a data set and the one to test on, "test" or "val".

    Raises:
        UserError: they are the same images or have different classes.
    """
    train, test = (_open(open_source, split, data) for split in (TRAIN, tested))
    if _same_images(train, test):
        raise UserError(
            f"`data` must have other images in its {tested} split than in its train split, got "
            f"{train.description.get('data', data)!r}. Leave out '?split=NAME', or name a data set "
            "whose splits differ."
        )
    _check_same_classes(list(train.class_names), list(test.class_names), tested)
    return Splits(train, test, len(train.class_names))


def _check_same_classes(train: list[str], test: list[str], tested: str) -> None:
    if odd := sorted(set(train) ^ set(test)):
        which, lacking = ("train", tested) if odd[0] in train else (tested, "train")
        more = f" and {len(odd) - 1} more differ" if len(odd) > 1 else ""
        raise UserError(
            f"train and {tested} split have different classes ({len(train)} and {len(test)}): "
            f"{printable(odd[0])!r} is in the {which} split and not in the {lacking} split{more}, "
            "so make the lists of classes equal."
        )
    for number, (one, other) in enumerate(zip(train, test, strict=True)):
        if one != other:
            raise UserError(
                f"train and {tested} split have their classes in different order: class {number} "
                f"is {printable(one)!r} in the train split and {printable(other)!r} in the "
                f"{tested} split, so save both with one list of names."
            )


def data_line(name: str, *sources: Source) -> str:
    """Say in one line how many images and classes a data set has, and what it leaves out."""
    splits = [source.description.get("split", "") for source in sources]
    counts = [f"{len(source):,} {split}" for source, split in zip(sources, splits, strict=True)]
    images = " and ".join(map(str.strip, counts))
    parts = [f"{name}: {images} images of {len(sources[-1].class_names):,} classes"]
    for source, split in zip(sources, splits, strict=True):
        parts += [f"{split or 'images'}: {part}" for part in left_out(source.description)]
    return printable("; ".join(parts))


def _same_images(first: Source, second: Source) -> bool:
    """Return whether sources read the same images, as far as their descriptions tell."""
    while isinstance(first, Subset):
        first = first.base
    while isinstance(second, Subset):
        second = second.base
    pixels = first.description.get("pixels")
    return first is second or (pixels is not None and pixels == second.description.get("pixels"))


def _open(open_source: OpenSource, split: str, data: str) -> Source:
    return open_source(split, None, data) if data else open_source(split, None)


def split_permutation(n: int) -> Tensor:
    """Return the order (n,) int64 of a train split in which shares of its labels are beginnings.

    Its end is held out for validation. Uniformly random and independent of the seed, so that all
    encoders are evaluated on the same images.
    """
    return random.permutation(random.derive_key(0, "images of an evaluation"), n)


def _subset(source: Source, rows: Tensor, name: str) -> EvalSubset:
    rows = rows.sort().values
    name = ", ".join(filter(None, (source.description.get("subset"), name)))
    return EvalSubset(source, rows, source.labels[rows], list(source.class_names), name)


def validation_count(n: int, images: int) -> int:
    """Return how many of n images are held out where ``images`` are requested: at most a tenth."""
    return min(images, max(1, n // 10))


def without_validation(source: Source, images: int) -> Source:
    """Return a train split without the ``validation_images`` of an `EvalData`; 0: as it is."""
    if images == 0:
        return source
    n = len(source)
    count = validation_count(n, images)
    return _subset(source, split_permutation(n)[: n - count], f"without {count} held out")


def open_eval_splits(open_source: OpenSource, data: EvalData) -> Splits:
    """Open the images that ``data`` selects; a part of a split is an `EvalSubset`."""
    if data.split != "validation":
        splits = open_splits(open_source, data.source, data.tested_split)
    else:
        both = _open(open_source, TRAIN, data.source)
        splits = Splits(both, both, len(both.class_names))
    n = len(splits.train)
    rest = split_permutation(n)
    test = splits.test
    if data.split == "validation":
        if n < 2:
            raise UserError(f"the train split has {n} images: expected two or more to hold out of.")
        held_out = splits.train.validation
        if held_out is None:
            held_out = rest[-validation_count(n, data.validation_images) :]
        test = _subset(splits.train, held_out, f"{len(held_out)} held out")
        rest = rest[~torch.isin(rest, held_out)]
    selected = _selected(splits.train, rest, data)
    train = splits.train
    if len(selected) < n:
        train = _subset(train, selected, f"{len(selected)} to learn from")
    return Splits(train, test, splits.classes)


def open_test_split(open_source: OpenSource, data: EvalData) -> Source:
    """Open the test images of ``data`` alone: a data set without a train split will do."""
    if data.split == "validation":
        return open_eval_splits(open_source, data).test
    return _open(open_source, data.tested_split, data.source)


def _selected(source: Source, rows: Tensor, data: EvalData) -> Tensor:
    """Return the images among ``rows`` (n,) that keep their labels."""
    if data.files:
        return rows[torch.isin(rows, listed_rows(source, data.files))]
    if data.balanced:
        rows = rows.sort().values
        return rows[share_of_classes(source.labels[rows], data.labels)]
    return rows[: max(1, round(data.labels * len(rows)))]


def _listed_names(path: str) -> list[str]:
    try:
        # Names of files need not be UTF-8.
        lines = Path(path).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError as error:
        raise UserError(
            f"the list of files {path} cannot be read ({error}): expected one file name a line."
        ) from error
    names = [line.strip() for line in lines if line.strip()]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice or not names:
        fault = f"names {min(twice)} twice" if twice else "is empty"
        raise UserError(f"the list of files {path} {fault}: expected each training image once.")
    return names


def _names_of(source: Source) -> Sequence[str] | None:
    if isinstance(source, Subset):
        names = _names_of(source.base)
        return None if names is None else [names[row] for row in source.indices.tolist()]
    return source.names if isinstance(source, NamedImages) else None


def listed_rows(source: Source, path: str) -> Tensor:
    """Return the images (n,) int64, ascending, that a list selects: a CLASS/FILE or FILE a line.

    Raises:
        UserError: the source has no file names, a listed file is unknown, ambiguous or listed
            twice, or a class has no listed file.
    """
    wanted = _listed_names(path)
    names = _names_of(source)
    if names is None:
        raise UserError(
            f"the data set {source.description['source']} has no file names to find those of {path}"
            " in: use an imagefolder data set, or a share of the labels."
        )
    found: dict[str, int] = {}
    known = set(wanted)
    for row, name in enumerate(names):
        name = name.replace(os.sep, "/")
        for key in {name, name.rpartition("/")[2]} & known:
            if key in found:
                raise UserError(
                    f"{key} in {path} names several images of the data set: write CLASS/FILE."
                )
            found[key] = row
    if missing := [name for name in wanted if name not in found]:
        more = ", ..." if len(missing) > 3 else ""
        raise UserError(
            f"the data set lacks {len(missing)} of the {len(wanted)} files that {path} lists "
            f"({', '.join(missing[:3])}{more}): use the list of this data set's train split."
        )
    rows = torch.tensor(sorted(set(found.values())))
    if len(rows) < len(wanted):
        raise UserError(f"{path} lists an image under two names: expected each image once.")
    counts = torch.bincount(source.labels[rows], minlength=len(source.class_names))
    if not bool(counts.all()):
        empty = source.class_names[int(counts.argmin())]
        raise UserError(f"{path} lists no image of the class {empty}: expected some of each class.")
    return rows


def natural_test_view(*sources: Source) -> ViewRecipe:
    """Return the test view where a recipe names none.

    Images of sources that all have one small size (`Source.natural_size`) are taken as they are;
    others get ImageNet's usual view, short side to 256 and a centre crop of 224.
    """
    sizes = {source.natural_size() for source in sources}
    size = sizes.pop()
    return center(224, 256) if sizes or size is None else center(min(size))


def natural_train_view(*sources: Source) -> ViewRecipe:
    """Return the random crop and flip, scale (0.08, 1), of the size of `natural_test_view`."""
    return crop_and_flip(natural_test_view(*sources).size)
