"""Semi-supervised evaluation: accuracy after fine-tuning on 1 % and 10 % of the labels."""

from __future__ import annotations

from dataclasses import replace

from reproductions.relicv2.recipes import LINEAR
from retable.evaluate.data import EvalData
from retable.evaluate.transfer.finetune import FineTuning
from retable.reproduce import Metric
from retable.reproduce.label_lists import LabelLists
from retable.reproduce.table import TableColumn

_TUNED = FineTuning(nesterov=True, train_view=LINEAR.train_view, test_view=LINEAR.test_view)

FEW_LABELS = tuple(
    replace(_TUNED, data=EvalData(labels=percent / 100, balanced=True), name=f"finetune_{percent}")
    for percent in (1, 10)
)
"""SwAV's official fine-tuning with Nesterov's momentum and the views of the linear evaluation.

The paper's rates, and its weight decay for 10 %, are not known."""

SIMCLR_LISTS = LabelLists(
    "simclr-lists",
    "the 1 % and 10 % of SimCLR's lists (google-research/simclr, imagenet_subsets)",
    {f"finetune_{percent}": f"{percent}percent.txt" for percent in (1, 10)},
)
"""The paper's labels. Without the lists the same share of each class is drawn."""

FEW_LABELS_COLUMNS: dict[str, TableColumn] = {
    f"{accuracy}_{percent}pct": Metric(f"finetune_{percent}.{accuracy}")
    for accuracy in ("top1", "top5")
    for percent in (1, 10)
}
