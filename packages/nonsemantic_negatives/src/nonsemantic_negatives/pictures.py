"""Draw images beside their patch-based negatives and their texture twins.

``python -m nonsemantic_negatives.pictures --out negatives.png`` draws a row for each image: itself,
the view that a query is made of, negatives of that view with small, middle and large patches, and a
texture that is synthesised from two patches of the image. ``--photographs`` draws photographs that
scikit-image ships with (``pip install 'retable-nonsemantic_negatives[photographs]'``).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nonsemantic_negatives.patches import patch_negatives
from nonsemantic_negatives.textures import cut_exemplars, synthesize
from nonsemantic_negatives.textures.quilting import Quilting
from retable import views
from retable.data.decoding import decode
from retable.data.sources import open_source
from retable.domains import SEED, Parser, Pixels, Small, integer
from retable.errors import UserError
from retable.exit_status import run_guarded
from retable.outputs import check_output_file
from retable.plots import drawing
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
    drawing.require()
    figure = drawing.new_figure(1.4 * 6, 1.4 * len(images) + 0.4)
    space = {"wspace": 0.06, "hspace": 0.06}
    grid = figure.subplots(len(images), 6, squeeze=False, gridspec_kw=space)
    for row, image in enumerate(images):
        for axes, (title, picture) in zip(
            grid[row], _pictures(image, size, exemplar, derive_key(seed, row)), strict=True
        ):
            axes.imshow(picture.permute(1, 2, 0).numpy(), interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if row == 0:
                axes.set_title(title, fontsize=9)
    return figure


def images_of(data: str, count: int) -> list[Tensor]:
    """Return the first images of a data set's test split, each uint8 (3, H, W)."""
    source = open_source(data, "test")
    return [source.image(index) for index in range(min(count, len(source)))]


def photographs(count: int) -> list[Tensor]:
    """Return up to four photographs that scikit-image ships with, each uint8 (3, H, W).

    Raises:
        UserError: scikit-image is not installed.
    """
    try:
        folder = resources.files("skimage.data")
    except ImportError as error:
        raise UserError(
            "The photographs need scikit-image. Install retable-nonsemantic_negatives[photographs]."
        ) from error
    names = [f"{name}.png" for name in ("chelsea", "coffee", "astronaut")] + ["rocket.jpg"]
    return [decode((folder / name).read_bytes(), name) for name in names[:count]]


def _pictures(image: Tensor, size: int, exemplar: int, rng_key: int) -> list[tuple[str, Tensor]]:
    """Return titles and pictures, of values from 0 to 1 or uint8, (3, H, W)."""
    recipe = views.moco_v2(size)
    index = torch.tensor([0])
    made = make_view(image[None], index, recipe, rng_key)
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (recipe.mean, recipe.std))
    view = (made * std + mean).clamp(0, 1)
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
    return run_guarded(lambda: _main(arguments), lambda error: print(error, file=sys.stderr))


def _main(arguments: Sequence[str] | None) -> int:
    parser = Parser(prog="python -m nonsemantic_negatives.pictures", description=__doc__)
    add = parser.add_argument
    add("--out", metavar="FILE", type=Path, required=True, help="a .png, .svg or .pdf file")
    known = "shapes, imagefolder:DIR, hf:NAME or arrow:DIR; default: %(default)s"
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--data", default="shapes?test_count=64&size=224", help=known)
    shipped = "draw scikit-image's photographs instead, at most four"
    what.add_argument("--photographs", action="store_true", help=shipped)
    add("--images", type=integer(Small), default=4, help="default: %(default)s")
    side = integer(Pixels)
    add("--size", type=side, default=224, help="side of the views in pixels; default: %(default)s")
    patch = "side of a texture's patches in pixels of the image; default: %(default)s"
    add("--exemplar", type=side, default=96, help=patch)
    add("--seed", type=integer(SEED), default=0, help="default: %(default)s")
    options = vars(parser.parse_args(arguments))
    out = options.pop("out")
    drawing.kind_of(out)
    check_output_file(out, "--out")
    data, count = options.pop("data"), options.pop("images")
    images = photographs(count) if options.pop("photographs") else images_of(data, count)
    drawing.save(draw(images, **options), out)
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
