"""Draw images, their masks and the views that ReLICv2 makes of them.

``python -m relicv2.pictures --out views.png`` draws a row for each image: itself, its mask laid
over it, an odd and an even large view, a large view with the background replaced, a small view.
``--handcrafted`` takes the mask that four handcrafted saliency maps agree on in place of the data
set's, and ``--photographs`` photographs that scikit-image ships with, which have no other.
"""

from __future__ import annotations

import importlib.util
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from relicv2.views import views
from retable.data.photographs import photographs
from retable.data.sources import open_source
from retable.domains import Pixels, integer
from retable.errors import UserError
from retable.plots.pictures import draw_rows, picture_parser, run_picture, without_normalisation
from retable.random import derive_key
from retable.views import ViewRecipe, make_view

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TITLES = ("image", "mask", "large, odd", "large, even", "large, masked", "small")
_BACKGROUND = (0.35, 0.0, 0.45)
"""Colour that an overlay gives to the background, and how much of it."""
_TINT = 0.75


def draw(
    images: Sequence[Tensor],
    masks: Sequence[Tensor],
    *,
    size: int = 224,
    small_size: int = 96,
    seed: int = 0,
) -> Figure:
    """Draw a row of pictures for each image.

    Args:
        images: each uint8 (3, H, W).
        masks: each (1, H, W), positive in the foreground.
        size: side of large views in pixels.
        small_size: side of small views in pixels.
        seed: of all draws.
    """
    rows = []
    for row, (image, mask) in enumerate(zip(images, masks, strict=True)):
        made = _views(image, mask, size, small_size, derive_key(seed, row))
        shown = [image, overlay(image, mask), *made]
        rows.append(list(zip(_TITLES, shown, strict=True)))
    return draw_rows(rows)


def overlay(image: Tensor, mask: Tensor) -> Tensor:
    """Return an image uint8 (3, H, W) with its background tinted, float32 in [0, 1]."""
    colour = torch.tensor(_BACKGROUND)[:, None, None]
    tinted = (1 - _TINT) * image / 255.0 + _TINT * colour
    return torch.where(mask > 0, image / 255.0, tinted)


def _views(image: Tensor, mask: Tensor, size: int, small: int, rng_key: int) -> list[Tensor]:
    odd, even, small_view = views(2, 1, size=size, small_size=small)
    masked = replace(even, mask="mask", mask_probability=1.0)
    return [
        _shown(image, mask, recipe, derive_key(rng_key, place))
        for place, recipe in enumerate((odd, even, masked, small_view))
    ]


def _shown(image: Tensor, mask: Tensor, recipe: ViewRecipe, rng_key: int) -> Tensor:
    """Return a view as a picture, before it is normalised."""
    index = torch.tensor([0])
    made = make_view(image[None], index, recipe, rng_key, masks=mask[None])[0]
    return without_normalisation(made, recipe)


def handcrafted(images: Sequence[Tensor]) -> list[Tensor]:
    """Return the masks of the handcrafted maps, uint8 (1, H, W); needs `relicv2[saliency]`.

    They are refined by a random field where there is one for images of this size.
    """
    from relicv2.masks.providers import Handcrafted
    from relicv2.saliency.dense_crf import LARGEST_EXACT
    from relicv2.saliency.handcrafted import require_libraries

    require_libraries()

    field = max(image[0].numel() for image in images) <= LARGEST_EXACT or (
        importlib.util.find_spec("pydensecrf") is not None
    )
    return list(Handcrafted(field=field).make(images, [""] * len(images), "cpu"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw a picture and print its path; return a status of `retable.exit_status`."""
    parser = picture_parser(
        "python -m relicv2.pictures",
        __doc__,
        data="shapes?test_count=64&size=224",
        images=4,
        size=224,
        photographs=True,
    )
    add = parser.add_argument
    add("--handcrafted", action="store_true", help="masks of four handcrafted saliency maps")
    small = "side of small views; default: %(default)s"
    add("--small-size", type=integer(Pixels), default=96, help=small)
    return run_picture(parser, _draw, arguments)


def _draw(options: Namespace) -> Figure:
    if options.photographs:
        images = photographs(options.images)
        masks = handcrafted(images)
    else:
        images, masks = _of_data(options.data, options.images, options.handcrafted)
    sizes = {"size": options.size, "small_size": options.small_size}
    return draw(images, masks, **sizes, seed=options.seed)


def _of_data(data: str, count: int, made: bool) -> tuple[list[Tensor], list[Tensor]]:
    source = open_source(data, "test")
    layers = () if made else ("mask",)
    if not made and "mask" not in source.layers:
        raise UserError(
            f"`--data` must have masks of its test images, got {data}. Name their folder, "
            "imagefolder:DIR?mask=MASKS, or add --handcrafted."
        )
    samples = [source.read_sample(index, layers) for index in range(min(count, len(source)))]
    images = [sample.image for sample in samples]
    return images, handcrafted(images) if made else [s.layers["mask"] for s in samples]


if __name__ == "__main__":
    sys.exit(main())
