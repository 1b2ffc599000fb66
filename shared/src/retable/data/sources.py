"""Where images come from: one string names a source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode

import torch
from torch import Tensor

from retable.data.source import TEST, TRAIN, Source, checksum
from retable.errors import UserError

if TYPE_CHECKING:
    from retable.data.shapes.factors import Labelling


class ShapesSource:
    """The built-in procedural data set as a source; ``shapes`` has its masks and factors.

    Args:
        split: "train" or "test".
        count: images of the train split.
        test_count: images of the test split.
        size: height and width in pixels.
        classes: number of outlines.
        rho: correlation of texture with class.
        seed: what the images are drawn from, apart from the run's seed.
        variant: "clean" or an out-of-distribution variant of the test split.
        labels: "outline" or what else of an image its label tells; no pixel depends on it.
    """

    def __init__(
        self,
        split: str,
        *,
        count: int = 8000,
        test_count: int = 2000,
        size: int = 32,
        classes: int = 64,
        rho: float = 0.7,
        seed: int = 0,
        variant: str = "clean",
        labels: Labelling = "outline",
    ) -> None:
        from retable.data.shapes.dataset import Shapes

        self.skip_unreadable = False
        self.unreadable: set[int] = set()
        self.shapes = Shapes(
            count if split == TRAIN else test_count,
            split=split,
            size=size,
            classes=classes,
            rho=rho,
            seed=seed,
            variant=variant,
            labels=labels,
        )
        self.labels: Tensor = self.shapes.labels
        self.class_names = list(self.shapes.class_names)
        drawn = [f"{size} {rho} {seed} {variant}"]
        if labels != "outline":
            drawn.append(f"{labels} of {classes} outlines")
        self.description: dict[str, Any] = {
            "source": "shapes",
            "split": split,
            "images": len(self.labels),
            "classes": len(self.class_names),
            "labels": labels,
            "outlines": classes,
            "size": size,
            "rho": rho,
            "seed": seed,
            "variant": variant,
            "checksum": checksum(drawn, self.labels),
            "pixels": checksum(
                f"{name} {value}"
                for name, value in (
                    ("images", len(self.labels)),
                    ("split", split),
                    ("size", size),
                    ("outlines", classes),
                    ("rho", rho),
                    ("seed", seed),
                    ("variant", variant),
                )
            ),
        }
        self._pool: Tensor | None = None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def image(self, index: int) -> Tensor:
        """Render one image: uint8 (3, size, size)."""
        if self._pool is not None:
            return self._pool[index]
        return self.shapes.images(torch.tensor([index]))[0]

    def resident(self, *, decode: bool = False) -> Tensor:
        """Return all images, rendered at the first call: uint8 (n, 3, size, size)."""
        if self._pool is None:
            self._pool = self.shapes.resident()
        return self._pool


_SHAPES_PARAMETERS: dict[str, type] = {
    "count": int,
    "test_count": int,
    "size": int,
    "classes": int,
    "rho": float,
    "seed": int,
    "variant": str,
    "labels": str,
}
_HUB_PARAMETERS: dict[str, type] = {"config": str, "label": str}
_ARROW_PARAMETERS: dict[str, type] = {"label": str}

_KNOWN = "'shapes', 'imagefolder:DIR', 'hf:NAME' or 'arrow:DIR'"


def with_parameter(spec: str, name: str, value: str | int | float) -> str:
    """Add a parameter to the name of a data set, or replace it.

    >>> with_parameter("shapes?count=100&size=32", "size", 64)
    'shapes?count=100&size=64'
    """
    address, _, query = spec.partition("?")
    parameters = {**dict(parse_qsl(query)), name: str(value)}
    return f"{address}?{urlencode(parameters, safe=':/')}"


def open_source(
    spec: str, split: str, *, subset: str | None = None, skip_unreadable: bool = False
) -> Source:
    """Open a data set by its name.

    Args:
        spec: one of

            - ``shapes``, the built-in data set, with optional parameters as in
              ``shapes?count=8000&test_count=2000&size=32&classes=64&rho=0.7&seed=0`` (the
              defaults), ``variant=sketch`` for an out-of-distribution test split, and
              ``labels=texture``, ``foreground``, ``background`` or ``scene`` in place of
              ``outline`` for other classes of the same images;
            - ``imagefolder:DIR`` for DIR/train/CLASS/IMAGE and DIR/val/CLASS/IMAGE;
            - ``hf:NAME`` from the HF hub, with optional ``?config=NAME&label=COLUMN``;
            - ``arrow:DIR`` as HF datasets' ``DatasetDict.save_to_disk`` wrote it, with optional
              ``?label=COLUMN``.
        split: "train" or "test"; the test split is what a data set calls val or validation, and
            test only if it has neither.
        subset: "imagenet100" keeps its 100 classes, labelled in the order of the sorted WordNet
            ids; "10%" keeps this share of each class of the train split; "imagenet100:10%" both.
        skip_unreadable: leave out and count unreadable images instead of refusing them. What is no
            image by its first bytes is left out when opening; what turns out later not to decode
            is replaced by the next sample.

    Raises:
        UserError: the data set is unknown, missing, or not laid out as expected, an image is
            unreadable, a class is missing or empty, or the subset is unknown.
    """
    if split not in (TRAIN, TEST):
        raise UserError(f"The split {split!r} is unknown: expected 'train' or 'test'.")
    # Inside, since these modules build on this one.
    from retable.data.subsets import SubsetRecipe, parse_subset

    recipe = SubsetRecipe("all") if subset is None else parse_subset(subset)
    source = _open_whole(spec, split, recipe.wordnet_ids, skip_unreadable)
    source.description["spec"] = spec
    return source if subset is None else recipe.apply(source, split)


def _open_whole(
    spec: str, split: str, classes: tuple[str, ...] | None, skip_unreadable: bool
) -> Source:
    kind, _, rest = spec.partition(":")
    if spec.partition("?")[0] == "shapes":
        _, parameters = _parameters(spec, _SHAPES_PARAMETERS)
        return ShapesSource(split, **parameters)
    if not rest or kind not in ("imagefolder", "hf", "arrow"):
        raise UserError(f"The data set {spec!r} is unknown: expected {_KNOWN}.")
    if kind == "imagefolder":
        from retable.data.folders import FolderSource

        # Only the wanted classes' folders are looked into: ImageNet has ten times as many.
        return FolderSource(rest, split, classes=classes, skip_unreadable=skip_unreadable)
    from retable.data.huggingface import open_hub, open_saved

    if kind == "hf":
        name, parameters = _parameters(rest, _HUB_PARAMETERS)
        return open_hub(name, split, skip_unreadable=skip_unreadable, **parameters)
    name, parameters = _parameters(rest, _ARROW_PARAMETERS)
    return open_saved(name, split, skip_unreadable=skip_unreadable, **parameters)


def _parameters(spec: str, types: dict[str, type]) -> tuple[str, dict[str, Any]]:
    """Split "address?name=value&..." into the address and typed values."""
    address, _, query = spec.partition("?")
    values: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in types:
            raise UserError(
                f"The data set {address!r} has no parameter {name!r}: expected one of "
                f"{', '.join(types)}."
            )
        try:
            values[name] = types[name](text)
        except ValueError:
            expected = {int: "a whole number", float: "a number"}[types[name]]
            raise UserError(
                f"The parameter {name}={text} of the data set {address!r} is not {expected}."
            ) from None
    return address, values
