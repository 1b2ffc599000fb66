"""Published out-of-distribution sets in their layouts, made here of a few images each."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

from retable.data.imagenet_variants.categories import imagenet_ids, listed, shape_categories
from retable.data.imagenet_variants.corruptions import KINDS, SEVERITIES
from retable.data.imagenet_variants.published import VARIANTS, open_variants
from retable.data.source import Source
from retable.data.subsets import imagenet100_ids
from retable.errors import UserError

KNOWN = ("n01820546", "n02123045", "n02504458", "n03196217", "n07753275")
"""The classifier's: lorikeet (R, A), tabby (R), elephant (A), digital clock (A), pineapple (R)."""

INFO = Path(timm.__file__).parent / "data" / "_info"


def picture(path: Path, colour: int = 0, size: int = 12) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), (colour, 10, 20)).save(path)


def wordnet_folders(root: Path, ids: tuple[str, ...] = KNOWN, images: int = 2) -> Path:
    for identity in ids:
        for number in range(images):
            picture(root / identity / f"{number}.jpg", KNOWN.index(identity) * 40)
    return root


def corruptions(root: Path) -> Path:
    one = wordnet_folders(root / "one")
    for kind in KINDS:
        for severity in SEVERITIES:
            shutil.copytree(one, root / kind / str(severity))
    return root


def v2(root: Path) -> Path:
    for number in range(1000):
        (root / str(number)).mkdir(parents=True)
    for identity in KNOWN:
        folder = root / str(imagenet_ids().index(identity))
        for number in range(2):
            picture(folder / f"{number}.jpeg", KNOWN.index(identity) * 40)
    return root


def objectnet(root: Path) -> Path:
    folders = {"alarm_clock": "Alarm clock", "air_freshener": "Air freshener", "cat": "Cat"}
    words = {"Alarm clock": "analog clock; digital clock", "Cat": "tabby, tabby cat"}
    (root / "mappings").mkdir(parents=True)
    for name, content in (
        ("folder_to_objectnet_label", folders),
        ("objectnet_to_imagenet_1k", words),
    ):
        (root / "mappings" / f"{name}.json").write_text(json.dumps(content))
    for folder in folders:
        for number in range(3):
            picture(root / "images" / folder / f"{number}.png")
    return root


def cue_conflict(root: Path) -> Path:
    # Shapes and textures of categories that the classifier knows, and of one that it does not.
    for shape, texture in (
        ("cat", "elephant"), ("cat", "cat"), ("elephant", "clock"), ("clock", "oven"),
        ("bird", "cat"),
    ):  # fmt: skip
        picture(root / shape / f"{shape}1-{texture}2.png")
    return root


MADE: dict[str, Callable[[Path], Path]] = {
    "c": corruptions,
    "c_generated": corruptions,
    "r": lambda root: wordnet_folders(root, ("n01820546", "n02123045", "n07753275")),
    "a": lambda root: wordnet_folders(root, ("n01820546", "n02504458", "n03196217")),
    "sketch": wordnet_folders,
    "v2": v2,
    "v2_threshold": v2,
    "v2_top": v2,
    "stylized": wordnet_folders,
    "objectnet": objectnet,
    "texture": wordnet_folders,
    "cue_conflict": cue_conflict,
}


def known_of(name: str, folder: Path) -> dict[str, list[str]]:
    """Return the categories' classes of the classifier, of an opened set."""
    images = open_variants(name, str(folder), KNOWN)
    return {
        category.name: [KNOWN[place] for place in row.nonzero()[:, 0].tolist()]
        for category, row in zip(images.categories, images.classes, strict=True)
    }


def shown(source: Source) -> list[str]:
    return [source.class_names[label] for label in source.labels.tolist()]


@pytest.mark.parametrize("name", VARIANTS)
def test_every_set_opens_and_its_images_decode(name: str, tmp_path: Path) -> None:
    images = open_variants(name, str(MADE[name](tmp_path / "set")), KNOWN)
    assert images.classes.shape == (len(images.categories), len(KNOWN))
    assert images.classes.any(dim=1).all()
    for part, source in images.parts.items():
        assert list(source.class_names) == [category.name for category in images.categories]
        assert source.image(len(source) - 1).dtype == torch.uint8
        assert (part == "") == (len(images.parts) == 1)


