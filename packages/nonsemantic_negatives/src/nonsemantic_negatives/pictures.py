"""Draw images beside their patch-based negatives and their texture twins.

``python -m nonsemantic_negatives.pictures --out negatives.png`` draws a row for each image: itself,
the view that a query is made of, negatives of that view with small, middle and large patches, and a
texture that is synthesised from two patches of the image.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nonsemantic_negatives.patches import patch_negatives
from nonsemantic_negatives.textures import cut_exemplars, synthesize
from nonsemantic_negatives.textures.quilting import Quilting
from retable import views
from retable.data.sources import open_source
from retable.domains import SEED, Parser, Pixels, Small, integer
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


def draw(
    data: str, *, images: int = 4, size: int = 224, exemplar: int = 96, seed: int = 0
) -> Figure:
    """Draw the first images of a data set's test split.

    Views and textures have ``size`` pixels; ``exemplar`` is the side of a texture's two patches in
    pixels of the image.
    """
    drawing.require()
    source = open_source(data, "test")
    count = min(images, len(source))
    figure = drawing.new_figure(1.4 * 6, 1.4 * count + 0.4)
    grid = figure.subplots(count, 6, squeeze=False, gridspec_kw={"wspace": 0.06, "hspace": 0.06})
    for row in range(count):
        image = source.image(row)
        for axes, (title, picture) in zip(
            grid[row], _pictures(image, size, exemplar, derive_key(seed, row)), strict=True
        ):
            axes.imshow(picture.permute(1, 2, 0).numpy(), interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if row == 0:
                axes.set_title(title, fontsize=9)
    return figure


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
    add("--data", default="shapes?test_count=64&size=224", help=known)
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
    drawing.save(draw(**options), out)
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
