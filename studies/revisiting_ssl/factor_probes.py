"""Factors of an image that each pretext task retains by layer, and robustness to changed images.

    python studies/revisiting_ssl/factor_probes.py
    python studies/revisiting_ssl/factor_probes.py --encoder revnet50 --width 8 --seeds 0 1 2

Trains the four encoders of Table 2 at proxy scale unless those runs exist. Fits an L-BFGS probe for
each factor of the built-in images to every layer, tests the probe of the outline on changed images,
and measures effective rank and mean cosine; the same for untrained encoders and for raw pixels.
Prints a table and writes ``factors.json`` and ``factors.svg`` below ``RUNS/tables``.

Factors are probed on images whose texture is independent of the outline, unlike in pretraining:
otherwise a layer that encodes the outline would predict the texture too. The penalty is chosen for
each layer on features of unit variance; the rule of the tables would depend on the scale of the
features, which is arbitrary for an untrained encoder.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from reproductions.revisiting_ssl.grid_readings import TASKS
from retable import files
from retable.data.shapes.corruptions import CORRUPTIONS
from retable.data.sources import with_parameter
from retable.evaluate.data import EvalData, OpenSource, source_opener
from retable.evaluate.features import represent
from retable.evaluate.frozen import FrozenEncoder, freeze
from retable.evaluate.geometry import effective_rank, mean_cosine
from retable.evaluate.logistic.probe import LogisticProbe
from retable.evaluate.ood import OutOfDistribution
from retable.evaluate.protocol import EvalContext
from retable.plots import drawing
from retable.reproduce.command import guarded
from retable.reproduce.execute import execute
from retable.reproduce.plan import plan_runs
from retable.reproduce.table import TableRow
from retable.train.options import RunOptions
from retable.train.recipe import build_method
from retable.weights import load_encoder
from studies.revisiting_ssl.factor_pictures import FACTORS, SHOWN, draw_factors
from studies.revisiting_ssl.proxy_rows import linear_of, options_of_one_encoder, rows_of

VARIANTS = (
    "sketch",
    "silhouette",
    "texture_swapped",
    "recoloured",
    *(f"corrupted:{kind}:3" for kind in CORRUPTIONS),
)
"""Variants that the outline's probe is tested on; corruptions at severity 3 of 5."""

LIMIT = 1024
"""Maximum features of a layer, a quarter of the images; a probe then takes seconds."""

PENALTIES = (1e-1, 1e-2, 1e-3)
"""Penalties from which each probe chooses, on a tenth of the training images."""


@dataclass(frozen=True)
class Subject:
    """An encoder to probe.

    Attributes:
        name: label of the encoder.
        encoder: network to probe.
        probe: evaluation of the table, for its view and its patches.
    """

    name: str
    encoder: nn.Module
    probe: LogisticProbe


@dataclass(frozen=True)
class Found:
    """Findings of the probes of one encoder.

    Attributes:
        layers: layer -> factor, "effective_rank" or "mean_cosine" -> value; accuracies in percent.
        changed: variant of the test images -> accuracy of the outline's probe in percent.
    """

    layers: dict[str, dict[str, float]]
    changed: dict[str, float]


def main() -> int:
    """Probe all encoders, print the findings and write the files."""
    options = options_of_one_encoder(__doc__.splitlines()[0]).parse_args()
    rows = rows_of(options.encoder, options.width)
    run_options = RunOptions(options.runs, jobs=options.jobs)
    found: dict[str, list[Found]] = {}
    for seed in options.seeds:
        opened = source_opener(next(iter(rows.values())).pretrain.data)
        for subject in subjects(rows, seed, run_options):
            found.setdefault(subject.name, []).append(probed(subject, opened, seed))
            print(f"\n{subject.name}, seed {seed}\n{as_table(found[subject.name][-1])}", flush=True)
    folder = options.runs / "tables" / f"revisiting_ssl-factors-{options.encoder}-{options.width}x"
    files.write_json(folder / "factors.json", as_json(found, options.seeds))
    if drawing.available():
        layers = {name: [one.layers for one in by_seed] for name, by_seed in found.items()}
        changed = {name: [one.changed for one in by_seed] for name, by_seed in found.items()}
        title = f"{options.encoder} {options.width}x, proxy scale"
        drawing.save(draw_factors(layers, changed, title=title), folder / "factors.svg")
    print(f"\n{folder}")
    return 0


