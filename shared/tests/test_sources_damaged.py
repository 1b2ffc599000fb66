import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
from datasets.arrow_dataset import Dataset
from datasets.dataset_dict import DatasetDict
from datasets.features import ClassLabel, Features, Value
from datasets.features import Image as ImageColumn
from PIL import Image

from retable.data.sources import open_source
from retable.errors import UserError
from retable.evaluate.data import Splits, open_splits, source_opener

LABELS = [number % 4 for number in range(12)]
NAMES = ClassLabel(names=["a", "b", "c", "d"])


def cell(number: int, side: int = 16) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.fromarray(numpy.full((side, side, 3), number, "uint8")).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def table(labels: list[Any], feature: Any, images: tuple[str, ...] = ("image",)) -> Dataset:
    columns: dict[str, Any] = {name: [cell(i) for i in range(len(labels))] for name in images}
    features = dict.fromkeys(images, ImageColumn())
    both: Any = {**features, "label": feature}
    return Dataset.from_dict({**columns, "label": labels}, features=Features(both))  # type: ignore[no-untyped-call]


def save(path: Path, train: Dataset, test: Dataset | None = None, **options: Any) -> Path:
    splits = {"train": train, "validation": train if test is None else test}
    DatasetDict(splits).save_to_disk(path, **options)
    return path


def splits_of(path: Path, query: str = "") -> Splits:
    return open_splits(source_opener(f"arrow:{path}{query}"))


# --- labels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("feature", "unknown"),
    [(Value("int64"), -1), (Value("int64"), None), (NAMES, -1), (NAMES, None)],
)
def test_rows_without_a_label_are_no_class_and_are_counted(
    feature: Any, unknown: int | None, tmp_path: Path
) -> None:
    labels = [unknown if i % 3 == 0 else label for i, label in enumerate(LABELS)]
    splits = splits_of(save(tmp_path / "saved", table(labels, feature), table(LABELS, feature)))
    assert splits.classes == 4
    assert splits.train.labels.tolist() == [-1 if i % 3 == 0 else i % 4 for i in range(12)]
    assert splits.train.description["unlabelled"] == 4
    with pytest.raises(UserError, match="4 of 12 images of the train split have no label"):
        splits.check_labels()


def test_words_without_a_label_are_counted_too(tmp_path: Path) -> None:
    labels = [None if i == 5 else "abcd"[i % 4] for i in range(12)]
    source = open_source(
        f"arrow:{save(tmp_path / 'saved', table(labels, Value('string')))}", "train"
    )
    assert source.class_names == ["a", "b", "c", "d"]
    assert source.labels.tolist() == [-1 if i == 5 else i % 4 for i in range(12)]


@pytest.mark.parametrize(
    ("labels", "feature", "names"),
    [
        ([bool(label % 2) for label in LABELS], Value("bool"), ["False", "True"]),
        ([100 * label for label in LABELS], Value("int64"), ["0", "100", "200", "300"]),
        (LABELS, Value("uint8"), ["0", "1", "2", "3"]),
    ],
)
def test_truth_values_and_sparse_numbers_are_classes_in_sorted_order(
    labels: list[Any], feature: Any, names: list[str], tmp_path: Path
) -> None:
    source = open_source(f"arrow:{save(tmp_path / 'saved', table(labels, feature))}", "train")
    assert source.class_names == names
    assert [int(names[label] in ("True", *names)) for label in source.labels] == [1] * 12
    assert source.labels.tolist() == [sorted(set(labels)).index(label) for label in labels]


@pytest.mark.parametrize(
    ("labels", "feature", "sentence"),
    [
        ([float(label) for label in LABELS], Value("float32"), "no classes but float values, such"),
        ([float("nan")] * 12, Value("float32"), "no classes but float values, such as nan"),
        ([[label] for label in LABELS], [Value("int64")], "no classes but list values, such"),
        ([-3, *LABELS[1:]], Value("int64"), "has the label -3: use 0 and more"),
        ([-1] * 12, Value("int64"), "has no label in any row"),
        ([None] * 12, Value("string"), "has no label in any row"),
    ],
)
def test_labels_that_are_no_classes_are_refused_with_the_reason(
    labels: list[Any], feature: Any, sentence: str, tmp_path: Path
) -> None:
    saved = save(tmp_path / "saved", table(labels, feature))
    with pytest.raises(UserError, match=f"The column 'label' of .*{sentence}"):
        open_source(f"arrow:{saved}", "train")


def test_classes_in_another_order_are_refused_with_the_first_place(tmp_path: Path) -> None:
    other = ClassLabel(names=["a", "c", "b", "d"])
    saved = save(tmp_path / "saved", table(LABELS, NAMES), table(LABELS, other))
    with pytest.raises(UserError, match=r"order: class 1 is 'b' in the train split and 'c' in the"):
        splits_of(saved)


@pytest.mark.parametrize(("names", "odd"), [("abce", "'d' is in the train"), ("abc", "'d' is in")])
def test_other_classes_are_refused_with_one_of_them(names: str, odd: str, tmp_path: Path) -> None:
    labels = [number % 3 for number in range(6)]
    test = table(labels, ClassLabel(names=list(names)))
    with pytest.raises(UserError, match=f"different classes .*{odd}"):
        splits_of(save(tmp_path / "saved", table(LABELS, NAMES), test))


