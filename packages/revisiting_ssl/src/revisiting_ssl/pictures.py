"""Draw the images that each pretext task shows to the encoder.

``python -m revisiting_ssl.pictures --task jigsaw --out jigsaw.png`` makes one step of the method on
a few images, with an encoder that records its inputs, and draws these inputs.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from retable.plots import drawing
from retable.plots.pictures import picture_parser, run_picture
from revisiting_ssl.jigsaw import Jigsaw
from revisiting_ssl.recording import TASKS, RecordedStep, record_step
from revisiting_ssl.relative_patch_location import RelativePatchLocation, location_pairs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ARROWS = "↖↑↗←→↙↓↘"
_SHUFFLED = 4


def draw(task: str, data: str, *, images: int = 3, size: int = 96, seed: int = 0) -> Figure:
    """Draw the first step of a task: one row for each image, the original on the left."""
    drawing.require()
    step = record_step(task, data, images=images, size=size, seed=seed)
    return _DRAWN[task](step)


def _rotation(step: RecordedStep) -> Figure:
    figure, lines = _table(step, [1.0] * 4, 1.3)
    for line, turned in zip(lines, step.inputs, strict=True):
        for axes, image in zip(line, turned, strict=True):
            _show(axes, 0.5 + image / 2)
    for label, axes in enumerate(lines[0]):
        _head(axes, f"{90 * label}°", f"class {label}")
    return figure


def _exemplar(step: RecordedStep) -> Figure:
    figure, lines = _table(step, [1.0] * step.inputs.shape[1], 0.8)
    for line, views in zip(lines, step.inputs, strict=True):
        for axes, image in zip(line, views, strict=True):
            _show(axes, _from_standardised(image))
    for number, axes in enumerate(lines[0], start=1):
        _head(axes, f"view {number}")
    return figure


def _jigsaw(step: RecordedStep) -> Figure:
    method = step.method
    assert isinstance(method, Jigsaw)
    side, drawn = method.patches.grid, method.draw(step.batch).tolist()
    figure, lines = _table(step, [1.0] * (1 + _SHUFFLED), 1.3)
    for line, patches, classes in zip(lines, step.inputs, drawn, strict=False):
        identity = list(range(len(patches)))
        _show_patches(line[0], patches, identity, side)
        for axes, number in zip(line[1:], classes, strict=False):
            _show_patches(axes, patches, method.permutations[number].tolist(), side)
            axes.set_xlabel(f"class {number}", fontsize=8, labelpad=2)
    _head(lines[0][0], "patches")
    _head_of_all(lines[0][1], "four of the 16 orders in which they are joined")
    return figure


def _relative_patch_location(step: RecordedStep) -> Figure:
    method = step.method
    assert isinstance(method, RelativePatchLocation)
    side = method.patches.grid
    pairs = location_pairs(side)
    figure, lines = _table(step, [1.0] + [0.5] * len(pairs), 1.25)
    for line, patches in zip(lines, step.inputs, strict=True):
        _show_patches(line[0], patches, list(range(len(patches))), side)
        for axes, pair in zip(line[1:], pairs, strict=True):
            _show_patches(axes, patches, list(pair), 1)
        line[1].set_ylabel("centre      patch", fontsize=8)
    _head(lines[0][0], "patches")
    for label, axes in enumerate(lines[0][1:]):
        _head(axes, _ARROWS[label], f"class {label}")
    return figure


_DRAWN: dict[str, Callable[[RecordedStep], Figure]] = {
    "rotation": _rotation,
    "exemplar": _exemplar,
    "jigsaw": _jigsaw,
    "relative_patch_location": _relative_patch_location,
}


def _table(
    step: RecordedStep, widths: Sequence[float], inches: float
) -> tuple[Figure, list[list[Axes]]]:
    """Return a figure with a row for each image, its original drawn, and the rows' other axes."""
    rows = len(step.originals)
    figure = drawing.new_figure(inches * (1 + sum(widths)), inches * rows + 0.45)
    grid = figure.subplots(
        rows,
        1 + len(widths),
        squeeze=False,
        width_ratios=[1.0, *widths],
        gridspec_kw={"wspace": 0.1},
    )
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for axes, image in zip(grid[:, 0], step.originals, strict=True):
        _show(axes, image / 255)
    _head(grid[0, 0], "image")
    return figure, [list(line[1:]) for line in grid]


def _head(axes: Axes, title: str, below: str = "") -> None:
    axes.set_title(f"{title}\n{below}" if below else title, fontsize=9)


def _head_of_all(axes: Axes, title: str) -> None:
    """Write above the axes and those to their right."""
    heading = axes.annotate(
        title, (0, 1), (0, 6), xycoords="axes fraction", textcoords="offset points", fontsize=9
    )
    heading.set_in_layout(False)


def _show(axes: Axes, image: Tensor) -> None:
    """Show an image (3, H, W) of values in [0, 1]."""
    axes.imshow(image.clamp(0, 1).permute(1, 2, 0).numpy(), interpolation="nearest")


def _from_standardised(image: Tensor) -> Tensor:
    """Show the mean as grey, and deviations of -2.5 and 2.5 as black and white."""
    return 0.5 + image / 5


def _show_patches(axes: Axes, patches: Tensor, order: list[int], columns: int) -> None:
    """Show patches (n, 3, P, P) in an order, row by row, each with its number."""
    gap = max(2, patches.shape[-1] // 8)
    step = patches.shape[-1] + gap
    rows = -(-len(order) // columns)
    canvas = torch.ones(3, rows * step - gap, columns * step - gap)
    for place, patch in enumerate(order):
        top, left = place // columns * step, place % columns * step
        canvas[:, top : top + step - gap, left : left + step - gap] = _from_standardised(
            patches[patch]
        )
        axes.text(
            left + 1,
            top + 1,
            str(patch),
            va="top",
            fontsize=6,
            color="white",
            bbox={"facecolor": "black", "pad": 0.8, "linewidth": 0},
        )
    _show(axes, canvas)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw a picture and print its path; return a status of `retable.exit_status`."""
    parser = picture_parser(
        "python -m revisiting_ssl.pictures",
        __doc__,
        data="shapes?count=64&size=96",
        images=3,
        size=96,
    )
    parser.add_argument("--task", choices=TASKS, required=True)
    return run_picture(parser, _draw, arguments)


def _draw(options: Namespace) -> Figure:
    few = {"images": options.images, "size": options.size, "seed": options.seed}
    return draw(options.task, options.data, **few)


if __name__ == "__main__":
    sys.exit(main())
