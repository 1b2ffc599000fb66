"""The frame of all tables: encoders pretrained on ImageNet, all evaluated in the same way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from reproductions.baselines import FACTS
from reproductions.baselines.recipes import IMAGENET1K_IMAGES
from reproductions.relicv2.recipes import LINEAR
from reproductions.relicv2.scales import MOMENTUM, PROXY, SMOKE, shrink
from retable.evaluate.protocol import Evaluation
from retable.nn.momentum import MomentumRecipe
from retable.reproduce import Difference, Metric, Table, TableRow
from retable.reproduce.label_lists import LabelLists
from retable.reproduce.shrinking import SmallScale
from retable.reproduce.table import Plot, TableColumn
from retable.train.recipe import PretrainRecipe

TOP1: dict[str, TableColumn] = {"top1": Metric("linear.top1")}
TOP1_AND_TOP5 = TOP1 | {"top5": Metric("linear.top5")}

SHUFFLED = Metric("ood.background_shuffled")
BACKGROUNDS: dict[str, TableColumn] = {
    "shuffled": SHUFFLED,
    "shuffled_gap": Difference(Metric("ood.clean"), SHUFFLED),
    "background_only": Metric("ood.background_only"),
}
"""Accuracy that depends on backgrounds, which agree with the class in training. Measured on the
built-in images only."""

TERMS: dict[str, TableColumn] = {
    "contrastive": Metric("pretrain.contrastive"),
    "invariance": Metric("pretrain.invariance"),
    "positive_score": Metric("pretrain.positive_score"),
}
"""Both terms of the loss and the mean score of positives in the last epoch of pretraining."""

ROBUSTNESS: dict[str, TableColumn] = {
    "imagenet_v2_mf": Metric("ood.v2"),
    "imagenet_v2_t07": Metric("ood.v2_threshold"),
    "imagenet_v2_ti": Metric("ood.v2_top"),
    "imagenet_c": Metric("ood.c"),
}
SHIFTED: dict[str, TableColumn] = {
    "imagenet_r": Metric("ood.r"),
    "imagenet_sketch": Metric("ood.sketch"),
    "objectnet": Metric("ood.objectnet"),
}
"""Accuracy of the linear classifier on images of other kinds."""

SEEDS = {"paper": (0,), "proxy": (0,), "smoke": (0,)}
"""The paper has one run of each row, of 100 to 1000 epochs."""

Training = PretrainRecipe | Mapping[str, PretrainRecipe]
"""A row's training, or its variants by name."""


def imagenet_table(
    script: str,
    trainings: Mapping[str, Training],
    columns: Mapping[str, TableColumn] = TOP1_AND_TOP5,
    *,
    evaluations: tuple[Evaluation, ...] = (LINEAR,),
    first_rows: tuple[str, ...] = (),
    check_rows: tuple[str, ...] = (),
    small_momentum: MomentumRecipe | None = MOMENTUM,
    plots: tuple[Plot, ...] = (),
    not_run: Mapping[str, str] | None = None,
    optional_data: Mapping[str, str] | None = None,
    label_lists: LabelLists | None = None,
) -> Table:
    """Return the table of a script.

    Args:
        script: ``__file__`` of the script.
        trainings: row -> pretraining, or variant -> pretraining.
        columns: column -> where its number comes from.
        evaluations: of every encoder.
        first_rows: rows that a command at proxy scale trains without ``--rows``; empty: all.
        check_rows: rows that the check of all tables trains.
        small_momentum: of target networks at proxy and smoke scale; None: those of the recipes.
        plots: pictures beside the table.
        not_run: row -> why it is not run.
        optional_data: see `Table`.
        label_lists: see `Table`.
    """

    def evaluated(training: Training) -> TableRow | dict[str, TableRow]:
        if isinstance(training, PretrainRecipe):
            return TableRow(training, evaluations)
        return {variant: TableRow(recipe, evaluations) for variant, recipe in training.items()}

    rows = {name: evaluated(training) for name, training in trainings.items()}
    backgrounds = bool(BACKGROUNDS.keys() & columns.keys())

    def at(scale: SmallScale) -> Callable[[TableRow], TableRow]:
        return lambda row: shrink(row, scale, momentum=small_momentum, backgrounds=backgrounds)

    return Table(
        script=Path(script),
        rows=rows,
        columns=dict(columns),
        proxy=at(PROXY),
        smoke=at(SMOKE),
        facts=FACTS,
        check_rows=check_rows,
        first_rows=first_rows,
        images=IMAGENET1K_IMAGES,
        seeds=SEEDS,
        plots=plots,
        not_run=dict(not_run or {}),
        optional_data=dict(optional_data or {}),
        label_lists=label_lists,
    )


def key(name: str, number: float) -> str:
    """Return the key of a row that is named by a number.

    >>> key("p", 0.25), key("p", 1.0)
    ('p0_25', 'p1')
    """
    return f"{name}{number:g}".replace(".", "_")
