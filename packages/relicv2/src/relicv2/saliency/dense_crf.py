"""A fully connected conditional random field that fits a saliency map to the edges of its image.

Krähenbühl and Koltun, NIPS 2011. Every pixel is linked to every other one, by a smoothness kernel
of their places and an appearance kernel of places and colours. Mean-field steps are computed with
the whole kernels, exactly, for images of up to 64 x 64 pixels; for larger ones by ``pydensecrf2``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from relicv2.saliency.superpixels import Floats
from retable import extras
from retable.domains import Count, NonNegative, Positive
from retable.errors import UserError
from retable.settings import validate_fields

Singles = NDArray[np.float32]

LARGEST_EXACT = 64 * 64
"""Pixels of which the appearance kernel has 64 MiB."""

REFERENCE_SIDE = 432
"""Side of the images that the kernels' widths are stated for (the code of DeepUSPS)."""


@dataclass(frozen=True)
class DenseCRF:
    """Kernels and steps; the defaults are those of DeepUSPS at 432 pixels.

    Attributes:
        smooth_width: deviation of the smoothness kernel in pixels of an image of 432.
        smooth_weight: its weight.
        place_width: deviation of the appearance kernel in places, in pixels of an image of 432.
        colour_width: its deviation in colours, of 255.
        appearance_weight: its weight.
        steps: mean-field steps.
    """

    smooth_width: Positive = 3.0
    smooth_weight: NonNegative = 3.0
    place_width: Positive = 80.0
    colour_width: Positive = 13.0
    appearance_weight: NonNegative = 10.0
    steps: Count = 5

    def __post_init__(self) -> None:
        validate_fields(self)

    def refine(self, saliency: Floats, image: Tensor) -> Floats:
        """Return the probability (H, W) of foreground for a map (H, W) in [0, 1] of its image.

        The image is uint8 (3, H, W). The kernels' widths in pixels follow the image's longer side.
        """
        pixels = image.permute(1, 2, 0).cpu().numpy()
        if saliency.shape != pixels.shape[:2]:
            raise UserError(
                f"`saliency` must have the image's height and width, {pixels.shape[:2]}, got "
                f"{saliency.shape}. Resize it."
            )
        foreground = np.clip(saliency, 1e-3, 1 - 1e-3)
        unary = -np.log(np.stack([1 - foreground, foreground]))
        scale = max(saliency.shape) / REFERENCE_SIDE
        if saliency.size <= LARGEST_EXACT:
            return self._exact(unary, pixels.astype(np.float64), scale)
        return self._by_library(unary, pixels, scale)

    def _exact(self, unary: Floats, pixels: Floats, scale: float) -> Floats:
        height, width = pixels.shape[:2]
        rows, columns = np.indices((height, width)) / scale
        # The smoothness kernel of places is a product of one of rows and one of columns.
        smooth_rows, smooth_columns = (
            normalised(kernel(np.arange(side)[:, None] / scale / self.smooth_width))
            for side in (height, width)
        )
        colours = pixels / self.colour_width
        points = np.dstack([rows / self.place_width, columns / self.place_width, colours])
        appearance = kernel(points.reshape(height * width, 5))
        root = roots(appearance)
        costs = unary.astype(np.float32)
        weights = np.array([self.smooth_weight, self.appearance_weight], dtype=np.float32)
        probability = softmax(-costs)
        for _ in range(self.steps):
            smoothed = smooth_rows @ probability @ smooth_columns
            alike = (probability.reshape(2, -1) / root) @ appearance / root
            messages = weights[0] * smoothed + weights[1] * alike.reshape(2, height, width)
            probability = softmax(messages - costs)
        found: Floats = probability[1].astype(np.float64)
        return found

    def _by_library(self, unary: Floats, pixels: object, scale: float) -> Floats:
        require_library(unary[0].size)
        from pydensecrf import densecrf

        _, height, width = unary.shape
        field = densecrf.DenseCRF2D(width, height, 2)
        field.setUnaryEnergy(np.ascontiguousarray(unary.reshape(2, -1), dtype=np.float32))
        field.addPairwiseGaussian(sxy=self.smooth_width * scale, compat=self.smooth_weight)
        field.addPairwiseBilateral(
            sxy=self.place_width * scale,
            srgb=self.colour_width,
            rgbim=np.ascontiguousarray(pixels),
            compat=self.appearance_weight,
        )
        return np.asarray(field.inference(self.steps)[1], dtype=np.float64).reshape(height, width)


def require_library(pixels: int) -> None:
    """Raise a UserError where an image of so many pixels needs a library that is not installed."""
    if pixels > LARGEST_EXACT:
        purpose = f"A conditional random field on images of more than {LARGEST_EXACT:,} pixels"
        extras.require("pydensecrf", "crf", purpose, "retable-relicv2")


def kernel(points: Floats) -> Singles:
    """Return exp(-|x - y|^2 / 2) of points (N, C), (N, N)."""
    single: Singles = points.astype(np.float32)
    squares = np.square(single).sum(axis=1)
    found: Singles = single @ single.T
    found *= 2
    found -= squares[:, None]
    found -= squares[None]
    found *= 0.5
    np.exp(np.minimum(found, 0, out=found), out=found)
    return found


def normalised(links: Singles) -> Singles:
    """Divide links (N, N) by the roots of both points' sums, as the authors' code does.

    A point is also linked to itself there.
    """
    root = roots(links)
    return links / root[:, None] / root[None]


def roots(links: Singles) -> Singles:
    """Return the roots (N,) of the sums of each point's links (N, N)."""
    found: Singles = np.sqrt(np.maximum(links.sum(axis=1), 1e-20))
    return found


def softmax(scores: Singles) -> Singles:
    """Return the softmax over the first dimension."""
    shifted = np.exp(scores - scores.max(axis=0))
    found: Singles = shifted / shifted.sum(axis=0)
    return found
