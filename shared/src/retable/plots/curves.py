"""Reduction of long curves for drawing: running means and ranges, thinning that keeps extremes."""

from __future__ import annotations

import itertools

import numpy
from numpy.typing import NDArray

Values = NDArray[numpy.float64]
Places = NDArray[numpy.int64]


def running_mean(values: Values, window: int) -> Values:
    """Return the mean (N,) around each of (N,) values, over ``window`` values, fewer at both ends.

    An even window takes one more value after than before. Values that are not finite are left out;
    the mean is NaN where a window holds no finite value.
    """
    finite = numpy.isfinite(values)
    if window == 1:
        # Bit-equal, which differences of sums are not.
        return numpy.where(finite, values, numpy.nan)
    places = numpy.arange(len(values))
    first, end = _window(places, window, len(values))
    sums = numpy.concatenate([[0.0], numpy.cumsum(numpy.where(finite, values, 0.0))])
    counts = numpy.concatenate([[0], numpy.cumsum(finite)])
    total, count = sums[end] - sums[first], counts[end] - counts[first]
    return numpy.where(count > 0, total / numpy.maximum(count, 1), numpy.nan)


def running_range(values: Values, window: int, places: Places) -> tuple[Values, Values]:
    """Return the least and the largest of (N,) values around each of (P,) ascending places.

    The window is that of `running_mean`; if the places are further apart, each takes all values up
    to halfway to its neighbours, so that no value is left out. Lows and highs, (P,) each, are NaN
    where no value is finite.
    """
    first, end = _window(places, window, len(values))
    halfway = (places[1:] + places[:-1] + 1) // 2
    first = numpy.minimum(first, numpy.concatenate([[0], halfway]))
    end = numpy.maximum(end, numpy.concatenate([halfway, [len(values)]]))
    lows, highs = numpy.full(len(places), numpy.nan), numpy.full(len(places), numpy.nan)
    for place, (start, stop) in enumerate(zip(first, end, strict=True)):
        around = values[start:stop]
        around = around[numpy.isfinite(around)]
        if len(around):
            lows[place], highs[place] = around.min(), around.max()
    return lows, highs


def thin(values: Values, bins: int) -> Places:
    """Choose the points of a curve that are visible when it is ``bins`` pixels wide.

    Each of ``bins`` equal pieces of (N,) values keeps its first, least, largest and last one, and
    one that is not finite, which interrupts the line. A curve of at most four values per piece is
    kept complete. Returns ascending indices.
    """
    count = len(values)
    if count <= 4 * bins:
        return numpy.arange(count)
    edges = numpy.linspace(0, count, bins + 1).astype(numpy.int64)
    finite = numpy.isfinite(values)
    low, high = numpy.where(finite, values, numpy.inf), numpy.where(finite, values, -numpy.inf)
    kept = set()
    for start, end in itertools.pairwise(edges):
        piece = slice(start, end)
        kept |= {start, end - 1, start + low[piece].argmin(), start + high[piece].argmax()}
        kept.add(start + finite[piece].argmin())
    return numpy.array(sorted(kept))


def _window(places: Places, window: int, count: int) -> tuple[Places, Places]:
    """Return first and end (exclusive) of the values around each place."""
    first = numpy.maximum(places - (window - 1) // 2, 0)
    return first, numpy.minimum(places + window // 2 + 1, count)
