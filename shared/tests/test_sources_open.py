"""Sources that others bring: registered names, splits of data sets, the hub, torchvision."""

import gzip
import io
import os
import struct
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from datasets.arrow_dataset import Dataset
from datasets.dataset_dict import DatasetDict
from datasets.features import ClassLabel, Features
from datasets.features import Image as ImageColumn
from PIL import Image
from torch import Tensor
from torchvision.datasets import FakeData

from retable.data import sources
from retable.data.loader import Loader
from retable.data.readers import ReaderSource
from retable.data.sampler import Sampler
from retable.data.source import Source, find_split
from retable.data.sources import ENTRY_POINTS, open_source, register_source
from retable.errors import UserError
from retable.views import ViewRecipe

SPLITS = {"train": 1, "validation": 2, "test": 3}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def png(value: int, size: tuple[int, int] = (10, 8), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    colour: Any = (value, 0, 0) if mode == "RGB" else value
    Image.new(mode, size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def table(value: int) -> Dataset:
    features: Any = {"image": ImageColumn(), "label": ClassLabel(names=["a", "b"])}
    cells = [{"bytes": png(value), "path": None}] * 2
    columns = {"image": cells, "label": [0, 1]}
    return Dataset.from_dict(columns, features=Features(features))  # type: ignore[no-untyped-call]


def value_of(source: Source) -> int:
    """Return which split's images a source shows: all have its number as their red."""
    return int(source.image(0)[0, 0, 0])


# --- registered names -----------------------------------------------------------------------------


class Stripes(Source):
    """A source as a user's script brings it."""

    def __init__(self, count: int, size: int) -> None:
        super().__init__(torch.arange(count) % 2, ["across", "down"])
        self.layers = {"mask": "map"}
        self.size = size

    def image(self, index: int) -> Tensor:
        return self.layer(index, "mask").expand(3, -1, -1) * 255

    def layer(self, index: int, name: str) -> Tensor:
        stripes = (torch.arange(self.size) % 2).to(torch.uint8).expand(self.size, -1)
        return (stripes if index % 2 else stripes.T)[None]


def open_stripes(
    address: str, split: str, *, count: int = 8, share: float = 1.0, wide: bool = False
) -> Source:
    return Stripes(int(count * share), 32 if wide else int(address or 16))


@pytest.fixture
def stripes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_openers", dict(sources._openers))
    register_source("stripes", open_stripes)


@pytest.mark.usefixtures("stripes")
def test_a_registered_source_opens_by_its_name_and_typed_parameters() -> None:
    assert len(open_source("stripes", "train")) == 8
    assert open_source("stripes:20", "test").image(0).shape == (3, 20, 20)
    source = open_source("stripes:20?count=12&share=0.5&wide=true", "train")
    assert (len(source), source.image(1).shape) == (6, (3, 32, 32))
    assert source.description["data"] == "stripes:20?count=12&share=0.5&wide=true"
    assert len(open_source("stripes?count=40", "train", subset="10%")) == 4
    with pytest.raises(UserError, match="no parameter 'sides': use one of count, share, wide"):
        open_source("stripes?sides=3", "train")
    with pytest.raises(UserError, match="`wide` of the data set 'stripes' must be true or false"):
        open_source("stripes?wide=3", "train")


def test_an_installed_package_declares_sources_by_entry_points(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    declared = EntryPoint("declared", "somewhere:opener", ENTRY_POINTS)
    monkeypatch.setattr(EntryPoint, "load", lambda self: open_stripes)
    found = EntryPoints([declared])
    monkeypatch.setattr(sources, "entry_points", lambda **selected: found.select(**selected))
    monkeypatch.setattr(sources, "_openers", dict(sources._openers))
    assert len(open_source("declared?count=5", "test")) == 5
    with pytest.raises(UserError, match=r"The data set 'other' is unknown: use .*'declared'"):
        open_source("other", "test")


@pytest.mark.usefixtures("stripes")
def test_a_registered_source_is_trained_on_with_its_layers() -> None:
    view = ViewRecipe(16, mean=(0.0,) * 3, std=(1.0,) * 3, layers=("mask",))
    loader = Loader(open_source("stripes", "train"), Sampler(8, 4, 0), (view,))
    for batch in loader.batches(0, 2):
        assert torch.equal(batch.layers[0]["mask"].expand(-1, 3, -1, -1), batch.views[0])


@pytest.mark.usefixtures("stripes")
def test_a_taken_or_malformed_name_is_refused() -> None:
    register_source("stripes", open_stripes)  # a script that is loaded twice
    for name in ("stripes", "shapes", "hf"):
        with pytest.raises(UserError, match=f"must be new, got '{name}', which .* registered"):
            register_source(name, lambda address, split: open_stripes(address, split))
    for name in ("", "a:b", "a?b", "a b"):
        with pytest.raises(UserError, match="without ':', '\\?' and spaces"):
            register_source(name, open_stripes)
    with pytest.raises(UserError, match=r"'stripe' is unknown: use 'shapes'.* 'stripes'"):
        open_source("stripe", "train")


# --- splits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        (["train", "validation", "test"], {"train": "train", "val": "validation"}),
        (["train", "val"], {"test": "val", "val": None}),
        (["train", "test"], {"test": "test", "val": None}),
        (["valid", "test"], {"train": None, "test": "valid", "val": "valid"}),
        (["test"], {"train": None, "test": "test", "val": None}),
    ],
)
def test_splits_by_default(present: list[str], expected: dict[str, str | None]) -> None:
    for split, name in expected.items():
        if name is not None:
            assert find_split("x", split, present, None) == name
            continue
        what = "validation split beside a test split" if split == "val" else "train split"
        with pytest.raises(UserError, match=f"'x' has no {what} .* choose one with '.split=NAME'"):
            find_split("x", split, present, None)
    assert find_split("x", "test", ["val", "test"], None, test_first=True) == "test"


def test_a_chosen_split_serves_as_any(tmp_path: Path) -> None:
    saved = {name: table(value) for name, value in SPLITS.items()}
    DatasetDict(saved).save_to_disk(tmp_path / "saved")
    data = f"arrow:{tmp_path / 'saved'}"
    assert value_of(open_source(data, "val")) == value_of(open_source(data, "test")) == 2
    for name, value in SPLITS.items():
        source = open_source(f"{data}?split={name}", "test")
        assert value_of(source) == value
        assert (source.description["split"], source.description["part"]) == ("test", name)
    with pytest.raises(UserError, match=r"`split` .* must be one of .*, got 'dev'"):
        open_source(f"{data}?split=dev", "test")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, value in (("train", 1), ("val", 2), ("test", 3)):
        for name in ("ant", "bee"):
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / "x.png").write_bytes(png(value))
    return tmp_path


