"""Superpixels of an image and the graph of their neighbourhood.

The handcrafted saliency maps of section F.2.1 do not look at pixels: each gives a value to every
superpixel, from its colour, its place and its neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from retable.errors import UserError
from retable.nn.checks import Shaped, check_shapes

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Labels = NDArray[np.int64]


FEWEST, DOUBLINGS = 4, 5
"""An image has at least a quarter of the superpixels that are asked for, if need be after doubling
the compactness five times."""


@dataclass(frozen=True)
class Superpixels:
    """n superpixels of an image of height H and width W.

    Attributes:
        labels: (H, W) number of the superpixel that a pixel belongs to, 0 to n - 1.
        rgb: (n, 3) mean colour in [0, 1].
        lab: (n, 3) CIELAB of the mean colour.
        mean_lab: (n, 3) mean of the pixels' CIELAB.
        centers: (n, 2) mean row and column, as shares of height and width.
    """

    labels: Labels
    rgb: Floats
    lab: Floats
    mean_lab: Floats
    centers: Floats

    def __len__(self) -> int:
        return len(self.rgb)

    def paint(self, values: Floats) -> Floats:
        """Return the map (H, W) in which each pixel has the value (n,) of its superpixel."""
        return values[self.labels]


def as_array(image: Tensor) -> Floats:
    """Return an image uint8 (3, H, W) as an array (H, W, 3) in [0, 1]."""
    check_shapes(Shaped("image", image, "3 H W", kind="any"))
    if image.is_floating_point():
        raise UserError(f"`image` must be uint8, got {image.dtype}. Convert it.")
    return image.permute(1, 2, 0).cpu().numpy().astype(np.float64) / 255


def segment(image: Floats, count: int, compactness: float = 10.0) -> Superpixels:
    """Divide an image (H, W, 3) in [0, 1] into about ``count`` superpixels by SLIC.

    There are fewer than asked for, since SLIC joins small ones. ``compactness`` weighs places
    against colours in CIELAB. Of noise SLIC joins almost all: where less than a quarter is left, it
    is doubled, and in the end the image is divided into squares.
    """
    from skimage.color import rgb2lab

    least = min(count, image.shape[0] * image.shape[1]) / FEWEST
    labels = slic_labels(image, count, compactness)
    for _ in range(DOUBLINGS):
        if labels.max() + 1 >= least:
            break
        compactness *= 2
        labels = slic_labels(image, count, compactness)
    if labels.max() + 1 < least:
        labels = square_labels(image.shape[0], image.shape[1], count)
    height, width = labels.shape
    rows, columns = np.indices(labels.shape)
    rgb = means(labels, image)
    return Superpixels(
        labels,
        rgb,
        rgb2lab(rgb[:, None])[:, 0],
        means(labels, rgb2lab(image)),
        means(labels, np.stack([rows / height, columns / width], axis=2)),
    )


def slic_labels(image: Floats, count: int, compactness: float) -> Labels:
    """Return the superpixels (H, W) of SLIC, numbered from 0."""
    from skimage.segmentation import slic

    found = slic(image, n_segments=count, compactness=compactness, start_label=0)
    _, labels = np.unique(found, return_inverse=True)
    return labels.reshape(found.shape).astype(np.int64)


def square_labels(height: int, width: int, count: int) -> Labels:
    """Return squares (H, W), about ``count``, numbered from 0 row by row."""
    side = max(1, round((height * width / count) ** 0.5))
    rows, columns = np.indices((height, width)) // side
    found: Labels = (rows * (columns.max() + 1) + columns).astype(np.int64)
    return found


def means(labels: Labels, values: Floats) -> Floats:
    """Return the mean of values (H, W, C) over each superpixel, (n, C)."""
    flat = labels.ravel()
    sums = [np.bincount(flat, of_channel.ravel()) for of_channel in np.moveaxis(values, 2, 0)]
    return np.stack(sums, axis=1) / np.bincount(flat)[:, None]


def neighbours(labels: Labels, *, diagonal: bool) -> Bools:
    """Return which superpixels have neighbouring pixels, (n, n), no superpixel with itself."""
    pairs = [(labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])]
    if diagonal:
        pairs += [(labels[1:, 1:], labels[:-1, :-1]), (labels[1:, :-1], labels[:-1, 1:])]
    count = int(labels.max()) + 1
    found = np.zeros((count, count), dtype=bool)
    for one, other in pairs:
        found[one, other] = found[other, one] = True
    np.fill_diagonal(found, False)
    return found


def two_ring(adjacent: Bools) -> Bools:
    """Return which superpixels are neighbours or have a common one, (n, n)."""
    steps = adjacent.astype(np.float64)
    found = (steps @ steps + steps) > 0
    np.fill_diagonal(found, False)
    return found


def clique(adjacent: Bools, members: Bools) -> Bools:
    """Return a graph in which all ``members`` (n,) are neighbours of each other too."""
    found = adjacent | (members[:, None] & members[None])
    np.fill_diagonal(found, False)
    return found


def at_border(labels: Labels, band: int = 1) -> Bools:
    """Return which superpixels have a pixel within ``band`` pixels of the border, (n,)."""
    found = np.zeros(int(labels.max()) + 1, dtype=bool)
    for side in (labels[:band], labels[-band:], labels[:, :band], labels[:, -band:]):
        found[np.unique(side)] = True
    return found


def distances(points: Floats) -> Floats:
    """Return the Euclidean distances (n, n) of points (n, C)."""
    return lengths(points[:, None] - points[None])


def lengths(vectors: Floats) -> Floats:
    """Return the Euclidean lengths (...) of vectors (..., C)."""
    found: Floats = np.sqrt(np.square(vectors).sum(axis=-1))
    return found


def minmax(values: Floats) -> Floats:
    """Stretch values to [0, 1]; equal values become 0."""
    if not values.size:
        return values
    low, high = values.min(), values.max()
    return np.zeros_like(values) if high == low else (values - low) / (high - low)
