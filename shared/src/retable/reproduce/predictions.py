"""Pictures of predictions in a table's report, copied from the evaluations that drew them."""

from __future__ import annotations

from pathlib import Path

from retable.evaluate.transfer.pictures import FILE
from retable.files import write_bytes
from retable.reproduce.run import FinishedRuns
from retable.tables import Comparison


def show_predictions(comparison: Comparison, runs: FinishedRuns, folder: Path) -> None:
    """Copy what the detectors and segmentation networks of each row's first seed found."""
    for row in comparison.rows:
        by_seed = runs.get(row.row.key)
        if not by_seed:
            continue
        for picture in sorted(by_seed[min(by_seed)].folder.glob(f"evaluations/*/{FILE}")):
            evaluation = picture.parent.name.rpartition("-")[0]
            name = f"predictions-{row.row.key}-{evaluation}.png"
            write_bytes(folder / name, picture.read_bytes())
