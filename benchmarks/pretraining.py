"""Time pretraining of MoCo v2 at 32 px: end to end, beside lightly's and beside its bound.

`retable.train.pretrain.pretrain` itself runs, on images in memory. After each of its steps, off its
clock, the other sides have their turn: lightly's transform and step in its best configuration, the
encoder's work alone, our views alone, our step without the encoder. So all are interleaved, and
every ratio is of times that lie within seconds of each other.

What happens once in an epoch (a checkpoint, the monitor) is not in these figures.
"""

from __future__ import annotations

import functools
import itertools
import os
import tempfile
from collections.abc import Callable
from dataclasses import InitVar, dataclass
from pathlib import Path

import _lightly_moco as peer
import torch
from _steps import EncoderAlone, MemorySource, SkippedEncoder, Step, best_precision, images
from _timing import Goal, Options, Report, Seconds, parse, ratios, timed, total, wait

from retable.data.loader import Loader
from retable.data.sampler import Sampler
from retable.encoders import ResNetRecipe
from retable.methods import Method, MethodRecipe, Progress, moco_v2
from retable.train.optim import OptimizerRecipe
from retable.train.options import RunOptions
from retable.train.pretrain import make_accelerator, pretrain
from retable.train.recipe import PretrainRecipe
from retable.train.runs import RunDirectory
from retable.views import moco_v2 as moco_v2_view

OURS, LIGHTLY = "retable, end to end", "lightly, end to end"
QUERY, KEY = "encoder alone, query", "encoder alone, key"
VIEWS, METHOD = "views", "step without encoder"
WARMUP = 3


@dataclass(frozen=True)
class Interrupted:
    """A method's recipe whose every ``every``-th step is followed by something else."""

    recipe: MethodRecipe
    rest: InitVar[Callable[[], None]]  # no plain value, which a recipe's fields are
    every: int

    def __post_init__(self, rest: Callable[[], None]) -> None:
        object.__setattr__(self, "after", rest)

    def build(self, encoder: torch.nn.Module, rng_key: int) -> Method:
        """Return the method; it calls ``rest`` at the very end of a step."""
        method = self.recipe.build(encoder, rng_key)
        finish = method.after_step

        def after_step(progress: Progress) -> None:
            finish(progress)
            if (progress.step + 1) % self.every == 0:
                vars(self)["after"]()

        method.after_step = after_step  # type: ignore[method-assign]
        return method


class Rounds:
    """Times our loop from the end of one rest to the start of the next, and others in between.

    Args:
        sides: the others, each called as often as our loop made steps.
        steps: of our loop between two rests.
        options: with the device where all compute.
        ahead: called before each side's turn, off the clock.
    """

    def __init__(
        self,
        sides: dict[str, Callable[[], object]],
        steps: int,
        options: Options,
        ahead: dict[str, Callable[[], object]],
    ) -> None:
        self.sides, self.steps, self.ahead = sides, steps, ahead
        self.device, self.clock = options.device, options.clock
        self.seconds: Seconds = {OURS: [], **{name: [] for name in sides}}
        self.start: float | None = None
        self.made = 0

    def rest(self) -> None:
        """Stop our clock, let every side have its turn, start our clock."""
        wait(self.device)
        if self.start is not None:
            self._note(OURS, self.clock() - self.start)
        names = list(self.sides)
        first = self.made % len(names)
        for name in names[first:] + names[:first]:
            self.ahead.get(name, int)()
            spent = timed(functools.partial(self._turn, name), self.device, self.clock)
            self._note(name, spent)
        self.made += 1
        wait(self.device)
        self.start = self.clock()

    def _turn(self, name: str) -> None:
        for _ in range(self.steps):
            self.sides[name]()

    def _note(self, name: str, seconds: float) -> None:
        # Our loop's first time is that of the second round.
        if self.made > WARMUP:
            self.seconds[name].append(seconds / self.steps)


@dataclass(frozen=True)
class Setting:
    """What is trained."""

    encoder: ResNetRecipe
    size: int
    batch: int
    queue: int
    rounds: int
    steps: int
    precision: str
    workers: int

    @property
    def all_steps(self) -> int:
        """Steps of our loop."""
        return (self.rounds + WARMUP + 1) * self.steps

    def recipe(self, method: MethodRecipe) -> PretrainRecipe:
        """Return the pretraining recipe."""
        view = moco_v2_view(self.size)
        return PretrainRecipe(
            method=method,
            data="memory",
            views=(view, view),
            encoder=self.encoder,
            optimizer=OptimizerRecipe(),
            epochs=1,
            batch=self.batch,
            precision=self.precision,
            max_steps=self.all_steps,
        )


