"""A pretraining of seconds, and the runs and tables made of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from retable import views
from retable.encoders import EncoderRecipe
from retable.evaluate.knn import Knn
from retable.methods import SupervisedRecipe, moco_v2
from retable.optim import OptimizerRecipe
from retable.recipes import PretrainRecipe
from retable.reproduce import Figure, Row, Table

REFERENCE = """
[table]
id = "unit"
title = "A table of seconds"
paper = "None"
source = "None"
dataset = "shapes"

[[columns]]
key = "top1"
label = "Top1 %"
unit = "%"
higher_is_better = true

[[rows]]
key = "contrastive"
label = "Contrastive"
origin = "run"
values.top1 = { value = 50.0, std = 1.0, runs = 3 }

[[rows]]
key = "supervised"
label = "Supervised"
origin = "run"
values.top1 = { value = 60.0, std = 1.0, runs = 3 }
"""

Changed = Callable[..., PretrainRecipe]


@pytest.fixture
def contrastive() -> Changed:
    """Make MoCo with 4 steps an epoch, changed where named."""
    view = dataclasses.replace(views.moco_v2(16), blur_probability=0.0)
    recipe = PretrainRecipe(
        method=moco_v2(queue=48, dim=8, momentum=0.9),
        data="shapes?count=72&test_count=32&size=16&classes=4",
        views=(view, view),
        encoder=EncoderRecipe("small_resnet8", width=0.25),
        optimizer=OptimizerRecipe(lr=0.03),
        epochs=2,
        batch=16,
        bn_group=8,
    )
    return lambda **changes: dataclasses.replace(recipe, **changes)


@pytest.fixture
def supervised(contrastive: Changed) -> Changed:
    """Make the supervised bound with 4 steps an epoch, changed where named."""
    recipe = contrastive(method=SupervisedRecipe(4), views=(views.crop_and_flip(16),))
    return lambda **changes: dataclasses.replace(recipe, **changes)


@pytest.fixture
def table(tmp_path: Path, contrastive: Changed, supervised: Changed) -> Table:
    """Make a table of two rows that no scale shrinks, with numbers of a paper."""
    script = tmp_path / "paper" / "unit.py"
    script.parent.mkdir()
    script.with_suffix(".toml").write_text(REFERENCE)
    return Table(
        script=script,
        rows={
            "contrastive": Row(contrastive(), (Knn(k=5),)),
            "supervised": Row(supervised(), (Knn(k=5),)),
        },
        columns={"top1": Figure("knn.top1")},
        proxy=lambda row: row,
        smoke=lambda row: row,
        images=72,
    )
