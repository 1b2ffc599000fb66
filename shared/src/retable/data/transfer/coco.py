"""COCO's objects, in the layout of its archives (Lin et al., arXiv 1405.0312)."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retable.data.source import TEST, TRAIN, checksum
from retable.data.transfer.objects import ObjectFiles, Objects
from retable.errors import UserError
from retable.extras import require
from retable.text import printable

FOLDERS = {TRAIN: "train2017", TEST: "val2017"}


class CocoObjects(ObjectFiles):
    """Images, boxes and masks of COCO. Boxes are checked when the set is opened.

    Masks are drawn from polygons or run lengths by faster-coco-eval when an image is read.

    Args:
        root: folder with annotations/instances_FOLDER.json and FOLDER.
        folder: of the images.
        masks: whether objects have masks.
        facts: entries of the description.
    """

    def __init__(self, root: Path, folder: str, masks: bool, facts: dict[str, str]) -> None:
        path = root / "annotations" / f"instances_{folder}.json"
        content = _content(path)
        try:
            categories = sorted(content["categories"], key=lambda one: one["id"])
            images = sorted(content["images"], key=lambda one: one["id"])
            classes = {one["id"]: place for place, one in enumerate(categories)}
            self._sizes = [(int(one["height"]), int(one["width"])) for one in images]
            names = [str(one["file_name"]) for one in images]
            places = {one["id"]: place for place, one in enumerate(images)}
            self._found = _by_image(content["annotations"], places, classes, self._sizes, path)
            class_names = [str(one["name"]) for one in categories]
        except (KeyError, TypeError, ValueError) as error:
            raise _broken(path, f"{type(error).__name__} {error}") from error
        self._with_masks, self._annotations = masks, path
        super().__init__(root / folder, names, torch.full((len(names),), -1), class_names, facts)
        boxes = (f"{place} {one['bbox']}" for place, many in self._found.items() for one in many)
        self.description["objects"] = checksum(boxes)

    def objects(self, index: int) -> Objects:
        """Return the objects of an image."""
        found = self._found.get(index, [])
        corners = torch.tensor([one["bbox"] for one in found], dtype=torch.float32).view(-1, 4)
        masks = None
        if self._with_masks:
            height, width = self._sizes[index]
            masks = torch.zeros(len(found), height, width, dtype=torch.bool)
            for mask, one in zip(masks, found, strict=True):
                mask.copy_(self._drawn(one, height, width))
        crowd = torch.tensor([bool(one.get("iscrowd", 0)) for one in found], dtype=torch.bool)
        return Objects(
            torch.cat([corners[:, :2], corners[:, :2] + corners[:, 2:]], dim=1),
            torch.tensor([one["label"] for one in found], dtype=torch.int64),
            masks,
            torch.zeros_like(crowd),
            crowd,
        )

    def size_of(self, index: int) -> tuple[int, int]:
        """Return height and width of an image, as the annotations state them."""
        return self._sizes[index]

    def has_objects(self) -> Tensor:
        """Return which images have an object that is no crowd, (n,) bool."""
        return torch.tensor(
            [
                any(not one.get("iscrowd", 0) for one in self._found.get(place, []))
                for place in range(len(self))
            ]
        )

    def _drawn(self, one: Mapping[str, Any], height: int, width: int) -> Tensor:
        from faster_coco_eval.core import mask

        codes: Any = mask
        shape = one["segmentation"]
        try:
            if isinstance(shape, list):
                shape = codes.merge(codes.frPyObjects(shape, height, width))
            elif isinstance(shape["counts"], list):
                shape = codes.frPyObjects(shape, height, width)
            return torch.from_numpy(np.ascontiguousarray(codes.decode(shape))).bool()
        except (KeyError, TypeError, ValueError, IndexError) as error:
            which = f"mask of annotation {one.get('id')}"
            raise _broken(self._annotations, f"{which}: {error}") from error


def open_coco(
    root: str, split: str, *, folder: str | None = None, masks: bool = True
) -> CocoObjects:
    """Open COCO's objects from a folder with annotations/, train2017/ and val2017/.

    ``folder`` replaces those of `FOLDERS`.

    Raises:
        UserError: a folder or file is missing or broken; it is named.
    """
    if folder is None and split not in FOLDERS:
        raise UserError(f"The data set 'coco' has no {split} split: use train or test.")
    if masks:
        require("faster_coco_eval", "detection", "Drawing COCO's masks")
    chosen = folder or FOLDERS[split]
    return CocoObjects(
        Path(root), chosen, masks, {"source": f"coco:{root}", "split": split, "folder": chosen}
    )


def _content(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(
            f"The file {printable(str(path))} must hold COCO's annotations, and the images lie "
            "beside its folder, as the archives of cocodataset.org unpack. Name the folder that "
            "holds annotations/."
        ) from None
    except (OSError, ValueError) as error:
        raise _broken(path, str(error)) from error
    if not isinstance(found, dict):
        raise _broken(path, "it is no object")
    return found


def _by_image(
    annotations: list[dict[str, Any]],
    places: Mapping[int, int],
    classes: Mapping[int, int],
    sizes: list[tuple[int, int]],
    path: Path,
) -> dict[int, list[dict[str, Any]]]:
    """Return the annotations of each image, with their classes as "label"."""
    found: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for one in annotations:
        which = f"annotation {one.get('id')}"
        if one["image_id"] not in places or one["category_id"] not in classes:
            raise _broken(path, f"{which} is of an unknown image or category")
        place = places[one["image_id"]]
        left, top, width, height = one["bbox"]
        rows, columns = sizes[place]
        # Boxes of the published files are rounded to hundredths.
        if (
            min(left, top, width, height) < 0
            or left + width > columns + 1
            or top + height > rows + 1
        ):
            raise _broken(path, f"the box of {which} lies outside its image")
        found[place].append(one | {"label": classes[one["category_id"]]})
    return dict(found)


def _broken(path: Path, fault: str) -> UserError:
    return UserError(
        f"The annotations {printable(str(path))} are broken ({printable(fault)}). Unpack the "
        "archive again."
    )
