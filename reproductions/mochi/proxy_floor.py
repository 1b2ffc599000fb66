"""What Table 1's proxy stands on: the probes of MoCo-v2's encoder, of an untrained one, of pixels.

    python reproductions/mochi/proxy_floor.py

Trains MoCo-v2 at proxy scale with seed 0 unless that run exists, then fits the table's linear probe
and the L-BFGS probe to all three. An accuracy of the table means something as far as it stands
above the last two.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from table1 import TABLE
from torch import nn

from retable.evaluate.linear import LinearProbe
from retable.evaluate.logistic.probe import LogisticProbe
from retable.evaluate.protocol import EvalContext
from retable.reproduce.command import guarded
from retable.reproduce.execute import execute, opener
from retable.reproduce.plan import TableSelection, plan_runs, resolve_rows
from retable.train.options import RunOptions
from retable.train.recipe import build_method
from retable.weights import load_encoder


def main() -> int:
    """Print top-1 of both probes for the three encoders."""
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
