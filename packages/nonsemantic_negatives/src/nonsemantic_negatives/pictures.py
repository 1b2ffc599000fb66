"""Draw images beside their patch-based negatives and their texture twins.

``python -m nonsemantic_negatives.pictures --out negatives.png`` draws a row for each image: itself,
the view that a query is made of, negatives of that view with small, middle and large patches, and a
texture that is synthesised from two patches of the image. ``--photographs`` draws photographs that
scikit-image ships with (``pip install 'retable-nonsemantic_negatives[photographs]'``).
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nonsemantic_negatives.patches import patch_negatives
from nonsemantic_negatives.textures import cut_exemplars, synthesize
from nonsemantic_negatives.textures.quilting import Quilting
from retable import views
from retable.data.photographs import photographs
from retable.data.sources import open_source
from retable.domains import Pixels, integer
from retable.plots.pictures import draw_rows, picture_parser, run_picture, without_normalisation
from retable.random import derive_key
from retable.views import make_view

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LARGEST = 72 / 224
"""Largest patch of the paper as a share of the view, and its smallest."""
_SMALLEST = 16 / 224


def draw(images: Sequence[Tensor], *, size: int = 224, exemplar: int = 96, seed: int = 0) -> Figure:
    """Draw a row of pictures for each image.

    Args:
        images: each uint8 (3, H, W).
        size: side of views, negatives and textures in pixels.
        exemplar: side of a texture's two patches in pixels of the image.
        seed: of all draws.
    """
    return draw_rows(
        [_row(image, size, exemplar, derive_key(seed, place)) for place, image in enumerate(images)]
    )


def images_of(data: str, count: int) -> list[Tensor]:
    """Return the first images of a data set's test split, each uint8 (3, H, W)."""
    source = open_source(data, "test")
    return [source.image(index) for index in range(min(count, len(source)))]


def _row(image: Tensor, size: int, exemplar: int, rng_key: int) -> list[tuple[str, Tensor]]:
    """Return titles and pictures, of values from 0 to 1 or uint8, (3, H, W)."""
    recipe = views.moco_v2(size)
    index = torch.tensor([0])
    made = make_view(image[None], index, recipe, rng_key)
    view = without_normalisation(made, recipe)
    low, high = max(1, round(_SMALLEST * size)), round(_LARGEST * size)
    middle = (low + high) // 2
    negatives = [
        (f"{side} px", patch_negatives(view, rng_key, low=side, high=side)[0])
        for side in (low, middle, high)
    ]
    block = max(2, exemplar * 3 // 8)
    exemplars = cut_exemplars(image, rng_key, side=exemplar)
    twin = synthesize(exemplars[None], size, rng_key, backend=Quilting(block, max(1, block // 4)))
    return [("image", image), ("query's view", view[0]), *negatives, ("texture", twin[0])]


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw a picture and print its path; return a status of `retable.exit_status`."""
    parser = picture_parser(
        "python -m nonsemantic_negatives.pictures",
        __doc__,
        data="shapes?test_count=64&size=224",
        images=4,
        size=224,
        photographs=True,
    )
    patch = "side of a texture's patches in pixels of the image; default: %(default)s"
    parser.add_argument("--exemplar", type=integer(Pixels), default=96, help=patch)
    return run_picture(parser, _draw, arguments)


def _draw(options: Namespace) -> Figure:
    count = options.images
    images = photographs(count) if options.photographs else images_of(options.data, count)
    return draw(images, size=options.size, exemplar=options.exemplar, seed=options.seed)


if __name__ == "__main__":
    sys.exit(main())
