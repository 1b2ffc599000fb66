"""Plane figures as signed-distance functions, and their unions and cuts.

A figure maps coordinates x (to the right) and y (up) to a distance: negative inside, zero on the
edge. The edge is exact; away from it the distance to a union or cut is a lower bound, as is usual.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Outline = Callable[[Tensor, Tensor], Tensor]
"""Maps coordinates x, y (equal shapes) to the signed distance, negative inside."""


def disc(x0: float, y0: float, radius: float) -> Outline:
    """Return the disc around (x0, y0)."""
    return lambda x, y: torch.hypot(x - x0, y - y0) - radius


def segment_distance(x: Tensor, y: Tensor, start: Sequence[float], end: Sequence[float]) -> Tensor:
    """Return the distance of the points to the segment from ``start`` to ``end``."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    along = ((x - start[0]) * dx + (y - start[1]) * dy) / (dx * dx + dy * dy)
    along = along.clamp(0, 1)
    return torch.hypot(x - start[0] - along * dx, y - start[1] - along * dy)


def stroke(width: float, *points: tuple[float, float]) -> Outline:
    """Return the line through ``points`` with round ends, ``width`` thick."""

    def outline(x: Tensor, y: Tensor) -> Tensor:
        pieces = [segment_distance(x, y, points[i], points[i + 1]) for i in range(len(points) - 1)]
        return torch.stack(pieces).amin(0) - width / 2

    return outline


def polygon(*points: tuple[float, float]) -> Outline:
    """Return the filled polygon with these corners (even-odd rule)."""

    def outline(x: Tensor, y: Tensor) -> Tensor:
        distance = torch.full_like(x, math.inf)
        inside = torch.zeros_like(x, dtype=torch.bool)
        for (x0, y0), (x1, y1) in zip(points, (*points[1:], points[0]), strict=True):
            distance = torch.minimum(distance, segment_distance(x, y, (x0, y0), (x1, y1)))
            if y0 != y1:
                crosses = (y0 > y) != (y1 > y)
                inside ^= crosses & (x < x0 + (y - y0) / (y1 - y0) * (x1 - x0))
        return torch.where(inside, -distance, distance)

    return outline


def box(left: float, bottom: float, right: float, top: float) -> Outline:
    """Return the axis-parallel rectangle."""
    return polygon((left, bottom), (right, bottom), (right, top), (left, top))


def regular(
    corners: int, radius: float = 1.0, *, inner: float | None = None, x0: float = 0, y0: float = 0
) -> Outline:
    """Return a regular polygon with a corner on top; with ``inner`` a star of that inner radius."""
    radii = [radius] if inner is None else [radius, inner]
    count = corners * len(radii)
    points = []
    for i in range(count):
        angle = 2 * math.pi * i / count
        r = radii[i % len(radii)]
        points.append((x0 + r * math.sin(angle), y0 + r * math.cos(angle)))
    return polygon(*points)


def union(*outlines: Outline) -> Outline:
    """Return what lies in any of the outlines."""
    return lambda x, y: torch.stack([outline(x, y) for outline in outlines]).amin(0)


def cut(body: Outline, *holes: Outline) -> Outline:
    """Return ``body`` without the holes."""
    return lambda x, y: torch.maximum(body(x, y), -union(*holes)(x, y))


def common(*outlines: Outline) -> Outline:
    """Return what lies in all of the outlines."""
    return lambda x, y: torch.stack([outline(x, y) for outline in outlines]).amax(0)


def ring(x0: float, y0: float, radius: float, width: float) -> Outline:
    """Return the ring of outer ``radius`` that is ``width`` thick."""
    return cut(disc(x0, y0, radius), disc(x0, y0, radius - width))
