"""Search for the small setting that shows the facts of the field at the lowest price.

    python studies/proxy_search.py --arms moco_v2 linear_head moco_t007 --seeds 0 1 2
    python studies/proxy_search.py --set classes=64 --set images=8000 --set queue=1024
    python studies/proxy_search.py --show

Trains arms of the table of facts in a setting that differs from the proxy scale by ``--set``, and
appends a line for each to the log beside this script. ``--show`` prints the log, and each setting's
differences of arms, paired by seed. The setting is chosen by facts, never by a paper's claims.

Lines of the log with ``size``, ``groups`` or ``ground`` were made by variants of the views or the
data set that were not kept, those without CPU seconds by a recording of the facts that was cut
short. CPU seconds were taken beside other work.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from reproductions.baselines.arms import ARMS
from reproductions.baselines.facts import ESCAPED
from reproductions.baselines.scales import shrink_row
from retable.evaluate.data import source_opener
from retable.evaluate.knn import Knn, neighbours
from retable.evaluate.logistic.probe import LogisticProbe
from retable.evaluate.protocol import EvalContext
from retable.reproduce import TableRow
from retable.reproduce.command import guarded
from retable.reproduce.shrinking import PENALTY, PROXY, SmallScale
from retable.tables.statistics import mean_of_differences
from retable.views import center
from studies.search import search, train_once

LOG = Path(__file__).with_suffix(".jsonl")
PAIRS = (
    ("moco_v2", "moco_t007"),
    ("moco_t02", "moco_t007"),
    ("moco_v2", "linear_head"),
)


@dataclass(frozen=True)
class Setting:
    """What the search varies; the defaults are those of the proxy scale."""

    images: int = PROXY.images
    classes: int = PROXY.classes
    batch: int = PROXY.batch
    epochs: int = PROXY.epochs
    queue: int = PROXY.queue
    rate: float = PROXY.rate
    least_crop: float = PROXY.least_crop
    least_group: int = PROXY.least_group
    encoder: str = PROXY.encoder.name
    width: float = PROXY.encoder.width

    def scale(self) -> SmallScale:
        """Return the scale, with 10,000 test images."""
        return replace(
            PROXY,
            data=f"shapes?count={self.images}&test_count=10000&size=32&classes={self.classes}"
            "&rho=0.7",
            images=self.images,
            classes=self.classes,
            batch=self.batch,
            epochs=self.epochs,
            queue=self.queue,
            rate=self.rate,
            least_crop=self.least_crop,
            least_group=self.least_group,
            encoder=replace(PROXY.encoder, name=self.encoder, width=self.width),
        )


def measure(setting: Setting, arm: str, seed: int) -> dict[str, Any]:
    """Train an arm and return its line of the log."""
    chosen = ARMS[arm]
    recipe = chosen.change(shrink_row(TableRow(chosen.base, ()), setting.scale()).pretrain)
    start = time.process_time()
    method, epochs = train_once(recipe, seed)
    encoder = method.encoder
    trained = time.process_time()
    opened, view = source_opener(recipe.data), center(32)
    k = neighbours(setting.images, setting.classes)
    context = EvalContext("cpu")
    nearest = Knn(k=k, view=view).run(encoder, opened, context)
    fitted = LogisticProbe(l2=(PENALTY,), view=view).run(encoder, opened, context, seed=seed)
    last: Mapping[str, float] = epochs[-1] if epochs else {}
    names = ("loss", "proxy_accuracy", "positive_mean", "negative_mean", "embedding_spread")
    escapes = (e["epoch"] for e in epochs if e.get("embedding_spread", 0.0) > ESCAPED)
    return {
        "arm": arm,
        "seed": seed,
        **asdict(setting),
        "knn": round(nearest["top1"], 2),
        "logistic": round(fitted["top1"], 2),
        "escape": next(escapes, None),
        **{name: round(last[name], 4) for name in names if name in last},
        "cpu_seconds": round(trained - start, 1),
    }


def show(lines: list[dict[str, Any]]) -> None:
    """Print each setting, its arms, and differences of arms by kNN and by L-BFGS."""
    outcome = {"arm", "seed", "knn", "logistic", "escape", "loss", "proxy_accuracy", "cpu_seconds"}
    outcome |= {"positive_mean", "negative_mean", "embedding_spread"}
    settings: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        stated = {name: value for name, value in line.items() if name not in outcome}
        settings.setdefault(" ".join(f"{n}={v}" for n, v in stated.items()), []).append(line)
    for setting, found in settings.items():
        print(f"\n{setting}")
        for line in sorted(found, key=lambda one: (one["arm"], one["seed"])):
            escape = f"escape {line['escape']}" if line["escape"] else "no escape"
            scores = f"kNN {line['knn']:5.1f}  L-BFGS {line['logistic']:5.1f}"
            negatives = f"negatives {line.get('negative_mean', float('nan')):6.3f}"
            seconds = f"{line['cpu_seconds']:5.0f} CPU s" if "cpu_seconds" in line else ""
            print(
                f"  {line['arm']:12} {line['seed']}  {scores}  {negatives}  {escape:9}  {seconds}"
            )
        for better, than in PAIRS:
            _show_pair(found, better, than)


def _show_pair(lines: list[dict[str, Any]], better: str, than: str) -> None:
    texts = []
    for column in ("knn", "logistic"):
        values = [
            {x["seed"]: x[column] for x in lines if x["arm"] == arm} for arm in (better, than)
        ]
        gaps = [values[0][seed] - values[1][seed] for seed in sorted(values[0].keys() & values[1])]
        if not gaps:
            return
        interval = mean_of_differences(gaps)
        width = f" ± {interval.high - interval.centre:.1f}" if interval else ""
        texts.append(f"{column} {sum(gaps) / len(gaps):+.1f}{width}")
    print(f"  {better} - {than}: {', '.join(texts)} ({len(gaps)} seeds)")


def main() -> int:
    """Train and log, or show the log."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arms", nargs="+", choices=ARMS, metavar="ARM", default=["moco_v2"])
    return search(parser, LOG, Setting(), lines_of, show)


def lines_of(options: argparse.Namespace, setting: Setting, seed: int) -> Iterator[dict[str, Any]]:
    """Train the chosen arms."""
    return (measure(setting, arm, seed) for arm in options.arms)


if __name__ == "__main__":
    sys.exit(guarded(main))
