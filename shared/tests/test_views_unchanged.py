"""Draws of older recipes stay unchanged when recipes get new steps."""

from __future__ import annotations

import hashlib

import pytest
import torch

from retable import views
from retable.views import ViewRecipe, sample_parameters

WHOLE = ("crops", "resized", "window", "flip", "jitter", "jitter_order", "gray", "solarize")


@pytest.mark.parametrize(
    ("recipe", "digest", "factors", "sigma"),
    [
        (views.moco_v2(32), "3135a5160f9d4871", 888.848182, 165.812701),
        (views.byol(32)[1], "b124e92974150de8", 890.691019, 30.282777),
        (views.center(24, 30), "0b3e5cd00f216014", 900.0, 0.0),
    ],
)
def test_unchanged_draws(recipe: ViewRecipe, digest: str, factors: float, sigma: float) -> None:
    # Source: this code before the steps of the pretext tasks were added to it (November 2026).
    indices = torch.arange(300) * 7
    drawn = sample_parameters(recipe, 12345, indices, 20 + indices % 57, 20 + indices % 43)
    found = hashlib.blake2b(digest_size=8)
    for name in WHOLE:
        found.update(getattr(drawn, name).contiguous().numpy().tobytes())
    assert found.hexdigest() == digest
    assert float(drawn.jitter_factors.double().sum()) == pytest.approx(factors, abs=1e-4)
    assert float(drawn.blur_sigma.double().sum()) == pytest.approx(sigma, abs=1e-4)
