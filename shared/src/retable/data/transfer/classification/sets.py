"""The data sets: their splits and counts, what their papers report, and where they come from.

Splits and accuracies are those of Kornblith et al. (arXiv:1805.08974), which SimCLR, BYOL and
ReLICv2 follow. Counts are those of the official archives. No image is shipped, and none is
downloaded unless an address says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class HubCopy:
    """A copy on the HF hub at a fixed commit; ``image`` and ``label`` are its columns."""

    repository: str
    revision: str
    label: str
    image: str = "image"


@dataclass(frozen=True)
class ClassificationSet:
    """A data set.

    Attributes:
        title: its name in papers.
        classes: number of classes.
        train: number of images to train on, those that choose settings included.
        test: number of images to test on.
        archive: where the official archive is.
        holds: what the folder holds that an address names.
        accuracy: what papers report of it.
        reader: name of the reader in torchvision.datasets; "": our own
            (`retable.data.transfer.classification.layouts`), or none.
        parts: splits of the reader to train on; the second are the images that choose settings.
            Of a single part a fifth is drawn for it, as in ssl-transfer (Ericsson et al.,
            arXiv:2011.13377, official code).
        copy: a copy on the HF hub with the same splits.
        not_comparable: why an accuracy on it cannot be compared with printed ones.
    """

    title: str
    classes: int
    train: int
    test: int
    archive: str
    holds: str
    accuracy: Literal["top1", "mean_per_class"] = "top1"
    reader: str = ""
    parts: tuple[str, ...] = ("train",)
    copy: HubCopy | None = None
    not_comparable: str = ""


CLASSIFICATION_SETS = {
    "food101": ClassificationSet(
        "Food-101",
        classes=101,
        train=75_750,
        test=25_250,
        archive="https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101",
        holds="food-101 with images and meta",
        reader="Food101",
        copy=HubCopy("ethz/food101", "e06acf2a88084f04bce4d4a525165d68e0a36c38", "label"),
    ),
    "cifar10": ClassificationSet(
        "CIFAR-10",
        classes=10,
        train=50_000,
        test=10_000,
        archive="https://www.cs.toronto.edu/~kriz/cifar.html",
        holds="cifar-10-batches-py",
        reader="CIFAR10",
        copy=HubCopy(
            "uoft-cs/cifar10", "0b2714987fa478483af9968de7c934580d0bb9a2", "label", image="img"
        ),
    ),
    "cifar100": ClassificationSet(
        "CIFAR-100",
        classes=100,
        train=50_000,
        test=10_000,
        archive="https://www.cs.toronto.edu/~kriz/cifar.html",
        holds="cifar-100-python",
        reader="CIFAR100",
        copy=HubCopy(
            "uoft-cs/cifar100", "aadb3af77e9048adbea6b47c21a81e47dd092ae5", "fine_label", "img"
        ),
    ),
    "birdsnap": ClassificationSet(
        "Birdsnap",
        classes=500,
        train=0,
        test=0,
        archive="http://thomasberg.org",
        holds="",
        copy=HubCopy("isaacchung/birdsnap", "fd23015508be94f0b5b59d61630e4ea2536509e4", "common"),
        not_comparable="its images were published as links, many of which lead nowhere today; "
        "copies differ in their images and even in their classes",
    ),
    "sun397": ClassificationSet(
        "SUN397",
        classes=397,
        train=19_850,
        test=19_850,
        archive="https://vision.princeton.edu/projects/2010/SUN",
        holds="SUN397 with ClassName.txt and, from Partitions.zip, Training_01.txt and "
        "Testing_01.txt",
    ),
    "cars": ClassificationSet(
        "Stanford Cars",
        classes=196,
        train=8_144,
        test=8_041,
        archive="http://ai.stanford.edu/~jkrause/cars/car_dataset.html",
        holds="stanford_cars with cars_train, cars_test, devkit and cars_test_annos_withlabels.mat",
        reader="StanfordCars",
        copy=HubCopy(
            "isaacchung/StanfordCars", "09ffe9bc7864d3f1e851529e5c4b7e05601a04fb", "label"
        ),
    ),
    "aircraft": ClassificationSet(
        "FGVC-Aircraft",
        classes=100,
        train=6_667,
        test=3_333,
        archive="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft",
        holds="fgvc-aircraft-2013b with data",
        accuracy="mean_per_class",
        reader="FGVCAircraft",
        parts=("train", "val"),
    ),
    "dtd": ClassificationSet(
        "DTD, split 1",
        classes=47,
        train=3_760,
        test=1_880,
        archive="https://www.robots.ox.ac.uk/~vgg/data/dtd",
        holds="dtd/dtd with images and labels",
        reader="DTD",
        parts=("train", "val"),
        copy=HubCopy("tanganke/dtd", "d2afa97d9f335b1a6b3b09c637aef667f98f966e", "label"),
    ),
    "pets": ClassificationSet(
        "Oxford-IIIT Pets",
        classes=37,
        train=3_680,
        test=3_669,
        archive="https://www.robots.ox.ac.uk/~vgg/data/pets",
        holds="oxford-iiit-pet with images and annotations",
        accuracy="mean_per_class",
        reader="OxfordIIITPet",
        parts=("trainval",),
        copy=HubCopy("isaacchung/OxfordPets", "557b480fae8d69247be74d9503b378a09425096f", "label"),
    ),
    "caltech101": ClassificationSet(
        "Caltech-101",
        classes=102,
        train=3_060,
        test=6_084,
        archive="https://data.caltech.edu/records/20086",
        holds="caltech101/101_ObjectCategories with 102 folders",
        accuracy="mean_per_class",
    ),
    "flowers": ClassificationSet(
        "Oxford 102 Flowers",
        classes=102,
        train=2_040,
        test=6_149,
        archive="https://www.robots.ox.ac.uk/~vgg/data/flowers/102",
        holds="flowers-102 with jpg, imagelabels.mat and setid.mat",
        accuracy="mean_per_class",
        reader="Flowers102",
        parts=("train", "val"),
    ),
    "inaturalist2018": ClassificationSet(
        "iNaturalist 2018",
        classes=8_142,
        train=437_513,
        test=24_426,
        archive="https://github.com/visipedia/inat_comp/tree/master/2018",
        holds="train_val2018, train2018.json and val2018.json",
    ),
    "cub200": ClassificationSet(
        "CUB-200-2011",
        classes=200,
        train=5_994,
        test=5_794,
        archive="https://www.vision.caltech.edu/datasets/cub_200_2011",
        holds="CUB_200_2011 with images, images.txt, image_class_labels.txt and "
        "train_test_split.txt",
        copy=HubCopy(
            "bentrevett/caltech-ucsd-birds-200-2011",
            "c1492c7cfd03de0c6b57b19f1d89cefd446e41fb",
            "label",
        ),
    ),
}
"""By the name that an address begins with, as in ``food101:DIR`` or ``food101:hub``.

Caltech-101 has no official split: 30 images of each of its 102 folders are drawn to train on, as
Kornblith et al. draw them, "BACKGROUND_Google" included (3,060 and 6,084 images). Of Birdsnap no
count can be checked. The columns of the copies of Cars and Pets are unverified."""

TRANSFER_SETS = (
    "food101",
    "cifar10",
    "cifar100",
    "birdsnap",
    "sun397",
    "cars",
    "aircraft",
    "dtd",
    "pets",
    "caltech101",
    "flowers",
)
"""The eleven of ReLICv2 (arXiv:2201.05119, appendix D)."""