def test_a_folder_has_three_splits(folder: Path) -> None:
    data = f"imagefolder:{folder}"
    found = [value_of(open_source(data, split)) for split in ("train", "val", "test")]
    assert found == [1, 2, 2]
    assert value_of(open_source(f"{data}?split=test", "test")) == 3


def test_a_folder_of_masks_and_companions_beside_the_images(folder: Path) -> None:
    for layer, size in (("masks", (10, 8)), ("textures", (6, 6))):
        for name in ("ant", "bee"):
            path = folder / layer / "train" / name
            path.mkdir(parents=True)
            mode = "L" if layer == "masks" else "RGB"
            (path / "x.png").write_bytes(png(ord(name[0]), size, mode))
    data = f"imagefolder:{folder}?mask={folder}/masks&companion={folder}/textures"
    source = open_source(data, "train")
    sample = source.sample(1, ("mask", "companion"))
    assert torch.equal(sample.layers["mask"], torch.full((1, 8, 10), ord("b"), dtype=torch.uint8))
    assert sample.layers["companion"].shape == (3, 6, 6)
    assert int(sample.layers["companion"][0, 0, 0]) == ord("b")
    # The other splits have no folder in either, and need none; a folder that is not there is wrong.
    assert list(open_source(data, "test").layers) == []
    with pytest.raises(UserError, match="cannot be read"):
        open_source(f"imagefolder:{folder}?mask={folder}/none", "test")
    before = source.description["mask"]
    os.utime(folder / "masks" / "train" / "bee" / "x.png", ns=(0, 10**9))
    assert open_source(data, "train").description["mask"] != before
    (folder / "masks" / "train" / "bee" / "x.png").unlink()
    with pytest.raises(UserError, match=r"image bee/x\.png has no file of the same name below"):
        open_source(data, "train")


