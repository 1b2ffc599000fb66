"""Histograms of cosines in [-1, 1] (figures 12 and 13 of the supplement)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from retable.nn.checks import Shaped, check_shapes

BINS = 100
"""Bins of equal width from -1 to 1."""


@dataclass(frozen=True)
class Histogram:
    """The distribution of cosines.

    Attributes:
        mean: their mean.
        std: their standard deviation.
        counts: number of cosines in each of `BINS` bins; 1 is in the last one.
    """

    mean: float
    std: float
    counts: tuple[int, ...]

    @property
    def density(self) -> tuple[float, ...]:
        """Height of each bin so that the area is 1."""
        total = sum(self.counts) * 2 / len(self.counts)
        return tuple(count / total for count in self.counts)


def histogram(cosines: Tensor) -> Histogram:
    """Return the histogram of cosines (n,), n at least 2; rounding beyond -1 and 1 is cut off."""
    check_shapes(Shaped("cosines", cosines, "N"))
    values = cosines.detach().double().cpu().clamp(-1, 1)
    numbers = ((values + 1) * (BINS / 2)).long().clamp(max=BINS - 1)
    counts = torch.bincount(numbers, minlength=BINS)
    return Histogram(float(values.mean()), float(values.std()), tuple(counts.tolist()))
