"""Absorbing Markov chain: Jiang, Zhang, Lu, Yang and Yang, ICCV 2013.

A random walk over superpixels of similar colour is absorbed by copies of those on the border. Where
it takes long until it is, there is an object.
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
    distances,
    minmax,
    neighbours,
    segment,
    two_ring,
)

COUNT = 250
SHARPNESS = 10.0
LEAST_WEIGHT = 1e-5

ISOLATED = 1.1
"""Sum of weights, 1 of them its own, below which a superpixel is like none of its neighbours."""

FRAMED = 13.0
"""Sum of weights between the border and its neighbours, up to which the border is a frame."""

SPREAD = 2.0
"""Score from which a map has too many middle values and is computed again."""


def absorbing_chain(image: Tensor) -> Floats:
    """Return the saliency (H, W) in [0, 1] of an image uint8 (3, H, W)."""
    parts = segment(as_array(image), COUNT)
    if len(parts) == 1:
        return parts.paint(np.zeros(1))
    adjacent = neighbours(parts.labels, diagonal=True)
    edges = two_ring(adjacent | facing(parts.labels))
    weights = transition_weights(parts.lab, edges)
    degree = weights.sum(axis=1)
    border = at_border(parts.labels)
    kept = degree >= ISOLATED
    inner = _behind(border, adjacent)
    if is_frame(weights, adjacent, border, inner):
        kept, border = kept & ~border, inner
    saliency = np.zeros(len(parts))
    saliency[kept] = _absorbed(weights[np.ix_(kept, kept)], degree[kept], border[kept])
    isolated = degree < ISOLATED
    salient = (adjacent & (saliency > 0.3)[None]).any(axis=1)
    saliency[isolated & salient] = 1.0
    return parts.paint(saliency)


def transition_weights(colours: Floats, edges: Bools) -> Floats:
    """Return the weights (n, n) of a walk's steps between neighbours and of its staying, 1."""
    between = distances(colours)
    stretched = np.zeros_like(between)
    stretched[edges] = minmax(between[edges])
    weights = np.where(edges, np.exp(-SHARPNESS * stretched) + LEAST_WEIGHT, 0.0)
    np.fill_diagonal(weights, 1.0)
    return weights


def transient_steps(weights: Floats, degree: Floats, border: Bools) -> Floats:
    """Return the probabilities Q (n, n) of steps that do not end at a copy of the border."""
    absorbing = weights[:, border].sum(axis=1)
    found: Floats = weights / (degree + absorbing)[:, None]
    return found


def _absorbed(weights: Floats, degree: Floats, border: Bools) -> Floats:
    """Return the time (n,) until absorption, stretched to [0, 1]."""
    remaining = np.eye(len(weights)) - transient_steps(weights, degree, border)
    times = minmax(_solved(remaining, np.ones(len(weights))))
    if middle_score(times) < SPREAD:
        return times
    # Long stays in large uniform regions count less: weigh by the inverse of the equilibrium.
    rare = degree.sum() / degree
    return minmax(_solved(remaining, rare / rare.sum()))


def _solved(matrix: Floats, right: Floats) -> Floats:
    return np.linalg.solve(matrix, right).astype(np.float64)


def middle_score(values: Floats) -> float:
    """Return how far values in [0, 1] are from the ends: 1 if all are 0 or 1, at most 5."""
    shares = np.histogram(values, bins=10, range=(0.0, 1.0))[0] / len(values)
    numbers = np.arange(1, 11)
    return float((shares * np.minimum(numbers, 11 - numbers)).sum())


def facing(labels: Labels) -> Bools:
    """Return which superpixels are at the two ends of one column or row, (n, n)."""
    count = int(labels.max()) + 1
    found = np.zeros((count, count), dtype=bool)
    for one, other in ((labels[0], labels[-1]), (labels[:, 0], labels[:, -1])):
        found[one, other] = found[other, one] = True
    np.fill_diagonal(found, False)
    return found


def is_frame(weights: Floats, adjacent: Bools, border: Bools, inner: Bools) -> bool:
    """Return whether the border is so unlike its neighbours, the inner ring, that it is a frame."""
    between = np.where(adjacent, weights, 0.0)[np.ix_(border, inner)]
    return bool(inner.any() and between.sum() <= FRAMED)


def _behind(border: Bools, adjacent: Bools) -> Bools:
    """Return the superpixels that are neighbours of the border and no part of it."""
    return ~border & adjacent[border].any(axis=0)
