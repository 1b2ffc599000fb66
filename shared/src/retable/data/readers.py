"""Data sets that torchvision.datasets reads, without downloading them."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retable.data.decoding import UnreadableImageError, rgb_tensor, stamps
from retable.data.source import TEST, TRAIN, Source, checksum, find_split, parse_parameters
from retable.errors import UserError

# Names that readers give their splits; which of them one has is found by asking for them.
_SPLITS = ("train", "trainval", "val", "valid", "validation", "test")
_TARGETS = ("targets", "labels", "_labels", "y")
_CLASSES = ("classes", "categories")


class ReaderSource(Source):
    """Images and labels of a data set of torchvision; grey images become RGB.

    ``reader`` yields pairs of a PIL image and a class; ``facts`` are further entries of the
    description; ``root`` is the folder that holds the files, if there is one.
    """

    def __init__(
        self,
        reader: Any,
        data: str,
        split: str,
        facts: Mapping[str, Any],
        root: str | None,
        *,
        skip_unreadable: bool = False,
    ) -> None:
        self.reader = reader
        self.name = f"{data} ({split})"
        labels = _labels(reader, data)
        found = (getattr(reader, name, None) for name in _CLASSES)
        names = [str(name) for name in next((list(n) for n in found if n), [])]
        count = int(labels.max()) + 1
        names = names if len(names) >= count else list(map(str, range(count)))
        description: dict[str, Any] = {
            "source": data,
            "split": split,
            **facts,
            "images": len(labels),
            "classes": len(names),
            "checksum": checksum(names, labels),
        }
        if unknown := int((labels < 0).sum()):
            description["unlabelled"] = unknown
        files = [] if root is None else sorted(_files_below(root))
        below = (os.path.relpath(file, root) for file in files)
        state = map(" ".join, zip(below, stamps(files), strict=True))
        description["pixels"] = checksum([data, repr(sorted(facts.items())), *state])
        super().__init__(labels, names, description, skip_unreadable=skip_unreadable)

    def image(self, index: int) -> Tensor:
        """Read one image: uint8 (3, H, W)."""
        from PIL.Image import DecompressionBombError

        try:
            image = self.reader[index][0].convert("RGB")
        except UserError:
            raise
        except (OSError, SyntaxError, ValueError, DecompressionBombError) as error:
            message = str(error).partition("\n")[0]
            raise UnreadableImageError(f"number {index} of {self.name}", message) from error
        return rgb_tensor(image)

    def _stated_sizes(self) -> Iterator[tuple[int, int] | None]:
        # A reader shows no headers: images are read up to the first that differs or is not small.
        for index in range(len(self)):
            try:
                image = self.image(index)
            except UnreadableImageError:
                yield None
            else:
                yield image.shape[1], image.shape[2]


def open_reader(
    name: str,
    role: str,
    *,
    root: str | None = None,
    split: str | None = None,
    skip_unreadable: bool = False,
    **options: str,
) -> ReaderSource:
    """Open a data set by the name of its class in torchvision.datasets, such as "FashionMNIST".

    Readers without a ``split`` or ``train`` parameter have a train split only. ``root`` holds the
    files, as torchvision lays them out; ``split`` is the reader's split that serves as ``role``,
    whichever that is; ``options`` are further parameters of the reader.

    Raises:
        UserError: the reader, one of its parameters, its files or the split are missing, or its
            labels are no classes.
    """
    from torchvision import datasets

    data = f"torchvision:{name}"
    names = [known for known in datasets.__all__ if inspect.isclass(getattr(datasets, known))]
    if name not in names:
        near = get_close_matches(name, names, 3, 0.5) or names
        raise UserError(
            f"`torchvision:NAME` must name a class of torchvision.datasets, got {name!r}. Use one "
            f"of {', '.join(near)}."
        )
    make = getattr(datasets, name)
    parameters = _parameters(make)
    ours = ("self", "root", "train", "split", "download", "transforms")
    defaults = {key: type(p.default) for key, p in parameters.items() if key not in ours}
    kinds: dict[str, type] = {"root": str, "split": str} | {
        key: kind if kind in (int, float, bool) else str
        for key, kind in defaults.items()
        if "transform" not in key
    }
    values = parse_parameters(data, options, kinds)
    if "root" in parameters:
        if root is None or not Path(root).is_dir():
            raise UserError(
                f"`root` of the data set {data!r} must be an existing folder, got {root!r}. Add "
                "'?root=DIR' to its name."
            )
        values["root"] = root
    if "download" in parameters:
        values["download"] = False
    if "train" in parameters:
        if split is not None and "split" in parameters:
            values["split"], split = split, None  # as in EMNIST: not train or test
        own = find_split(data, role, (TRAIN, TEST), split)
        reader = _open(make, data, {**values, "train": own == TRAIN})
    elif "split" in parameters:
        readers = _open_splits(make, data, values, split)
        if split is None and role == TRAIN and TRAIN not in readers:
            split = "trainval"
        own = find_split(data, role, list(readers), split, test_first=True)
        reader = readers[own]
    else:
        own = find_split(data, role, (TRAIN,), split)
        reader = _open(make, data, values)
    values.pop("root", None)
    facts = {**values, "part": own}
    return ReaderSource(reader, data, role, facts, root, skip_unreadable=skip_unreadable)


def _open_splits(
    make: Any, data: str, values: dict[str, Any], chosen: str | None
) -> dict[str, Any]:
    """Open the splits that a reader has among the usual ones and the chosen one."""
    readers = {}
    for name in dict.fromkeys((*_SPLITS, chosen or TRAIN)):
        try:
            readers[name] = _open(make, data, {**values, "split": name})
        except UserError:
            raise
        except ValueError:  # no such split
            continue
    return readers


def _open(make: Any, data: str, values: dict[str, Any]) -> Any:
    try:
        return make(**values)
    except (RuntimeError, OSError) as error:
        message = str(error).partition("\n")[0].partition(" You can use download=True")[0]
        message = message.rstrip(".")
        raise UserError(
            f"The data set {data!r} cannot be read ({message}): put its files into the folder "
            "`root` as torchvision lays them out."
        ) from error


def _parameters(make: Any) -> dict[str, inspect.Parameter]:
    """Return the parameters of a class, those of its bases too where it passes them on."""
    found: dict[str, inspect.Parameter] = {}
    for base in make.__mro__:
        own = inspect.signature(base.__init__).parameters if "__init__" in vars(base) else {}
        found = {**own, **found}
        if own and not any(p.kind is p.VAR_KEYWORD for p in own.values()):
            break
    return {key: p for key, p in found.items() if p.kind is p.POSITIONAL_OR_KEYWORD}


def _labels(reader: Any, data: str) -> Tensor:
    """Return the classes of a reader: from an attribute where its ends agree, else by reading."""
    count = len(reader)
    if not count:
        raise UserError(f"The data set {data!r} is empty: complete its files.")
    ends = (0, count - 1)
    for name in _TARGETS:
        found = getattr(reader, name, None)
        if found is None or len(found) != count:
            continue
        if all(_class(found[i], data) == _class(reader[i][1], data) for i in ends):
            return torch.tensor([_class(value, data) for value in found])
    return torch.tensor([_class(reader[i][1], data) for i in range(count)])


def _class(value: Any, data: str) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        raise UserError(
            f"The labels of the data set {data!r} are no classes (for instance {value!r}): choose "
            "a data set for classification, or another target by the reader's parameters."
        ) from None


def _files_below(root: str) -> Iterator[str]:
    """Yield all files below a folder, each linked folder once."""
    seen = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        place = os.path.realpath(folder)
        if place in seen:
            folders.clear()
            continue
        seen.add(place)
        yield from (os.path.join(folder, file) for file in files)
