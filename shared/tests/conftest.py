"""A pretraining of seconds, and the runs and tables made of it."""

from __future__ import annotations

import dataclasses
import shutil
import signal
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest

from retable import views
from retable.encoders import ResNetRecipe
from retable.evaluate.knn import Knn
from retable.methods import SupervisedRecipe, moco_v2
from retable.reproduce import Metric, Table, TableRow
from retable.reproduce.execute import execute
from retable.reproduce.plan import TableSelection, plan_runs, resolve_rows
from retable.tables import Provenance, Reference, record_reference
from retable.tables.reading import parse_reference
from retable.train.optim import OptimizerRecipe
from retable.train.options import RunOptions
from retable.train.recipe import PretrainRecipe


def pytest_configure() -> None:
    """Let Ctrl-C reach what tests start: a background job of a shell ignores it, as do its own."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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

PRINTED = """
[table]
id = "table9"
title = "Top-1 of a method | and others"
paper = "A paper"
source = "A source"
dataset = "ImageNet-100"
notes = "Star = rerun."

[[columns]]
key = "top1"
label = "Top-1"
unit = "%"
higher_is_better = true
tolerance = { value = 1.25, reason = "three stds" }
spread = { std = 0.4, degrees = 4, reason = "the stds of the table" }

[[columns]]
key = "error"
label = "Error"
unit = "%"
higher_is_better = false

[[columns]]
key = "ap"
label = "AP"
unit = "AP"
higher_is_better = true
not_run = "needs detection fine-tuning"

[[rows]]
key = "cited"
label = "Cited [7]"
origin = "cited"
values = { top1 = { value = 73.0 } }

[[rows]]
key = "base"
label = "A baseline with quite a long label, longer than a line would like"
origin = "reimplemented"
values = { top1 = { value = 78.0, std = 0.2, runs = 3 }, ap = { value = 50.0 } }

[[rows]]
key = "ours"
label = "Method <1|2>"
origin = "run"
values = { top1 = { value = 79.0, std = 0.4 }, ap = { value = 51.0 } }

[[claims]]
text = "The method gains a point."
better = "ours"
than = "base"
column = "top1"
margin = 1.0

[[claims]]
text = "The method is far above what others had."
better = "ours"
than = "cited"
column = "top1"
margin = 6.0

[[claims]]
text = "The method makes fewer errors."
better = "ours"
than = "base"
column = "error"
margin = 0.0
"""

Changed = Callable[..., PretrainRecipe]
Printed = Callable[..., Reference]
Trained = Callable[..., None]


@pytest.fixture
def printed() -> Printed:
    """Make a paper's table, each ``old`` of its text replaced by ``new``."""

    def make(changes: Mapping[str, str] | None = None) -> Reference:
        text = PRINTED
        for old, new in (changes or {}).items():
            assert old in text
            text = text.replace(old, new, 1)
        return parse_reference(text, Path("table9.toml"))

    return make


@pytest.fixture
def paper(printed: Printed) -> Reference:
    """Make a paper's table."""
    return printed()


@pytest.fixture
def provenance() -> Provenance:
    """Say how a proxy reference was recorded."""
    commit = "0123456789abcdef"
    return Provenance("nox -s x", (0, 1, 2, 3, 4), commit, "2030-01-01", "2 cores", {"torch": "2"})


@pytest.fixture
def proxy(paper: Reference, provenance: Provenance) -> Reference:
    """Record the paper's table at proxy scale: 30 and 32 with a std of 0.4."""
    offsets = {seed: 0.25 * (seed - 2) for seed in provenance.seeds}
    rows = {
        row: {"top1": {seed: centre + offset for seed, offset in offsets.items()}}
        for row, centre in (("base", 30.0), ("ours", 32.0))
    }
    return record_reference(paper, rows, provenance)


@pytest.fixture
def contrastive() -> Changed:
    """Make MoCo with 4 steps an epoch, changed where named."""
    view = dataclasses.replace(views.moco_v2(16), blur_probability=0.0)
    recipe = PretrainRecipe(
        method=moco_v2(queue=48, dim=8, momentum=0.9),
        data="shapes?count=72&test_count=32&size=16&classes=4",
        views=(view, view),
        encoder=ResNetRecipe("small_resnet8", width=0.25),
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
            "contrastive": TableRow(contrastive(), (Knn(k=5),)),
            "supervised": TableRow(supervised(), (Knn(k=5),)),
        },
        columns={"top1": Metric("knn.top1")},
        proxy=lambda row: row,
        smoke=lambda row: row,
        images=72,
    )


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Copy finished runs of a table into a folder; each is trained once in a session."""
    shared = tmp_path_factory.mktemp("trained")

    def copy(
        table: Table, folder: Path, rows: Iterable[str] = (), seeds: Iterable[int] = (0,)
    ) -> None:
        runs = plan_runs(resolve_rows(table, TableSelection(rows=tuple(rows))), seeds)
        execute(runs, RunOptions(shared, quiet=True))
        for run in runs:
            shutil.copytree(shared / run.name, folder / run.name)
            asked = {run.evaluation_folder(each, folder) for each in run.evaluations}
            for evaluation in set((folder / run.name / "evaluations").glob("*")) - asked:
                shutil.rmtree(evaluation)  # of another test's table, whose run is the same

    return copy
