"""VOC and COCO in their official layouts, and what is broken in them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from retable import cli
from retable.data.sources import open_source
from retable.data.transfer.objects import ObjectSource
from retable.data.transfer.voc import CLASSES
from retable.encoders import ResNetRecipe
from retable.errors import UserError
from retable.weights import save_encoder

WIDTH, HEIGHT = 50, 40


def voc_annotation(*objects: tuple[str, int, tuple[int, int, int, int]]) -> str:
    parts = [
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{box[0]}</xmin>"
        f"<ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
        for name, difficult, box in objects
    ]
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    return f"<annotation>{size}{''.join(parts)}</annotation>"


ANNOTATIONS = {
    "000001": voc_annotation(("cat", 0, (1, 1, 50, 40)), ("dog", 1, (11, 21, 20, 30))),
    "000002": voc_annotation(),
}


def make_voc(root: Path) -> Path:
    for year, names in (("2007", ["000001", "000002"]), ("2012", ["2008_000001"])):
        folder = root / f"VOC{year}"
        for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
            (folder / part).mkdir(parents=True)
        for name in names:
            Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "JPEGImages" / f"{name}.jpg")
            text = ANNOTATIONS.get(name, voc_annotation(("car", 0, (2, 3, 4, 5))))
            (folder / "Annotations" / f"{name}.xml").write_text(text)
        (folder / "ImageSets/Main/trainval.txt").write_text("\n".join(names) + "\n")
        (folder / "ImageSets/Main/test.txt").write_text(names[0] + "\n")
    return root


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    return make_voc(tmp_path / "VOCdevkit")


def test_voc_joins_the_images_of_two_years(voc: Path) -> None:
    source = open_source(f"voc:{voc}", "train")
    assert isinstance(source, ObjectSource)
    assert len(source) == 3
    assert source.class_names == list(CLASSES)
    assert source.image(2).shape == (3, HEIGHT, WIDTH)
    assert source.size_of(0) == (HEIGHT, WIDTH)
    assert source.has_objects().tolist() == [True, False, True]
    assert len(open_source(f"voc:{voc}", "test")) == 1


def test_a_box_of_voc_starts_at_pixel_0_and_ends_beyond_its_last_one(voc: Path) -> None:
    source = open_source(f"voc:{voc}", "test")
    assert isinstance(source, ObjectSource)
    objects = source.objects(0)
    assert objects.boxes.tolist() == [[0, 0, 50, 40], [10, 20, 20, 30]]
    assert [CLASSES[label] for label in objects.labels.tolist()] == ["cat", "dog"]
    assert objects.difficult.tolist() == [False, True]


def test_other_lists_are_chosen_by_name(voc: Path) -> None:
    assert len(open_source(f"voc:{voc}?parts=2012_trainval", "train")) == 1
    with pytest.raises(UserError, match="`parts` of voc must be YEAR_LIST"):
        open_source(f"voc:{voc}?parts=all", "train")


def replace_in(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        path = root / "VOC2007/Annotations" / f"{name}.xml"
        path.write_text(path.read_text().replace(old, new))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replace_in("000001", "cat", "cats"), r"000001\.xml is broken \(its class 'cats'"),
        (
            replace_in("000001", "<xmax>50", "<xmax>51"),
            r"000001\.xml is broken \(a cat lies outside",
        ),
        (
            replace_in("000001", "<ymin>21", "<ymin>31"),
            r"000001\.xml is broken \(a dog lies outside",
        ),
        (
            replace_in("000001", "<xmin>1</xmin>", ""),
            r"000001\.xml is broken \(it has no bndbox xmin",
        ),
        (replace_in("000002", "</annotation>", ""), r"000002\.xml is broken \("),
        (lambda root: (root / "VOC2007/Annotations/000002.xml").unlink(), r"000002\.xml is broken"),
        (
            lambda root: (root / "VOC2012/ImageSets/Main/trainval.txt").unlink(),
            r"trainval\.txt cannot be read",
        ),
        (lambda root: root.rename(root.parent / "elsewhere"), "must hold VOC2007"),
    ],
)
def test_what_is_broken_in_voc_is_named(
    voc: Path, change: Callable[[Path], Any], message: str
) -> None:
    change(voc)
    with pytest.raises(UserError, match=message):
        open_source(f"voc:{voc}", "train")


COCO = {
    "images": [
        {"id": 9, "file_name": "b.jpg", "height": HEIGHT, "width": WIDTH},
        {"id": 4, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH},
        {"id": 12, "file_name": "c.jpg", "height": HEIGHT, "width": WIDTH},
    ],
    "categories": [{"id": 90, "name": "toothbrush"}, {"id": 3, "name": "car"}],
    "annotations": [
        {
            "id": 1,
            "image_id": 4,
            "category_id": 90,
            "bbox": [10.0, 5.0, 20.0, 10.0],
            "iscrowd": 0,
            "segmentation": [[10, 5, 30, 5, 30, 15, 10, 15]],
        },
        {
            "id": 2,
            "image_id": 9,
            "category_id": 3,
            "bbox": [0.0, 0.0, 1.0, 2.0],
            "iscrowd": 1,
            "segmentation": {"size": [HEIGHT, WIDTH], "counts": [0, 2, HEIGHT * WIDTH - 2]},
        },
    ],
}


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    (tmp_path / "annotations").mkdir()
    for folder in ("train2017", "val2017"):
        (tmp_path / folder).mkdir()
        for name in "abc":
            Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / folder / f"{name}.jpg")
        (tmp_path / f"annotations/instances_{folder}.json").write_text(json.dumps(COCO))
    return tmp_path


def test_coco_orders_images_and_classes_by_their_numbers(coco: Path) -> None:
    source = open_source(f"coco:{coco}?masks=false", "train")
    assert isinstance(source, ObjectSource)
    assert source.class_names == ["car", "toothbrush"]
    first, second, third = (source.objects(index) for index in range(3))
    assert first.boxes.tolist() == [[10, 5, 30, 15]]
    assert first.labels.tolist() == [1]
    assert second.crowd.tolist() == [True]
    assert len(third) == 0
    assert source.has_objects().tolist() == [True, False, False]
    assert third.boxes.shape == (0, 4)


def test_masks_of_coco_are_drawn_from_polygons_and_run_lengths(coco: Path) -> None:
    source = open_source(f"coco:{coco}", "test")
    assert isinstance(source, ObjectSource)
    masks = [source.objects(index).masks for index in range(3)]
    expected = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    expected[5:15, 10:30] = True
    assert masks[0] is not None
    assert torch.equal(masks[0][0], expected)
    run = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    run[:2, 0] = True
    assert masks[1] is not None
    assert torch.equal(masks[1][0], run)
    assert masks[2] is not None
    assert masks[2].shape == (0, HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (
            ("annotations", 0, "bbox"),
            [40.0, 5.0, 20.0, 10.0],
            "the box of annotation 1 lies outside",
        ),
        (("annotations", 1, "image_id"), 5, "annotation 2 is of an unknown image"),
        (("annotations", 1, "category_id"), 5, "annotation 2 is of an unknown image or category"),
        (("categories",), None, "are broken"),
    ],
)
def test_what_is_broken_in_coco_is_named(
    coco: Path, place: tuple[Any, ...], value: object, message: str
) -> None:
    content = json.loads(json.dumps(COCO))
    part = content
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    path = coco / "annotations/instances_train2017.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"instances_train2017\.json are broken.*|{message}"):
        open_source(f"coco:{coco}?masks=false", "train")
    path.write_text("{")
    with pytest.raises(UserError, match="are broken"):
        open_source(f"coco:{coco}?masks=false", "train")


def test_a_missing_file_of_coco_says_where_it_comes_from(coco: Path) -> None:
    with pytest.raises(UserError, match=r"instances_val\.json must hold COCO's annotations"):
        open_source(f"coco:{coco}?masks=false&folder=val", "test")


def test_an_image_of_another_size_than_its_annotation_is_named(voc: Path) -> None:
    Image.new("RGB", (WIDTH, HEIGHT + 1)).save(voc / "VOC2007/JPEGImages/000001.jpg")
    with pytest.raises(UserError, match=r"000001\.jpg must have the 40 x 50 pixels .* got 41 x 50"):
        open_source(f"voc:{voc}", "train").image(0)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("voc", ["detector.kind=c4"]),
        ("coco", ["detector.kind=fpn", "detector.masks=true", "metric=coco", "batch=1"]),
    ],
)
def test_the_command_trains_and_tests_on_folders(
    kind: str,
    settings: list[str],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = request.getfixturevalue(kind)
    recipe = ResNetRecipe("small_resnet8", width=0.25)
    save_encoder(tmp_path / "encoder.safetensors", recipe.build(0), recipe, {})
    words = ["evaluate", str(tmp_path / "encoder.safetensors"), "--protocol", "detection"]
    words += ["--data", f"{kind}:{folder}", "--size", "40", "--device", "cpu"]
    words += ["--directory", str(tmp_path / "state")]
    small = ["batch=2", "steps=2", "precise=1", "detector.hidden=8", "detector.chosen=8"]
    small += ["detector.sizes=[8, 16, 24, 32]", "detector.after=[20, 10]", *settings]
    for setting in small:
        words += ["--set", setting]
    assert cli.main([*words, "--dry-run"]) == 0
    assert "2 steps" in capsys.readouterr().out
    assert cli.main(words) == 0
    assert "ap50" in capsys.readouterr().out
    assert (tmp_path / "state/predictions.png").exists()
