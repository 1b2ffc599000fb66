"""The outlines of the shapes data set as tables of signed distances, ready to be read at any pose.

Each figure is centred on its bounding box and scaled to touch the unit circle (to within 3 %, the
grid's resolution).
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from retable.data.shapes.geometry import Outline
from retable.data.shapes.outlines import catalogue

TABLE_SIDE = 160
"""Points along one side of a distance table."""

TABLE_EXTENT = 1.3
"""A table covers [-extent, extent] squared; figures fill the unit disc."""


def _normalised(outline: Outline, grid: Tensor) -> Tensor:
    """Tabulate ``outline`` centred on its bounding box and scaled to touch the unit circle."""
    y, x = torch.meshgrid(grid.flip(0) * 1.5, grid * 1.5, indexing="ij")
    inside = outline(x, y) <= 0
    columns, rows = x[inside], y[inside]
    centre_x, centre_y = (columns.min() + columns.max()) / 2, (rows.min() + rows.max()) / 2
    radius = torch.hypot(columns - centre_x, rows - centre_y).max()
    y, x = torch.meshgrid(grid.flip(0), grid, indexing="ij")
    return outline(x * radius + centre_x, y * radius + centre_y) / radius


@lru_cache(maxsize=1)
def distance_tables() -> Tensor:
    """Return the signed distances of all outlines, float32 (outlines, side, side).

    Row 0 is the top. Distances are in units of the figure's circumradius, negative inside. Built
    in float64 and rounded, so that the last bit of a library's square root does not show.
    """
    grid = torch.linspace(-TABLE_EXTENT, TABLE_EXTENT, TABLE_SIDE, dtype=torch.float64)
    return torch.stack([_normalised(outline, grid) for outline in catalogue().values()]).float()


_REACH = 0.19  # one pixel of the smallest figure in the smallest image: no line is wider


def _crossings(table: Tensor) -> Tensor:
    """Return where the outline crosses the grid's lines, (points, 2) as (row, column) in cells."""
    inside = table <= 0
    points = []
    for axis in (0, 1):
        length = TABLE_SIDE - 1
        near, far = table.narrow(axis, 0, length), table.narrow(axis, 1, length)
        changes = inside.narrow(axis, 0, length) != inside.narrow(axis, 1, length)
        position = changes.nonzero().double()
        position[:, axis] += (near / (near - far))[changes]
        points.append(position)
    return torch.cat(points)


@lru_cache(maxsize=1)
def edge_distance_tables() -> Tensor:
    """Return distances to the nearest edge, float32 (outlines, side, side), capped at 0.19.

    Unlike the size of the signed distances they do not vanish where two parts of a figure meet
    inside it. In units of the circumradius, without sign.
    """
    cell = 2 * TABLE_EXTENT / (TABLE_SIDE - 1)
    out = []
    for table in distance_tables().double():
        edges = torch.full_like(table, _REACH)
        close = table.abs() < _REACH  # a lower bound of the distance, hence none is missed
        nearest = torch.cdist(close.nonzero().double(), _crossings(table)).amin(1) * cell
        edges[close] = nearest.clamp(max=_REACH)
        out.append(edges)
    return torch.stack(out).float()
