from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets.arrow_dataset import Dataset
from datasets.dataset_dict import DatasetDict
from datasets.features import ClassLabel, Features
from datasets.features import Image as ImageColumn
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from retable.data.source import Source
from retable.data.sources import open_source
from retable.errors import UserError
from retable.evaluate.data import (
    EvalData,
    EvalSubset,
    open_eval_splits,
    open_splits,
    open_test_split,
    source_opener,
    split_facts,
    split_permutation,
    without_validation,
)

DATA = "shapes?count=100&test_count=30&size=16&classes=4"


open_shapes = source_opener(DATA)


def open_named(name: str, split: str, *_: Any) -> Source:
    return open_source(name, split)


def rows_of(source: Source) -> set[int]:
    return (
        set(source.indices.tolist()) if isinstance(source, EvalSubset) else set(range(len(source)))
    )


def test_by_default_all_images_of_the_official_splits_count() -> None:
    splits = open_eval_splits(open_shapes, EvalData())
    assert not isinstance(splits.train, EvalSubset)
    assert (len(splits.train), len(splits.test), splits.classes) == (100, 30, 4)
    assert (splits.train.description["split"], splits.test.description["split"]) == (
        "train",
        "test",
    )


def test_a_smaller_share_of_the_labels_is_contained_in_a_larger_one() -> None:
    rows = [
        rows_of(open_eval_splits(open_shapes, EvalData(labels=share)).train)
        for share in (0.05, 0.1, 0.5, 1.0)
    ]
    assert [len(part) for part in rows] == [5, 10, 50, 100]
    assert rows[0] < rows[1] < rows[2] < rows[3]


def test_a_part_has_the_images_and_labels_of_its_rows_in_the_sources_order() -> None:
    train = open_eval_splits(open_shapes, EvalData(labels=0.2)).train
    whole = open_shapes("train")
    assert isinstance(train, EvalSubset)
    assert torch.equal(train.indices, train.indices.sort().values)
    assert torch.equal(train.labels, whole.labels[train.indices])
    for row, index in enumerate(train.indices.tolist()):
        assert torch.equal(train.image(row), whole.image(index))
    assert train.class_names == whole.class_names


def test_a_pretraining_leaves_out_the_images_that_evaluations_hold_out() -> None:
    splits = open_eval_splits(open_shapes, EvalData(split="validation", validation_images=7))
    trained_on = without_validation(open_shapes("train"), 7)
    assert rows_of(trained_on) == rows_of(splits.train)
    assert rows_of(trained_on).isdisjoint(rows_of(splits.test))
    assert without_validation(splits.train, 0) is splits.train


def test_images_held_out_teach_nothing_whatever_the_share_of_labels() -> None:
    every = open_eval_splits(open_shapes, EvalData(split="validation"))
    few = open_eval_splits(open_shapes, EvalData(split="validation", labels=0.1))
    assert rows_of(every.test) == rows_of(few.test)
    assert len(every.test) == 10
    assert rows_of(every.train) | rows_of(every.test) == set(range(100))
    assert not rows_of(every.train) & rows_of(every.test)
    assert len(few.train) == 9
    assert rows_of(few.train) < rows_of(every.train)
    assert every.test.description["split"] == "train"


def test_shares_of_the_labels_are_the_same_whether_images_are_held_out_or_not() -> None:
    official = rows_of(open_eval_splits(open_shapes, EvalData(labels=0.09)).train)
    assert official == rows_of(open_eval_splits(open_shapes, EvalData("", 0.1, "validation")).train)


@pytest.mark.parametrize(("wanted", "cut"), [(3, 3), (10, 10), (11, 10), (50_046, 10)])
def test_no_more_than_a_tenth_is_held_out(wanted: int, cut: int) -> None:
    splits = open_eval_splits(open_shapes, EvalData(split="validation", validation_images=wanted))
    assert (len(splits.train), len(splits.test)) == (100 - cut, cut)


def test_other_data_are_opened_by_their_name() -> None:
    other = "shapes?count=40&test_count=20&size=16&classes=3"
    for data in (EvalData(source=other), EvalData(source=other, split="validation")):
        splits = open_eval_splits(open_shapes, data)
        assert splits.classes == 3
        assert splits.train.description["data"] == splits.test.description["data"] == other


def test_other_labels_of_the_same_images_leave_the_choice_of_images_as_it_is() -> None:
    data = EvalData(labels=0.3, split="validation")
    first = open_eval_splits(open_shapes, data)
    second = open_eval_splits(open_shapes, EvalData(f"{DATA}&labels=texture", 0.3, "validation"))
    assert rows_of(first.train) == rows_of(second.train)
    assert rows_of(first.test) == rows_of(second.test)
    assert first.train.labels.tolist() != second.train.labels.tolist()


def test_parts_are_told_apart_by_their_descriptions() -> None:
    parts = [
        open_eval_splits(open_shapes, data).train.description
        for data in (
            EvalData(),
            EvalData(labels=0.5),
            EvalData(labels=0.4),
            EvalData(split="validation"),
        )
    ]
    assert len({part["checksum"] for part in parts}) == 4
    assert parts[1]["subset"] == "50 to learn from"


@given(st.integers(1, 300))
def test_the_fixed_order_has_every_image_once(n: int) -> None:
    assert split_permutation(n).sort().values.tolist() == list(range(n))


def test_the_choice_of_images_is_uniform_over_the_source() -> None:
    # A tenth of 100,000 images has a mean position within five of its standard deviations.
    chosen = split_permutation(100_000)[:10_000].double()
    assert abs(float(chosen.mean()) - 50_000) < 5 * 28_868 / 100


