"""The outlines of the shapes data set, 19 families of 4 members, and tables of their distances.

Every outline is upright: turned by 90 or 180 degrees, mirrored or not, it is another figure, so
that a rotation can be recognised in one image. No two are mirror images of each other, so that a
horizontal flip keeps the class. Coordinates inside a definition are free (x to the right, y up):
a table centres the figure on its bounding box and scales it to touch the unit circle (to within
3 %, the grid's resolution).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from retable.data.shapes.geometry import (
    Outline,
    box,
    common,
    cut,
    disc,
    polygon,
    regular,
    ring,
    stroke,
    union,
)

TABLE_SIDE = 160
"""Points along one side of a distance table."""

TABLE_EXTENT = 1.3
"""A table covers [-extent, extent] squared; figures fill the unit disc."""

_REACH = 0.19  # one pixel of the smallest figure in the smallest image: no line is wider

# The families. Where members differ by a count, the count is the member.


def _notched() -> dict[str, Outline]:
    notch = polygon((-0.45, -1.3), (0.45, -1.3), (0.0, -0.05))
    bodies = {
        "triangle": regular(3, 1.15, y0=-0.3),
        "square": box(-0.85, -0.85, 0.85, 0.85),
        "disc": disc(0, 0, 1),
        "diamond": polygon((0, 1.1), (1, 0), (0, -1.1), (-1, 0)),
    }
    return {name: cut(body, notch) for name, body in bodies.items()}


def _stars() -> dict[str, Outline]:
    tail = polygon((-0.28, 0.1), (0.28, 0.1), (0, -1.5))
    return {
        "5": regular(5, inner=0.4),
        "3": regular(3, inner=0.24),
        "4 with tail": union(regular(4, 0.85, inner=0.28, y0=0.3), tail),
        "7": regular(7, inner=0.62),
    }


def _flower(petals: int) -> Outline:
    ahead = {2: math.pi / 2, 4: math.pi / 4}.get(petals, 0.0)
    radius = {2: 0.42, 3: 0.4, 4: 0.36, 6: 0.24}[petals]
    angles = [ahead + 2 * math.pi * i / petals for i in range(petals)]
    blossom = [disc(0.55 * math.sin(a), 0.3 + 0.55 * math.cos(a), radius) for a in angles]
    return union(*blossom, disc(0, 0.3, 0.26), box(-0.11, -1.15, 0.11, 0.3))


def _comb(heights: Sequence[float]) -> Outline:
    step = 2 / (2 * len(heights) - 1)
    prongs = [
        box(-1 + 2 * i * step, -0.6, -1 + (2 * i + 1) * step, height)
        for i, height in enumerate(heights)
    ]
    return union(box(-1, -0.95, 1, -0.5), *prongs)


def _arrows() -> dict[str, Outline]:
    head = polygon((0, 1), (0.85, 0.1), (-0.85, 0.1))
    shaft = box(-0.24, -1, 0.24, 0.2)
    caret = polygon((0, 0.9), (1, -0.2), (1, -0.85), (0, 0.15), (-1, -0.85), (-1, -0.2))
    turn = union(box(-0.8, -1, -0.35, 0.55), box(-0.8, 0.1, 0.3, 0.55))
    return {
        "single": union(head, shaft),
        "caret": caret,
        "footed": union(head, shaft, box(-0.8, -1, 0.8, -0.65)),
        "turning": union(turn, polygon((0.2, 0.95), (0.9, 0.33), (0.2, -0.3))),
    }


def _mast(bars: Sequence[tuple[float, float]]) -> Outline:
    crossbars = [box(-half, y - 0.15, half, y + 0.15) for y, half in bars]
    return union(box(-0.18, -1, 0.18, 1), *crossbars)


def _masts() -> dict[str, Outline]:
    return {
        "T": union(box(-0.2, -1, 0.2, 0.9), box(-0.9, 0.5, 0.9, 0.9)),
        "1 bar": _mast([(0.35, 0.7)]),
        "2 bars": _mast([(0.6, 0.42), (0.1, 0.75)]),
        "3 bars": _mast([(0.55, 0.35), (0.0, 0.6), (-0.55, 0.85)]),
    }


def _stairs(steps: int) -> Outline:
    width, height = 2 / steps, 1.4 / steps
    return union(*[box(-1 + i * width, -0.7, 1, -0.7 + (i + 1) * height) for i in range(steps)])


def _letters() -> dict[str, Outline]:
    bowl = cut(disc(0.1, 0.42, 0.55), disc(0.1, 0.42, 0.2))
    return {
        "F": union(box(-0.65, -1, -0.25, 1), box(-0.65, 0.6, 0.75, 1), box(-0.65, -0.1, 0.5, 0.28)),
        "P": union(box(-0.6, -1, -0.22, 0.97), bowl),
        "A": union(
            stroke(0.36, (-0.75, -0.9), (0, 0.85), (0.75, -0.9)),
            stroke(0.3, (-0.45, -0.3), (0.45, -0.3)),
        ),
        "Y": union(
            stroke(0.4, (-0.75, 0.85), (0, 0.05), (0.75, 0.85)),
            stroke(0.4, (0, 0.05), (0, -0.9)),
        ),
    }


def _hooks() -> dict[str, Outline]:
    lower = common(ring(-0.1, -0.35, 0.65, 0.38), box(-1, -1.1, 1, -0.35))
    upper = common(ring(0, 0.45, 0.6, 0.36), box(-1, 0.45, 1, 1.2))
    return {
        "J": union(lower, box(0.17, -0.42, 0.55, 1)),
        "question mark": union(
            upper, stroke(0.36, (0.42, 0.45), (0.0, -0.15), (0, -0.4)), disc(0, -0.85, 0.23)
        ),
        "h": union(
            box(-0.6, -1, -0.22, 1),
            common(ring(0.05, -0.25, 0.65, 0.38), box(-1, -0.25, 1, 1)),
            box(0.32, -1, 0.7, -0.18),
        ),
        "k": union(
            stroke(0.36, (-0.5, -0.9), (-0.5, 0.9)),
            stroke(0.34, (0.3, 0.3), (-0.4, -0.2), (0.5, -0.9)),
        ),
    }


def _masks() -> dict[str, Outline]:
    face = disc(0, 0, 1)
    eyes = [disc(-0.4, 0.3, 0.24), disc(0.4, 0.3, 0.24)]
    return {
        "1 hole": cut(face, disc(0, 0.42, 0.36)),
        "2 holes": cut(face, *eyes),
        "3 holes": cut(face, *eyes, box(-0.5, -0.6, 0.5, -0.25)),
        "window": cut(box(-0.85, -0.85, 0.85, 0.85), box(-0.55, 0.05, 0.55, 0.55)),
    }


def _crown(points: int, *, balls: bool = False) -> Outline:
    corners: list[tuple[float, float]] = [(-1, -0.8), (1, -0.8)]
    tips = [1 - 2 * i / (points - 1) for i in range(points)]
    for i, tip in enumerate(tips):
        corners.append((tip, 0.7))
        if i + 1 < points:
            corners.append((tip - 1 / (points - 1), -0.3))
    body = polygon(*corners)
    return union(body, *[disc(tip, 0.7, 0.22) for tip in tips]) if balls else body


def _tree(tiers: int) -> Outline:
    height = 1.5 / tiers
    layers = []
    for i in range(tiers):
        bottom = -0.6 + i * height * 0.9
        half = 0.9 - 0.22 * i
        layers.append(polygon((-half, bottom), (half, bottom), (0, bottom + height * 1.2)))
    return union(*layers, box(-0.18, -1.1, 0.18, -0.5))


def _houses() -> dict[str, Outline]:
    walls = polygon((-0.75, -0.9), (0.75, -0.9), (0.75, 0.1), (0, 0.95), (-0.75, 0.1))
    door = box(-0.25, -1, 0.25, -0.15)
    tower = cut(
        box(-0.7, -1, 0.7, 0.9),
        box(-0.42, 0.5, -0.14, 1),
        box(0.14, 0.5, 0.42, 1),
        box(-0.25, -1.1, 0.25, -0.3),
    )
    return {
        "door": cut(walls, door),
        "chimney": union(walls, box(0.4, 0, 0.75, 1)),
        "tower": tower,
        "windows": cut(walls, box(-0.5, -0.5, -0.12, 0.05), box(0.12, -0.5, 0.5, 0.05)),
    }


def _leaves() -> dict[str, Outline]:
    heart = union(
        disc(-0.45, 0.4, 0.5),
        disc(0.45, 0.4, 0.5),
        polygon((-0.87, 0.13), (0, 0.5), (0.87, 0.13), (0, -1)),
    )
    spade = union(
        disc(-0.42, -0.25, 0.45),
        disc(0.42, -0.25, 0.45),
        polygon((-0.8, -0.02), (0, -0.3), (0.8, -0.02), (0, 1)),
        polygon((-0.4, -1), (0.4, -1), (0, -0.2)),
    )
    drop = union(disc(0, -0.35, 0.65), polygon((-0.58, -0.07), (0.58, -0.07), (0, 1)))
    bell = union(
        common(disc(0, 0.1, 0.7), box(-1, 0, 1, 1)),
        polygon((-0.7, 0.12), (0.7, 0.12), (1, -0.65), (-1, -0.65)),
        disc(0, -0.72, 0.25),
    )
    return {"heart": heart, "spade": spade, "drop": drop, "bell": bell}


def _things() -> dict[str, Outline]:
    fish = union(
        common(disc(0.25, -0.65, 1.1), disc(0.25, 0.65, 1.1)),
        polygon((-0.3, 0.0), (-1.1, 0.5), (-1.1, -0.5)),
        polygon((-0.2, 0.2), (0.7, 0.2), (-0.1, 0.95)),
    )
    boat = union(
        polygon((-1, -0.4), (1, -0.4), (0.6, -0.95), (-0.6, -0.95)),
        polygon((0.05, -0.2), (0.05, 1), (-0.8, -0.2)),
        box(-0.05, -0.5, 0.1, 1),
        polygon((0.05, -0.2), (0.05, 0.6), (0.65, -0.2)),
    )
    umbrella = union(
        common(disc(0, 0, 1), box(-1, 0, 1, 1)),
        box(-0.09, -0.75, 0.09, 0.1),
        common(ring(0.2, -0.7, 0.29, 0.18), box(-0.1, -1, 0.5, -0.7)),
    )
    car = union(
        box(-1, -0.4, 1, 0.05),
        polygon((-0.6, 0), (0.5, 0), (0.25, 0.55), (-0.4, 0.55)),
        disc(-0.55, -0.45, 0.28),
        disc(0.55, -0.45, 0.28),
    )
    return {"fish": fish, "boat": boat, "umbrella": umbrella, "car": car}


def _families() -> dict[str, dict[str, Outline]]:
    podium = union(box(-0.32, -0.7, 0.32, 0.8), box(-1, -0.7, 0, 0.25), box(0, -0.7, 1, -0.2))
    ziggurat = union(
        box(-1, -0.8, 1, -0.3), box(-0.65, -0.4, 0.65, 0.2), box(-0.28, 0.1, 0.28, 0.8)
    )
    vase = polygon(
        (-0.3, 0.9), (0.3, 0.9), (0.2, 0.5), (0.9, -0.2), (0.45, -0.9), (-0.45, -0.9),
        (-0.9, -0.2), (-0.2, 0.5),
    )  # fmt: skip
    tree_round = union(disc(0, 0.3, 0.72), box(-0.2, -1.1, 0.2, -0.2))
    return {
        "notched": _notched(),
        "star": _stars(),
        "flower": {str(n): _flower(n) for n in (4, 2, 3, 6)},
        "comb": {
            "3": _comb([1] * 3),
            "2": _comb([1] * 2),
            "slanted": _comb([1, 0.45, -0.1]),
            "4": _comb([1] * 4),
        },
        "arrow": _arrows(),
        "mast": _masts(),
        "stairs": {"3": _stairs(3), "2": _stairs(2), "ziggurat": ziggurat, "podium": podium},
        "letter": _letters(),
        "hook": _hooks(),
        "stack": {
            "2 discs": union(disc(0, -0.45, 0.6), disc(0, 0.45, 0.42)),
            "pyramid": union(disc(0, 0.5, 0.42), disc(-0.5, -0.4, 0.42), disc(0.5, -0.4, 0.42)),
            "pawn": union(
                disc(0, 0.5, 0.42), polygon((-0.15, 0.3), (0.15, 0.3), (0.6, -1), (-0.6, -1))
            ),
            "3 discs": union(disc(0, -0.65, 0.45), disc(0, 0.08, 0.34), disc(0, 0.66, 0.25)),
        },
        "sector": {
            "half": common(disc(0, 0, 1), box(-1, 0, 1, 1)),
            "crescent": cut(disc(0, 0, 1), disc(0, 0.5, 0.82)),
            "bitten": cut(disc(0, 0, 1), box(0.15, -0.4, 1.1, 1.1)),
            "slice": common(disc(0, -1, 1.9), polygon((0, -1), (1.2, 1), (-1.2, 1))),
        },
        "mask": _masks(),
        "crown": {
            "3": _crown(3),
            "2": _crown(2),
            "3 with balls": _crown(3, balls=True),
            "5": _crown(5),
        },
        "tree": {"2": _tree(2), "1": _tree(1), "round": tree_round, "3": _tree(3)},
        "house": _houses(),
        "tool": {
            "key": union(
                ring(0, 0.5, 0.5, 0.28),
                box(-0.13, -1.1, 0.13, 0.1),
                box(0, -1.1, 0.5, -0.85),
                box(0, -0.65, 0.42, -0.4),
            ),
            "hammer": union(
                box(-0.15, -1, 0.15, 0.6),
                box(-0.15, 0.35, 0.95, 0.85),
                polygon((-0.1, 0.85), (-0.1, 0.35), (-0.75, 0.6)),
            ),
            "lens": union(ring(0, 0.45, 0.6, 0.24), stroke(0.3, (0, -0.1), (0, -1.05))),
            "axe": union(
                box(-0.15, -1, 0.15, 0.95), polygon((0, 0.75), (0.75, 1), (0.75, -0.1), (0, 0.25))
            ),
        },
        "vessel": {
            "cup": union(
                polygon((-0.95, 0.8), (0.45, 0.8), (0.2, -0.85), (-0.65, -0.85)),
                cut(ring(0.4, 0.25, 0.5, 0.24), box(-0.9, -1, 0.3, 1)),
            ),
            "glass": union(
                common(disc(0, 0.75, 0.75), box(-1, -0.1, 1, 0.75)),
                box(-0.1, -0.9, 0.1, 0.1),
                box(-0.5, -1.05, 0.5, -0.82),
            ),
            "bottle": union(
                box(-0.45, -1, 0.45, 0.1),
                polygon((-0.45, 0.05), (0.45, 0.05), (0.16, 0.45), (-0.16, 0.45)),
                box(-0.16, 0.4, 0.16, 1),
            ),
            "vase": vase,
        },
        "leaf": _leaves(),
        "thing": _things(),
    }


@lru_cache(maxsize=1)
def catalogue() -> dict[str, Outline]:
    """Return all outlines by name, in class order: the first member of each family, the second, ...

    Any number of first classes therefore spreads over as many families as there are.
    """
    families = {family: list(members.items()) for family, members in _families().items()}
    return {
        f"{family} {members[i][0]}": members[i][1]
        for i in range(4)
        for family, members in families.items()
    }


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
