"""ImageNet-C (Hendrycks and Dietterich, ICLR 2019): DIR/KIND/SEVERITY/WORDNET_ID/IMAGE.

The published images are JPEGs. Corruptions that somebody generates again are other images: their
accuracy differs by up to 11 points (hendrycks/robustness, issue 16), so they have a name of their
own, `c_generated`, and are never compared with the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from retable.data.imagenet_variants.folders import check_folders, counts_of
from retable.errors import UserError
from retable.text import printable

ALEXNET_ERRORS = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
"""Error of AlexNet by kind, averaged over severities, which mCE divides by (hendrycks/robustness,
issue 10)."""

KINDS = tuple(ALEXNET_ERRORS)
SEVERITIES = (1, 2, 3, 4, 5)


def check_corruptions(root: Path, folders: Sequence[str]) -> None:
    """Check that all kinds and severities are there, with equally many images of each class.

    Raises:
        UserError: something is missing, or a class has other counts somewhere.
    """
    expected: dict[str, int] | None = None
    for kind in KINDS:
        for severity in SEVERITIES:
            place = root / kind / str(severity)
            if not place.is_dir():
                raise UserError(
                    f"ImageNet-C must have 15 kinds at 5 severities, but {printable(str(place))} "
                    "is missing. Unpack all archives of the set into one folder."
                )
            check_folders(place, folders)
            counts = counts_of(place, folders)
            expected = expected or counts
            for name, count in counts.items():
                if count != expected[name]:
                    raise UserError(
                        f"The class {name} must have {expected[name]:,} images in every kind and "
                        f"severity, as in {KINDS[0]}/1, got {count:,} in {printable(str(place))}. "
                        "Unpack its archive again."
                    )
