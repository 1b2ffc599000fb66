"""The data sets of transfer in the layouts of their archives, and what is broken in them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import io

from retable import cli
from retable.data.readers import ReaderSource
from retable.data.source import Source
from retable.data.sources import open_source
from retable.data.transfer.classification.layouts import CALTECH_IMAGES, LAYOUTS
from retable.data.transfer.classification.sets import CLASSIFICATION_SETS, TRANSFER_SETS
from retable.encoders import ResNetRecipe
from retable.errors import UserError
from retable.evaluate.data import EvalData, open_eval_splits, source_opener
from retable.weights import save_encoder

ENCODER = ResNetRecipe("small_resnet8", width=0.25)


def write_image(path: Path, level: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (30, 40), (level % 256, 120, 30)).save(path)


def write_text(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def food101(root: Path) -> None:
    lists = {"train": ["pie/1", "rice/2", "pie/3", "rice/4", "pie/5"], "test": ["rice/6", "pie/7"]}
    for split, names in lists.items():
        by_class: dict[str, list[str]] = {}
        for name in names:
            by_class.setdefault(name.partition("/")[0], []).append(name)
            write_image(root / f"food-101/images/{name}.jpg")
        (root / "food-101/meta").mkdir(exist_ok=True)
        (root / f"food-101/meta/{split}.json").write_text(json.dumps(by_class))


def dtd(root: Path) -> None:
    lists = {"train": ["dots/a.jpg", "waves/b.jpg"], "val": ["waves/c.jpg", "dots/d.jpg"]}
    for split, names in (lists | {"test": ["dots/e.jpg", "waves/f.jpg"]}).items():
        write_text(root / f"dtd/dtd/labels/{split}1.txt", names)
        for name in names:
            write_image(root / f"dtd/dtd/images/{name}")


def aircraft(root: Path) -> None:
    data = root / "fgvc-aircraft-2013b/data"
    write_text(data / "variants.txt", ["707-320", "A300B4"])
    numbers = {"train": (1, 2), "val": (3, 4), "trainval": (1, 2), "test": (5, 6)}
    for split, (first, second) in numbers.items():
        lines = [f"{first} 707-320", f"{second} A300B4"]
        write_text(data / f"images_variant_{split}.txt", lines)
        for number in (first, second):
            write_image(data / f"images/{number}.jpg")


def pets(root: Path) -> None:
    lists = {
        "trainval": ["Bengal_1", "pug_1", "Bengal_2", "pug_2", "pug_3"],
        "test": ["Bengal_9", "pug_9"],
    }
    for split, names in lists.items():
        lines = [f"{name} {1 + name.startswith('pug')} 1 1" for name in names]
        write_text(root / f"oxford-iiit-pet/annotations/{split}.txt", lines)
        for name in names:
            write_image(root / f"oxford-iiit-pet/images/{name}.jpg")


def flowers(root: Path) -> None:
    write: Any = io.savemat
    folder = root / "flowers-102"
    for number in range(1, 7):
        write_image(folder / f"jpg/image_{number:05}.jpg")
    write(folder / "imagelabels.mat", {"labels": [1, 2, 1, 2, 1, 2]})
    write(folder / "setid.mat", {"trnid": [1, 2], "valid": [3, 4], "tstid": [5, 6]})


def cars(root: Path) -> None:
    write: Any = io.savemat
    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    names: Any = np.array(["Acura", "BMW"], dtype=object)
    write(folder / "devkit/cars_meta.mat", {"class_names": names})
    kind = [("fname", object), ("class", object)]
    for part, count, place in (
        ("train", 5, folder / "devkit/cars_train_annos.mat"),
        ("test", 2, folder / "cars_test_annos_withlabels.mat"),
    ):
        rows = [(f"{number}.jpg", 1 + number % 2) for number in range(count)]
        write(place, {"annotations": np.array(rows, dtype=kind)})
        for name, _ in rows:
            write_image(folder / f"cars_{part}/{name}")


def cifar10(root: Path) -> None:
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    batches = {f"data_batch_{number}": number for number in range(1, 6)} | {"test_batch": 6}
    for name, level in batches.items():
        pixels = np.full((2, 3072), level, dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": [0, 1]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["cat", "dog"]}))


def sun397(root: Path) -> None:
    folder = root / "SUN397"
    write_text(folder / "ClassName.txt", ["/a/abbey", "/b/bar/indoor"])
    train = [f"/{name}/sun_{number}.jpg" for name in ("a/abbey", "b/bar/indoor") for number in "12"]
    train += ["/a/abbey/sun_9.jpg"]
    for part, names in (("Training", train), ("Testing", ["/b/bar/indoor/sun_3.jpg"])):
        write_text(folder / f"{part}_01.txt", names)
        for name in names:
            write_image(folder / name.lstrip("/"))


def caltech101(root: Path) -> None:
    for name in ("BACKGROUND_Google", "ant"):
        for number in range(CALTECH_IMAGES + 2):
            write_image(root / f"caltech101/101_ObjectCategories/{name}/image_{number:04}.jpg")


def cub200(root: Path) -> None:
    folder = root / "CUB_200_2011"
    write_text(folder / "classes.txt", ["1 001.Albatross", "2 002.Wren"])
    images = [f"{1 + number % 2:03}.bird/{number}.jpg" for number in range(7)]
    write_text(folder / "images.txt", [f"{n + 1} {name}" for n, name in enumerate(images)])
    write_text(folder / "image_class_labels.txt", [f"{n + 1} {1 + n % 2}" for n in range(7)])
    write_text(folder / "train_test_split.txt", [f"{n + 1} {int(n < 5)}" for n in range(7)])
    for name in images:
        write_image(folder / f"images/{name}")


def inaturalist2018(root: Path) -> None:
    for part, numbers in (("train", range(5)), ("val", range(5, 7))):
        images = [
            {"id": 10 + n, "file_name": f"train_val2018/Aves/{n % 2}/{n}.jpg"} for n in numbers
        ]
        labels = [{"image_id": 10 + n, "category_id": n % 2} for n in numbers]
        found = {"images": images, "annotations": labels, "categories": [{"id": 0}, {"id": 1}]}
        (root / f"{part}2018.json").write_text(json.dumps(found))
        for image in images:
            write_image(root / str(image["file_name"]))


MAKERS: dict[str, tuple[Callable[[Path], None], int, int]] = {
    "food101": (food101, 5, 2),
    "dtd": (dtd, 4, 2),
    "aircraft": (aircraft, 4, 2),
    "pets": (pets, 5, 2),
    "flowers": (flowers, 4, 2),
    "cars": (cars, 5, 2),
    "cifar10": (cifar10, 10, 2),
    "sun397": (sun397, 5, 1),
    "caltech101": (caltech101, 60, 4),
    "cub200": (cub200, 5, 2),
    "inaturalist2018": (inaturalist2018, 5, 2),
}
OFFICIAL = {"dtd", "aircraft", "flowers"}
"""Sets with a validation split."""


@pytest.fixture(autouse=True)
def unchecked_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    # Made files have other check sums than the archives, which these readers ask for.
    for module in ("flowers102", "cifar"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.check_integrity", lambda *_: True)


def opened(name: str, root: Path, split: str) -> Source:
    return open_source(f"{name}:{root}?complete=false", split)


@pytest.mark.parametrize("name", MAKERS)
def test_the_layout_of_an_archive_gives_the_splits_of_the_papers(name: str, tmp_path: Path) -> None:
    make, train_count, test_count = MAKERS[name]
    make(tmp_path)
    train, test = opened(name, tmp_path, "train"), opened(name, tmp_path, "test")
    assert (len(train), len(test)) == (train_count, test_count)
    assert train.class_names == test.class_names
    assert len(train.class_names) == (102 if name == "flowers" else 2)
    assert train.image(0).shape == ((3, 32, 32) if name == "cifar10" else (3, 40, 30))
    assert set(train.labels.tolist()) == {0, 1}
    assert train.description["accuracy"] == CLASSIFICATION_SETS[name].accuracy
    assert train.description["not_comparable"] == "images or classes are missing"
    assert train.description["pixels"] != test.description["pixels"]

    chosen_by = train.validation
    assert chosen_by is not None
    expected = train_count // 2 if name in OFFICIAL else round(0.2 * train_count)
    assert len(chosen_by) == expected
    if name in OFFICIAL:
        assert chosen_by.tolist() == list(range(train_count // 2, train_count))
    again = opened(name, tmp_path, "train").validation
    assert again is not None
    assert torch.equal(again, chosen_by)
    for index in range(len(train)):
        train.image(index)


@pytest.mark.parametrize("name", MAKERS)
def test_other_counts_than_the_data_set_s_are_refused(name: str, tmp_path: Path) -> None:
    MAKERS[name][0](tmp_path)
    known = CLASSIFICATION_SETS[name]
    with pytest.raises(UserError) as raised:
        open_source(f"{name}:{tmp_path}", "train")
    sentence = str(raised.value)
    assert f"must have {known.train:,} images of {known.classes:,} classes" in sentence
    assert "'?complete=false'" in sentence
    assert known.archive in sentence


@pytest.mark.parametrize("name", [name for name in CLASSIFICATION_SETS if name != "birdsnap"])
def test_an_empty_folder_is_answered_with_its_layout_and_the_archive(
    name: str, tmp_path: Path
) -> None:
    for root in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError) as raised:
            open_source(f"{name}:{root}", "train")
        known = CLASSIFICATION_SETS[name]
        assert known.holds in str(raised.value)
        assert known.archive in str(raised.value)


def test_images_that_choose_settings_are_left_out_while_settings_are_chosen(
    tmp_path: Path,
) -> None:
    dtd(tmp_path)
    opener = source_opener(f"dtd:{tmp_path}?complete=false")
    splits = open_eval_splits(opener, EvalData(split="validation"))
    assert splits.train.indices.tolist() == [0, 1]  # type: ignore[attr-defined]
    assert splits.test.indices.tolist() == [2, 3]  # type: ignore[attr-defined]
    assert len(open_eval_splits(opener, EvalData()).train) == 4


def test_a_part_of_a_data_set_keeps_the_images_that_choose_settings(tmp_path: Path) -> None:
    caltech101(tmp_path)
    whole = opened("caltech101", tmp_path, "train")
    half = open_source(f"caltech101:{tmp_path}?complete=false", "train", subset="50%")
    assert whole.validation is not None
    assert half.validation is not None
    named = {int(half.indices[row]) for row in half.validation}  # type: ignore[attr-defined]
    assert named == set(whole.validation.tolist()) & set(half.indices.tolist())  # type: ignore[attr-defined]


def test_caltech_s_classes_have_equally_many_images_to_train_on(tmp_path: Path) -> None:
    caltech101(tmp_path)
    train, test = (opened("caltech101", tmp_path, split) for split in ("train", "test"))
    assert torch.bincount(train.labels).tolist() == [CALTECH_IMAGES] * 2
    names = [{*source.names} for source in (train, test)]  # type: ignore[attr-defined]
    assert not names[0] & names[1]
    assert len(names[0] | names[1]) == 2 * (CALTECH_IMAGES + 2)


@pytest.mark.parametrize(
    ("name", "file", "text", "sentence"),
    [
        ("sun397", "SUN397/Training_01.txt", "/c/cave/sun_1.jpg\n", "'/c/cave' is listed nowhere"),
        ("sun397", "SUN397/Training_01.txt", "/a/abbey/no.jpg\n", "no.jpg is listed but missing"),
        ("sun397", "SUN397/Training_01.txt", "\n", "it names no image"),
        ("cub200", "CUB_200_2011/images.txt", "1\n", "the line '1' has one word"),
        ("cub200", "CUB_200_2011/image_class_labels.txt", "1 7\n", "'7' is listed nowhere"),
        ("inaturalist2018", "train2018.json", "{", "JSONDecodeError"),
        ("inaturalist2018", "train2018.json", "[]", "TypeError"),
        ("inaturalist2018", "train2018.json", '{"categories": [{}]}', "KeyError 'id'"),
    ],
)
def test_broken_lists_are_named(
    name: str, file: str, text: str, sentence: str, tmp_path: Path
) -> None:
    MAKERS[name][0](tmp_path)
    (tmp_path / file).write_text(text)
    with pytest.raises(UserError) as raised:
        opened(name, tmp_path, "train")
    assert sentence in str(raised.value)
    assert Path(file).name in str(raised.value) or "listed but missing" in sentence


def test_every_set_can_be_read_from_somewhere() -> None:
    assert set(TRANSFER_SETS) < set(CLASSIFICATION_SETS)
    assert len(TRANSFER_SETS) == 11
    for name, known in CLASSIFICATION_SETS.items():
        assert known.reader or name in LAYOUTS or known.copy is not None
        if known.copy is not None:
            assert len(known.copy.revision) == 40


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ("aircraft:hub", "has no copy on the hub with the splits of papers"),
        ("birdsnap:/tmp", "has no archive, since its images were published as links"),
    ],
)
def test_sets_that_are_not_to_be_had_in_a_way_say_how_else(data: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        open_source(data, "train")


def test_the_hub_is_asked_for_a_fixed_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def open_hub(name: str, role: str, **options: Any) -> Source:
        asked.update(options, name=name, role=role)
        labels = torch.arange(50_000 if role == "train" else 10_000) % 10
        return Source(labels, list("abcdefghij"))

    monkeypatch.setattr("retable.data.transfer.classification.opening.open_hub", open_hub)
    source = open_source("cifar10:hub", "train")
    assert asked["name"] == "uoft-cs/cifar10"
    assert asked["image"] == "img"
    assert asked["revision"] == "0b2714987fa478483af9968de7c934580d0bb9a2"
    assert source.validation is not None
    assert len(source.validation) == 10_000
    assert "not_comparable" not in source.description


def test_validation_belongs_to_training_images_alone(tmp_path: Path) -> None:
    dtd(tmp_path)
    assert opened("dtd", tmp_path, "test").validation is None
    assert isinstance(opened("dtd", tmp_path, "test"), ReaderSource)
    with pytest.raises(UserError, match="has no val split: use train"):
        opened("dtd", tmp_path, "val")


def test_a_checkpoint_is_evaluated_by_the_protocol_of_papers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    aircraft(tmp_path)
    save_encoder(tmp_path / "encoder.safetensors", ENCODER.build(0), ENCODER, {})
    words = ["evaluate", str(tmp_path / "encoder.safetensors"), "--protocol", "transfer"]
    words += ["--size", "32", "--data", f"aircraft:{tmp_path}?complete=false", "--device", "cpu"]
    words += ["--set", "l2=[1, 0.01]"]
    assert cli.main([*words, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["images"] == {"train": 4, "test": 2}
    assert report["results"]["l2"] in (1.0, 0.01)
    assert 0 <= report["results"]["mean_per_class"] <= 100
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert "not comparable with published numbers: images or classes are missing" in said
    assert "mean_per_class" in said
