"""Facts of transfer to COCO: Mask R-CNN with a pyramid on a pretrained and on a random encoder.

    nox -s reproduce-baselines-transfer_coco

The encoders are those of `transfer`. At paper scale the rows need COCO; no numbers are stored.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from reproductions.baselines import transfer
from reproductions.baselines.detectors import COCO_DATA, coco
from retable.reproduce import Metric, main

EVALUATIONS = (coco("fpn", schedule=1),)

TABLE = replace(
    transfer.TABLE,
    script=Path(__file__),
    rows={name: replace(row, evaluations=EVALUATIONS) for name, row in transfer.ROWS.items()},
    columns={"coco_ap": Metric("coco.ap"), "coco_mask_ap": Metric("coco.mask_ap")},
    optional_data=COCO_DATA,
    check_rows=(),
)

if __name__ == "__main__":
    sys.exit(main(TABLE))
