"""What each pretext task keeps of an image, layer by layer, and how its encoder stands a change.

    python reproductions/revisiting_ssl/factor_probes.py
    python reproductions/revisiting_ssl/factor_probes.py --encoder revnet50 --width 8 --seeds 0 1 2

Trains the four encoders of Table 2's proxy unless those runs exist. Fits an L-BFGS probe for each
factor of the built-in images to every layer, tests that of the outline on changed images, and
measures effective rank and mean cosine; the same of untrained encoders and of raw pixels. Prints a
table and writes ``factors.json`` and ``factors.svg`` below ``RUNS/tables``.

Factors are probed on images whose texture does not depend on the outline, which in pretraining it
does: else a layer that knows the outline would seem to know the texture. The penalty is chosen for
each layer, on features of unit variance: by the rule of the tables the size of features would
decide, and that of an untrained encoder's means nothing.
"""

from __future__ import annotations

import functools
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from factor_pictures import FACTORS, SHOWN, draw_factors
from grid_readings import TASKS
from proxy_rows import linear_of, options_of_one_encoder, rows_of
from torch import nn

from retable import files
from retable.data.shapes.corruptions import CORRUPTIONS
from retable.data.source import Source
from retable.data.sources import open_source, with_parameter
from retable.evaluate.data import EvalData, OpenSource
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
from retable.reproduce.setting import Setting, directory_of
from retable.reproduce.table import TableRow
from retable.train.recipe import build_method
from retable.weights import load_encoder

VARIANTS = (
    "sketch",
    "silhouette",
    "texture_swapped",
    "recoloured",
    *(f"corrupted:{kind}:3" for kind in CORRUPTIONS),
)
"""What the outline's probe is tested on; corruptions at the middle one of five severities."""

LIMIT = 1024
"""Features of a layer at most, a third of the images: a probe is then a matter of seconds."""

PENALTIES = (1e-1, 1e-2, 1e-3)
"""Of which each probe chooses, on a tenth of the training images."""


@dataclass(frozen=True)
class Subject:
    """An encoder that is probed, and how it looks at an image.

    Attributes:
        probe: one evaluation of the table: its view, and whether it cuts patches.
    """

    name: str
    encoder: nn.Module
    probe: LogisticProbe


@dataclass(frozen=True)
class Found:
    """What the probes of one encoder found.

    Attributes:
        layers: layer -> factor, "effective_rank" or "mean_cosine" -> value; accuracies in percent.
        changed: variant of the test images -> accuracy of the outline's probe in percent.
    """

    layers: dict[str, dict[str, float]]
    changed: dict[str, float]


def main() -> int:
    """Probe all encoders, print what was found and write the files."""
    options = options_of_one_encoder(__doc__.splitlines()[0]).parse_args()
    rows = rows_of(options.encoder, options.width)
    setting = Setting(options.runs, jobs=options.jobs)
    found: dict[str, list[Found]] = {}
    for seed in options.seeds:
        opened = opener(next(iter(rows.values())).pretrain.data)
        for subject in subjects(rows, seed, setting):
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


def opener(data: str) -> OpenSource:
    """Return a function that opens splits of the data, of other data and variants, each once."""

    @functools.cache
    def opened(split: str, variant: str | None = None, other: str | None = None) -> Source:
        spec = data if other is None else other
        return open_source(with_parameter(spec, "variant", variant) if variant else spec, split)

    def open_variant(split: str, variant: str | None = None, data: str | None = None) -> Source:
        return opened(split, variant, data)

    return open_variant


def subjects(rows: Mapping[str, TableRow], seed: int, setting: Setting) -> Iterator[Subject]:
    """Yield the four tasks' encoders, trained if need be, then untrained ones, then raw pixels."""
    probes = {task: linear_of(row) for task, row in rows.items()}
    runs = {
        task: plan_runs({task: TableRow(row.pretrain, ())}, (seed,))[0]
        for task, row in rows.items()
    }
    execute(runs.values(), setting)
    for task in rows:
        trained, _, _ = load_encoder(directory_of(runs[task], setting).encoder)
        yield Subject(TASKS[task], trained, probes[task])
    for task, name in (("rotation", "untrained, images"), ("jigsaw", "untrained, patches")):
        untrained = build_method(runs[task].recipe, seed).encoder
        yield Subject(name, untrained, probes[task])
    yield Subject("raw pixels", nn.Flatten(), probes["rotation"])


def probed(subject: Subject, opened: OpenSource, seed: int) -> Found:
    """Return what the probes of one encoder find; features are computed once for all factors."""
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
    data = with_parameter(opened("test").description["spec"], "rho", 0)
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
    """Return one encoder's numbers as lines of text."""
    names = (*FACTORS, "effective_rank", "mean_cosine")
    lines = [f"{'layer':12}" + "".join(f"{name:>16}" for name in names)]
    for tap, values in found.layers.items():
        digits = (1, 1, 1, 1, 1, 3)
        numbers = (f"{values[name]:16.{n}f}" for name, n in zip(names, digits, strict=True))
        lines.append(f"{tap:12}" + "".join(numbers))
    shown = (f"{name} {found.changed[name]:.1f}" for name in SHOWN)
    return "\n".join([*lines, f"outline: {', '.join(shown)}"])


def as_json(found: Mapping[str, Sequence[Found]], seeds: Sequence[int]) -> dict[str, object]:
    """Return everything that was found, by encoder and seed."""
    return {
        name: {
            str(seed): {"layers": one.layers, "changed": one.changed}
            for seed, one in zip(seeds, by_seed, strict=True)
        }
        for name, by_seed in found.items()
    }


if __name__ == "__main__":
    sys.exit(guarded(main))
