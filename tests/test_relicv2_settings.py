"""The settings that the paper prints are those of the recipes (table 16)."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from relicv2 import views
from retable.views import ViewRecipe

PRINTED = Path(__file__).parents[1] / "reproductions" / "relicv2" / "table16.toml"
ODD, EVEN, *_, SMALL, SMALL_EVEN = views(4, 2)


def setting(key: str, large: ViewRecipe, small: ViewRecipe) -> float:
    """Return what the recipes have for a row of the table, in its units."""
    brightness, contrast, saturation, hue = large.jitter
    assert large.crop_scale is not None
    assert small.crop_scale is not None
    return {
        "p_flip": 100 * large.flip_probability,
        "p_jitter": 100 * large.jitter_probability,
        "p_gray": 100 * large.gray_probability,
        "p_blur": 100 * large.blur_probability,
        "p_solarize": 100 * large.solarize_probability,
        "brightness": brightness,
        "contrast": contrast,
        "saturation": saturation,
        "hue": hue,
        "crop_size_large": large.size,
        "crop_size_small": small.size,
        "crop_min_area_large": 100 * large.crop_scale[0],
        "crop_min_area_small": 100 * small.crop_scale[0],
        "crop_max_area_large": 100 * large.crop_scale[1],
        "crop_max_area_small": 100 * small.crop_scale[1],
    }[key]


@pytest.mark.parametrize(
    ("column", "large", "small"), [("odd", ODD, SMALL), ("even", EVEN, SMALL_EVEN)]
)
def test_views_have_the_printed_settings(column: str, large: ViewRecipe, small: ViewRecipe) -> None:
    rows = tomllib.loads(PRINTED.read_text(encoding="utf-8"))["rows"]
    # Crops are always drawn: the text says so, and the printed 50 % of the table contradicts it.
    printed = {
        row["key"]: row["values"][column]["value"]
        for row in rows
        if row["key"] != "p_crop" and column in row["values"]
    }
    assert len(printed) == (15 if column == "odd" else 12)
    assert {key: setting(key, large, small) for key in printed} == pytest.approx(printed)
