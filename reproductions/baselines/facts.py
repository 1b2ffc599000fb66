"""Facts of the field: what must show with small recipes before they can test a paper's claims.

    nox -s reproduce-baselines-facts
    nox -s reproduce-baselines-facts -- --rows all

The first command trains the rows of the main facts, the second every row, 20 trainings for each
seed. Claims of papers name the facts that they depend on. Where the recorded numbers of this table
do not show a fact, such a claim is reported as not tested at proxy scale. At paper scale the same
rows train on ImageNet-100, without stored numbers.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from reproductions.baselines.arms import ARMS
from reproductions.baselines.localisation import BoxRegression
from reproductions.baselines.recipes import IMAGENET100_IMAGES, LINEAR_100
from reproductions.baselines.scales import chance, shrink_row
from retable import views
from retable.data.sources import with_parameter
from retable.evaluate.data import EvalData
from retable.evaluate.knn import Knn
from retable.evaluate.linear import LinearProbe
from retable.evaluate.logistic.probe import LogisticProbe
from retable.evaluate.ood import OutOfDistribution
from retable.evaluate.protocol import Evaluation
from retable.evaluate.transfer.finetune import FineTuning
from retable.reproduce import (
    CollapseCriterion,
    Difference,
    FinishedRun,
    FinishedRuns,
    Metric,
    Table,
    TableRow,
    main,
)
from retable.reproduce.shrinking import PENALTY, PROXY, SMOKE, SmallScale
from retable.train.recipe import PretrainRecipe

TOP1 = Metric("linear.top1")
EVALUATIONS: tuple[Evaluation, ...] = (LINEAR_100, Knn(view=views.center(224, 256)))
SHIFTED_TEST_IMAGES = 1000
ESCAPED = 0.9
"""Embedding spread, of that of even directions, above which a run has left the plateau."""


@dataclass(frozen=True)
class Severity:
    """Mean accuracy over all corruptions at one severity, in percent."""

    severity: int

    def value(self, row: str, seed: int, runs: FinishedRuns) -> float | None:
        """Return the mean, None without corrupted images."""
        run = runs.get(row, {}).get(seed)
        start, end = "ood.corrupted:", f":{self.severity}"
        metrics = run.metrics.items() if run else ()
        found = [value for name, value in metrics if name.startswith(start) and name.endswith(end)]
        return sum(found) / len(found) if found else None

    def reads(self, row: str) -> tuple[str, ...]:
        """Return the row's training."""
        return (row,)


def escape(recipe: PretrainRecipe, run: FinishedRun) -> dict[str, float]:
    """Return the share of the run, in percent, until the embedding has spread.

    Before, runs sit on a plateau where few factors are distinguished. One that leaves it after a
    quarter of its epochs measures this rather than the method.
    """
    epochs = [line["epoch"] for line in run.epochs if line.get("embedding_spread", 0.0) > ESCAPED]
    return {"escape": 100.0 * min(epochs) / recipe.epochs} if epochs else {}


def further_evaluations(name: str, scale: SmallScale) -> tuple[Evaluation, ...]:
    """Return the evaluations of some rows, on what only the built-in images have."""
    probe = LogisticProbe(l2=(PENALTY,), view=views.center(32))
    found: list[Evaluation] = []
    if name in ("moco_v2", "untrained"):
        # A tenth is 400 images: batches of 256 would make 20 steps.
        tuned = FineTuning(batch=32, bn_group=32)
        found += [
            replace(tuned, data=EvalData(labels=share, balanced=True), name=f"finetune_{percent}")
            for share, percent in ((0.03, 3), (0.1, 10))
        ]
    if name == "moco_v2":
        sgd = LinearProbe(lr=3.0, train_view=views.center(32), test_view=views.center(32))
        tenth = replace(probe, data=EvalData(labels=0.1, balanced=True), name="tenth")
        found += [tenth, replace(sgd, name="sgd")]
    if name in ("moco_v2", "supervised"):
        images = min(SHIFTED_TEST_IMAGES, scale.images // 4)
        fewer = with_parameter(scale.data, "test_count", images)
        shifted = OutOfDistribution(replace(probe, data=EvalData(source=fewer)))
        found += [shifted, BoxRegression()]
    return tuple(found)


def at(scale: SmallScale, row: TableRow) -> TableRow:
    """Return a row on small images: its base is shrunk, then changed as at the paper's scale."""
    name, arm = next((n, arm) for n, arm in ARMS.items() if arm.recipe == row.pretrain)
    small = shrink_row(TableRow(arm.base, EVALUATIONS), scale)
    further = further_evaluations(name, scale)
    return TableRow(arm.change(small.pretrain), (*small.evaluations, *further))


def proxy(row: TableRow) -> TableRow:
    """Shrink a row to the built-in images."""
    return at(PROXY, row)


def smoke(row: TableRow) -> TableRow:
    """Shrink a row to seconds: two epochs on 512 images, to check that the code runs."""
    return at(SMOKE, row)


TABLE = Table(
    script=Path(__file__),
    rows={name: TableRow(arm.recipe, EVALUATIONS) for name, arm in ARMS.items()},
    columns={
        "top1": TOP1,
        "knn": Metric("knn.top1"),
        "positive_mean": Metric("pretrain.positive_mean"),
        "negative_mean": Metric("pretrain.negative_mean"),
        "queue_accuracy": Metric("pretrain.proxy_accuracy", 100.0),
        "escape": Metric("history.escape"),
        "lost_to_sgd": Difference(TOP1, Metric("sgd.top1")),
        "lost_to_labels": Difference(TOP1, Metric("tenth.top1")),
        "finetune_3": Metric("finetune_3.top1"),
        "finetune_10": Metric("finetune_10.top1"),
        "lost_to_severity_1": Difference(Metric("ood.clean"), Severity(1)),
        **{f"lost_to_severity_{k}": Difference(Severity(k - 1), Severity(k)) for k in range(2, 6)},
        "lost_to_sketch": Difference(Metric("ood.clean"), Metric("ood.sketch")),
        "box": Metric("box.iou"),
    },
    proxy=proxy,
    smoke=smoke,
    images=IMAGENET100_IMAGES,
    subset="imagenet100",
    derive=escape,
    collapse=CollapseCriterion(
        rows=("off_sphere", "simsiam_no_stop"),
        columns=("top1", "knn"),
        chance=chance(PROXY, SMOKE),
    ),
    check_rows=("moco_v2", "untrained"),
    first_rows=("untrained", "supervised", "moco_t007", "moco_t02", "moco_v2", "frozen_key"),
)

if __name__ == "__main__":
    sys.exit(main(TABLE))
