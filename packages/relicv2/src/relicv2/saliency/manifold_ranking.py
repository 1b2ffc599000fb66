"""Graph-based manifold ranking: Yang, Zhang, Lu, Ruan and Yang, CVPR 2013.

Superpixels are ranked by their similarity to the superpixels of one side of the image along the
graph of neighbours; what is unlike all four sides is salient. A second ranking starts from what is.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from relicv2.saliency.superpixels import (
    Bools,
    Floats,
    Labels,
    as_array,
    at_border,
    clique,
    distances,
    minmax,
    neighbours,
    segment,
    two_ring,
)

COUNT = 200
"""Superpixels (section 4.1 there)."""

SHARPNESS = 10.0
"""1 / sigma^2 of the weights exp(-d / sigma^2), with distances of colours stretched to [0, 1]."""

ALPHA = 0.99
"""Balance of smoothness and fit (equation 3 there)."""


def manifold_ranking(image: Tensor) -> Floats:
    """Return the saliency (H, W) in [0, 1] of an image uint8 (3, H, W)."""
    parts = segment(as_array(image), COUNT)
    if len(parts) == 1:
        return parts.paint(np.zeros(1))
    border = at_border(parts.labels)
    edges = two_ring(clique(neighbours(parts.labels, diagonal=True), border))
    ranking = ranking_matrix(parts.mean_lab, edges)
    saliency = np.ones(len(parts))
    for side in sides(parts.labels):
        saliency *= 1 - minmax(ranking @ side)
    queries = saliency >= saliency.mean()
    return parts.paint(minmax(ranking @ queries.astype(np.float64)))


def ranking_matrix(colours: Floats, edges: Bools) -> Floats:
    """Return (D - alpha W)^-1 with zeros on its diagonal, (n, n), so that no query ranks itself."""
    found: Floats = np.linalg.inv(laplacian(colours, edges)).astype(np.float64)
    np.fill_diagonal(found, 0.0)
    return found


def laplacian(colours: Floats, edges: Bools) -> Floats:
    """Return D - alpha W, symmetric and positive definite, of colours (n, 3) and edges (n, n)."""
    between = distances(colours)
    stretched = np.zeros_like(between)
    stretched[edges] = minmax(between[edges])
    weights = np.where(edges, np.exp(-SHARPNESS * stretched), 0.0)
    return np.diag(weights.sum(axis=1)) - ALPHA * weights


def sides(labels: Labels) -> list[Floats]:
    """Return indicators (n,) of the superpixels at the top, the bottom, the left and the right."""
    count = int(labels.max()) + 1
    found = []
    for side in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        indicator = np.zeros(count)
        indicator[side] = 1.0
        found.append(indicator)
    return found
