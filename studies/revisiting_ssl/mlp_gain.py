"""Gain of an MLP over a linear classifier on frozen features.

    python studies/revisiting_ssl/mlp_gain.py
    python studies/revisiting_ssl/mlp_gain.py --seeds 0 1 2 --rows resnet50_v1

Trains the encoders of Table 2 at proxy scale unless those runs exist, and evaluates each by Table
2's L-BFGS probe with all labels and by the supplement's MLP. The paper finds a small gain. If the
gain is alike for all encoders, their linear ranking stands; Kendall's tau compares both rankings.
The MLP takes 8,460 steps of SGD, the paper's some 430,000, so that a negative gain can mean that it
has not converged, while L-BFGS has.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import replace

from reproductions.revisiting_ssl.table2 import TABLE
from retable.evaluate.mlp import MlpProbe
from retable.reproduce.command import guarded
from retable.reproduce.execute import execute
from retable.reproduce.plan import TableSelection, plan_runs, resolve_rows
from retable.reproduce.run import read_run
from retable.reproduce.table import TableRow
from retable.train.options import RunOptions
from revisiting_ssl.analysis.correlations import kendall_tau
from studies.revisiting_ssl.proxy_rows import linear_of, options_of

MLP = MlpProbe(batch=64, penalty=5.0)
"""The paper's MLP with the batch of the proxy scale and a smaller penalty.

With 100, lambda = 100 / (M C) would be 16 and 31 times the paper's, since the layers are smaller;
with 5 it is 3.9e-5 and 1.6e-4 for features of a 4x ResNet, 4.9e-5 and 1e-4 in the paper.
"""


def with_both_probes(row: TableRow) -> TableRow:
    """Return the row with both classifiers on the same features as its evaluations."""
    linear = linear_of(row)
    mlp = replace(
        MLP, test_view=linear.view, representation=linear.representation, data=linear.data
    )
    return TableRow(row.pretrain, (linear, mlp))


def as_table(linear: Mapping[str, float], mlp: Mapping[str, float]) -> str:
    """Format both accuracies of each encoder, their mean gain and their tau.

    >>> print(as_table({"a": 30.0, "b": 40.0}, {"a": 32.0, "b": 41.0}))
                                  linear    MLP   gain
    a                               30.0   32.0   +2.0
    b                               40.0   41.0   +1.0
    mean gain +1.5, from +1.0 to +2.0; no tau: 2 encoders in common: expected 3 or more
    """
    lines = [f"{'':28}{'linear':>8}{'MLP':>7}{'gain':>7}"]
    gains = {name: mlp[name] - linear[name] for name in linear}
    for name, gain in gains.items():
        lines.append(f"{name:28}{linear[name]:8.1f}{mlp[name]:7.1f}{gain:+7.1f}")
    mean = math.fsum(gains.values()) / len(gains)
    agreement = kendall_tau(linear, mlp)
    tau = "no tau: " + agreement.reason if agreement.value is None else f"tau {agreement.value:.2f}"
    least, most = min(gains.values()), max(gains.values())
    return "\n".join([*lines, f"mean gain {mean:+.1f}, from {least:+.1f} to {most:+.1f}; {tau}"])


def main() -> int:
    """Train the missing runs and print both accuracies."""
    parser = options_of(__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", default=(), help="such as resnet50_v1/jigsaw_4x")
    options = parser.parse_args()
    run_options = RunOptions(options.runs, jobs=options.jobs)
    rows = resolve_rows(TABLE, TableSelection(rows=tuple(options.rows)))
    runs = {
        name: plan_runs({name: with_both_probes(row)}, tuple(options.seeds))
        for name, row in rows.items()
    }
    execute([run for of_seeds in runs.values() for run in of_seeds], run_options)
    found = {
        name: [one.metrics for run in of_seeds if (one := read_run(run, run_options.folder))]
        for name, of_seeds in runs.items()
    }
    linear, mlp = (
        {
            name: math.fsum(figures[figure] for figures in of_seeds) / len(of_seeds)
            for name, of_seeds in found.items()
            if all(of_seeds)
        }
        for figure in ("imagenet.top1", "mlp.top1")
    )
    print(as_table(linear, mlp))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
