"""Data sets by name: one string opens a source, and packages and scripts register their own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib.metadata import entry_points
from types import NoneType
from typing import get_args
from urllib.parse import parse_qsl, urlencode

from retable.data.folders import FolderSource
from retable.data.huggingface import open_hub, open_saved
from retable.data.readers import open_reader
from retable.data.shapes.dataset import Shapes
from retable.data.shapes.scenes import Scenes
from retable.data.source import SPLITS, TRAIN, Source, parse_parameters
from retable.data.subsets import SubsetRecipe, parse_subset
from retable.data.transfer.cityscapes import open_cityscapes
from retable.data.transfer.classification.opening import classification_opener
from retable.data.transfer.classification.sets import CLASSIFICATION_SETS
from retable.data.transfer.coco import open_coco
from retable.data.transfer.voc import open_voc
from retable.data.transfer.voc_segmentation import open_voc_segmentation
from retable.errors import UserError
from retable.text import did_you_mean

Opener = Callable[..., Source]
"""Opens a split of a registered data set: ``opener(address, split, *, ...)``.

``address`` is the text after the colon of "NAME:ADDRESS?PARAMETER=VALUE", "" without one. Keyword
parameters that are annotated as ``int``, ``float``, ``bool`` or ``str`` (or None) are read from the
string. ``skip_unreadable`` (bool) and ``wanted_classes`` (WordNet ids, or None for all) are passed
to openers that have these parameters.
"""

ENTRY_POINTS = "retable.sources"
"""Group of the entry points by which installed packages declare openers under their names."""

_openers: dict[str, Opener] = {}


def register_source(name: str, opener: Opener) -> None:
    """Make a source available as ``NAME``, ``NAME:ADDRESS`` or ``NAME:ADDRESS?PARAMETER=VALUE``.

    A script that is loaded twice may register its opener twice. A package that declares the opener
    as an entry point of the group ``retable.sources``, under the same name, only needs to be
    installed.

    Raises:
        UserError: the name is taken or has ":", "?" or a space.
    """
    if not name or not name.isprintable() or set(name) & set(":? "):
        raise UserError(
            f"`name` of a source must be text without ':', '?' and spaces, got {name!r}."
        )
    known = _openers.get(name)
    if known is not None and _place(known) != _place(opener):
        raise UserError(
            f"`name` of a source must be new, got {name!r}, which {known.__module__} registered. "
            "Choose another name."
        )
    _openers[name] = opener


def _place(opener: Opener) -> tuple[str, str]:
    code = getattr(opener, "__code__", None)
    file = opener.__module__ if code is None else code.co_filename
    return file, getattr(opener, "__qualname__", type(opener).__qualname__)


def with_parameter(data: str, name: str, value: str | int | float) -> str:
    """Add a parameter to the name of a data set, or replace it."""
    address, _, query = data.partition("?")
    parameters = {**dict(parse_qsl(query)), name: str(value)}
    return f"{address}?{urlencode(parameters, safe=':/')}"


def open_source(
    data: str, split: str, *, subset: str | None = None, skip_unreadable: bool = False
) -> Source:
    """Open a data set by its name.

    Args:
        data: a name that `register_source` knows, or one of

            - ``shapes``, the built-in data set, with optional parameters as in
              ``shapes?count=8000&test_count=2000&size=32&classes=64&rho=0.7&background_rho=0&seed=0``
              (the defaults), ``variant=sketch`` for an out-of-distribution test split, and
              ``labels=texture``, ``foreground``, ``background`` or ``scene`` in place of
              ``outline`` for other classes of the same images; layer ``mask``;
            - ``imagefolder:DIR`` for DIR/train/CLASS/IMAGE and DIR/val/CLASS/IMAGE; with optional
              ``?split=FOLDER``, and the layers ``mask=DIR`` and ``companion=DIR``: folders that
              hold a file of the same relative path and stem for each image;
            - ``hf:NAME`` from the HF hub, with optional
              ``?config=NAME&image=COLUMN&label=COLUMN&split=NAME&revision=REVISION&data_dir=DIR``;
            - ``arrow:DIR`` as HF datasets' ``DatasetDict.save_to_disk`` wrote it, with optional
              ``?image=COLUMN&label=COLUMN&split=NAME``;
            - ``torchvision:NAME?root=DIR`` for the readers of torchvision.datasets, with optional
              ``&split=NAME`` and the reader's own parameters. Nothing is downloaded;
            - ``shapes-scenes``, several figures in each image, with the parameters ``count``,
              ``test_count``, ``size``, ``classes``, ``rho`` and ``seed``; images with objects and
              with the layer ``semantic``;
            - ``voc:DIR`` and ``coco:DIR``, images with objects; ``voc-segmentation:DIR`` with
              optional ``?sbd=DIR`` and ``cityscapes:DIR``, images with the layer ``semantic``; all
              as their archives unpack;
            - ``food101:DIR`` and the other names of
              `retable.data.transfer.classification.sets.CLASSIFICATION_SETS`, in the folder that
              holds the unpacked archive, or ``food101:hub`` for the copy on the HF hub, where there
              is one; ``?complete=false`` accepts other counts than the data set's. The train split
              holds the official validation images, if there are some.

            ``split=NAME`` chooses a split of the data set that serves as the one asked for,
            whichever that is: for data sets that are only tested on.
        split: "train", "val" or "test". The test split is what a data set calls val or validation,
            and test only if it has neither (torchvision's readers: the reverse). The val split is
            the validation split of a data set that has a test split too.
        subset: "imagenet100" keeps its 100 classes, labelled in the order of the sorted WordNet
            ids; "10%" keeps this share of each class of the train split; "imagenet100:10%" both.
        skip_unreadable: leave out and count unreadable images instead of refusing them. Files that
            are no images by their first bytes are left out when opening; images that turn out later
            not to decode are replaced by the next sample.

    Raises:
        UserError: the data set is unknown, missing, or not laid out as expected, an image is
            unreadable, a class is missing or empty, or the subset is unknown.
    """
    if split not in SPLITS:
        raise UserError(f"`split` must be one of {', '.join(SPLITS)}, got {split!r}.")
    recipe = SubsetRecipe("all") if subset is None else parse_subset(subset)
    name, address, query = _parse(data)
    opener = _openers[name]
    parameters = inspect.signature(opener).parameters
    texts = dict(parse_qsl(query, keep_blank_values=True))
    passed = {"skip_unreadable": skip_unreadable, "wanted_classes": recipe.wordnet_ids}
    kinds = {key: kind for key, kind in _kinds(opener).items() if key not in passed}
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        kinds = {key: str for key in texts if key not in passed} | kinds
    values = {key: value for key, value in passed.items() if key in parameters}
    source = opener(address, split, **values, **parse_parameters(name, texts, kinds))
    source.description["data"] = data
    return source if subset is None else recipe.apply(source, split)


def _parse(data: str) -> tuple[str, str, str]:
    """Split "NAME:ADDRESS?QUERY"."""
    before, _, query = data.partition("?")
    name, colon, address = before.partition(":")
    needs_address = name in ADDRESSES
    if name not in _openers:
        for entry in entry_points(group=ENTRY_POINTS, name=name):
            register_source(name, entry.load())
    if name not in _openers or (colon and not address) or (needs_address and not address):
        declared = entry_points(group=ENTRY_POINTS).names
        others = sorted((_openers.keys() | declared) - ADDRESSES.keys() - {"shapes"})
        known = ["shapes", *ADDRESSES.values(), *others]
        near = did_you_mean(name, (*_openers, *declared)) if name not in _openers else "."
        raise UserError(
            f"The data set {data!r} is unknown: use {', '.join(map(repr, known))}{near}"
        )
    return name, address, query


def _kinds(opener: Opener) -> dict[str, type]:
    """Return the kind of each keyword parameter by its annotation: int, float, bool or str."""
    kinds = {}
    for name, parameter in inspect.signature(opener, eval_str=True).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY:
            hint = parameter.annotation
            kind = next((part for part in get_args(hint) if part is not NoneType), hint)
            kinds[name] = kind if kind in (int, float, bool) else str
    return kinds


def _open_shapes(address: str, split: str, **options: str) -> Source:
    if address:
        raise UserError(f"The data set 'shapes:{address}' is unknown: use 'shapes?NAME=VALUE'.")
    kinds = {"count": int, "test_count": int, **_kinds(Shapes)}
    del kinds["split"]
    values = {"count": 8000, "test_count": 2000} | parse_parameters("shapes", options, kinds)
    count, test_count = values.pop("count"), values.pop("test_count")
    return Shapes(count if split == TRAIN else test_count, split=split, **values)


def _open_scenes(
    address: str,
    split: str,
    *,
    count: int = 400,
    test_count: int = 200,
    size: int = 64,
    classes: int = 16,
    rho: float = 0.7,
    seed: int = 0,
) -> Source:
    if address:
        raise UserError(f"The data set 'shapes-scenes:{address}' is unknown: use 'shapes-scenes'.")
    number = count if split == TRAIN else test_count
    return Scenes(number, split=split, size=size, classes=classes, rho=rho, seed=seed)


ADDRESSES = {
    "imagefolder": "imagefolder:DIR",
    "hf": "hf:NAME",
    "arrow": "arrow:DIR",
    "torchvision": "torchvision:NAME?root=DIR",
    "voc": "voc:DIR",
    "coco": "coco:DIR",
    "voc-segmentation": "voc-segmentation:DIR",
    "cityscapes": "cityscapes:DIR",
    **{name: f"{name}:DIR" for name in CLASSIFICATION_SETS},
}
"""Sources that need an address, and how their names are written."""
register_source("shapes", _open_shapes)
register_source("shapes-scenes", _open_scenes)
register_source("imagefolder", FolderSource)
register_source("hf", open_hub)
register_source("arrow", open_saved)
register_source("torchvision", open_reader)
register_source("voc", open_voc)
register_source("coco", open_coco)
register_source("voc-segmentation", open_voc_segmentation)
register_source("cityscapes", open_cityscapes)
for _name in CLASSIFICATION_SETS:
    register_source(_name, classification_opener(_name))
