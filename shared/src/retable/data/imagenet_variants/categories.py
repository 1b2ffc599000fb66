"""What the images of a set are labelled with: categories, each of some classes of ImageNet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import torch
from torch import Tensor

from retable.data.source import Source
from retable.data.subsets import wordnet_id
from retable.errors import UserError


@dataclass(frozen=True)
class Category:
    """A label of a set: its name, and the WordNet ids of the classes that count as it."""

    name: str
    wordnet_ids: tuple[str, ...]


@dataclass(frozen=True)
class VariantImages:
    """A set that is opened for one classifier.

    Attributes:
        parts: sources by name, for instance "gaussian_noise:3"; "" is the name of the only part of
            a set. Labels are places in ``categories``.
        categories: the categories that the classifier knows a class of.
        classes: (G, C) bool, the classes of the classifier that count as each category.
        textures: (n, G) bool, the categories whose texture each image of the only part shows, for
            cue conflicts; None of other sets.
    """

    parts: Mapping[str, Source]
    categories: tuple[Category, ...]
    classes: Tensor
    textures: Tensor | None = None


def classes_of(categories: Sequence[Category], class_names: Sequence[str]) -> Tensor:
    """Return which of a classifier's classes count as each category, bool (G, C).

    Raises:
        UserError: a class of the classifier is no class of ImageNet.
    """
    ids = [wordnet_id(name) for name in class_names]
    for name, identity in zip(class_names, ids, strict=True):
        if identity is None:
            raise UserError(
                f"The classes must be those of ImageNet, named by WordNet ids, got {name!r}. "
                "Train the probe on ImageNet or a subset of it."
            )
    return torch.tensor(
        [[identity in category.wordnet_ids for identity in ids] for category in categories]
    ).view(len(categories), len(ids))


@cache
def listed(name: str) -> tuple[str, ...]:
    """Return the WordNet ids of a set of 200 classes, "imagenet_r" or "imagenet_a", sorted."""
    return tuple(_lines(f"{name}.txt"))


@cache
def imagenet_ids() -> tuple[str, ...]:
    """Return the 1000 WordNet ids of ImageNet, sorted: the position is the label."""
    text = (files("retable.data") / "imagenet1k.txt").read_text(encoding="utf-8")
    return tuple(line.split("\t")[0] for line in text.splitlines())


@cache
def shape_categories() -> tuple[Category, ...]:
    """Return the 16 categories of Geirhos et al. (ICLR 2019) with their 207 classes of ImageNet."""
    members: dict[str, list[str]] = {}
    for line in _lines("shape_categories.txt"):
        identity, name = line.split("\t")
        members.setdefault(name, []).append(identity)
    return tuple(Category(name, tuple(ids)) for name, ids in sorted(members.items()))


def single(ids: Iterable[str]) -> tuple[Category, ...]:
    """Return a category for each WordNet id."""
    return tuple(Category(identity, (identity,)) for identity in ids)


def _lines(name: str) -> list[str]:
    folder = files("retable.data.imagenet_variants")
    return (folder / name).read_text(encoding="utf-8").splitlines()
