import io
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from datasets.arrow_dataset import Dataset
from datasets.dataset_dict import DatasetDict
from datasets.features import ClassLabel, Features
from datasets.features import Image as ImageColumn
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.io import decode_image
from torchvision.transforms.functional import pil_to_tensor

from retable.data.decoding import decode, first_faults
from retable.data.folders import FolderSource
from retable.data.huggingface import TableSource
from retable.data.image_files import PackedNames
from retable.data.loader import iterate
from retable.data.source import Source
from retable.data.sources import open_source, with_parameter
from retable.errors import UserError
from retable.views import center

CLASSES = ["ant", "bee", "cat"]


def picture(number: int, size: tuple[int, int] | None = None) -> Image.Image:
    """A smooth picture: JPEG keeps it, and no two are alike."""
    height, width = size or (24 + number % 5, 32 - number % 7)
    y, x = numpy.mgrid[:height, :width]
    channels = [(x * 3 + number * 11) % 256, (y * 5 + number * 7) % 256, (x + y + number) % 256]
    return Image.fromarray(numpy.stack(channels, axis=2).astype("uint8"))


def encoded(image: Image.Image, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    number = 0
    for split, per_class in (("train", 4), ("val", 2)):
        for name in CLASSES:
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(per_class):
                (tmp_path / split / name / f"{i}.JPEG").write_bytes(encoded(picture(number)))
                number += 1
    return tmp_path


def table(
    per_class: int, cells: list[dict[str, Any]] | None = None, label: str = "label"
) -> Dataset:
    count = per_class * len(CLASSES)
    features: Any = {
        "image": ImageColumn(),
        label: ClassLabel(names=CLASSES),
    }
    cells = cells or [{"bytes": encoded(picture(i)), "path": None} for i in range(count)]
    columns = {"image": cells, label: [i % len(CLASSES) for i in range(len(cells))]}
    return Dataset.from_dict(columns, features=Features(features))  # type: ignore[no-untyped-call]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    splits = {"train": table(4), "validation": table(2), "test": table(1)}
    DatasetDict(splits).save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


# --- decoding -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpegs_of_every_colour_model_decode_to_what_pil_makes_of_them(mode: str) -> None:
    # Reference: Pillow. Its own libjpeg build may round colour conversion differently.
    data = encoded(picture(3, (40, 56)).convert(mode))
    ours = decode(data, "x")
    theirs = pil_to_tensor(Image.open(io.BytesIO(data)).convert("RGB"))
    assert ours.dtype == torch.uint8
    assert ours.shape == (3, 40, 56)
    assert (ours.int() - theirs.int()).abs().max() <= 3


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_pngs_of_every_colour_model_decode_to_what_pil_makes_of_them(mode: str) -> None:
    # Reference: Pillow.
    data = encoded(picture(3).convert(mode), "PNG")
    assert torch.equal(
        decode(data, "x"), pil_to_tensor(Image.open(io.BytesIO(data)).convert("RGB"))
    )


def test_transparency_is_dropped() -> None:
    image = picture(3).copy()
    image.putalpha(100)
    assert torch.equal(decode(encoded(image, "PNG"), "x"), pil_to_tensor(picture(3)))


def test_sixteen_bits_keep_the_upper_eight() -> None:
    values = numpy.arange(24 * 24, dtype="uint16").reshape(24, 24) * 100
    decoded = decode(encoded(Image.fromarray(values), "PNG"), "x")
    assert torch.equal(decoded[1], torch.from_numpy((values >> 8).astype("uint8")))


def test_an_animation_gives_its_first_frame() -> None:
    buffer = io.BytesIO()
    frames = [picture(i, (20, 20)).convert("P") for i in range(2)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    first = pil_to_tensor(Image.open(io.BytesIO(buffer.getvalue())).convert("RGB"))
    assert torch.equal(decode(buffer.getvalue(), "x"), first)


def test_the_orientation_in_exif_data_is_not_applied() -> None:
    image = picture(1, (24, 32))
    exif = image.getexif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    assert decode(buffer.getvalue(), "x").shape == (3, 24, 32)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
@settings(deadline=None)
@given(st.data())
def test_damaged_bytes_are_an_image_or_a_user_error(kind: str, data: st.DataObject) -> None:
    whole = bytearray(encoded(picture(0), kind))
    if data.draw(st.booleans()):
        whole = whole[: data.draw(st.integers(0, len(whole)))]
    else:
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        image = decode(bytes(whole), "the picture")
    except UserError as error:
        sentence = str(error)
    else:
        assert image.dtype == torch.uint8
        assert image.shape[0] == 3
        return
    assert sentence.startswith("The image the picture is unreadable (")
    assert "\n" not in sentence


# --- folders --------------------------------------------------------------------------------------


# torchvision announces that torchcodec will decode in its place.
@pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities")
@pytest.mark.parametrize(("split", "name"), [("train", "train"), ("test", "val")])
def test_a_folder_reads_as_torchvision_reads_it(folder: Path, split: str, name: str) -> None:
    # Reference: torchvision.datasets.ImageFolder (order, labels), torchvision.io (pixels).
    source = open_source(f"imagefolder:{folder}", split)
    reference = ImageFolder(folder / name)
    assert isinstance(source, Source)
    assert source.class_names == reference.classes
    assert source.labels.tolist() == reference.targets
    for i, (path, _) in enumerate(reference.samples):
        assert torch.equal(source.image(i), decode_image(path))


def test_nested_folders_belong_to_their_class_and_other_files_are_left_alone(folder: Path) -> None:
    nested = folder / "train" / "bee" / "more"
    nested.mkdir()
    (nested / "z.jpg").write_bytes(encoded(picture(0)))
    (nested / ".hidden.jpg").write_bytes(b"")
    (nested / "notes.txt").write_text("no image")
    source = open_source(f"imagefolder:{folder}", "train")
    assert torch.bincount(source.labels).tolist() == [4, 5, 4]


def test_the_description_tells_data_sets_apart_by_their_checksum(folder: Path) -> None:
    first = open_source(f"imagefolder:{folder}", "train").description
    again = open_source(f"imagefolder:{folder}", "train").description
    assert first == again
    (folder / "train" / "ant" / "0.JPEG").rename(folder / "train" / "ant" / "9.JPEG")
    assert (
        open_source(f"imagefolder:{folder}", "train").description["checksum"] != first["checksum"]
    )
    assert (first["images"], first["classes"], first["unreadable"]) == (12, 3, 0)


def test_a_source_can_be_sent_to_a_worker(folder: Path, saved: Path) -> None:
    for spec in (f"imagefolder:{folder}", f"arrow:{saved}", "shapes?count=8&size=16&classes=4"):
        source = open_source(spec, "train")
        assert torch.equal(pickle.loads(pickle.dumps(source)).image(5), source.image(5))


def test_a_missing_folder_is_named() -> None:
    with pytest.raises(UserError, match="folder /nowhere does not exist: expected DIR/train/CLASS"):
        open_source("imagefolder:/nowhere", "train")


def test_a_folder_without_splits_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="has no folder 'train'"):
        open_source(f"imagefolder:{folder / 'train'}", "train")


def test_unsorted_test_images_are_refused(folder: Path) -> None:
    shutil.rmtree(folder / "val")
    (folder / "val").mkdir()
    (folder / "val" / "0.JPEG").write_bytes(encoded(picture(0)))
    with pytest.raises(UserError, match="val has no class folders"):
        open_source(f"imagefolder:{folder}", "test")


def test_a_class_that_only_one_split_has_is_refused_whichever_it_is(folder: Path) -> None:
    shutil.rmtree(folder / "val" / "bee")
    with pytest.raises(UserError, match=r"class bee is missing in .*val"):
        open_source(f"imagefolder:{folder}", "test")
    shutil.copytree(folder / "train" / "bee", folder / "val" / "dog")
    shutil.rmtree(folder / "train" / "bee")
    with pytest.raises(UserError, match=r"class dog is missing in .*train"):
        open_source(f"imagefolder:{folder}", "test")


@pytest.mark.parametrize("gone", ["train", "val"])
def test_of_chosen_classes_those_count_that_the_train_split_has_too(
    gone: str, folder: Path
) -> None:
    shutil.rmtree(folder / gone / "bee")
    source = FolderSource(str(folder), "val", split="val", wanted_classes=["bee", "cat", "elk"])
    assert source.class_names == ["cat"]


def test_an_empty_class_is_refused(folder: Path) -> None:
    for file in (folder / "train" / "bee").iterdir():
        file.unlink()
    with pytest.raises(UserError, match="train/bee holds no images"):
        open_source(f"imagefolder:{folder}", "train")


@pytest.mark.parametrize("content", [b"", b"no image at all"])
def test_a_file_that_is_no_image_is_refused_before_training_or_left_out_and_counted(
    folder: Path, content: bytes
) -> None:
    (folder / "train" / "bee" / "1.JPEG").write_bytes(content)
    with pytest.raises(UserError, match=r"bee/1\.JPEG is unreadable .*--skip-unreadable"):
        open_source(f"imagefolder:{folder}", "train")
    source = open_source(f"imagefolder:{folder}", "train", skip_unreadable=True)
    assert len(source) == 11
    assert torch.bincount(source.labels).tolist() == [4, 3, 4]
    assert source.description["unreadable"] == 1
    assert source.description["unreadable_first"] == ["bee/1.JPEG"]


def test_a_class_without_any_readable_image_is_refused_although_skipping(folder: Path) -> None:
    for file in (folder / "val" / "bee").iterdir():
        file.write_bytes(b"nothing")
    with pytest.raises(UserError, match="val/bee holds no readable image"):
        open_source(f"imagefolder:{folder}", "test", skip_unreadable=True)


def test_every_file_is_checked_however_many_there_are(tmp_path: Path) -> None:
    (tmp_path / "good").write_bytes(encoded(picture(0)))
    paths = [str(tmp_path / ("bad" if i % 97 == 50 else "good")) for i in range(1000)]
    expected = [i for i in range(1000) if i % 97 == 50]
    assert list(first_faults(paths, stop_at_first=False)) == expected
    assert next(iter(first_faults(paths, stop_at_first=True))) == 50


def test_a_truncated_image_is_refused_when_decoded_or_replaced(folder: Path) -> None:
    broken = folder / "val" / "ant" / "1.JPEG"
    broken.write_bytes(broken.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"ant/1\.JPEG is unreadable"):
        list(iterate(open_source(f"imagefolder:{folder}", "test"), center(8, 8), 4))
    source = open_source(f"imagefolder:{folder}", "test", skip_unreadable=True)
    _, labels, indices = zip(*iterate(source, center(8, 8), 4), strict=True)
    assert torch.cat(indices).tolist() == [0, 2, 2, 3, 4, 5]
    assert torch.cat(labels).tolist() == [0, 1, 1, 1, 2, 2]
    assert source.unreadable == {1}


def test_images_of_one_size_are_read_into_memory_when_asked_only(folder: Path) -> None:
    spec = f"imagefolder:{folder}"
    assert open_source(spec, "train").resident() is None
    assert open_source(spec, "train").resident(decode=True) is None  # of several sizes
    for i, path in enumerate(sorted((folder / "train").rglob("*.JPEG"))):
        path.write_bytes(encoded(picture(i, (20, 24))))
    source = open_source(spec, "train")
    pool = source.resident(decode=True)
    assert pool is not None
    assert pool.shape == (12, 3, 20, 24)
    assert all(torch.equal(pool[i], source.image(i)) for i in range(12))


def test_in_memory_an_unreadable_image_is_its_replacement_and_says_so(folder: Path) -> None:
    for i, path in enumerate(sorted((folder / "train").rglob("*.JPEG"))):
        data = encoded(picture(i, (20, 24)))
        path.write_bytes(data[:-200] if i == 3 else data)
    source = open_source(f"imagefolder:{folder}", "train", skip_unreadable=True)
    assert source.labels[3] == 0
    pool = source.resident(decode=True)
    assert pool is not None
    assert torch.equal(pool[3], source.image(4))
    assert source.replacements == {3: 4}
    assert source.labels[3] == 0
    assert source.unreadable == {3}


def test_images_that_do_not_fit_into_memory_stay_on_disk(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retable.data.source.free_memory", lambda: 1000)
    source = open_source(f"imagefolder:{folder}", "train")
    with pytest.raises(UserError, match=r"12 images need .* leave them on disk"):
        source.resident(decode=True)


@settings(deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"))))
def test_packed_names_are_the_list_that_was_packed(names: list[str]) -> None:
    packed = PackedNames(names)
    assert list(packed) == names
    assert len(packed) == len(names)


# --- HF datasets ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("split", "per_class"), [("train", 4), ("test", 2)])
def test_a_saved_data_set_reads_as_it_was_written(saved: Path, split: str, per_class: int) -> None:
    source = open_source(f"arrow:{saved}", split)
    assert isinstance(source, Source)
    assert source.class_names == CLASSES
    assert source.labels.tolist() == [i % 3 for i in range(3 * per_class)]
    for i in range(len(source)):
        assert torch.equal(source.image(i), decode(encoded(picture(i)), "x"))


def test_a_table_may_name_files_instead_of_holding_them(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.jpg" for i in range(3)]
    for i, path in enumerate(paths):
        path.write_bytes(encoded(picture(i)))
    rows = table(1, [{"bytes": None, "path": str(path)} for path in paths])
    source = TableSource(rows, "here", "train")
    assert torch.equal(source.image(2), decode(encoded(picture(2)), "x"))
    paths[2].unlink()
    with pytest.raises(UserError, match=r"number 2 of here \(train\) is unreadable \(No such file"):
        source.image(2)
    with pytest.raises(UserError, match=r"number 2 of here \(train\) is unreadable \(No such file"):
        TableSource(rows, "here", "train")


def test_rows_that_are_no_images_are_refused_or_left_out_and_counted(tmp_path: Path) -> None:
    cells = [{"bytes": encoded(picture(i)), "path": None} for i in range(5)]
    cells[2] = {"bytes": b"nonsense", "path": None}
    DatasetDict({"train": table(0, cells)}).save_to_disk(tmp_path / "saved")
    with pytest.raises(UserError, match=r"number 2 of arrow:.*\(train\) is unreadable"):
        open_source(f"arrow:{tmp_path / 'saved'}", "train")
    source = open_source(f"arrow:{tmp_path / 'saved'}", "train", skip_unreadable=True)
    assert source.labels.tolist() == [0, 1, 0, 1]
    assert source.description["unreadable"] == 1


def test_rows_that_are_no_images_are_numbered_from_the_tables_beginning() -> None:
    # More rows than are checked at once.
    sound = {"bytes": encoded(picture(0)), "path": None}
    cells = [{"bytes": b"nonsense", "path": None} if i == 1500 else sound for i in range(1502)]
    with pytest.raises(UserError, match=r"number 1500 of here \(train\) is unreadable"):
        TableSource(table(0, cells), "here", "train")
    source = TableSource(table(0, cells), "here", "train", skip_unreadable=True)
    assert source.description["unreadable_first"] == ["1500"]
    assert source.labels[-2:].tolist() == [2, 1]  # of the rows 1499 and 1501


def test_the_label_column_is_found_or_asked_for(tmp_path: Path) -> None:
    rows = table(2, label="fine").add_column("coarse", [0, 1] * 3)
    rows = rows.cast_column("coarse", ClassLabel(names=["x", "y"]))
    DatasetDict({"train": rows}).save_to_disk(tmp_path / "two")
    with pytest.raises(UserError, match=r"2 class columns \(fine, coarse\): choose one"):
        open_source(f"arrow:{tmp_path / 'two'}", "train")
    assert open_source(f"arrow:{tmp_path / 'two'}?label=coarse", "train").class_names == ["x", "y"]
    with pytest.raises(UserError, match="no column 'colour'"):
        open_source(f"arrow:{tmp_path / 'two'}?label=colour", "train")


def test_plain_numbers_and_words_serve_as_labels(tmp_path: Path) -> None:
    rows = table(2).remove_columns("label").add_column("label", ["b", "a", "b", "c", "a", "a"])
    DatasetDict({"train": rows}).save_to_disk(tmp_path / "words")
    source = open_source(f"arrow:{tmp_path / 'words'}", "train")
    assert source.class_names == ["a", "b", "c"]
    assert source.labels.tolist() == [1, 0, 1, 2, 0, 0]


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"label": [0, 1]}, "has no image column"),
        ({"text": ["a", "b"]}, "has no image column"),
    ],
)
def test_a_table_without_images_is_refused(
    tmp_path: Path, columns: dict[str, list[Any]], sentence: str
) -> None:
    rows = Dataset.from_dict(columns)
    DatasetDict({"train": rows}).save_to_disk(tmp_path / "saved")
    with pytest.raises(UserError, match=sentence):
        open_source(f"arrow:{tmp_path / 'saved'}", "train")


