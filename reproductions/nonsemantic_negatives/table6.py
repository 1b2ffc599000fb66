"""Non-semantic negatives, Table 6: flips and rotations of the patches, for two ranges of sizes.

    nox -s reproduce-nonsemantic_negatives-table6 -- --scale paper --data /imagenet

Paper scale only: at 32 pixels patches of 8 to 28 of 224 would have 1 to 4, in which neither texture
nor a flip is left. The proxy scale trains the row without augmentation of the usual range. Expected
at paper scale: 79.4 without augmentation, 78.4 with all of it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from reproductions.baselines import FACTS
from reproductions.baselines.recipes import IMAGENET100_IMAGES, LINEAR_100
from reproductions.nonsemantic_negatives.recipes import with_patches
from reproductions.nonsemantic_negatives.scales import proxy, smoke
from retable.reproduce import Metric, Table, TableRow, main

RANGES = {"8_28": {"low": 8, "high": 28}, "16_72": {"low": 16, "high": 72}}
AUGMENTATIONS: dict[str, dict[str, bool]] = {
    "none": {},
    "hflip": {"mirror": True},
    "hflip_vflip": {"mirror": True, "upside_down": True},
    "hflip_vflip_rot": {"mirror": True, "upside_down": True, "turn": True},
}

TABLE = Table(
    script=Path(__file__),
    rows={
        f"patch_{sizes}_{augmentation}": TableRow(
            with_patches(2.0, **bounds, **changes), (LINEAR_100,)
        )
        for sizes, bounds in RANGES.items()
        for augmentation, changes in AUGMENTATIONS.items()
    },
    columns={"imagenet100": Metric("linear.top1")},
    proxy=proxy,
    smoke=smoke,
    images=IMAGENET100_IMAGES,
    subset="imagenet100",
    facts=FACTS,
)

if __name__ == "__main__":
    sys.exit(main(TABLE))
