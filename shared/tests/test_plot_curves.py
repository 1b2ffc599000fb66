"""Running means are those of the definition, and no extreme is lost on the way to a picture."""

from __future__ import annotations

import itertools
import math

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retable.plots.curves import running_mean, running_range, thin

numbers = st.floats(-1e3, 1e3, allow_nan=False) | st.sampled_from([math.nan, math.inf])
curves = st.lists(numbers, min_size=1, max_size=60).map(numpy.array)


def around(values: numpy.ndarray, place: int, window: int) -> list[float]:
    """The finite values of a window, by its definition: one more after than before if even."""
    offsets = range(-((window - 1) // 2), window // 2 + 1)
    found = [values[place + o] for o in offsets if 0 <= place + o < len(values)]
    return [float(v) for v in found if math.isfinite(v)]


@given(curves, st.integers(1, 70))
def test_a_running_mean_is_the_mean_of_the_finite_values_around(
    values: numpy.ndarray, window: int
) -> None:
    means = running_mean(values, window)
    for place, mean in enumerate(means):
        finite = around(values, place, window)
        expected = math.fsum(finite) / len(finite) if finite else math.nan
        assert mean == pytest.approx(expected, abs=1e-8, nan_ok=True)


@given(curves, st.integers(1, 70))
def test_a_running_range_at_every_place_is_that_of_the_window(
    values: numpy.ndarray, window: int
) -> None:
    lows, highs = running_range(values, window, numpy.arange(len(values)))
    for place, (low, high) in enumerate(zip(lows, highs, strict=True)):
        finite = around(values, place, window)
        assert math.isnan(low) if not finite else (low, high) == (min(finite), max(finite))


@given(curves, st.integers(1, 10), st.data())
def test_ranges_at_any_places_miss_no_value(
    values: numpy.ndarray, window: int, data: st.DataObject
) -> None:
    indices = st.integers(0, len(values) - 1)
    places = sorted(data.draw(st.sets(indices, min_size=1)))
    lows, highs = running_range(values, window, numpy.array(places))
    finite = values[numpy.isfinite(values)]
    if len(finite):
        assert numpy.nanmin(lows) == finite.min()
        assert numpy.nanmax(highs) == finite.max()


@given(curves, st.integers(1, 5))
def test_a_thinned_curve_has_the_extremes_and_ends_of_every_piece(
    values: numpy.ndarray, bins: int
) -> None:
    kept = thin(values, bins)
    assert list(kept) == sorted(set(kept))
    if len(values) <= 4 * bins:
        assert len(kept) == len(values)
    assert len(kept) <= 5 * bins
    edges = numpy.linspace(0, len(values), bins + 1).astype(int)
    for start, end in itertools.pairwise(edges):
        own = {int(k) for k in kept if start <= k < end}
        if start < end:
            assert {start, end - 1} <= own
        piece = values[start:end]
        finite = piece[numpy.isfinite(piece)]
        if len(finite):
            assert {finite.min(), finite.max()} <= {values[k] for k in own}
        if len(finite) < len(piece):
            assert any(not math.isfinite(values[k]) for k in own), "the gap is closed"
