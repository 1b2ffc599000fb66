"""Commands that draw rows of images: ``python -m PACKAGE.pictures --out FILE``."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from retable.domains import SEED, Parser, Pixels, Small, integer
from retable.exit_status import run_guarded
from retable.outputs import check_output_file
from retable.plots import drawing
from retable.views import ViewRecipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INCHES = 1.4


def draw_rows(rows: Sequence[Sequence[tuple[str, Tensor]]]) -> Figure:
    """Draw pictures in rows of equal length, with the titles of the first row above.

    Args:
        rows: titles and pictures (3, H, W), uint8 or of values from 0 to 1.
    """
    columns = len(rows[0])
    figure = drawing.new_figure(_INCHES * columns, _INCHES * len(rows) + 0.4)
    space = {"wspace": 0.06, "hspace": 0.06}
    grid = figure.subplots(len(rows), columns, squeeze=False, gridspec_kw=space)
    for line, row in zip(grid, rows, strict=True):
        for axes, (title, picture) in zip(line, row, strict=True):
            axes.imshow(picture.permute(1, 2, 0).numpy(), interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if row is rows[0]:
                axes.set_title(title, fontsize=9)
    return figure


def without_normalisation(views: Tensor, recipe: ViewRecipe) -> Tensor:
    """Return views (..., 3, S, S) as pictures of values from 0 to 1."""
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (recipe.mean, recipe.std))
    return (views * std + mean).clamp(0, 1)


def picture_parser(
    program: str,
    about: str | None,
    *,
    data: str,
    images: int,
    size: int,
    photographs: bool = False,
) -> Parser:
    """Return the parser of a command, to which its own options are added.

    Args:
        program: how the command is called, such as "python -m relicv2.pictures".
        about: its description.
        data: default of ``--data``.
        images: default of ``--images``.
        size: default of ``--size``, in pixels.
        photographs: whether ``--photographs`` may stand for ``--data``, see
            `retable.data.photographs`.
    """
    parser = Parser(prog=program, description=about)
    add = parser.add_argument
    add("--out", metavar="FILE", type=Path, required=True, help="a .png, .svg or .pdf file")
    known = "shapes, imagefolder:DIR, hf:NAME or arrow:DIR; default: %(default)s"
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--data", default=data, help=known)
    if photographs:
        shipped = "draw scikit-image's photographs instead, at most four"
        what.add_argument("--photographs", action="store_true", help=shipped)
    add("--images", type=integer(Small), default=images, help="default: %(default)s")
    side = "side of the views in pixels; default: %(default)s"
    add("--size", type=integer(Pixels), default=size, help=side)
    add("--seed", type=integer(SEED), default=0, help="default: %(default)s")
    return parser


def run_picture(
    parser: Parser, draw: Callable[[Namespace], Figure], arguments: Sequence[str] | None = None
) -> int:
    """Draw a picture, write it, print its path, and return a status of `retable.exit_status`.

    Args:
        parser: the command's, see `picture_parser`.
        draw: options -> picture.
        arguments: words of the command line; this process's if None.
    """

    def run() -> int:
        options = parser.parse_args(arguments)
        drawing.kind_of(options.out)
        check_output_file(options.out, "--out")
        drawing.require()
        drawing.save(draw(options), options.out)
        print(options.out)
        return 0

    return run_guarded(run)