def test_a_saved_data_set_must_exist_and_have_the_split(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        open_source(f"arrow:{tmp_path / 'nothing'}", "train")
    with pytest.raises(UserError, match="is not a data set that HF datasets"):
        open_source(f"arrow:{folder}", "train")
    table(1).save_to_disk(tmp_path / "one")
    with pytest.raises(UserError, match="has no splits"):
        open_source(f"arrow:{tmp_path / 'one'}", "train")
    DatasetDict({"train": table(1)}).save_to_disk(tmp_path / "half")
    with pytest.raises(UserError, match=r"has no test split \(it has train\): choose one"):
        open_source(f"arrow:{tmp_path / 'half'}", "test")


def test_a_hub_data_set_that_cannot_be_had_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        UserError, match=r"^The data set 'nobody/nothing' cannot be had from[^\n]*$"
    ):
        open_source("hf:nobody/nothing", "train")


def test_a_local_copy_of_a_hub_data_set_is_read(tmp_path: Path) -> None:
    # load_dataset takes a folder of Parquet files like a name on the hub.
    os.makedirs(tmp_path / "copy" / "data")
    for split, per_class in (("train", 2), ("test", 1)):
        table(per_class).to_parquet(tmp_path / "copy" / "data" / f"{split}-0.parquet")
    source = open_source(f"hf:{tmp_path / 'copy'}", "test")
    assert source.class_names == CLASSES
    assert torch.equal(source.image(1), decode(encoded(picture(1)), "x"))