def test_what_a_copy_of_the_files_changes_is_no_fact_of_a_training() -> None:
    facts = split_facts(open_eval_splits(open_shapes, EvalData()))
    assert facts["train"]["checksum"] == open_shapes("train").description["checksum"]
    assert facts["test"]["pixels"] == open_shapes("test").description["pixels"]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"labels": 0.0}, r"`labels` must be in \(0, 1\], got 0.0"),
        ({"labels": 1.5}, r"`labels` must be in \(0, 1\], got 1.5"),
        (
            {"split": "held_out"},
            "`split` must be one of 'test', 'val', 'validation', got 'held_out'",
        ),
        (
            {"split": "val", "validation_images": 7},
            "`validation_images` must be the default with split 'val', got 7",
        ),
        ({"validation_images": 0}, "`validation_images` must be at least 1, got 0"),
    ],
)
def test_settings_that_mean_nothing_end_with_a_sentence(
    settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        EvalData(**settings)


def test_a_split_of_one_image_has_nothing_to_hold_out() -> None:
    with pytest.raises(UserError, match="has 1 images: expected two or more"):
        open_eval_splits(
            open_shapes, EvalData("shapes?count=1&size=16&classes=2", split="validation")
        )


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Write the folders train, val and test of two classes, and a saved table of the same."""
    tables = {}
    for value, split in enumerate(("train", "val", "test")):
        files = [tmp_path / split / name / "0.png" for name in ("ant", "bee")]
        for file in files:
            file.parent.mkdir(parents=True)
            Image.new("RGB", (8, 8), (value, 0, 0)).save(file)
        features: Any = {"image": ImageColumn(), "label": ClassLabel(names=["ant", "bee"])}
        columns = {"image": list(map(str, files)), "label": [0, 1]}
        tables[split] = Dataset.from_dict(columns, features=Features(features))  # type: ignore[no-untyped-call]
    DatasetDict(tables).save_to_disk(tmp_path / "saved")
    return tmp_path


def names_of(pictures: Path) -> tuple[str, ...]:
    return (
        f"imagefolder:{pictures}",
        f"arrow:{pictures / 'saved'}",
        f"torchvision:ImageFolder?root={pictures / 'val'}",
    )


def test_one_split_cannot_be_trained_and_tested_on(pictures: Path) -> None:
    folder, saved, reader = names_of(pictures)
    for name in (f"{folder}?split=test", f"{saved}?split=test", f"{reader}&split=train"):
        opened = partial(open_named, name)
        sentence = (
            r"^`data` must have other images in its test split than in its train split, got "
            r"'.*split=.*'\. Leave out '\?split=NAME'"
        )
        with pytest.raises(UserError, match=sentence):
            open_splits(opened)
        with pytest.raises(UserError, match=sentence):
            open_eval_splits(open_shapes, EvalData(name, labels=0.5))
        # Only one of the two is read.
        assert len(open_test_split(opened, EvalData())) == 2
        assert len(open_eval_splits(opened, EvalData(split="validation")).train) == 1
    for name in (folder, saved):
        assert open_splits(partial(open_named, name)).classes == 2


def test_a_part_of_the_test_images_cannot_be_trained_on(pictures: Path) -> None:
    name = f"imagefolder:{pictures}?split=test"
    with pytest.raises(UserError, match="must have other images in its test split"):
        open_splits(lambda split, *_: open_source(name, split, subset="50%"))


def test_a_linked_split_is_the_same_images(pictures: Path) -> None:
    linked = pictures / "linked"
    linked.mkdir()
    for split in ("train", "val"):
        (linked / split).symlink_to(pictures / "train")
    with pytest.raises(UserError, match="must have other images in its test split"):
        open_splits(partial(open_named, f"imagefolder:{linked}"))


def test_sources_that_do_not_name_their_pixels_are_compared_as_objects() -> None:
    first, second = (Source(torch.arange(4) % 2, ["a", "b"]) for _ in range(2))
    assert open_splits(lambda split, *_: first if split == "train" else second).classes == 2
    with pytest.raises(UserError, match="must have other images in its test split"):
        open_splits(lambda *_: first)


def test_the_data_sets_own_validation_split_is_tested_on(pictures: Path) -> None:
    data = EvalData(split="val", labels=0.5)
    splits = open_eval_splits(open_shapes, data)
    assert splits.test.description == open_shapes("val").description
    assert open_test_split(open_shapes, data).description == splits.test.description
    official = open_eval_splits(open_shapes, EvalData(labels=0.5))
    assert splits.train.description == official.train.description
    assert data.training_images(100) == 50
    for name in names_of(pictures)[:2]:
        tested = open_eval_splits(partial(open_named, name), EvalData(split="val")).test
        assert tested.description["part"] == "val"


@pytest.mark.parametrize("without", ["val", "test"])
def test_a_data_set_without_a_validation_split_is_refused(pictures: Path, without: str) -> None:
    (pictures / without).rename(pictures / ".gone")
    opened = partial(open_named, f"imagefolder:{pictures}")
    for opener in (open_eval_splits, open_test_split):
        with pytest.raises(
            UserError,
            match=r"no validation split beside a test split \(it has .*\): use its test split",
        ):
            opener(opened, EvalData(split="val"))


def test_train_and_validation_split_must_differ(pictures: Path) -> None:
    opened = partial(open_named, f"imagefolder:{pictures}?split=val")
    with pytest.raises(UserError, match="other images in its val split than in its train split"):
        open_eval_splits(opened, EvalData(split="val"))
