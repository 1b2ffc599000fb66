"""Subsets as views on a source: chosen classes, and a share of the labels.

The class list of ImageNet-100 is that of CMC (Tian et al., Contrastive Multiview Coding, 2020),
used by MoCHi and i-Mix among others; other lists by that name exist. Labels are positions in the
sorted list of WordNet ids, as torchvision's ImageFolder would number them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor

from retable import random
from retable.data.source import TRAIN, Source, checksum
from retable.domains import Share
from retable.errors import UserError
from retable.settings import validate_fields

_WORDNET_ID = re.compile(r"n\d{8}")


@cache
def imagenet100_ids() -> tuple[str, ...]:
    """Return the 100 WordNet ids, sorted: the position is the label."""
    return tuple(sorted(_lines("imagenet100.txt")))


@cache
def _ids_by_words() -> dict[str, str]:
    """Map the words of an ImageNet-1K class to its WordNet id, where they are unambiguous."""
    pairs = [line.split("\t") for line in _lines("imagenet1k.txt")]
    words = [words for _, words in pairs]
    return {text: identity for identity, text in pairs if words.count(text) == 1}


def _lines(name: str) -> list[str]:
    return (files("retable.data") / name).read_text(encoding="utf-8").splitlines()


def wordnet_id(class_name: str) -> str | None:
    """Return the WordNet id of an ImageNet class, given as that id or in ImageNet's words."""
    if _WORDNET_ID.fullmatch(class_name):
        return class_name
    return _ids_by_words().get(class_name)


@dataclass(frozen=True)
class SubsetRecipe:
    """A subset: the classes with these WordNet ids (None: all), and a share of each class."""

    name: str
    wordnet_ids: tuple[str, ...] | None = None
    fraction: Share = 1.0

    def __post_init__(self) -> None:
        validate_fields(self)

    def apply(self, source: Source, split: str) -> Source:
        """Return a view on ``source``; a share is taken of the train split only."""
        indices = torch.arange(len(source))
        labels, class_names = source.labels, source.class_names
        if self.wordnet_ids is not None:
            to_label = _labels_by_class(source.class_names, self.wordnet_ids, self.name)
            labels = torch.where(labels >= 0, to_label[labels], -1)
            indices = (labels >= 0).nonzero()[:, 0]
            class_names = list(self.wordnet_ids)
            labels = labels[indices]
            present = set(labels.tolist())
            empty = [name for label, name in enumerate(class_names) if label not in present]
            if empty:
                raise UserError(
                    f"The class {empty[0]} of the subset {self.name} has no images ({len(empty)} "
                    f"of {len(class_names)} classes are empty): complete the data set."
                )
        if self.fraction < 1.0 and split == TRAIN:
            kept = share_of_classes(labels, self.fraction)
            indices, labels = indices[kept], labels[kept]
        if len(indices) == len(source) and torch.equal(labels, source.labels):
            source.description["subset"] = self.name
            return source
        return Subset(source, indices, labels, class_names, self.name)


def parse_subset(text: str) -> SubsetRecipe:
    """Read "imagenet100", "10%" or "imagenet100:10%"."""
    wordnet_ids, fraction = None, 1.0
    for part in text.split(":"):
        share = re.fullmatch(r"(\d+(?:\.\d+)?)%", part)
        if part == "imagenet100":
            wordnet_ids = imagenet100_ids()
        elif share and 0 < float(share[1]) <= 100:
            fraction = float(share[1]) / 100
        else:
            raise UserError(
                f"The subset {text!r} is unknown: expected 'imagenet100', a share of each class "
                "such as '10%', or both as in 'imagenet100:10%'."
            )
    return SubsetRecipe(text, wordnet_ids, fraction)


def _labels_by_class(class_names: list[str], wanted: tuple[str, ...], subset: str) -> Tensor:
    """Return (C,) int64: each class's position among the wanted ids, -1 where unwanted."""
    identities = [wordnet_id(name) for name in class_names]
    missing = sorted(set(wanted) - set(identities))
    if missing:
        named = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise UserError(
            f"The data set lacks {len(missing)} of the {len(wanted)} classes of the subset "
            f"{subset} ({named}): it needs an ImageNet copy whose classes are named by WordNet ids."
        )
    positions = {identity: position for position, identity in enumerate(wanted)}
    return torch.tensor([positions.get(identity or "", -1) for identity in identities])


def share_of_classes(labels: Tensor, fraction: float) -> Tensor:
    """Choose the same share of every class, always the same samples: positions, ascending.

    Of a class with n samples round(n * fraction) are kept and at least one; unlabelled samples
    are a class of their own. A smaller share is contained in a larger one.
    """
    chosen = []
    for label in sorted(set(labels.tolist())):
        members = (labels == label).nonzero()[:, 0]
        count = max(1, int(len(members) * fraction + 0.5))
        order = random.permutation(random.derive_key(0, "share of classes", label), len(members))
        chosen.append(members[order[:count]])
    return torch.cat(chosen).sort().values


class Subset(Source):
    """A view on a source: some of its samples, in its order, perhaps with other labels."""

    def __init__(
        self, base: Source, indices: Tensor, labels: Tensor, class_names: list[str], name: str
    ) -> None:
        self.base = base
        self.indices = indices
        self.layers = base.layers
        if base.validation is not None:
            self.validation = torch.isin(indices, base.validation).nonzero()[:, 0]
        description: dict[str, Any] = {
            **base.description,
            "subset": name,
            "images": len(indices),
            "classes": len(class_names),
            "checksum": checksum([base.description["checksum"], checksum((), indices)], labels),
        }
        if "pixels" in base.description:
            description["pixels"] = checksum([base.description["pixels"]], indices)
        super().__init__(labels, class_names, description, skip_unreadable=base.skip_unreadable)

    def image(self, index: int) -> Tensor:
        """Return one image."""
        return self.base.image(int(self.indices[index]))

    def layer(self, index: int, name: str) -> Tensor:
        """Return a layer of one sample."""
        return self.base.layer(int(self.indices[index]), name)

    def resident(self, *, decode: bool = False) -> Tensor | None:
        """Return all images or None, as `Source.resident` does."""
        pool = self.base.resident()
        if pool is None:
            return super().resident(decode=decode)
        pool = pool[self.indices]
        if self.base.replacements:
            self._replace(pool)
        return pool

    def _replace(self, pool: Tensor) -> None:
        """Replace unreadable images by the subset's next ones, which the base's may not be in."""
        lost = [int(row) in self.base.replacements for row in self.indices]
        if all(lost):
            self.base.image(int(self.indices[0]))  # raises with the reason
        found = {}
        for row in (row for row, gone in enumerate(lost) if gone):
            following = (*range(row + 1, len(lost)), *range(row))
            found[row] = next(other for other in following if not lost[other])
            pool[row] = pool[found[row]]
        self.replacements = found
        self.unreadable.update(self.replacements)

    def natural_size(self) -> tuple[int, int] | None:
        """Return the size of the base's images: a part of a data set is judged like all of it."""
        return self.base.natural_size()

    def resident_layer(self, name: str) -> Tensor | list[Tensor] | None:
        """Return a layer of all samples in the order of `resident`."""
        if self.base.resident() is None:
            return super().resident_layer(name)
        pool = self.base.resident_layer(name)
        rows = self.indices.clone()
        for row, other in self.replacements.items():
            rows[row] = self.indices[other]
        if isinstance(pool, list):
            return [pool[index] for index in rows.tolist()]
        return None if pool is None else pool[rows]