# --- columns of images ----------------------------------------------------------------------------


def test_of_several_image_columns_one_is_chosen_by_name(tmp_path: Path) -> None:
    saved = save(tmp_path / "saved", table(LABELS, NAMES, ("left", "right")))
    with pytest.raises(UserError, match=r"2 image columns \(left, right\): choose one, as in"):
        open_source(f"arrow:{saved}", "train")
    assert len(open_source(f"arrow:{saved}?image=right", "train")) == 12
    with pytest.raises(UserError, match=r"must be an image column \(left, right\), got 'up'"):
        open_source(f"arrow:{saved}?image=up", "train")


def test_a_column_named_image_is_the_image_beside_a_mask(tmp_path: Path) -> None:
    saved = save(tmp_path / "saved", table(LABELS, NAMES, ("mask", "image")))
    assert len(open_source(f"arrow:{saved}", "train")) == 12


def test_a_table_states_the_small_size_of_its_images(tmp_path: Path) -> None:
    source = open_source(f"arrow:{save(tmp_path / 'saved', table(LABELS, NAMES))}", "train")
    assert source.natural_size() == (16, 16)


# --- damaged files --------------------------------------------------------------------------------


def cut(by: Callable[[int], int]) -> Callable[[Path], None]:
    def change(saved: Path) -> None:
        (path,) = (saved / "train").glob("*.arrow")
        os.truncate(path, by(path.stat().st_size))

    return change


def write(name: str, content: str) -> Callable[[Path], None]:
    def change(saved: Path) -> None:
        (saved / name).write_text(content)

    return change


def remove(name: str) -> Callable[[Path], None]:
    def change(saved: Path) -> None:
        (path,) = saved.glob(name)
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (cut(lambda size: size // 2), r"data-00000-of-00001\.arrow is cut off"),
        (cut(lambda size: 0), r"arrow is cut off"),
        (cut(lambda size: size - 8), r"arrow is cut off"),
        (cut(lambda size: size - 9), r"arrow is cut off"),
        (remove("train/*.arrow"), r"arrow is missing"),
        (remove("train/state.json"), r"train/state\.json is missing or damaged"),
        (remove("train/dataset_info.json"), r"dataset_info\.json is missing or damaged"),
        (remove("validation"), r"the folder .*validation is missing"),
        (write("train/state.json", "{"), r"state\.json is missing or damaged"),
        (write("train/state.json", "[]"), r"state\.json is missing or damaged"),
        (write("train/dataset_info.json", ""), r"dataset_info\.json is missing or damaged"),
        (write("dataset_dict.json", "{}"), r"dataset_dict\.json does not list the splits"),
        (write("dataset_dict.json", '{"splits": "train"}'), r"does not list the splits"),
        (write("dataset_dict.json", '{"splits": ["train", "x"]}'), r"folder .*/x is missing"),
    ],
)
def test_a_damaged_file_of_a_saved_data_set_is_named(
    damage: Callable[[Path], None], sentence: str, tmp_path: Path
) -> None:
    saved = save(tmp_path / "saved", table(LABELS, NAMES))
    damage(saved)
    with pytest.raises(
        UserError, match=rf"^The saved data set is damaged: [^\n]*{sentence}[^\n]*$"
    ):
        open_source(f"arrow:{saved}", "train")


def test_a_missing_part_of_a_split_is_named(tmp_path: Path) -> None:
    saved = save(tmp_path / "saved", table(LABELS, NAMES), num_shards={"train": 3, "validation": 1})
    (saved / "train" / "data-00001-of-00003.arrow").unlink()
    with pytest.raises(UserError, match=r"data-00001-of-00003\.arrow is missing"):
        open_source(f"arrow:{saved}", "train")


def test_a_damaged_message_inside_a_file_is_refused(tmp_path: Path) -> None:
    saved = save(tmp_path / "saved", table(LABELS, NAMES))
    (path,) = (saved / "train").glob("*.arrow")
    path.write_bytes(bytes(64) + path.read_bytes()[64:])
    with pytest.raises(UserError, match=r"arrow cannot be read"):
        open_source(f"arrow:{saved}", "train")


def test_a_split_without_rows_is_empty_and_not_damaged(tmp_path: Path) -> None:
    saved = save(tmp_path / "saved", table(LABELS, NAMES), table([], NAMES))
    with pytest.raises(UserError, match=r"The validation split of the data set .* is empty"):
        open_source(f"arrow:{saved}", "test")


def test_a_saved_split_that_is_not_listed_is_named(tmp_path: Path) -> None:
    saved = save(tmp_path / "saved", table(LABELS, NAMES))
    shutil.copytree(saved / "validation", saved / "test")
    listed = json.loads((saved / "dataset_dict.json").read_text())["splits"]
    assert "test" not in listed
    facts = open_source(f"arrow:{saved}", "train").description["skipped"]
    assert facts == {
        "folders that dataset_dict.json does not list": {"count": 1, "first": ["test"]}
    }


def test_a_damaged_local_copy_of_a_hub_data_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "train-0.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(UserError, match="cannot be had from the HF hub"):
        open_source(f"hf:{tmp_path / 'copy'}", "train")
