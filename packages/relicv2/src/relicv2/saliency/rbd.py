"""Robust background detection: Zhu, Liang, Wei and Sun, CVPR 2014.

A superpixel is background if the region of similar colour around it touches the border along a
large part of its outline (boundary connectivity). Contrast with the background gives a first map,
and an optimisation smooths it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

from relicv2.saliency.superpixels import (
    Bools,
    Floats,
    as_array,
    at_border,
    clique,
    distances,
    minmax,
    neighbours,
    segment,
    two_ring,
)

PIXELS = 600
"""Pixels of a superpixel in the authors' code, for images of about 400 x 300."""

LEAST = 200
"""Superpixels of a smaller image, which their rule would divide into a handful."""

BAND = 8
"""Pixels from the border in which a superpixel is on it; a 28th of the side of small images."""

SPATIAL = 0.4
"""Standard deviation of the contrast's spatial weight, in sides of the image."""

FREE = 1e-6
"""Cost of a step between alike neighbours: SciPy takes 0, and all up to 1e-8, for no edge."""

CERTAIN, CERTAINLY = 3.0, 1000.0
"""Boundary connectivity above which a superpixel is background, and the weight of that."""


def rbd(image: Tensor) -> Floats:
    """Return the saliency (H, W) in [0, 1] of an image uint8 (3, H, W)."""
    pixels = as_array(image)
    height, width = pixels.shape[:2]
    parts = segment(pixels, max(LEAST, round(height * width / PIXELS)))
    if len(parts) == 1:
        return parts.paint(np.zeros(1))
    band = min(BAND, max(1, min(height, width) // 28))
    adjacent, border = neighbours(parts.labels, diagonal=False), at_border(parts.labels, band)
    colours = distances(parts.lab)
    scales = _scales(colours, adjacent)
    background = background_probability(colours, adjacent, border, scales)
    contrast = colours * gaussian(distances(parts.centers), SPATIAL)
    foreground = _above_otsu(minmax(contrast @ background.probability))
    saliency = optimised(colours, adjacent, border, background.weight, foreground, scales)
    return parts.paint(minmax(saliency))


class _Scales(NamedTuple):
    """Scales of colour differences that follow from an image's own.

    Attributes:
        noise: differences up to it cost nothing on a path.
        geodesic: deviation of the weights of geodesic distances.
        neighbour: deviation of the weights of neighbours in the optimisation.
    """

    noise: float
    geodesic: float
    neighbour: float


def _scales(colours: Floats, adjacent: Bools) -> _Scales:
    nearest = _mean_of_smallest(colours, adjacent)
    edges = np.sort(colours[np.triu(adjacent)])
    top = float(edges[-max(1, len(edges) // 100) :].mean())
    return _Scales(
        _mean_of_smallest(colours, two_ring(adjacent)),
        max(5.0, min(10.0, 3 * nearest, top / 10)),
        max(1e-6, min(3 * nearest, 0.2 * top, 20.0)),
    )


def _mean_of_smallest(colours: Floats, adjacent: Bools) -> float:
    """Return the mean over superpixels of the difference to the most similar neighbour."""
    smallest = np.where(adjacent, colours, np.inf).min(axis=1)
    return float(smallest[np.isfinite(smallest)].mean())


class Background(NamedTuple):
    """How much of background each superpixel is, (n,) each.

    Attributes:
        connectivity: its region's length along the border over the root of its area.
        probability: in [0, 1].
        weight: the probability, or a large number where there is no doubt.
    """

    connectivity: Floats
    probability: Floats
    weight: Floats


def background_probability(
    colours: Floats, adjacent: Bools, border: Bools, scales: _Scales
) -> Background:
    """Return how far each superpixel belongs to the background.

    Superpixels on the border are one step from each other, so that a background that an object cuts
    in two is one.
    """
    from scipy.sparse.csgraph import shortest_path

    edges = clique(adjacent, border)
    costs = np.where(edges, np.maximum(0.0, colours - scales.noise) + FREE, 0.0)
    near = gaussian(shortest_path(costs, directed=False), scales.geodesic)
    np.fill_diagonal(near, 1.0)
    connectivity = near[:, border].sum(axis=1) / np.sqrt(near.sum(axis=1))
    probability = 1 - np.exp(-np.square(connectivity) / 2)
    weight = np.where(connectivity > CERTAIN, CERTAINLY, probability)
    return Background(connectivity, probability, weight)


def optimised(
    colours: Floats,
    adjacent: Bools,
    border: Bools,
    background: Floats,
    foreground: Floats,
    scales: _Scales,
) -> Floats:
    """Return the values (n,) in [0, 1] that fit both weights (n,) and follow the colours.

    They minimise 5 sum b s^2 + sum f (s - 1)^2 + sum w_ij (s_i - s_j)^2.
    """
    edges = clique(two_ring(adjacent), border)
    smooth = np.where(edges, gaussian(colours, scales.neighbour), 0.0) + 0.1 * adjacent
    laplacian = np.diag(smooth.sum(axis=1)) - smooth
    return np.linalg.solve(laplacian + np.diag(5 * background + foreground), foreground)


def gaussian(distance: Floats, deviation: float) -> Floats:
    """Return exp(-d^2 / (2 s^2)), 0 beyond three deviations."""
    weight = np.exp(-np.square(distance) / (2 * deviation**2))
    return np.where(distance > 3 * deviation, 0.0, weight)


def _above_otsu(values: Floats) -> Floats:
    """Set values below Otsu's threshold to 0."""
    from skimage.filters import threshold_otsu

    if values.max() == values.min():
        return values
    threshold: float = threshold_otsu(values)  # type: ignore[no-untyped-call]
    return np.where(values < threshold, 0.0, values)
