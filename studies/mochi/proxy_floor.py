"""Accuracy floor of Table 1 at proxy scale: probes on an untrained encoder and on raw pixels.

    python studies/mochi/proxy_floor.py

Trains MoCo-v2 at proxy scale with seed 0 unless that run exists, then fits the table's linear probe
and the L-BFGS probe to its encoder, to an untrained encoder and to raw pixels. Only the part of an
accuracy above the last two is due to pretraining.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from torch import nn

from reproductions.mochi.table1 import TABLE
from retable.evaluate.linear import LinearProbe
from retable.evaluate.logistic.probe import LogisticProbe
from retable.evaluate.protocol import EvalContext
from retable.reproduce.checks import opener
from retable.reproduce.command import guarded
from retable.reproduce.execute import execute
from retable.reproduce.plan import TableSelection, plan_runs, resolve_rows
from retable.train.options import RunOptions
from retable.train.recipe import build_method
from retable.weights import load_encoder


def main() -> int:
    """Print the top-1 accuracy of both probes on the three encoders."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    run_options = RunOptions(parser.parse_args().runs)
    row = resolve_rows(TABLE, TableSelection(rows=("moco_v2",)))["moco_v2"]
    (run,) = plan_runs({"moco_v2": row}, (0,))
    execute([run], run_options)
    trained, _, _ = load_encoder(run.directory(run_options.folder).encoder)
    encoders: dict[str, nn.Module] = {
        "MoCo-v2": trained,
        "untrained": build_method(run.recipe, run.seed).encoder,
        "raw pixels": nn.Flatten(),
    }
    (linear,) = row.evaluations
    assert isinstance(linear, LinearProbe)
    for probe in (linear, LogisticProbe(view=linear.test_view)):
        for name, encoder in encoders.items():
            figures = probe.run(
                encoder, opener(run.recipe, run_options), EvalContext("cpu"), seed=0
            )
            print(f"{probe.name:10} {name:12} top-1 {figures['top1']:6.2f} %", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