@pytest.mark.parametrize("name", ["r", "a", "sketch", "stylized", "texture"])
def test_folders_are_classes_by_wordnet_id_not_by_place(name: str, tmp_path: Path) -> None:
    images = open_variants(name, str(MADE[name](tmp_path)), KNOWN)
    (source,) = images.parts.values()
    for row in range(len(source)):
        label = int(source.labels[row])
        (known,) = images.classes[label].nonzero()[:, 0].tolist()
        red = int(source.image(row)[0].float().mean().round())
        assert abs(red - 40 * known) < 5  # the pictures were coloured by the classifier's number


def test_the_folders_of_v2_are_numbers(tmp_path: Path) -> None:
    images = open_variants("v2", str(v2(tmp_path)), KNOWN)
    (source,) = images.parts.values()
    assert sorted(set(shown(source))) == sorted(KNOWN)
    for row in range(len(source)):
        known = KNOWN.index(source.class_names[int(source.labels[row])])
        assert abs(int(source.image(row)[0].float().mean().round()) - 40 * known) < 5


def test_imagenet_c_has_75_parts_of_equal_labels(tmp_path: Path) -> None:
    parts = open_variants("c", str(corruptions(tmp_path)), KNOWN).parts
    assert len(parts) == 75
    first = parts["gaussian_noise:1"].labels
    assert all(torch.equal(source.labels, first) for source in parts.values())


def test_objectnet_maps_folders_to_labels_and_these_to_several_classes(tmp_path: Path) -> None:
    root = objectnet(tmp_path)
    assert known_of("objectnet", root) == {"Alarm clock": ["n03196217"], "Cat": ["n02123045"]}
    images = open_variants("objectnet", str(root), (*KNOWN, "n02708093"))
    assert images.classes.sum(dim=1).tolist() == [2, 1]
    (source,) = images.parts.values()
    assert len(source) == 6
    assert source.image(0).shape == (3, 8, 8)  # 12 pixels less the border of 2


def test_cue_conflicts_are_labelled_by_shape_and_by_texture(tmp_path: Path) -> None:
    images = open_variants("cue_conflict", str(cue_conflict(tmp_path)), KNOWN)
    assert [category.name for category in images.categories] == ["bird", "cat", "clock", "elephant"]
    (source,) = images.parts.values()
    assert images.textures is not None
    names = list(source.class_names)
    textures = [names[int(row.nonzero()[0, 0])] for row in images.textures]
    # The cat of cats has no conflict; the classifier knows no oven.
    assert list(zip(shown(source), textures, strict=True)) == [
        ("bird", "cat"),
        ("cat", "elephant"),
        ("elephant", "clock"),
    ]


def test_only_classes_of_the_classifier_are_opened(tmp_path: Path) -> None:
    images = open_variants("sketch", str(wordnet_folders(tmp_path)), KNOWN[:2])
    (source,) = images.parts.values()
    assert list(source.class_names) == list(KNOWN[:2])
    assert len(source) == 4


# The lists


def test_imagenet_100_shares_19_classes_with_imagenet_r() -> None:
    # Source: hendrycks/imagenet-r eval.py and the class list of CMC.
    shared = sorted(set(listed("imagenet_r")) & set(imagenet100_ids()))
    numbers = [imagenet100_ids().index(identity) for identity in shared]
    assert numbers == [6, 7, 10, 13, 14, 26, 28, 30, 34, 35, 36, 42, 44, 57, 59, 74, 75, 93, 95]
    assert shared[0] == "n01820546"
    assert shared[-1] == "n07753275"


@pytest.mark.parametrize("name", ["imagenet_r", "imagenet_a"])
def test_lists_are_those_of_timm(name: str) -> None:
    ids = (INFO / f"{name}_synsets.txt").read_text().split()
    assert sorted(ids) == list(listed(name))
    numbers = [int(number) for number in (INFO / f"{name}_indices.txt").read_text().split()]
    assert sorted(imagenet_ids()[number] for number in numbers) == list(listed(name))


def test_imagenet_s_ids_are_those_of_timm() -> None:
    assert list(imagenet_ids()) == (INFO / "imagenet_synsets.txt").read_text().split()
    assert list(imagenet_ids()) == sorted(imagenet_ids())
    assert len(set(imagenet100_ids()) & set(imagenet_ids())) == 100


def test_the_16_categories_share_no_class() -> None:
    categories = shape_categories()
    ids = [identity for category in categories for identity in category.wordnet_ids]
    assert len(categories) == 16
    assert len(ids) == len(set(ids)) == 207  # Geirhos et al., ICLR 2019, 16-class ImageNet
    assert set(ids) <= set(imagenet_ids())


# Mistakes