# --- the hub --------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Stand in for the hub: a test-only data set; return what it is asked for."""
    asked: list[dict[str, Any]] = []

    def builder(path: str, name: str | None, **options: Any) -> Any:
        asked.append({"path": path, "name": name, **options})
        return SimpleNamespace(hash=COMMIT)

    def load(path: str, name: str | None, **options: Any) -> Dataset:
        asked.append({"path": path, "name": name, **options})
        return table(3)

    monkeypatch.setattr("datasets.load.load_dataset_builder", builder)
    monkeypatch.setattr("datasets.inspect.get_dataset_split_names", lambda *_, **__: ["test"])
    monkeypatch.setattr("datasets.load.load_dataset", load)
    return asked


def test_a_hub_data_set_is_pinned_to_the_commit_of_its_revision(hub: list[dict[str, Any]]) -> None:
    data = "hf:someone/pictures?split=test&revision=v2&data_dir=small&config=160px"
    description = open_source(data, "test").description
    common = {"path": "someone/pictures", "name": "160px", "data_dir": "small"}
    assert hub == [
        {**common, "revision": "v2"},
        {**common, "revision": COMMIT, "split": "test"},
    ]
    stated = {name: description[name] for name in ("revision", "config", "data_dir", "part")}
    assert stated == {
        "revision": COMMIT, "config": "160px", "data_dir": "small", "part": "test",
    }  # fmt: skip


@pytest.mark.usefixtures("hub")
def test_a_set_without_a_train_split_needs_a_choice() -> None:
    assert value_of(open_source("hf:someone/pictures", "test")) == 3
    with pytest.raises(UserError, match=r"has no train split \(it has test\): choose one"):
        open_source("hf:someone/pictures", "train")


def test_a_loading_script_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        # The message of datasets 4 and later.
        raise RuntimeError("Dataset scripts are no longer supported, but found pictures.py")

    monkeypatch.setattr("datasets.load.load_dataset_builder", refuse)
    with pytest.raises(UserError, match=r"^The data set .* needs a loading script[^\n]*parquet"):
        open_source("hf:someone/pictures", "train")


# --- torchvision ----------------------------------------------------------------------------------


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """Write FashionMNIST's four files with 6 and 4 images of 28 x 28 grey pixels."""
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count, start in (("train", 6, 0), ("t10k", 4, 100)):
        images = numpy.arange(start, start + count, dtype="uint8").repeat(28 * 28).tobytes()
        labels = bytes(i % 3 for i in range(count))
        for name, head, body in (
            ("images-idx3", struct.pack(">IIII", 2051, count, 28, 28), images),
            ("labels-idx1", struct.pack(">II", 2049, count), labels),
        ):
            (raw / f"{part}-{name}-ubyte").write_bytes(head + body)
            with gzip.open(raw / f"{part}-{name}-ubyte.gz", "wb") as file:
                file.write(head + body)
    return tmp_path


