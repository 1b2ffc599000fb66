import io
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets.arrow_dataset import Dataset
from datasets.dataset_dict import DatasetDict
from datasets.features import ClassLabel, Features
from datasets.features import Image as ImageColumn
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from retable.data import subsets
from retable.data.sources import open_source
from retable.data.subsets import (
    imagenet100_ids,
    parse_subset,
    share_of_classes,
    wordnet_id,
)
from retable.errors import UserError

EXTRA = ["n01440764", "n09999999"]  # a class of ImageNet-1K alone, and one of neither


def jpeg(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8 + number % 3, 8), (number * 7 % 256, 90, 40)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ImageNet folder of 102 classes, 100 of which make ImageNet-100."""
    directory = tmp_path_factory.mktemp("imagenet")
    for split, count in (("train", 3), ("val", 2)):
        for number, name in enumerate([*imagenet100_ids(), *EXTRA]):
            (directory / split / name).mkdir(parents=True)
            for i in range(count):
                path = directory / split / name / f"{name}_{i}.JPEG"
                path.write_bytes(jpeg(number * 3 + i))
    return directory


def in_words() -> dict[str, str]:
    return {identity: name for name, identity in _words().items()}


def _words() -> dict[str, str]:
    return subsets._ids_by_words()


def save_table(directory: Path, names: list[str], rows: list[int] | None = None) -> str:
    labels = list(range(len(names))) if rows is None else rows
    features: Any = {"image": ImageColumn(), "label": ClassLabel(names=names)}
    cells = [{"bytes": jpeg(i), "path": None} for i in range(len(labels))]
    columns = {"image": cells, "label": labels}
    table = Dataset.from_dict(columns, features=Features(features))  # type: ignore[no-untyped-call]
    DatasetDict({"train": table, "validation": table}).save_to_disk(directory)
    return f"arrow:{directory}"


def test_the_list_is_a_hundred_distinct_classes_of_imagenet_1k() -> None:
    ids = imagenet100_ids()
    assert len(set(ids)) == 100
    assert list(ids) == sorted(ids)
    assert all(identity in in_words() for identity in ids)


def test_words_stand_for_a_wordnet_id_where_only_one_class_has_them() -> None:
    assert wordnet_id("tench, Tinca tinca") == "n01440764"
    assert wordnet_id("crane") is None  # a bird and a machine
    assert wordnet_id("n12345678") == "n12345678"
    assert len(_words()) == 998


@pytest.mark.parametrize(("split", "per_class"), [("train", 3), ("test", 2)])
def test_a_subset_of_a_folder_numbers_classes_in_the_order_of_the_sorted_ids(
    imagenet: Path, split: str, per_class: int
) -> None:
    source = open_source(f"imagefolder:{imagenet}", split, subset="imagenet100")
    assert tuple(source.class_names) == imagenet100_ids()
    assert torch.equal(source.labels, torch.arange(100).repeat_interleave(per_class))
    whole = open_source(f"imagefolder:{imagenet}", split)
    offset = whole.class_names.index(imagenet100_ids()[40]) * per_class
    assert torch.equal(source.image(40 * per_class), whole.image(offset))
    assert source.description["subset"] == "imagenet100"
    json.dumps(source.description)


def test_a_copy_with_classes_in_words_and_another_order_gives_the_same_labels(
    tmp_path: Path,
) -> None:
    names = [in_words()[identity] for identity in reversed(imagenet100_ids())]
    names.insert(7, "something else")
    spec = save_table(tmp_path / "words", names)
    source = open_source(spec, "train", subset="imagenet100")
    whole = open_source(spec, "train")
    assert tuple(source.class_names) == imagenet100_ids()
    for i in (0, 6, 7, 50, 99):
        own_name = in_words()[imagenet100_ids()[int(source.labels[i])]]
        row = names.index(own_name)
        assert int(whole.labels[row]) == row
        assert torch.equal(source.image(i), whole.image(row))


def test_folder_and_table_agree_on_every_label(imagenet: Path, tmp_path: Path) -> None:
    folder = open_source(f"imagefolder:{imagenet}", "test", subset="imagenet100")
    names = [*EXTRA, *imagenet100_ids()]
    rows = [2 + i // 2 for i in range(200)] + [0, 1]
    table = open_source(save_table(tmp_path / "ids", names, rows), "test", subset="imagenet100")
    assert torch.equal(folder.labels, table.labels)
    assert folder.class_names == table.class_names


def test_missing_classes_are_named(imagenet: Path, tmp_path: Path) -> None:
    spec = save_table(tmp_path / "some", list(imagenet100_ids()[2:]))
    first, second = imagenet100_ids()[:2]
    with pytest.raises(UserError, match=rf"lacks 2 of the 100 classes .*\({first}, {second}\)"):
        open_source(spec, "train", subset="imagenet100")
    with pytest.raises(UserError, match="lacks 100 of the 100 classes"):
        open_source("shapes?count=8&size=16&classes=4", "train", subset="imagenet100")


def test_a_class_folder_missing_in_one_split_is_named(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in imagenet100_ids():
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / "0.JPEG").write_bytes(jpeg(0))
    gone = tmp_path / "val" / imagenet100_ids()[9]
    (gone / "0.JPEG").unlink()
    with pytest.raises(UserError, match=f"{gone} holds no images"):
        open_source(f"imagefolder:{tmp_path}", "test", subset="imagenet100")
    gone.rmdir()
    with pytest.raises(UserError, match=rf"lacks 1 of the 100 classes .*{gone.name}"):
        open_source(f"imagefolder:{tmp_path}", "test", subset="imagenet100")


def test_a_class_without_rows_is_named(tmp_path: Path) -> None:
    spec = save_table(tmp_path / "gap", list(imagenet100_ids()), [i for i in range(100) if i != 4])
    with pytest.raises(UserError, match=f"class {imagenet100_ids()[4]} of the subset .* no images"):
        open_source(spec, "train", subset="imagenet100")


@settings(deadline=None)
@given(st.lists(st.integers(-1, 5), min_size=1, max_size=80), st.floats(0.01, 1.0))
def test_a_share_takes_the_same_part_of_every_class(labels: list[int], fraction: float) -> None:
    kept = share_of_classes(torch.tensor(labels), fraction).tolist()
    assert kept == sorted(set(kept))
    for label in set(labels):
        chosen = [labels[i] for i in kept].count(label)
        assert chosen == max(1, int(labels.count(label) * fraction + 0.5))


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=60))
def test_a_smaller_share_is_part_of_a_larger_one(labels: list[int]) -> None:
    shares = [set(share_of_classes(torch.tensor(labels), f).tolist()) for f in (0.1, 0.3, 0.7, 1.0)]
    assert all(small <= large for small, large in pairwise(shares))
    assert len(shares[-1]) == len(labels)


def test_a_share_is_taken_of_the_train_split_only(imagenet: Path) -> None:
    spec = f"imagefolder:{imagenet}"
    train = open_source(spec, "train", subset="imagenet100:34%")
    test = open_source(spec, "test", subset="imagenet100:34%")
    assert torch.equal(train.labels, torch.arange(100))
    assert len(test) == 200


def test_a_share_of_images_at_hand_stays_at_hand() -> None:
    spec = "shapes?count=64&size=16&classes=8"
    part = open_source(spec, "train", subset="25%")
    assert torch.bincount(part.labels).tolist() == [2] * 8
    pool = part.resident()
    assert pool is not None
    assert all(torch.equal(pool[i], part.image(i)) for i in range(len(part)))
    assert part.description["checksum"] != open_source(spec, "train").description["checksum"]


@pytest.mark.parametrize("text", ["imagenet10", "10", "0%", "101%", "", "10%:half"])
def test_an_unknown_subset_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"subset '.*' is unknown: expected 'imagenet100'"):
        parse_subset(text)


def test_the_samples_chosen_of_one_class_say_nothing_of_anothers() -> None:
    labels = torch.arange(200) % 4
    chosen = share_of_classes(labels, 0.5)
    places = [tuple((chosen[labels[chosen] == label] // 4).tolist()) for label in range(4)]
    assert len(set(places)) == 4
