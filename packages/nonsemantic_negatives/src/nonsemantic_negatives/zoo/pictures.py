"""Picture of the zoo: texture against clean accuracy, and one network's accuracies by class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from nonsemantic_negatives.zoo.textures_alone import FEW, MANY, TextureAccuracy
from retable.plots.drawing import (
    CYCLE,
    GREY,
    INK,
    add_legend,
    colour_of,
    new_figure,
    style_axes,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from nonsemantic_negatives.zoo.checkpoints import Checkpoint

_BINS = 40
"""Bins of 2.5 %, so that the first holds the classes that are hardly recognised."""


def draw(found: Mapping[Checkpoint, TextureAccuracy], shown: Checkpoint) -> Figure:
    """Draw all networks, coloured by family, and the classes of the ``shown`` one."""
    figure = new_figure(10.0, 4.2)
    points, classes = figure.subplots(1, 2)
    families = list(dict.fromkeys(one.family for one in found))
    markers = ("o", "s", "^", "D")
    for place, family in enumerate(families):
        members = [one for one in found if one.family == family]
        points.plot(
            [found[one].images for one in members],
            [found[one].textures for one in members],
            markers[place // len(CYCLE) % len(markers)],
            color=colour_of(place),
            label=family,
            markersize=5,
        )
    for one, accuracy in found.items():
        where = (accuracy.images, accuracy.textures)
        size = one.model.replace(one.family, "").strip("_")
        points.annotate(
            size, where, xytext=(4, 3), textcoords="offset points", fontsize=6, color=GREY
        )
    style_axes(points, title="Networks", x="accuracy on images, %", y="accuracy on textures, %")
    handles, _ = points.get_legend_handles_labels()
    add_legend(figure, handles, "outside lower center")
    accuracy = found[shown]
    classes.hist(accuracy.by_class, bins=_BINS, range=(0, 100), color=CYCLE[0])
    for bound in (FEW, MANY):
        classes.axvline(bound, color=INK, linewidth=0.8, linestyle=":")
    title = f"{shown.model}: {accuracy.hardly} classes below {FEW} %"
    title += f", {accuracy.mostly} above {MANY:.0f} %"
    style_axes(classes, title=title, x="accuracy on a class's textures, %", y="classes", grid="y")
    return figure
