"""Dense and sparse reconstruction: Li, Lu, Zhang, Ruan and Yang, ICCV 2013.

Superpixels on the border are templates of the background. What they reconstruct badly, by their
principal components or as a sparse combination, is salient. Both errors are spread within clusters,
averaged over several sizes of superpixels, and joined by Bayes' rule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from relicv2.saliency.superpixels import (
    Floats,
    Superpixels,
    as_array,
    at_border,
    distances,
    lengths,
    means,
    minmax,
    segment,
)

SCALES = ((50, 10), (100, 10), (150, 20), (200, 20), (250, 25), (300, 25), (350, 30), (400, 30))
"""Superpixels and compactness of each segmentation (the authors' code)."""

SMALL_SCALES = SCALES[:4]
"""Those of images of up to 64 pixels, which hold no more superpixels."""

ENERGY = 0.95
"""Share of the templates' variance that their principal components keep."""

PENALTY = 0.01
"""Weight of the absolute values of a sparse combination's coefficients."""

CLUSTERS = 8
BINS = 60


def reconstruction(image: Tensor) -> Floats:
    """Return the saliency (H, W) in [0, 1] of an image uint8 (3, H, W)."""
    pixels = as_array(image)
    scales = SMALL_SCALES if max(pixels.shape[:2]) <= 64 else SCALES
    of_pixels = pixel_features(pixels)
    dense: list[Floats] = []
    sparse: list[Floats] = []
    weights: list[Floats] = []
    for count, compactness in scales:
        parts = segment(pixels, count, compactness)
        features = means(parts.labels, of_pixels)
        templates = features[at_border(parts.labels)]
        members = _clusters(features)
        for errors, found in ((dense_errors, dense), (sparse_errors, sparse)):
            spread = propagated(minmax(errors(features, templates)), features, members)
            found.append(parts.paint(spread))
        weights.append(_nearness(of_pixels, features, parts))
    maps = [biased_to_object(_average(found, weights)) for found in (dense, sparse)]
    return minmax(posterior(maps[1], maps[0]) + posterior(maps[0], maps[1]))


def pixel_features(image: Floats) -> Floats:
    """Return features (H, W, 8) of an image (H, W, 3): RGB, CIELAB, column, row; in [0, 1]."""
    from skimage.color import rgb2lab

    colours = np.concatenate([image, rgb2lab(image)], axis=2)
    stretched = [minmax(channel) for channel in np.moveaxis(colours, 2, 0)]
    rows, columns = np.indices(image.shape[:2])
    places = (columns / image.shape[1], rows / image.shape[0])
    return np.stack([*stretched, *places], axis=2)


def dense_errors(features: Floats, templates: Floats) -> Floats:
    """Return how far features (n, 8) lie from the templates' principal components, (n,).

    As in the authors' code, one component more is kept than the templates' variance asks for.
    """
    center = templates.mean(axis=0)
    _, sizes, components = np.linalg.svd(templates - center, full_matrices=False)
    energy = np.cumsum(np.square(sizes))
    total = energy[-1] if energy[-1] > 0 else 1.0
    kept = components[: int(np.searchsorted(energy / total, ENERGY)) + 2]
    moved = features - features.mean(axis=0)
    return lengths(moved - moved @ kept.T @ kept)


def sparse_errors(features: Floats, templates: Floats, steps: int = 300) -> Floats:
    """Return the squared errors (n,) of sparse combinations of the templates (m, 8).

    Their coefficients minimise |f - D a|^2 / 2 + 0.01 |a|_1, with features and templates of unit
    length, by accelerated proximal gradient steps (FISTA).
    """
    unit, atoms = _unit(features), _unit(templates)
    gram, product = atoms @ atoms.T, unit @ atoms.T
    rate = 1 / max(float(np.linalg.eigvalsh(gram)[-1]), 1e-12)
    found = ahead = np.zeros_like(product)
    momentum = 1.0
    for _ in range(steps):
        moved = ahead - rate * (ahead @ gram - product)
        following = np.sign(moved) * np.maximum(np.abs(moved) - rate * PENALTY, 0.0)
        next_momentum = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = following + (momentum - 1) / next_momentum * (following - found)
        found, momentum = following, next_momentum
    return np.square(lengths(unit - found @ atoms))


def _unit(rows: Floats) -> Floats:
    unit: Floats = rows / np.maximum(lengths(rows), 1e-12)[:, None]
    return unit


def _clusters(features: Floats, rounds: int = 50) -> NDArray[np.int64]:
    """Return the cluster (n,) of each feature by k-means, from centres that are far apart."""
    chosen = [int(np.square(features - features.mean(axis=0)).sum(axis=1).argmin())]
    count = min(CLUSTERS, len(features))
    for _ in range(1, count):
        squares = np.square(features[:, None] - features[chosen][None]).sum(axis=2).min(axis=1)
        chosen.append(int(squares.argmax()))
    centers = features[chosen]
    nearest = np.zeros(len(features), dtype=np.int64)
    for _ in range(rounds):
        squares = np.square(features[:, None] - centers[None]).sum(axis=2)
        moved = squares.argmin(axis=1)
        if np.array_equal(moved, nearest):
            break
        nearest = moved
        for cluster in np.unique(nearest):
            centers[cluster] = features[nearest == cluster].mean(axis=0)
    return nearest


def propagated(errors: Floats, features: Floats, members: NDArray[np.int64]) -> Floats:
    """Spread errors (n,) within clusters, the largest first; stretched to [0, 1].

    Each becomes the mean of itself and of its cluster's errors, weighted by similarity; those that
    come later see it changed.
    """
    variance = max(float(features.var(axis=0).mean()), 1e-12)
    similar = np.exp(-np.square(distances(features)) / (2 * variance))
    similar *= members[:, None] == members[None]
    np.fill_diagonal(similar, 0.0)
    spread = errors.copy()
    for number in np.argsort(-errors, kind="stable"):
        total = similar[number].sum()
        if total > 0:
            spread[number] = 0.5 * spread[number] + 0.5 * similar[number] @ spread / total
    return minmax(spread)


def _nearness(of_pixels: Floats, features: Floats, parts: Superpixels) -> Floats:
    """Return the weight (H, W) of a segmentation at each pixel: how like its superpixel it is."""
    return np.reciprocal(lengths(of_pixels - features[parts.labels]) + 1e-3)


def _average(maps: Sequence[Floats], weights: Sequence[Floats]) -> Floats:
    return minmax(np.average(np.stack(maps), axis=0, weights=np.stack(weights)))


def biased_to_object(values: Floats) -> Floats:
    """Weigh a map (H, W) by a Gaussian around its centre of mass, a quarter of the sides wide."""
    rows, columns = np.indices(values.shape)
    total = values.sum()
    if total == 0:
        return values
    squares = 0.0
    for places, side in zip((rows, columns), values.shape, strict=True):
        center = (places * values).sum() / total
        squares = squares + np.square((places - center) / (0.25 * side))
    return minmax(values * np.exp(-squares / 2))


def posterior(prior: Floats, observed: Floats) -> Floats:
    """Return the probability (H, W) of foreground given a prior and an observed map.

    The likelihoods are histograms of the observed map where the prior is above its mean and where
    it is not, each over its own range.
    """
    foreground = prior > prior.mean()
    likely = _likelihood(observed, foreground)(observed) * prior
    unlikely = _likelihood(observed, ~foreground)(observed) * (1 - prior)
    total = likely + unlikely
    return minmax(np.where(total > 0, likely / np.where(total > 0, total, 1.0), 0.0))


def _likelihood(observed: Floats, region: NDArray[np.bool_]) -> Callable[[Floats], Floats]:
    """Return the density of the values of a region as a function of a value."""
    inside = observed[region]
    if len(inside) == 0:
        return np.zeros_like
    counts, edges = np.histogram(inside, bins=BINS)
    shares = counts / len(inside)

    def density(values: Floats) -> Floats:
        places = np.searchsorted(edges, values, side="right") - 1
        outside = (values < edges[0]) | (values > edges[-1])
        return np.where(outside, 0.0, shares[np.clip(places, 0, BINS - 1)])

    return density
