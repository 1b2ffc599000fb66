"""Time the papers' recipes on a GPU: ResNet-50, 224 px, bf16, with and without compilation.

Images come from the GPU's memory (256 x 256 pixels, uint8) and from JPEG files (375 x 500, decoded
by as many workers as there are cores but one). `retable.train.pretrain.pretrain` runs as for a
table, and the figures are those of its own log, `images_per_second`, the first lines left out. They
are taken
run after run, not interleaved: workers would prepare batches during the others' turns.

Without a GPU there is nothing to time at this size, and nothing is done.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from _steps import EncoderAlone, MemorySource, best_precision, images
from _timing import Goal, Options, Report, interleave, parse, total

from mochi import MoCHiRecipe
from retable.data.source import TRAIN, Source
from retable.data.sources import open_source
from retable.encoders import ResNetRecipe
from retable.methods import MethodRecipe, moco_v2
from retable.train.metrics import MetricsLog
from retable.train.optim import OptimizerRecipe
from retable.train.options import RunOptions
from retable.train.pretrain import make_accelerator, pretrain
from retable.train.recipe import PretrainRecipe
from retable.train.runs import RunDirectory
from retable.views import moco_v2 as moco_v2_view

UNTIMED_LINES = 2


@dataclass(frozen=True)
class Setting:
    """Sizes of everything: the papers', or tiny ones."""

    encoder: ResNetRecipe
    size: int
    height: int
    width: int
    stored: int
    log_every: int
    lines: int
    workers: int

    @property
    def steps(self) -> int:
        """Steps of a run."""
        return (UNTIMED_LINES + self.lines) * self.log_every

    def recipe(
        self, method: MethodRecipe, batch: int, bn_group: int | None, precision: str
    ) -> PretrainRecipe:
        """Return a pretraining recipe that ends after the steps to be timed."""
        view = moco_v2_view(self.size)
        return PretrainRecipe(
            method=method,
            data="benchmark",
            views=(view, view),
            encoder=self.encoder,
            optimizer=OptimizerRecipe(),
            epochs=1,
            batch=batch,
            bn_group=bn_group,
            precision=precision,
            max_steps=self.steps,
        )


def choose(options: Options) -> Setting:
    """Return the papers' sizes, or tiny ones."""
    real = Setting(
        ResNetRecipe("resnet50"),
        size=224,
        height=375,
        width=500,
        stored=256,
        log_every=20,
        lines=options.pick(6, 3, 1),
        workers=max(1, (os.cpu_count() or 2) - 1),
    )
    if not options.dry:
        return real
    tiny = ResNetRecipe("resnet18", width=0.125)
    return replace(
        real, encoder=tiny, size=16, height=20, width=24, stored=18, log_every=1, workers=0
    )


def recipes(options: Options, setting: Setting) -> Iterator[tuple[str, PretrainRecipe]]:
    """Yield MoCo v2 as on ImageNet-1K, and MoCHi as on ImageNet-100, in its batch-norm groups."""
    precision = best_precision(options.device)
    if options.dry:
        yield "MoCo v2", setting.recipe(moco_v2(queue=16), 4, None, precision)
        tiny = MoCHiRecipe(queue=16, n_hard=4, s=4, s_prime=2, mixing_warmup_epochs=0)
        yield "MoCHi", setting.recipe(tiny, 4, 2, precision)
        return
    yield "MoCo v2, batch 256, K 65536", setting.recipe(moco_v2(), 256, None, precision)
    mochi = MoCHiRecipe(mixing_warmup_epochs=0)
    what = f"MoCHi ({mochi.n_hard}, {mochi.s}, {mochi.s_prime}), batch 128, K {mochi.queue}"
    yield what, setting.recipe(mochi, 128, 32, precision)