def refused(name: str, root: Path, match: str) -> None:
    with pytest.raises(UserError, match=match):
        open_variants(name, str(root), KNOWN)


def test_v2_with_wordnet_folders_is_named(tmp_path: Path) -> None:
    refused("v2", wordnet_folders(tmp_path), "must have the folders 0 to 999")


def test_v2_with_another_count_in_a_folder_is_named(tmp_path: Path) -> None:
    root = v2(tmp_path)
    number = imagenet_ids().index(KNOWN[2])
    picture(root / str(number) / "more.jpeg")
    refused("v2", root, rf"equally many images in each folder, 2, got 3 in .*{number}\.")


def test_a_missing_kind_severity_or_class_of_imagenet_c_is_named(tmp_path: Path) -> None:
    root = corruptions(tmp_path)
    shutil.rmtree(root / "fog" / "3" / KNOWN[1])
    refused("c", root, rf"fog/3 must have 5 class folders, but {KNOWN[1]} is missing")
    shutil.rmtree(root / "fog" / "3")
    refused("c", root, r"15 kinds at 5 severities, but .*fog/3 is missing")
    shutil.rmtree(root / "frost")
    refused("c", root, r"but .*frost/1 is missing")


def test_a_class_with_other_counts_in_one_part_of_imagenet_c_is_named(tmp_path: Path) -> None:
    root = corruptions(tmp_path)
    (root / "snow" / "2" / KNOWN[3] / "0.jpg").unlink()
    refused("c", root, rf"The class {KNOWN[3]} must have 2 images in every kind.*got 1 in .*snow/2")


def test_a_missing_class_of_imagenet_r_is_named(tmp_path: Path) -> None:
    root = MADE["r"](tmp_path)
    shutil.rmtree(root / "n02123045")
    refused("r", root, r"must have 3 class folders, but n02123045 is missing")


def test_an_empty_class_is_named(tmp_path: Path) -> None:
    root = wordnet_folders(tmp_path)
    for path in (root / KNOWN[0]).iterdir():
        path.unlink()
    refused("sketch", root, rf"{KNOWN[0]} holds no image")


def test_objectnet_without_its_mappings_is_named(tmp_path: Path) -> None:
    root = objectnet(tmp_path)
    mapping = root / "mappings" / "objectnet_to_imagenet_1k.json"
    mapping.write_text('{"Cat": "no such class"}')
    refused("objectnet", root, "must name classes of ImageNet, got 'no such class'")
    mapping.write_text("{")
    refused("objectnet", root, "is no JSON")
    mapping.write_text('{"Cat": 3}')
    refused("objectnet", root, "must map names to names")
    mapping.unlink()
    refused("objectnet", root, "must have the file .*objectnet_to_imagenet_1k.json")


def test_objectnet_with_another_number_of_images_is_named(tmp_path: Path) -> None:
    # The published archive has 18,574 images in 113 folders that are mapped to ImageNet.
    root = objectnet(tmp_path)
    folders = {f"folder_{number}": f"Label {number}" for number in range(113)}
    words = dict.fromkeys(folders.values(), "digital clock")
    for name, content in (
        ("folder_to_objectnet_label", folders),
        ("objectnet_to_imagenet_1k", words),
    ):
        (root / "mappings" / f"{name}.json").write_text(json.dumps(content))
    for folder in folders:
        (root / "images" / folder).mkdir()
        (root / "images" / folder / "one.png").touch()
    refused(
        "objectnet", root, r"must have 18,574 images of the 113 classes of ImageNet, got 113 in"
    )
    shutil.rmtree(root / "images" / "folder_7")
    refused("objectnet", root, "must have 113 class folders, but folder_7 is missing")


def test_a_cue_conflict_of_another_name_is_named(tmp_path: Path) -> None:
    root = cue_conflict(tmp_path)
    picture(root / "cat" / "photo.png")
    refused("cue_conflict", root, "must be files such as cat1-clock2.png, got cat.photo.png")


def test_classes_that_are_not_imagenet_s_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must be those of ImageNet.*got 'dog house'"):
        open_variants("r", str(tmp_path), ("dog house",))
    with pytest.raises(UserError, match="which knows none of its 200"):
        open_variants("r", str(tmp_path), ("n03196217",))
    with pytest.raises(UserError, match=r"The set 'imagenet-r' is unknown. Use one of c, "):
        open_variants("imagenet-r", str(tmp_path), KNOWN)
    refused("r", tmp_path / "none", "does not exist. Unpack the published set there")
