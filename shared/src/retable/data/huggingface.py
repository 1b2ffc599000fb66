"""Data sets of the HF hub, or saved by HF ``datasets``, with an image and a label column."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from retable.data.decoding import (
    UnreadableImageError,
    decode,
    file_size,
    prepare,
    read_image_file,
    stamps,
)
from retable.data.headers import START, file_fault, header_fault, image_size
from retable.data.saved import (
    check_files,
    class_labels,
    first_line,
    unlisted_folders,
    unusable_folder,
)
from retable.data.source import Source, checksum, find_split
from retable.errors import UserError
from retable.extras import require
from retable.text import printable


class TableSource(Source):
    """Images and labels in two columns of a ``datasets.Dataset``, decoded by torchvision.

    ``image`` and ``label`` are the columns, None finds them; ``facts`` are further entries of the
    description.
    ``skip_unreadable`` leaves out and counts rows that are no images instead of refusing them.

    Raises:
        UserError: the image or the label column is missing or ambiguous, or a row is no image.
    """

    def __init__(
        self,
        dataset: Any,
        data: str,
        split: str,
        *,
        image: str | None = None,
        label: str | None = None,
        facts: dict[str, Any] | None = None,
        skip_unreadable: bool = False,
    ) -> None:
        require("datasets", "train", "Reading a data set of Hugging Face")
        from datasets import Image

        self.name = f"{data} ({split})"
        if not len(dataset):
            raise UserError(f"The {split} split of the data set {data} is empty: complete it.")
        self._column = _image_column(dataset.features, data, image)
        label = _label_column(dataset.features, data) if label is None else label
        if label not in dataset.features:
            raise UserError(
                f"The data set {data} has no column {label!r}: use one of "
                f"{', '.join(dataset.features)}."
            )
        pixels = [f"{dataset._fingerprint} {self._column}"]
        pixels += stamps([file["filename"] for file in dataset.cache_files])
        dataset = dataset.cast_column(self._column, Image(decode=False))
        faults, outside = self._faults(dataset, skip_unreadable)
        pixels += stamps(outside)
        if faults:
            dataset = dataset.select([i for i in range(len(dataset)) if i not in faults])
        self._rows = dataset.select_columns([self._column])
        labels, class_names = class_labels(dataset, label, self.name)
        prepare()
        description: dict[str, Any] = {
            "source": data,
            "split": split,
            **(facts or {}),
            "images": len(dataset),
            "classes": len(class_names),
            "unreadable": len(faults),
            "unreadable_first": [str(row) for row in sorted(faults)[:10]],
            "unlabelled": int((labels < 0).sum()),
            "checksum": checksum(class_names, labels),
            "pixels": checksum([*pixels, *map(str, sorted(faults))]),
        }
        super().__init__(labels, class_names, description, skip_unreadable=skip_unreadable)

    def _faults(self, dataset: Any, skip_unreadable: bool) -> tuple[dict[int, str], list[str]]:
        """Check the first bytes of every row: {row: fault}, and the sound rows' files outside."""
        faults: dict[int, str] = {}
        outside: list[str] = []
        for row, (start, path) in enumerate(self._starts(dataset)):
            fault = header_fault(start) if start is not None else file_fault(path or "")
            if fault and not skip_unreadable:
                raise UnreadableImageError(f"number {row} of {self.name}", fault)
            if fault:
                faults[row] = fault
            elif start is None and path is not None:
                outside.append(path)
        return faults, outside

    def _starts(self, dataset: Any) -> Iterator[tuple[bytes | None, str | None]]:
        """Yield each image's first bytes, or the path of the file that holds it."""
        from pyarrow import compute

        # The module makes its functions when imported, which type checkers cannot see.
        binary_slice = getattr(compute, "binary_slice")  # noqa: B009
        rows = dataset.select_columns([self._column]).with_format("arrow")
        for table in rows.iter(batch_size=1024):
            cells = table.column(0).combine_chunks()
            starts = binary_slice(cells.field("bytes"), 0, START).to_pylist()
            yield from zip(starts, cells.field("path").to_pylist(), strict=True)

    def _stated_sizes(self) -> Iterator[tuple[int, int] | None]:
        for row, (start, path) in enumerate(self._starts(self._rows)):
            if start is None:
                yield file_size(path or "")
            else:
                # A JPEG's size may stand behind a preview.
                yield image_size(start) or image_size(self._rows[row][self._column]["bytes"])

    def image(self, index: int) -> Tensor:
        """Decode one image: uint8 (3, H, W)."""
        cell = self._rows[index][self._column] or {}
        data, path = cell.get("bytes"), cell.get("path")
        name = f"number {index} of {self.name}"
        if data is None:
            data = read_image_file(path or "", name)
        return decode(data, name)