def write_photographs(folder: Path, count: int, height: int, width: int) -> float:
    """Write ``count`` JPEG files in the layout of ImageNet and return their mean size in kB.

    At most 256 differ, the others are further names of the same files. Grain on smooth colours
    brings them to the size of photographs.
    """
    from torchvision.io import write_jpeg

    smooth = images(min(count, 256), height, width).float()
    grain = torch.randn(smooth.shape, generator=torch.Generator().manual_seed(0)) * 12
    distinct = (smooth + grain).clamp(0, 255).to(torch.uint8)
    place = folder / "train" / "n01440764"
    place.mkdir(parents=True)
    for number in range(count):
        path = place / f"{number}.jpg"
        if number < len(distinct):
            write_jpeg(distinct[number], str(path), quality=90)
        else:
            os.link(place / f"{number % len(distinct)}.jpg", path)
    sizes = [(place / f"{number}.jpg").stat().st_size for number in range(len(distinct))]
    return sum(sizes) / len(sizes) / 1e3


def images_per_second(
    recipe: PretrainRecipe, source: Source, compiled: bool, setting: Setting
) -> list[float]:
    """Pretrain and return what the loop's log says, without its first lines."""
    execution = RunOptions(
        workers=setting.workers, compile=compiled, log_every=setting.log_every, quiet=True
    )
    with tempfile.TemporaryDirectory() as folder:
        directory = RunDirectory(Path(folder))
        accelerator = make_accelerator(recipe.precision)
        pretrain(recipe, 0, source, directory, accelerator, execution)
        lines = MetricsLog(directory.metrics).read("steps")
    return [float(line["images_per_second"]) for line in lines[UNTIMED_LINES:]]


def bound(options: Options, setting: Setting, batch: int, compiled: bool) -> list[float]:
    """Return images a second of the encoder's work alone."""
    precision = best_precision(options.device)
    alone = EncoderAlone(setting.encoder, setting.size, batch, options.device, precision)
    if compiled:
        alone.encoder.compile()
    seconds = interleave(
        {"query": alone.query, "key": alone.key},
        options.pick(30, 10, 1),
        options,
        warmup=options.pick(10, 5, 0),
    )
    return [batch / spent for spent in total(seconds, "query", "key")]


def measure(report: Report, options: Options, setting: Setting, folder: Path) -> None:
    """Add images a second of every recipe from both kinds of input, compiled and not."""
    on_gpu = options.device.type == "cuda"
    largest = max(recipe.batch for _, recipe in recipes(options, setting))
    # More than the steps need, so that no epoch ends between them.
    count = largest * (setting.steps + 1)
    kilobytes = write_photographs(folder, count, setting.height, setting.width)
    sources: dict[str, Source] = {
        "memory": MemorySource(images(count, setting.stored, setting.stored)),
        f"JPEG ({kilobytes:.0f} kB)": open_source(f"imagefolder:{folder}", TRAIN),
    }
    for what, recipe in recipes(options, setting):
        # Compiling for a CPU takes minutes and is not what is asked here.
        for compiled in (False, True) if on_gpu else (False,):
            how = f"{what}, {'compiled' if compiled else 'eager'}"
            alone = report.add(
                f"{how}: encoder alone",
                bound(options, setting, recipe.batch, compiled),
                "images/s",
            )
            for name, source in sources.items():
                rates = images_per_second(recipe, source, compiled, setting)
                report.add(f"{how}, from {name}", rates, "images/s")
                goal = Goal(at_least=0.90 if name == "memory" else 0.85)
                shares = [rate / alone for rate in rates]
                report.add(f"{how}, from {name}, over encoder alone", shares, name="R1", goal=goal)
                if on_gpu and "H200" in torch.cuda.get_device_name(options.device):
                    shares = [rate / 9000 for rate in rates]
                    goal = Goal(at_least=0.45)
                    said = f"{how}, from {name}, over 9,000 images/s"
                    report.add(said, shares, name="R5", goal=goal)


def main() -> None:
    options = parse(__doc__ or "")
    if options.device.type != "cuda" and not options.dry:
        print("\nThe papers' recipes at 224 px: not timed, needs a GPU.")
        return
    setting = choose(options)
    report = Report(
        f"The papers' recipes: {setting.encoder.name}, {setting.size} px, "
        f"{best_precision(options.device)}, channels last, {setting.workers} workers",
        options,
    )
    with tempfile.TemporaryDirectory() as folder:
        measure(report, options, setting, Path(folder))
    report.show()


if __name__ == "__main__":
    main()
