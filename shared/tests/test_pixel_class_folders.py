"""VOC's segmentation and Cityscapes in their official layouts, and what is broken in them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import io
from torchvision.datasets import Cityscapes

from retable import cli
from retable.data.sources import open_source
from retable.data.transfer.cityscapes import CLASSES
from retable.data.transfer.pixel_classes import IGNORED, SEMANTIC
from retable.encoders import ResNetRecipe
from retable.errors import UserError
from retable.weights import save_encoder

WIDTH, HEIGHT = 50, 40
VOC_MAP = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
VOC_MAP[5:20, 10:30] = 8
VOC_MAP[20:22, 10:30] = IGNORED


def write_palette(path: Path, numbers: np.ndarray[Any, Any]) -> None:
    image = Image.fromarray(numbers)
    image.putpalette([value for number in range(256) for value in (number, 255 - number, 7)])
    assert image.mode == "P"
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), (90, 120, 30)).save(path)


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    root = tmp_path / "VOCdevkit"
    folder = root / "VOC2012"
    (folder / "ImageSets/Segmentation").mkdir(parents=True)
    for part, names in (("train", ["a", "b"]), ("val", ["c", "d"])):
        (folder / f"ImageSets/Segmentation/{part}.txt").write_text("\n".join(names) + "\n")
        for name in names:
            write_image(folder / f"JPEGImages/{name}.jpg")
            write_palette(folder / f"SegmentationClass/{name}.png", VOC_MAP)
    return root


@pytest.fixture
def sbd(tmp_path: Path) -> Path:
    root = tmp_path / "benchmark_RELEASE/dataset"
    (root / "cls").mkdir(parents=True)
    (root / "train.txt").write_text("a\ne\n")  # a is in VOC's train list, c in its val list
    (root / "val.txt").write_text("c\nf\n")
    write: Any = io.savemat
    for name in "acef":
        write_image(root / f"img/{name}.jpg")
        write(root / f"cls/{name}.mat", {"GTcls": {"Segmentation": np.minimum(VOC_MAP, 4)}})
    return root


@pytest.fixture
def cityscapes(tmp_path: Path) -> Path:
    numbers = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    numbers[:10], numbers[10:20, :9] = 7, 33
    for split, city in (("train", "aachen"), ("val", "ulm")):
        for number in range(3):
            name = f"{city}_{number:06}_000019"
            write_image(tmp_path / f"city/leftImg8bit/{split}/{city}/{name}_leftImg8bit.png")
            folder = tmp_path / f"city/gtFine/{split}/{city}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(numbers).save(folder / f"{name}_gtFine_labelIds.png")
    return tmp_path / "city"


def test_classes_of_voc_are_the_numbers_of_its_palette(voc: Path) -> None:
    source = open_source(f"voc-segmentation:{voc}", "train")
    assert len(source) == 2
    assert source.class_names[:2] == ["background", "aeroplane"]
    assert source.description["pixel_classes"] == 21
    layer = source.sample(1, (SEMANTIC,)).layers[SEMANTIC]
    assert torch.equal(layer[0], torch.from_numpy(VOC_MAP))
    assert len(open_source(f"voc-segmentation:{voc}", "test")) == 2


def test_boundaries_add_what_is_in_neither_of_voc_s_lists(voc: Path, sbd: Path) -> None:
    source = open_source(f"voc-segmentation:{voc}?sbd={sbd}", "train")
    assert len(source) == 4  # a and b of VOC, e and f
    layer = source.sample(3, (SEMANTIC,)).layers[SEMANTIC]
    assert torch.equal(layer[0], torch.from_numpy(np.minimum(VOC_MAP, 4)))


def test_cityscapes_has_the_19_classes_that_count(cityscapes: Path) -> None:
    source = open_source(f"cityscapes:{cityscapes}", "train")
    assert len(source) == 3
    layer = source.sample(0, (SEMANTIC,)).layers[SEMANTIC][0]
    assert layer[0, 0] == 0
    assert layer[10, 0] == 18
    assert layer[39, 0] == IGNORED
    # A second source: torchvision's table.
    counted = {one.name: one for one in Cityscapes.classes if not one.ignore_in_eval}
    assert {name: one.id for name, one in counted.items()} == CLASSES
    assert [counted[name].train_id for name in CLASSES] == list(range(19))


def remove(*parts: str) -> Callable[[Path], None]:
    return lambda root: root.joinpath(*parts).unlink()


def map_of(numbers: np.ndarray[Any, Any]) -> Callable[[Path], None]:
    return lambda root: write_palette(root / "VOC2012/SegmentationClass/a.png", numbers)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove("VOC2012", "SegmentationClass", "b.png"), r"b\.png is listed but missing"),
        (remove("VOC2012", "JPEGImages", "a.jpg"), r"a\.jpg is listed but missing"),
        (remove("VOC2012", "ImageSets", "Segmentation", "val.txt"), r"val\.txt cannot be read"),
        (map_of(VOC_MAP + 30), r"a\.png are broken \(\d+ is no class\)"),
        (map_of(VOC_MAP[:30]), r"a\.png are broken \(\(30, 50\) pixels, its image has \(40, 50\)"),
        (lambda root: root.rename(root.parent / "elsewhere"), "must hold VOC2012"),
    ],
)
def test_what_is_broken_in_voc_is_named(
    voc: Path, change: Callable[[Path], Any], message: str
) -> None:
    change(voc)
    with pytest.raises(UserError, match=message):
        open_source(f"voc-segmentation:{voc}", "train").sample(0, (SEMANTIC,))


def test_broken_boundaries_and_missing_folders_are_named(
    voc: Path, sbd: Path, tmp_path: Path
) -> None:
    (sbd / "cls/e.mat").write_bytes(b"no such file")
    with pytest.raises(UserError, match=r"e\.mat are broken"):
        open_source(f"voc-segmentation:{voc}?sbd={sbd}", "train").sample(2, (SEMANTIC,))
    with pytest.raises(UserError, match="`sbd` must hold img, cls"):
        open_source(f"voc-segmentation:{voc}?sbd={tmp_path}", "train")
    with pytest.raises(UserError, match=r"must hold CITY/NAME_leftImg8bit\.png"):
        open_source(f"cityscapes:{tmp_path}", "train")


@pytest.mark.parametrize("kind", ["voc-segmentation", "cityscapes"])
def test_the_command_trains_and_tests_on_folders(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = request.getfixturevalue("voc" if kind == "voc-segmentation" else "cityscapes")
    recipe = ResNetRecipe("small_resnet8", width=0.25)
    save_encoder(tmp_path / "encoder.safetensors", recipe.build(0), recipe, {})
    words = ["evaluate", str(tmp_path / "encoder.safetensors"), "--protocol", "segmentation"]
    words += ["--data", f"{kind}:{folder}", "--size", "48", "--set", "batch=2", "--set", "hidden=8"]
    assert cli.main([*words, "--dry-run"]) == 0
    assert "50 steps, 100 images" in capsys.readouterr().out
    words += ["--set", "epochs=1", "--directory", str(tmp_path / "state"), "--device", "cpu"]
    assert cli.main(words) == 0
    printed = capsys.readouterr().out
    assert "miou" in printed
    assert (tmp_path / "state/predictions.png").exists()
