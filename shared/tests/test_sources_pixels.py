"""The checksum of a source's pixels, which names the features kept of them."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets.arrow_dataset import Dataset
from datasets.dataset_dict import DatasetDict
from datasets.features import ClassLabel, Features
from datasets.features import Image as ImageColumn
from PIL import Image

from retable.data.huggingface import TableSource
from retable.data.source import Source, checksum
from retable.data.sources import open_source
from retable.data.subsets import Subset

CLASSES = ["ant", "bee"]


def pixels(spec: str, split: str = "train", **options: Any) -> str:
    return str(open_source(spec, split, **options).description["pixels"])


def encoded(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (12, 12), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        for position, name in enumerate(CLASSES):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(3):
                path = tmp_path / split / name / f"{i}.png"
                path.write_bytes(encoded(3 * position + i))
                os.utime(path, ns=(0, 10**9))
    return tmp_path


def rename(folder: Path) -> None:
    (folder / "train" / "ant" / "0.png").rename(folder / "train" / "ant" / "9.png")


def swap(folder: Path) -> None:
    first, second = (folder / "train" / "ant" / f"{i}.png" for i in range(2))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def resize(folder: Path) -> None:
    path = folder / "train" / "ant" / "0.png"
    path.write_bytes(path.read_bytes() + b" ")
    os.utime(path, ns=(0, 10**9))


def remove(folder: Path) -> None:
    (folder / "train" / "bee" / "2.png").unlink()


@pytest.mark.parametrize("change", [rename, swap, resize, remove])
def test_a_change_of_the_files_shows(change: Callable[[Path], None], folder: Path) -> None:
    before = pixels(f"imagefolder:{folder}")
    assert pixels(f"imagefolder:{folder}") == before
    change(folder)
    assert pixels(f"imagefolder:{folder}") != before


def test_a_copy_with_its_times_has_the_same_pixels_wherever_it_is(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    before = pixels(f"imagefolder:{folder}")
    moved = tmp_path_factory.mktemp("moved") / "data"
    folder.rename(moved)
    assert pixels(f"imagefolder:{moved}") == before


def test_splits_differ(folder: Path) -> None:
    (folder / "val" / "ant" / "0.png").unlink()
    assert pixels(f"imagefolder:{folder}", "test") != pixels(f"imagefolder:{folder}")
    assert pixels("shapes?count=9&test_count=9", "test") != pixels("shapes?count=9&test_count=9")


SHAPES = "shapes?count=12&size=16&classes=4&seed=3"


def test_shapes_tell_their_parameters_and_not_their_labels() -> None:
    whole = pixels(SHAPES)
    assert pixels(SHAPES) == whole
    for labels in ("texture", "background"):
        assert pixels(f"{SHAPES}&labels={labels}") == whole
    other = [
        pixels(spec)
        for spec in (
            SHAPES.replace("=12", "=13"),
            SHAPES.replace("=16", "=17"),
            SHAPES.replace("classes=4", "classes=5"),
            SHAPES.replace("seed=3", "seed=4"),
            f"{SHAPES}&rho=0.5",
        )
    ]
    variants = [pixels(f"{SHAPES}&variant={name}", "test") for name in ("clean", "sketch")]
    assert len({whole, *other, *variants}) == 8


def test_other_shapes_have_other_pixels_and_relabelled_ones_do_not() -> None:
    first, relabelled = (
        open_source(f"{SHAPES}{more}", "train") for more in ("", "&labels=texture")
    )
    assert torch.equal(pool_of(first), pool_of(relabelled))
    assert not torch.equal(first.labels, relabelled.labels)


def pool_of(source: Source) -> torch.Tensor:
    pool = source.resident()
    assert pool is not None
    return pool


def table(values: list[int], label: str = "label") -> Dataset:
    features: Any = {"image": ImageColumn(), label: ClassLabel(names=CLASSES)}
    features["coarse"] = ClassLabel(names=["all"])
    columns = {
        "image": [{"bytes": encoded(value), "path": None} for value in values],
        label: [value % 2 for value in values],
        "coarse": [0 for _ in values],
    }
    return Dataset.from_dict(columns, features=Features(features))  # type: ignore[no-untyped-call]


def save(path: Path, dataset: Dataset) -> str:
    DatasetDict({"train": dataset, "validation": dataset}).save_to_disk(path)
    return f"arrow:{path}"


def test_tables_tell_their_content_and_not_which_column_is_the_label(tmp_path: Path) -> None:
    spec = save(tmp_path / "a", table([1, 2, 3]))
    assert pixels(spec) == pixels(spec) == pixels(f"{spec}?label=coarse")
    assert pixels(save(tmp_path / "b", table([1, 2, 4]))) != pixels(spec)
    assert pixels(save(tmp_path / "c", table([1, 3, 2]))) != pixels(spec)


def test_a_tables_files_that_are_written_anew_show(tmp_path: Path) -> None:
    spec = save(tmp_path / "a", table([1, 2, 3]))
    before = pixels(spec)
    for path in (tmp_path / "a" / "train").glob("*.arrow"):
        os.utime(path, ns=(0, 10**9))
    assert pixels(spec) != before


def test_images_outside_a_table_show_when_they_change(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(2)]
    for value, path in enumerate(paths):
        path.write_bytes(encoded(value))
    features: Any = {"image": ImageColumn(), "label": ClassLabel(names=CLASSES)}
    columns = {"image": [str(path) for path in paths], "label": [0, 1]}
    kinds = Features(features)  # type: ignore[no-untyped-call]
    dataset = Dataset.from_dict(columns, features=kinds)
    before = TableSource(dataset, "table", "train").description["pixels"]
    assert TableSource(dataset, "table", "train").description["pixels"] == before
    os.utime(paths[1], ns=(0, 10**9))
    assert TableSource(dataset, "table", "train").description["pixels"] != before


def test_left_out_rows_show(tmp_path: Path) -> None:
    cells = [{"bytes": encoded(1), "path": None}, {"bytes": b"no image", "path": None}]
    features: Any = {"image": ImageColumn(), "label": ClassLabel(names=CLASSES)}
    found = []
    for broken in (0, 1):
        columns = {"image": [cells[broken], cells[1 - broken]], "label": [0, 1]}
        kinds = Features(features)  # type: ignore[no-untyped-call]
        dataset = Dataset.from_dict(columns, features=kinds)
        source = TableSource(dataset, "table", "train", skip_unreadable=True)
        assert len(source) == 1
        found.append(source.description["pixels"])
    assert found[0] != found[1]


def test_a_subset_tells_its_pixels_and_not_its_labels() -> None:
    whole = open_source(SHAPES, "train")
    rows = torch.arange(0, 12, 2)

    def subset(indices: torch.Tensor, labels: torch.Tensor) -> str:
        return str(Subset(whole, indices, labels, whole.class_names, "some").description["pixels"])

    first = subset(rows, whole.labels[rows])
    assert subset(rows, torch.zeros(6, dtype=torch.int64)) == first
    assert subset(rows + 1, whole.labels[rows]) != first
    assert first != whole.description["pixels"]
    del whole.description["pixels"]
    assert "pixels" not in Subset(whole, rows, rows, whole.class_names, "some").description


def test_a_checksum_tells_where_a_name_ends() -> None:
    assert len({checksum(names) for names in (["ab", "c"], ["a", "bc"], ["abc"])}) == 3
