"""Data sets of the HF hub, or saved by HF ``datasets``, with an image and a label column."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retable.data.decoding import (
    UnreadableImageError,
    decode,
    decode_all,
    file_fault,
    header_fault,
    prepare,
    stamps,
)
from retable.data.source import TRAIN, checksum
from retable.errors import UserError
from retable.extras import require

_SPLITS = {TRAIN: ("train",), "test": ("validation", "valid", "val", "test")}
_LABEL_COLUMN = "label"


class TableSource:
    """Images and labels in two columns of an HF data set, their bytes decoded by torchvision.

    Args:
        dataset: a ``datasets.Dataset``.
        spec: the string that named it.
        split: "train" or "test".
        label: the label column; None finds it.
        skip_unreadable: leave out and count rows that are no images instead of refusing them.

    Raises:
        UserError: the image or the label column is missing or ambiguous, or a row is no image.
    """

    def __init__(
        self,
        dataset: Any,
        spec: str,
        split: str,
        *,
        label: str | None = None,
        skip_unreadable: bool = False,
    ) -> None:
        require("datasets", "train", "Reading a data set of Hugging Face")
        from datasets import Image

        self.spec = f"{spec} ({split})"
        self.skip_unreadable = skip_unreadable
        self.unreadable: set[int] = set()
        self._column = _image_column(dataset.features, spec)
        label = _label_column(dataset.features, spec) if label is None else label
        if label not in dataset.features:
            raise UserError(
                f"The data set {spec} has no column {label!r}: it has "
                f"{', '.join(dataset.features)}."
            )
        pixels = [f"{dataset._fingerprint} {self._column}"]
        pixels += stamps([file["filename"] for file in dataset.cache_files])
        dataset = dataset.cast_column(self._column, Image(decode=False))
        faults, outside = self._faults(dataset)
        pixels += stamps(outside)
        if faults:
            dataset = dataset.select([i for i in range(len(dataset)) if i not in faults])
        self._rows = dataset.select_columns([self._column])
        self.labels, self.class_names = _labels(dataset, label, spec)
        self._pool: Tensor | None = None
        prepare()
        self.description: dict[str, Any] = {
            "source": spec,
            "split": split,
            "images": len(dataset),
            "classes": len(self.class_names),
            "unreadable": len(faults),
            "unreadable_first": [str(row) for row in sorted(faults)[:10]],
            "checksum": checksum(self.class_names, self.labels),
            "pixels": checksum([*pixels, *map(str, sorted(faults))]),
        }

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def _faults(self, dataset: Any) -> tuple[dict[int, str], list[str]]:
        """Check the first bytes of every row: {row: fault}, and the sound rows' files outside."""
        faults: dict[int, str] = {}
        outside: list[str] = []
        first = 0
        rows = dataset.select_columns([self._column]).with_format("arrow")
        for table in rows.iter(batch_size=1024):
            cells = table.column(0).combine_chunks()
            for offset, (data, path) in enumerate(
                zip(_starts(cells), cells.field("path").to_pylist(), strict=True)
            ):
                fault = header_fault(data) if data is not None else file_fault(path or "")
                if fault and not self.skip_unreadable:
                    raise UnreadableImageError(f"number {first + offset} of {self.spec}", fault)
                if fault:
                    faults[first + offset] = fault
                elif data is None:
                    outside.append(path)
            first += len(cells)
        return faults, outside

    def image(self, index: int) -> Tensor:
        """Decode one image: uint8 (3, H, W)."""
        cell = self._rows[index][self._column] or {}
        data, path = cell.get("bytes"), cell.get("path")
        name = f"number {index} of {self.spec}"
        if data is None:
            try:
                data = Path(path or "").read_bytes()
            except OSError as error:
                raise UnreadableImageError(name, error.strerror or str(error)) from error
        return decode(data, name)

    def resident(self, *, decode: bool = False) -> Tensor | None:
        """Return all images, uint8 (n, 3, H, W), or None, as `Source.resident` says."""
        if self._pool is None and decode:
            self._pool = decode_all(self)
        return self._pool


