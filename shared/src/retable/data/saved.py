"""Labels and files of data sets that HF ``datasets`` saved, and what is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retable.data.skipped import Skipped
from retable.errors import UserError
from retable.text import printable

# What ends every Arrow stream; a file that was cut between two batches lacks it.
_END = b"\xff\xff\xff\xff\0\0\0\0"


def class_labels(dataset: Any, column: str, name: str) -> tuple[Tensor, list[str]]:
    """Return the labels (n,) int64 of a column, -1 where there is none, and the class names.

    Values of a plain column, whole numbers, strings or truth values, are numbered in sorted order.
    Its -1 means "unknown", as that of a ClassLabel does.
    """
    from datasets import ClassLabel

    feature = dataset.features[column]
    values = dataset.with_format("arrow").select_columns([column])[:].column(0).to_pylist()
    if isinstance(feature, ClassLabel):
        names = [str(each) for each in feature.names]
        labels = [-1 if value is None else value for value in values]
    else:
        _check_classes(values, column, name)
        known = sorted(set(values) - {None, -1})
        positions = {value: position for position, value in enumerate(known)}
        names = [str(value) for value in known]
        labels = [positions.get(value, -1) for value in values]
    if labels and not -1 <= min(labels) <= max(labels) < len(names):
        raise UserError(
            f"The column {column!r} of {name} has labels from {min(labels)} to {max(labels)}, but "
            f"{len(names)} classes: use labels from 0 to {len(names) - 1}, and -1 for unknown ones."
        )
    return torch.tensor(labels, dtype=torch.int64), names


def _check_classes(values: list[Any], column: str, name: str) -> None:
    """Check that the values of a plain column name classes, or None or -1 where unknown."""
    for value in values:
        if value is not None and not isinstance(value, int | str):
            raise UserError(
                f"The column {column!r} of {name} holds no classes but {type(value).__name__} "
                f"values, such as {value!r}: use whole numbers, strings or a ClassLabel."
            )
        if isinstance(value, int) and value < -1:
            raise UserError(
                f"The column {column!r} of {name} has the label {value}: use 0 and more for "
                "classes, and -1 for unknown ones."
            )
    if all(value in (None, -1) for value in values):
        raise UserError(
            f"The column {column!r} of {name} has no label in any row: choose another one, as in "
            "'?label=COLUMN'."
        )


def unusable_folder(directory: Path, error: Exception) -> UserError:
    """Return the error for a folder that HF datasets cannot load, with the file at fault."""
    listed = directory / "dataset_dict.json"
    if not listed.is_file() and not (directory / "state.json").is_file():
        return UserError(
            f"The folder {directory} is not a data set that HF datasets' save_to_disk wrote: "
            "use one with dataset_dict.json and the folders train and validation."
        )
    if (split := _empty_split(directory)) is not None:
        return UserError(
            f"The {split} split of the data set {directory} is empty: save it with images, or "
            "leave it out."
        )
    fault = _first_fault(directory) or f"{printable(str(directory))} cannot be read"
    return UserError(
        f"The saved data set is damaged: {fault} ({first_line(error)}). Save or copy it again."
    )


def _first_fault(directory: Path) -> str | None:
    """Name the first file of a saved data set that is missing or cannot be read."""
    folders = [directory]
    if (listed := directory / "dataset_dict.json").is_file():
        names = _listed_splits(listed)
        if names is None:
            return f"{listed} does not list the splits"
        folders = [directory / name for name in names]
    for folder in folders:
        if not folder.is_dir():
            return f"the folder {folder} is missing"
        for file in ("state.json", "dataset_info.json"):
            if not isinstance(_content(folder / file), dict):
                return f"{folder / file} is missing or damaged"
        files = _content(folder / "state.json").get("_data_files")
        if not isinstance(files, list):
            return f"{folder / 'state.json'} lists no files"
        for entry in files:
            path = folder / str(entry.get("filename") if isinstance(entry, dict) else entry)
            if fault := _arrow_fault(path):
                return fault
    return None


def _listed_splits(path: Path) -> list[str] | None:
    content = _content(path)
    names = content.get("splits") if isinstance(content, dict) else None
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return names if is_list else None


def _empty_split(directory: Path) -> str | None:
    """Return the first split that was saved without rows, hence without files."""
    for name in _listed_splits(directory / "dataset_dict.json") or ():
        state = _content(directory / name / "state.json")
        if isinstance(state, dict) and state.get("_data_files") == []:
            return name
    return None


def _content(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def _arrow_fault(path: Path) -> str | None:
    """Return why an Arrow file cannot be whole, or None."""
    from pyarrow import lib
    from pyarrow.ipc import RecordBatchStreamReader

    if not path.is_file():
        return f"{path} is missing"
    if not _ends_as_written(path):
        return f"{path} is cut off"
    try:
        with lib.memory_map(str(path)) as mapped:
            for _ in RecordBatchStreamReader(mapped):  # type: ignore[no-untyped-call]
                pass
    except (lib.ArrowException, OSError, ValueError):
        return f"{path} cannot be read"
    return None


def check_files(dataset: Any) -> None:
    """Check that the files of a split that was loaded are complete.

    HF datasets takes a stream that was cut between two batches for a shorter one.
    """
    for entry in dataset.cache_files:
        path = Path(entry["filename"])
        if not _ends_as_written(path):
            raise UserError(
                f"The saved data set is damaged: {path} is cut off. Save or copy it again."
            )


def _ends_as_written(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - len(_END)))
        return file.read() == _END


def unlisted_folders(directory: Path, listed: Iterable[object]) -> Skipped:
    """Count the saved splits that ``dataset_dict.json`` does not list."""
    skipped, known = Skipped(), set(map(str, listed))
    for state in sorted(directory.glob("*/state.json")):
        if state.parent.name not in known:
            skipped.add("folders that dataset_dict.json does not list", state.parent.name)
    return skipped


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or the error's kind."""
    message = str(error)
    return printable(message.splitlines()[0]).rstrip(".") if message else type(error).__name__
