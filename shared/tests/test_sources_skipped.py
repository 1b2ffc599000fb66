import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from retable import files
from retable.data.decoding import stamps
from retable.data.folders import FolderSource
from retable.data.readers import _files_below
from retable.data.skipped import Skipped, left_out
from retable.data.sources import open_source
from retable.errors import UserError
from retable.evaluate.data import listed_rows
from retable.text import printable

CLASSES = ("cat", "dog")
BACK = "links back into the data set"
HIDDEN = "hidden files and folders"
SYSTEM = "folders of thumbnails or of the system"
OTHERS = "files that are not .jpg, .jpeg, .png, .webp, .gif"
BESIDE = "entries beside the class folders"


def save(path: Path, number: int = 0, side: int = 8) -> None:
    values = numpy.full((side, side, 3), 10 * number, dtype="uint8")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data set of two classes with three training images and one test image each."""
    for split, count in (("train", 3), ("val", 1)):
        for label, name in enumerate(CLASSES):
            for number in range(count):
                save(tmp_path / "data" / split / name / f"{number}.png", 3 * label + number)
    return tmp_path / "data"


def opened(data: Path, split: str = "train", **options: Any) -> FolderSource:
    source = open_source(f"imagefolder:{data}", split, **options)
    assert isinstance(source, FolderSource)
    return source


def skipped(source: FolderSource) -> dict[str, list[str]]:
    facts = source.description["skipped"]
    assert all(len(of["first"]) == of["count"] for of in facts.values())
    return {reason: of["first"] for reason, of in facts.items()}


SOUND = [f"{name}/{number}.png" for name in CLASSES for number in range(3)]


# --- links ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("cat/up", ".."),
        ("cat/here", "."),
        ("cat/root", "/"),
        ("cat/dogs", "../dog"),
        ("cat/tests", "../../val/cat"),
        ("cat/self.png", "self.png"),
        ("cat/copy.png", "0.png"),
        ("cat/dog.png", "../dog/0.png"),
        ("cat/test.png", "../../val/dog/0.png"),
    ],
)
def test_a_link_back_into_the_data_set_brings_nothing_in_and_is_named(
    link: str, target: str, data: Path
) -> None:
    (data / "train" / link).symlink_to(target)
    source = opened(data)
    assert list(source.names) == SOUND
    assert source.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert skipped(source) == {BACK: [link]}


def test_links_out_of_the_data_set_are_followed_each_folder_once(
    data: Path, tmp_path: Path
) -> None:
    save(tmp_path / "out" / "a.png")
    save(tmp_path / "file.png")
    shutil.move(data / "train" / "dog", tmp_path / "dogs")
    (data / "train" / "dog").symlink_to(tmp_path / "dogs")
    (tmp_path / "dogs" / "again").symlink_to(tmp_path / "dogs")
    (data / "train" / "cat" / "more").symlink_to(tmp_path / "out")
    (data / "train" / "cat" / "more2").symlink_to(tmp_path / "out")
    (data / "train" / "cat" / "z.png").symlink_to(tmp_path / "file.png")
    source = opened(data)
    assert sorted(source.names) == sorted([*SOUND, "cat/more/a.png", "cat/z.png"])
    assert skipped(source) == {BACK: ["cat/more2", "dog/again"]}


@pytest.mark.parametrize(
    ("split", "target"), [("train", "cat"), ("train", "../val/cat"), ("val", "../train/cat")]
)
def test_a_class_that_links_to_images_of_another_class_or_split_is_refused(
    split: str, target: str, data: Path
) -> None:
    (data / split / "kitten").symlink_to(target)
    with pytest.raises(UserError, match=rf"{split}/kitten is a link to .* of another class or"):
        opened(data, "test" if split == "val" else split)


def test_two_classes_that_link_to_one_folder_are_refused(data: Path, tmp_path: Path) -> None:
    save(tmp_path / "out" / "a.png")
    for name in ("elk", "fox"):
        (data / "train" / name).symlink_to(tmp_path / "out")
    with pytest.raises(UserError, match=r"train/fox is a link to .*/out, which holds images of"):
        opened(data)


def test_a_class_behind_a_broken_link_is_refused_and_not_forgotten(data: Path) -> None:
    for split in ("train", "val"):
        (data / split / "elk").symlink_to("/nowhere/elk")
    with pytest.raises(UserError, match="train/elk is a link to /nowhere/elk, which does not ex"):
        opened(data)


def test_a_broken_link_to_a_class_that_nobody_asked_for_does_no_harm(data: Path) -> None:
    (data / "train" / "elk").symlink_to("/nowhere/elk")
    source = FolderSource(str(data), "train", wanted_classes=["cat", "dog"])
    assert source.class_names == ["cat", "dog"]


# --- entries that are no images -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("cat/.ipynb_checkpoints/0.png", HIDDEN),
        ("cat/._0.png", HIDDEN),
        ("cat/.DS_Store", HIDDEN),
        ("cat/@eaDir/0.png", SYSTEM),
        ("cat/__MACOSX/0.png", SYSTEM),
        ("cat/Thumbnails/0.png", SYSTEM),
        ("cat/more.bmp", OTHERS),
        ("cat/more.TIF", OTHERS),
        ("cat/more.npy", OTHERS),
        ("cat/Thumbs.db", OTHERS),
        ("cat/noname", OTHERS),
        ("@eaDir/cat/0.png", BESIDE),
        ("__MACOSX/0.png", BESIDE),
        ("loose.png", BESIDE),
        (".DS_Store", BESIDE),
    ],
)
def test_what_is_no_image_of_a_class_is_left_out_and_named(
    entry: str, reason: str, data: Path
) -> None:
    save(data / "train" / "image.png")
    content = (data / "train" / "image.png").read_bytes()
    (data / "train" / "image.png").unlink()
    (data / "train" / entry).parent.mkdir(parents=True, exist_ok=True)
    (data / "train" / entry).write_bytes(content)
    source = opened(data)
    assert list(source.names) == SOUND
    depth = 1 if reason == BESIDE else 2
    assert skipped(source) == {reason: ["/".join(entry.split("/")[:depth])]}


def test_capital_suffixes_and_folders_below_a_class_are_taken_in(data: Path) -> None:
    save(data / "train" / "cat" / "part" / "a.PNG")
    save(data / "train" / "cat" / "clip.gif" / "b.JPG")
    source = opened(data)
    assert set(source.names) == {*SOUND, "cat/part/a.PNG", "cat/clip.gif/b.JPG"}
    assert source.description["skipped"] == {}


def test_an_empty_folder_with_an_images_name_is_named(data: Path) -> None:
    (data / "train" / "cat" / "x.jpg").mkdir()
    assert skipped(opened(data)) == {"empty folders": ["cat/x.jpg"]}


def test_a_class_that_holds_only_what_is_left_out_is_refused_with_what_it_holds(data: Path) -> None:
    for file in (data / "train" / "cat").iterdir():
        file.rename(file.with_suffix(".tif"))
    with pytest.raises(UserError, match=r"cat holds no images .* left out: .*\(3: cat/0\.tif"):
        opened(data)


@pytest.mark.parametrize("splits", [("train",), ("val",), ("train", "val")])
def test_a_file_in_the_place_of_a_class_is_refused_or_named(
    splits: tuple[str, ...], data: Path
) -> None:
    for split in ("train", "val"):
        save(data / split / "elk" / "0.png")
    for split in splits:
        shutil.rmtree(data / split / "elk")
        (data / split / "elk").write_text("a file")
    if len(splits) == 1:
        with pytest.raises(UserError, match=f"The class elk is missing in .*{splits[0]}"):
            opened(data, "test")
    else:
        assert skipped(opened(data)) == {BESIDE: ["elk"]}


def test_only_the_first_names_are_kept_and_all_are_counted() -> None:
    found = Skipped()
    for number in range(1000):
        found.add("files of no use", f"cat/{number}")
    (facts,) = found.facts().values()
    assert facts["count"] == 1000
    assert len(facts["first"]) == 5
    (line,) = left_out({"skipped": found.facts()})
    assert line == "left out: files of no use (1,000: cat/0, cat/1, cat/2, ...)"


# --- images that are no regular files -------------------------------------------------------------


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        folder = os.open(path.parent, os.O_RDONLY)
        made.bind(f"/proc/self/fd/{folder}/{path.name}")
        os.close(folder)


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (os.mkfifo, "not a regular file"),
        (make_socket, "not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
        (lambda path: path.symlink_to("/nowhere"), "a link to a file that does not exist"),
        (lambda path: path.write_bytes(b""), "the file is empty"),
    ],
)
def test_a_pipe_socket_device_or_broken_link_is_refused_or_left_out_without_waiting(
    make: Callable[[Path], None], fault: str, data: Path
) -> None:
    make(data / "train" / "cat" / "x.jpg")
    with pytest.raises(UserError, match=rf"cat/x\.jpg is unreadable \({fault}\)"):
        opened(data)
    source = opened(data, skip_unreadable=True)
    assert list(source.names) == SOUND
    assert source.description["unreadable_first"] == ["cat/x.jpg"]


def test_a_file_that_becomes_a_pipe_later_does_not_hang(data: Path) -> None:
    source = opened(data)
    (data / "train" / "cat" / "0.png").unlink()
    os.mkfifo(data / "train" / "cat" / "0.png")
    with pytest.raises(UserError, match=r"cat/0\.png is unreadable \(not a regular file\)"):
        source.image(0)


def test_a_file_of_a_terabyte_is_refused_before_it_is_read(data: Path) -> None:
    source = opened(data)
    os.truncate(data / "train" / "cat" / "0.png", 2**40)
    with pytest.raises(UserError, match=r"it has 1,099,511,627,776 bytes, more than the limit"):
        source.image(0)
    with pytest.raises(UserError, match="more than the limit of 1,073,741,824"):
        opened(data)


# --- names ----------------------------------------------------------------------------------------

ODD = [b"caf\xe9.jpg", b"two\nlines.jpg", b"\x1b[31mred.jpg", b"\xff\xfe.jpg"]


@pytest.mark.parametrize("name", ODD)
def test_names_that_cannot_be_shown_are_escaped_in_errors_and_descriptions(
    name: bytes, data: Path, tmp_path: Path
) -> None:
    folder = os.fsencode(data / "train" / "cat") + b"/"
    with open(folder + name, "wb") as file:
        file.write(b"no image")
    with pytest.raises(UserError) as caught:
        opened(data)
    assert str(caught.value).isprintable()
    source = opened(data, skip_unreadable=True)
    (shown,) = source.description["unreadable_first"]
    assert shown.isprintable()
    assert shown.endswith(".jpg")
    files.write_json(tmp_path / "facts.json", source.description)
    assert json.loads((tmp_path / "facts.json").read_bytes()) == source.description


@pytest.mark.parametrize("name", ODD)
def test_images_and_classes_of_such_names_are_read(name: bytes, data: Path) -> None:
    path = os.fsencode(data / "train" / "cat") + b"/" + name
    shutil.copy(os.fsencode(data / "train" / "dog" / "2.png"), path)
    source = opened(data)
    row = list(source.names).index(f"cat/{os.fsdecode(name)}")
    assert source.image(row)[0, 0, 0] == 50


def test_json_keeps_names_that_are_not_utf_8_and_reads_them_back_equal(tmp_path: Path) -> None:
    value = {"name": os.fsdecode(b"caf\xe9"), "other": "café ☃"}
    files.write_json(tmp_path / "value.json", value)
    assert json.loads((tmp_path / "value.json").read_text(encoding="utf-8")) == value
    assert "café ☃" in (tmp_path / "value.json").read_text(encoding="utf-8")


@given(st.binary())
def test_any_name_becomes_printable(name: bytes) -> None:
    shown = printable(os.fsdecode(name))
    assert shown.isprintable()
    assert shown.encode().decode() == shown


def test_a_folder_that_cannot_be_read_is_named(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (data / "train" / "cat" / "part").mkdir()
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if str(path).endswith("part"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"cat/part cannot be read \(Permission denied\)"):
        opened(data)


def test_linked_folders_of_a_readers_files_are_walked_once(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a").write_text("a")
    (tmp_path / "raw" / "up").symlink_to("..")
    (tmp_path / "raw" / "gone").symlink_to("/nowhere")
    found = sorted(_files_below(str(tmp_path)))
    assert [os.path.relpath(path, tmp_path) for path in found] == ["raw/a", "raw/gone"]
    assert list(stamps(found))[1] == "No such file or directory"


def test_a_list_of_labelled_images_may_hold_names_that_are_not_utf_8(
    data: Path, tmp_path: Path
) -> None:
    os.rename(data / "train" / "cat" / "1.png", os.fsencode(data / "train/cat") + b"/caf\xe9.png")
    (tmp_path / "list.txt").write_bytes(b"cat/caf\xe9.png\ndog/0.png\n")
    source = opened(data)
    rows = listed_rows(source, str(tmp_path / "list.txt"))
    assert [source.names[row] for row in rows.tolist()] == [
        os.fsdecode(b"cat/caf\xe9.png"),
        "dog/0.png",
    ]