def _starts(cells: Any) -> list[bytes | None]:
    """Return the first bytes of each cell without reading the images from disk."""
    from pyarrow import compute

    # The module makes its functions when imported, which type checkers cannot see.
    binary_slice = getattr(compute, "binary_slice")  # noqa: B009
    starts: list[bytes | None] = binary_slice(cells.field("bytes"), 0, 16).to_pylist()
    return starts


def _image_column(features: Any, spec: str) -> str:
    from datasets import Image

    columns = [name for name, feature in features.items() if isinstance(feature, Image)]
    if not columns:
        raise UserError(
            f"The data set {spec} has no image column: its columns are {', '.join(features)}."
        )
    return "image" if "image" in columns else str(columns[0])


def _label_column(features: Any, spec: str) -> str:
    from datasets import ClassLabel

    columns = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    if _LABEL_COLUMN in features:
        return _LABEL_COLUMN
    if len(columns) != 1:
        raise UserError(
            f"The data set {spec} has {len(columns)} class columns "
            f"({', '.join(columns) or 'none'}): name the one to use, as in '{spec}?label=COLUMN'."
        )
    return str(columns[0])


def _labels(dataset: Any, column: str, spec: str) -> tuple[Tensor, list[str]]:
    from datasets import ClassLabel

    feature = dataset.features[column]
    values = dataset.with_format("arrow").select_columns([column])[:].column(0).to_pylist()
    if isinstance(feature, ClassLabel):
        return torch.tensor([-1 if value is None else value for value in values]), feature.names
    if not all(isinstance(value, int | str) for value in values):
        raise UserError(
            f"The column {column!r} of the data set {spec} holds no classes: expected whole "
            "numbers, strings or a ClassLabel."
        )
    names = sorted(set(values))
    positions = {name: position for position, name in enumerate(names)}
    return torch.tensor([positions[value] for value in values]), [str(name) for name in names]


def open_saved(
    directory: str, split: str, *, label: str | None = None, skip_unreadable: bool = False
) -> TableSource:
    """Open what ``Dataset.save_to_disk`` or ``DatasetDict.save_to_disk`` wrote.

    Raises:
        UserError: the folder is missing or was not written so, or it lacks the split.
    """
    require("datasets", "train", "Reading a data set of Hugging Face")
    from datasets.dataset_dict import DatasetDict
    from datasets.load import load_from_disk

    spec = f"arrow:{directory}"
    if not Path(directory).is_dir():
        raise UserError(
            f"The data set folder {directory} does not exist: expected one that HF datasets' "
            "save_to_disk wrote."
        )
    try:
        loaded = load_from_disk(directory)
    except FileNotFoundError as error:
        raise UserError(
            f"The folder {directory} is not a data set that HF datasets' save_to_disk wrote: "
            "expected dataset_dict.json with the folders train and validation."
        ) from error
    if not isinstance(loaded, DatasetDict):
        raise UserError(
            f"The data set {directory} has no splits: save a DatasetDict with 'train' and "
            "'validation'."
        )
    name = _split_name(spec, split, [str(name) for name in loaded])
    return TableSource(loaded[name], spec, split, label=label, skip_unreadable=skip_unreadable)


def open_hub(
    name: str,
    split: str,
    *,
    config: str | None = None,
    label: str | None = None,
    skip_unreadable: bool = False,
) -> TableSource:
    """Open a data set of the HF hub, from the local cache where it is there.

    Raises:
        UserError: the hub or the data set cannot be reached, or it lacks the split.
    """
    require("datasets", "train", "Reading a data set of Hugging Face")
    from datasets.inspect import get_dataset_split_names
    from datasets.load import load_dataset

    spec = f"hf:{name}"
    try:
        found = _split_name(spec, split, get_dataset_split_names(name, config))
        loaded = load_dataset(name, config, split=found)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"The data set {name!r} cannot be had from the HF hub ({reason}): check the name, the "
            "network and the access rights."
        ) from error
    return TableSource(loaded, spec, split, label=label, skip_unreadable=skip_unreadable)


def _split_name(spec: str, split: str, present: list[str]) -> str:
    for name in _SPLITS[split]:
        if name in present:
            return name
    raise UserError(
        f"The data set {spec} has no split {_SPLITS[split][0]!r}: it has {', '.join(present)}."
    )
