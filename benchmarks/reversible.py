"""Memory and time of RevNet's two backward passes: activations kept or recomputed.

Forward and backward pass of the whole encoder, without an optimizer. Peak memory is that beside
weights and images; the first convolution, its maximum and pooling between blocks keep their inputs
either way. ``--batch`` sets the number of images, 32 by default and 8 with ``--quick``.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from _memory import peak_memory
from _steps import autocast, best_precision
from _timing import Options, Report, interleave, parse, ratios

from retable.random import derive_key, normal
from revisiting_ssl.encoders import ResidualRecipe

REVNET50 = ResidualRecipe("reversible")
PROXY = replace(
    REVNET50, units=(1, 1, 1, 1), bottleneck=False, widening=1, root_kernel=3, root_pool=False
)
FORMS = {"kept": False, "recomputed": True}


@dataclass(frozen=True)
class Pass:
    """A forward and backward pass: which encoder, how many images of which size."""

    encoder: ResidualRecipe
    batch: int
    size: int
    recompute: bool = False


def prepare(what: Pass, device: torch.device) -> Callable[[], None]:
    """Make encoder and images; return the pass."""
    recipe = replace(what.encoder, reversible_backward=what.recompute)
    encoder = recipe.build(rng_key=0).to(memory_format=torch.channels_last).to(device)
    shape = (what.batch, 3, what.size, what.size)
    places = torch.arange(what.batch * 3 * what.size**2).view(shape)
    images = normal(derive_key(0, "images"), places).to(device, memory_format=torch.channels_last)
    precision = best_precision(device)

    def run() -> None:
        encoder.zero_grad(set_to_none=True)
        with autocast(device, precision):
            features = encoder(images)
        features.float().square().sum().backward()

    return run


def compare(report: Report, options: Options, name: str, what: Pass) -> None:
    """Add time and peak memory of both backward passes, and their ratios."""
    both = {form: replace(what, recompute=recompute) for form, recompute in FORMS.items()}
    tiny = replace(what, batch=2, size=32)
    memory = {
        form: [
            peak_memory(
                functools.partial(prepare, one),
                functools.partial(prepare, replace(tiny, recompute=one.recompute)),
                options,
            )
            for _ in range(options.pick(3, 1, 1))
        ]
        for form, one in both.items()
    }
    sides = {form: prepare(one, options.device) for form, one in both.items()}
    warmup = options.pick(2, 1, 0)
    seconds = interleave(sides, options.pick(7, 3, 1), options, warmup=warmup)
    size = f"{name}, {what.batch} images of {what.size} px"
    for form in FORMS:
        report.add(f"{size}, activations {form}", [1e3 * s for s in seconds[form]], "ms")
        report.add(f"{size}, activations {form}, peak memory", memory[form], "MB")
    kept, recomputed = FORMS
    report.add(
        f"{size}: time, {recomputed} over {kept}", ratios(seconds[recomputed], seconds[kept])
    )
    report.add(
        f"{size}: memory, {recomputed} over {kept}", ratios(memory[recomputed], memory[kept])
    )


def main() -> None:
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--batch", type=int)
    chosen, sys.argv[1:] = own.parse_known_args()
    options = parse(__doc__ or "")
    batch = chosen.batch or options.pick(32, 8, 2)
    report = Report("RevNet's backward pass", options, precision=best_precision(options.device))
    name, encoder = options.pick(
        ("RevNet50 4x", REVNET50), ("RevNet50 4x", REVNET50), ("RevNet10 1x", PROXY)
    )
    compare(report, options, name, Pass(encoder, batch, options.pick(224, 224, 32)))
    if not options.dry:
        compare(report, options, "RevNet10 1x", Pass(PROXY, 64, 32))
    report.show()


if __name__ == "__main__":
    main()
