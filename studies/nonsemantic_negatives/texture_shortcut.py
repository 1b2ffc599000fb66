"""Search for a small setting in which MoCo v2 takes a shortcut by texture.

    python studies/nonsemantic_negatives/texture_shortcut.py --seeds 0 1
    python studies/nonsemantic_negatives/texture_shortcut.py --set classes=32 --set rho=0.9
    python studies/nonsemantic_negatives/texture_shortcut.py --show

Trains the baseline, and no negatives, in a setting that differs from the tables' by ``--set``, and
appends a line to the log beside this script: the accuracy of a linear probe on test images, and on
the same images with the texture of another class. Negatives that remove a shortcut can only help
where there is one. The setting is chosen by this loss of the baseline, 10 points or more, never by
a paper's claims.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from reproductions.nonsemantic_negatives.recipes import baseline
from reproductions.nonsemantic_negatives.scales import PROXY, SHIFTED_IMAGES, shrink
from retable.data.sources import with_parameter
from retable.evaluate.data import EvalData, source_opener
from retable.evaluate.logistic.probe import LogisticProbe
from retable.evaluate.ood import OutOfDistribution
from retable.evaluate.ood_sets import OodSet, SetName
from retable.evaluate.protocol import EvalContext
from retable.reproduce import TableRow
from retable.reproduce.command import guarded
from retable.reproduce.shrinking import PENALTY, SmallScale
from retable.views import center
from studies.search import search, train_once

LOG = Path(__file__).with_suffix(".jsonl")
SETS: tuple[SetName, ...] = ("stylized", "cue_conflict", "sketch", "r", "texture")
SHOWN = {
    "clean": "clean",
    "stylized": "swapped",
    "sketch": "sketch",
    "r": "recoloured",
    "texture": "texture alone",
    "cue_conflict_shape_bias": "shape bias",
}


@dataclass(frozen=True)
class Setting:
    """What the search varies; the defaults are those of the tables."""

    images: int = PROXY.images
    classes: int = PROXY.classes
    rho: float = 1.0
    epochs: int = PROXY.epochs
    rate: float = PROXY.rate
    least_crop: float = PROXY.least_crop

    def scale(self) -> SmallScale:
        """Return the scale."""
        data = PROXY.data
        for name, value in (("count", self.images), ("classes", self.classes), ("rho", self.rho)):
            data = with_parameter(data, name, value)
        changes = asdict(self)
        del changes["rho"]
        return replace(PROXY, data=data, **changes)


def measure(setting: Setting, seed: int) -> dict[str, Any]:
    """Train the baseline and return its line of the log."""
    small = shrink(TableRow(baseline(), ()), setting.scale())
    assert small is not None  # the baseline has no patches
    start = time.process_time()
    method, epochs = train_once(small.pretrain, seed)
    trained = time.process_time()
    fewer = EvalData(source=with_parameter(small.pretrain.data, "test_count", SHIFTED_IMAGES))
    probe = LogisticProbe(l2=(PENALTY,), view=center(32), data=fewer)
    sets = OutOfDistribution(probe, sets=tuple(map(OodSet, SETS)))
    found = sets.run(
        method.encoder, source_opener(small.pretrain.data), EvalContext("cpu"), seed=seed
    )
    return {
        "seed": seed,
        **asdict(setting),
        **{name: round(found[name], 2) for name in SHOWN},
        **{name: round(epochs[-1][name], 4) for name in ("positive_mean", "negative_mean")},
        "cpu_seconds": round(trained - start, 1),
    }


def show(lines: list[dict[str, Any]]) -> None:
    """Print every line of the log, ordered by setting."""
    names = [field.name for field in fields(Setting)]
    for line in sorted(lines, key=lambda one: [one[name] for name in (*names, "seed")]):
        setting = " ".join(f"{name}={line[name]}" for name in names)
        shown = "  ".join(f"{label} {line[name]:5.1f}" for name, label in SHOWN.items())
        lost = line["clean"] - line["stylized"]
        print(
            f"{setting:72} seed {line['seed']}  {shown}  lost {lost:5.1f}"
            f"  {line['cpu_seconds']:5.0f} CPU s"
        )


def main() -> int:
    """Train and log, or show the log."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    return search(parser, LOG, Setting(), lines_of, show)


def lines_of(options: argparse.Namespace, setting: Setting, seed: int) -> Iterator[dict[str, Any]]:
    """Train the baseline."""
    return iter([measure(setting, seed)])


if __name__ == "__main__":
    sys.exit(guarded(main))