def _image_column(features: Any, data: str, chosen: str | None) -> str:
    from datasets import Image

    columns = [name for name, feature in features.items() if isinstance(feature, Image)]
    has = ", ".join(map(printable, columns))
    if chosen is not None:
        if chosen in columns:
            return chosen
        raise UserError(
            f"`image` of the data set {data} must be an image column ({has or 'it has none'}), "
            f"got {chosen!r}."
        )
    if not columns:
        raise UserError(
            f"The data set {data} has no image column: its columns are {', '.join(features)}."
        )
    if len(columns) > 1 and "image" not in columns:
        raise UserError(
            f"The data set {data} has {len(columns)} image columns ({has}): choose one, as in "
            f"'{data}?image=COLUMN'."
        )
    return "image" if "image" in columns else str(columns[0])


def _label_column(features: Any, data: str) -> str:
    from datasets import ClassLabel

    columns = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    if "label" in features:
        return "label"
    if len(columns) != 1:
        raise UserError(
            f"The data set {data} has {len(columns)} class columns "
            f"({', '.join(columns) or 'none'}): choose one, as in '{data}?label=COLUMN'."
        )
    return str(columns[0])


def open_saved(
    directory: str,
    role: str,
    *,
    image: str | None = None,
    label: str | None = None,
    split: str | None = None,
    skip_unreadable: bool = False,
) -> TableSource:
    """Open a folder that ``DatasetDict.save_to_disk`` wrote; see `open_hub`."""
    require("datasets", "train", "Reading a data set of Hugging Face")
    from datasets.dataset_dict import DatasetDict
    from datasets.load import load_from_disk

    data = f"arrow:{directory}"
    if not Path(directory).is_dir():
        raise UserError(
            f"The data set folder {directory} does not exist: use one that HF datasets' "
            "save_to_disk wrote."
        )
    try:
        loaded = load_from_disk(directory)
    except Exception as error:  # whatever a damaged file makes the libraries raise
        raise unusable_folder(Path(directory), error) from error
    if not isinstance(loaded, DatasetDict):
        raise UserError(
            f"The data set {directory} has no splits: save a DatasetDict with 'train' and "
            "'validation'."
        )
    own = find_split(data, role, [str(name) for name in loaded], split)
    check_files(loaded[own])
    facts = {"part": own, "skipped": unlisted_folders(Path(directory), loaded).facts()}
    return TableSource(
        loaded[own],
        data,
        role,
        image=image,
        label=label,
        facts=facts,
        skip_unreadable=skip_unreadable,
    )


def open_hub(
    name: str,
    role: str,
    *,
    config: str | None = None,
    image: str | None = None,
    label: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    data_dir: str | None = None,
    skip_unreadable: bool = False,
) -> TableSource:
    """Open a data set of the HF hub, from the local cache where it is there.

    ``name`` is that of the data set's repository, or a local folder of the same layout, ``config``
    one of its configurations, ``data_dir`` a folder of the repository, ``split`` the split that
    serves as ``role``, whichever that is. ``revision`` is a branch, tag or commit; all steps of
    opening use the commit that it names, which the description states. For the others see
    `TableSource`.

    Raises:
        UserError: the hub or the data set cannot be reached, the data set needs a loading script,
            or it lacks the split.
    """
    require("datasets", "train", "Reading a data set of Hugging Face")
    from datasets.inspect import get_dataset_split_names
    from datasets.load import load_dataset, load_dataset_builder

    data = f"hf:{name}"
    try:
        builder = load_dataset_builder(name, config, revision=revision, data_dir=data_dir)
        # A data set of the hub is hashed by its commit, a local folder by its files.
        commit = builder.hash if re.fullmatch("[0-9a-f]{40}", builder.hash or "") else None
        revision = commit or revision
        present = get_dataset_split_names(name, config, revision=revision, data_dir=data_dir)
        own = find_split(data, role, present, split)
        loaded = load_dataset(name, config, split=own, revision=revision, data_dir=data_dir)
    except UserError:
        raise
    except Exception as error:  # of the network, of the hub, of a damaged file
        reason = first_line(error)
        if "script" in reason.lower():
            raise UserError(
                f"The data set {name!r} needs a loading script, which HF datasets no longer runs: "
                "use '?revision=refs/convert/parquet' or a copy in Parquet, or download its files "
                "and open them as imagefolder:DIR."
            ) from error
        raise UserError(
            f"The data set {name!r} cannot be had from the HF hub ({reason}): check the name, the "
            "network and the access rights."
        ) from error
    facts = {"part": own, "revision": revision, "config": config, "data_dir": data_dir}
    facts = {key: value for key, value in facts.items() if value is not None}
    return TableSource(
        loaded,
        data,
        role,
        image=image,
        label=label,
        facts=facts,
        skip_unreadable=skip_unreadable,
    )