def choose(options: Options) -> Setting:
    """Return the setting: on a CPU the one that lightly was published to be measured in."""
    on_gpu = options.device.type == "cuda"
    return Setting(
        encoder=options.pick(
            ResNetRecipe("resnet18", stem="small"),
            ResNetRecipe("resnet18", stem="small"),
            ResNetRecipe("resnet18", width=0.125, stem="small"),
        ),
        size=options.pick(32, 32, 8),
        batch=options.pick(512, 512, 4) if on_gpu else options.pick(64, 64, 4),
        queue=options.pick(65536, 65536, 16) if on_gpu else options.pick(4096, 4096, 16),
        rounds=options.pick(20, 6, 1),
        # Enough at a time to keep a GPU's queue of work filled.
        steps=options.pick(40, 20, 1) if on_gpu else 1,
        precision=best_precision(options.device),
        workers=max(1, (os.cpu_count() or 2) - 1) if on_gpu else 0,
    )


def measure(setting: Setting, options: Options) -> Seconds:
    """Run our loop with the others between its steps."""
    device = options.device
    # More images than the steps need: no epoch ends before the last rest.
    pool = images((setting.all_steps + 1) * setting.batch, setting.size, setting.size)
    source = MemorySource(pool)
    bound = EncoderAlone(setting.encoder, setting.size, setting.batch, device, setting.precision)
    method = moco_v2(queue=setting.queue)
    skipped = SkippedEncoder(setting.encoder.build(rng_key=0), setting.batch)
    view = moco_v2_view(setting.size)
    loader = Loader(source, Sampler(len(source), setting.batch, 1), (view, view), device=device)
    loaded = loader.batches(0, setting.all_steps)
    sides: dict[str, Callable[[], object]] = {
        QUERY: bound.query,
        KEY: bound.key,
        VIEWS: lambda: next(loaded),
        METHOD: Step(
            method.build(skipped, 0), setting.size, setting.batch, device, setting.precision
        ),
    }
    ahead: dict[str, Callable[[], object]] = {}
    if peer.installed():
        sides[LIGHTLY], ahead[LIGHTLY] = lightly(setting, pool, device)
    rounds = Rounds(sides, setting.steps, options, ahead)
    recipe = setting.recipe(Interrupted(method, rounds.rest, setting.steps))
    with tempfile.TemporaryDirectory() as folder:
        directory = RunDirectory(Path(folder))
        accelerator = make_accelerator(setting.precision)
        pretrain(recipe, 0, source, directory, accelerator, RunOptions(quiet=True))
    return rounds.seconds


def lightly(
    setting: Setting, pool: torch.Tensor, device: torch.device
) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return lightly's step from images, and what drops batches made while others had their turn.

    Worker processes go on working then; the batches that they have ready would cost it nothing.
    """
    waiting = 2 * setting.workers
    steps = (setting.rounds + WARMUP + 2) * (setting.steps + waiting)
    model = peer.LightlyMoCo(
        setting.encoder.name,
        setting.encoder.stem == "small",
        setting.queue,
        device,
        setting.precision,
    )
    batches = peer.batches(pool[:512], setting.size, setting.batch, steps, setting.workers, device)
    return (
        lambda: model.step(*next(batches)),
        lambda: list(itertools.islice(batches, waiting)),
    )


def add_figures(report: Report, seconds: Seconds, setting: Setting) -> None:
    """Add rates, parts and ratios."""
    ours, bound = seconds[OURS], total(seconds, QUERY, KEY)

    def rate(what: str, spent: list[float]) -> None:
        report.add(what, [setting.batch / s for s in spent], "images/s")

    rate(OURS, ours)
    if LIGHTLY in seconds:
        rate(LIGHTLY, seconds[LIGHTLY])
    rate("encoder alone (bound)", bound)
    for part in (QUERY, KEY, VIEWS, METHOD):
        report.add(f"part: {part}", [1e3 * s for s in seconds[part]], "ms")
    parts = total(seconds, QUERY, KEY, VIEWS, METHOD)
    report.add("retable's step over the sum of its parts", ratios(ours, parts))
    on_gpu = report.options.device.type == "cuda"
    if LIGHTLY in seconds:
        speed = ratios(seconds[LIGHTLY], ours)
        report.add("images/s of retable over lightly's", speed, goal=Goal(at_least=1.0))
    else:
        report.say("lightly is not installed: not compared")
    reached = Goal(at_least=0.90 if on_gpu else 0.97)
    report.add("end to end over encoder alone", ratios(bound, ours), name="R1", goal=reached)
    views = ratios(seconds[VIEWS], ours)
    report.add("views' share of a step", views, name="R2", goal=Goal(at_most=0.10))
    method = ratios(seconds[METHOD], bound)
    report.add("method's part over encoder", method, name="R3", goal=Goal(at_most=0.10))
    if on_gpu and "H200" in torch.cuda.get_device_name(report.options.device):
        share = [setting.batch / s / 163_000 for s in ours]
        goal = Goal(at_least=0.25)
        report.add("end to end over 163,000 images/s", share, name="R6", goal=goal)


def main() -> None:
    options = parse(__doc__ or "")
    setting = choose(options)
    report = Report(
        f"Pretraining, MoCo v2, {setting.encoder.name}, {setting.size} px, small stem, batch "
        f"{setting.batch}, queue {setting.queue}, {setting.precision}, channels last",
        options,
        lightly=peer.version(),
    )
    add_figures(report, measure(setting, options), setting)
    report.show()


if __name__ == "__main__":
    main()