def test_a_reader_of_torchvision_gives_rgb_images_and_labels(mnist: Path) -> None:
    data = f"torchvision:FashionMNIST?root={mnist}"
    train, test = (open_source(data, split) for split in ("train", "test"))
    assert (len(train), len(test)) == (6, 4)
    assert train.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert train.class_names[:2] == ["T-shirt/top", "Trouser"]
    assert torch.equal(test.image(3), torch.full((3, 28, 28), 103, dtype=torch.uint8))
    assert test.natural_size() == (28, 28)
    assert open_source(f"{data}&split=train", "test").description["part"] == "train"
    assert open_source(data, "train").description == train.description
    (mnist / "FashionMNIST" / "raw" / "more").write_text("")
    assert open_source(data, "train").description["pixels"] != train.description["pixels"]
    with pytest.raises(UserError, match="no validation split beside a test split"):
        open_source(data, "val")


def test_splits_of_a_reader_are_found(tmp_path: Path) -> None:
    for split, value in (("train", 1), ("valid", 2), ("test", 3)):
        for name in ("AD", "AE"):
            (tmp_path / "country211" / split / name).mkdir(parents=True)
            (tmp_path / "country211" / split / name / "x.png").write_bytes(png(value))
    data = f"torchvision:Country211?root={tmp_path}"
    found = [value_of(open_source(data, split)) for split in ("train", "val", "test")]
    assert found == [1, 2, 3]
    assert value_of(open_source(f"{data}&split=valid", "test")) == 2


def test_a_reader_without_files_or_with_a_wrong_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"got 'FashionMnist'. Use one of .*FashionMNIST"):
        open_source(f"torchvision:FashionMnist?root={tmp_path}", "train")
    with pytest.raises(UserError, match=r"^The data set 'torchvision:CIFAR10' cannot be read"):
        open_source(f"torchvision:CIFAR10?root={tmp_path}", "train")
    with pytest.raises(UserError, match=r"`root` .* must be an existing folder, got None"):
        open_source("torchvision:CIFAR10", "train")
    with pytest.raises(UserError, match="no parameter 'sides': use one of root, split"):
        open_source(f"torchvision:CIFAR10?root={tmp_path}&sides=3", "train")


def test_labels_that_no_attribute_holds_are_read_once() -> None:
    # FakeData has no list of targets, and its own parameters are typed by their defaults.
    source = open_source("torchvision:FakeData?size=9&num_classes=4", "train")
    fake = FakeData(size=9, num_classes=4)
    assert source.labels.tolist() == [int(fake[i][1]) for i in range(9)]
    assert source.image(0).shape == (3, 224, 224)
    with pytest.raises(UserError, match="has no test split"):
        open_source("torchvision:FakeData?size=9", "test")
    with pytest.raises(UserError, match=r"`size` .* must be a whole number, got 'many'"):
        open_source("torchvision:FakeData?size=many", "train")


def test_an_attribute_that_disagrees_with_what_is_read_is_not_believed() -> None:
    class Shifted:
        targets = (0, 1, 2)

        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> tuple[Image.Image, Any]:
            return Image.new("L", (4, 4), index), (index + 1) % 3

    source = ReaderSource(Shifted(), "x", "train", {}, None)
    assert source.labels.tolist() == [1, 2, 0]


@pytest.mark.parametrize("believed", [(0, 1, 1), (2, 1, 2)])
def test_an_attribute_must_agree_at_both_of_its_ends(believed: tuple[int, ...]) -> None:
    class Listed:
        targets = believed

        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> tuple[Image.Image, Any]:
            return Image.new("L", (4, 4), index), index

    assert ReaderSource(Listed(), "x", "train", {}, None).labels.tolist() == [0, 1, 2]


def test_classes_are_numbered_where_a_reader_names_too_few() -> None:
    class Named:
        classes = ("cat", "dog")
        targets = (0, 1, 2)

        def __len__(self) -> int:
            return len(self.targets)

        def __getitem__(self, index: int) -> tuple[Image.Image, Any]:
            return Image.new("L", (4, 4), index), self.targets[index]

    assert ReaderSource(Named(), "x", "train", {}, None).class_names == ["0", "1", "2"]
    Named.targets = (0, 1, 1)
    assert ReaderSource(Named(), "x", "train", {}, None).class_names == ["cat", "dog"]