# --- names ----------------------------------------------------------------------------------------


def test_shapes_are_at_hand_and_equal_one_by_one() -> None:
    source = open_source("shapes?count=12&test_count=6&size=16&classes=4&seed=3", "train")
    assert isinstance(source, Source)
    pool = source.resident()
    assert pool is not None
    fresh = open_source("shapes?count=12&size=16&classes=4&seed=3", "train")
    assert pool.shape == (12, 3, 16, 16)
    assert all(torch.equal(pool[i], fresh.image(i)) for i in range(12))
    assert len(open_source("shapes?count=12&test_count=6&size=16&classes=4", "test")) == 6


@pytest.mark.parametrize("spec", ["shape", "imagefolder:", "zip:a.zip", "", "imagefolder"])
def test_an_unknown_data_set_is_refused_with_what_there_is(spec: str) -> None:
    with pytest.raises(UserError, match="is unknown: use 'shapes', 'imagefolder:DIR'"):
        open_source(spec, "train")


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("shapes?sides=3", "no parameter 'sides': use one of count"),
        (
            "shapes?count=many",
            "`count` of the data set 'shapes' must be a whole number, got 'many'",
        ),
        ("shapes?rho=x", "`rho` of the data set 'shapes' must be a number, got 'x'"),
    ],
)
def test_a_wrong_parameter_is_named(spec: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        open_source(spec, "train")


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(UserError, match="`split` must be one of train, val, test, got 'valid'"):
        open_source("shapes", "valid")


def test_a_parameter_is_added_to_any_name() -> None:
    assert with_parameter("shapes", "variant", "sketch") == "shapes?variant=sketch"
    both = with_parameter("shapes?size=16", "variant", "corrupted:snow:3")
    assert both == "shapes?size=16&variant=corrupted:snow:3"