def subjects(rows: Mapping[str, TableRow], seed: int, run_options: RunOptions) -> Iterator[Subject]:
    """Yield the trained encoders of the four tasks, untrained encoders, raw pixels."""
    probes = {task: linear_of(row) for task, row in rows.items()}
    runs = {
        task: plan_runs({task: TableRow(row.pretrain, ())}, (seed,))[0]
        for task, row in rows.items()
    }
    execute(runs.values(), run_options)
    for task in rows:
        trained, _, _ = load_encoder(runs[task].directory(run_options.folder).encoder)
        yield Subject(TASKS[task], trained, probes[task])
    for task, name in (("rotation", "untrained, images"), ("jigsaw", "untrained, patches")):
        untrained = build_method(runs[task].recipe, seed).encoder
        yield Subject(name, untrained, probes[task])
    yield Subject("raw pixels", nn.Flatten(), probes["rotation"])


def probed(subject: Subject, opened: OpenSource, seed: int) -> Found:
    """Probe one encoder; its features are computed once for all factors."""
    frozen = freeze(subject.encoder, "cpu")
    with tempfile.TemporaryDirectory() as features:
        context = EvalContext("cpu", features=Path(features))
        layers = probed_layers(frozen, subject.probe, opened, context, seed=seed)
        changed = probed_variants(frozen, subject.probe, opened, context, seed=seed)
    return Found(layers, changed)


def _probe(like: LogisticProbe, taps: tuple[str, ...], data: str = "") -> LogisticProbe:
    representation = replace(like.representation, taps=taps, max_features=LIMIT)
    on = EvalData(source=data)
    return LogisticProbe(
        l2=PENALTIES, iterations=200, view=like.view, representation=representation, data=on
    )


def probed_layers(
    frozen: FrozenEncoder,
    like: LogisticProbe,
    opened: OpenSource,
    context: EvalContext,
    *,
    seed: int,
) -> dict[str, dict[str, float]]:
    """Return `Found.layers`: the accuracy for each factor and the geometry of the test images."""
    taps = frozen.tap_names
    data = with_parameter(opened("test").description["data"], "rho", 0)
    layers: dict[str, dict[str, float]] = {tap: {} for tap in taps}
    for factor in FACTORS:
        probe = _probe(like, taps, with_parameter(data, "labels", factor))
        figures = probe.run(frozen, opened, context, seed=seed)
        for tap in taps:
            layers[tap][factor] = figures[f"top1@{tap}" if len(taps) > 1 else "top1"]
    test = opened("test", None, data)
    view = probe.test_view_of(test)
    for tap, found in represent(frozen, test, view, probe.representation, context).items():
        layers[tap]["effective_rank"] = effective_rank(found.features).item()
        layers[tap]["mean_cosine"] = mean_cosine(found.features).item()
    return layers


def probed_variants(
    frozen: FrozenEncoder,
    like: LogisticProbe,
    opened: OpenSource,
    context: EvalContext,
    *,
    seed: int,
) -> dict[str, float]:
    """Return `Found.changed`: the outline's probe, trained on images as in pretraining."""
    probe = _probe(like, ("pre_logits",))
    return OutOfDistribution(probe, VARIANTS).run(frozen, opened, context, seed=seed)


def as_table(found: Found) -> str:
    """Format the findings of one encoder."""
    names = (*FACTORS, "effective_rank", "mean_cosine")
    lines = [f"{'layer':12}" + "".join(f"{name:>16}" for name in names)]
    for tap, values in found.layers.items():
        digits = (1, 1, 1, 1, 1, 3)
        numbers = (f"{values[name]:16.{n}f}" for name, n in zip(names, digits, strict=True))
        lines.append(f"{tap:12}" + "".join(numbers))
    shown = (f"{name} {found.changed[name]:.1f}" for name in SHOWN)
    return "\n".join([*lines, f"outline: {', '.join(shown)}"])


def as_json(found: Mapping[str, Sequence[Found]], seeds: Sequence[int]) -> dict[str, object]:
    """Return all findings by encoder and seed."""
    return {
        name: {
            str(seed): {"layers": one.layers, "changed": one.changed}
            for seed, one in zip(seeds, by_seed, strict=True)
        }
        for name, by_seed in found.items()
    }


if __name__ == "__main__":
    sys.exit(guarded(main))
