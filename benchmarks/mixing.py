"""Time what MoCHi adds to MoCo v2: the contrastive part alone, then whole steps.

The contrastive part is scores with the queue, the loss and its gradient: of MoCo v2, of MoCHi with
its points made (`mochi.mix_hard_negatives`), of MoCHi in closed form (`mochi.mixed_logits`).
`_memory` says what peak memory is, `_whole_steps` what a whole step is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from _contrast import DIM, Contrast, Form, Shape, add_over, added_to, compare_forms, moco
from _steps import best_precision
from _timing import Goal, Options, Report, parse, ratios
from _whole_steps import Training, compare_steps
from torch import Tensor

from mochi import MoCHiRecipe, mix_hard_negatives, mixed_logits
from retable.encoders import ResNetRecipe
from retable.methods import MethodRecipe, moco_v2

MOCO, POINTS, CLOSED = "MoCo v2", "MoCHi, points", "MoCHi, closed form"


@dataclass(frozen=True)
class MixingShape(Shape):
    """B queries, K keys, and MoCHi's (N, s, s')."""

    n_hard: int
    s: int
    s_prime: int

    def __str__(self) -> str:
        return f"{super().__str__()}, ({self.n_hard}, {self.s}, {self.s_prime})"

    def recipes(self) -> dict[str, MethodRecipe]:
        """Return the methods' recipes, mixing from the first step on."""
        mochi = MoCHiRecipe(
            queue=self.queue,
            n_hard=self.n_hard,
            s=self.s,
            s_prime=self.s_prime,
            mixing_warmup_epochs=0,
        )
        return {MOCO: moco_v2(queue=self.queue), CLOSED: mochi}


IMAGENET100 = MixingShape(128, 16384, 1024, 1024, 128)
IMAGENET1K = MixingShape(256, 65536, 128, 1024, 512)
TINY = MixingShape(4, 32, 8, 8, 2)


def points(contrast: Contrast[MixingShape]) -> Tensor:
    """Score points that are made."""
    shape, query = contrast.shape, contrast.query
    cosines = query @ contrast.queue.T
    mixed = mix_hard_negatives(
        query,
        contrast.queue,
        rng_key=0,
        n_hard=shape.n_hard,
        s=shape.s,
        s_prime=shape.s_prime,
        cosines=cosines,
    )
    scores = torch.einsum("bd,bsd->bs", query, mixed)
    return torch.cat([contrast.positive(), cosines, scores], dim=1)


def closed(contrast: Contrast[MixingShape]) -> Tensor:
    """Score points that are not made."""
    shape = contrast.shape
    cosines = contrast.query @ contrast.queue.T
    mixed = mixed_logits(
        contrast.query,
        contrast.queue,
        rng_key=0,
        n_hard=shape.n_hard,
        s=shape.s,
        s_prime=shape.s_prime,
        cosines=cosines,
    )
    return torch.cat([contrast.positive(), cosines, mixed], dim=1)


def contrastive_part(report: Report, options: Options, shape: MixingShape) -> None:
    """Add time and memory of the contrastive part in its three forms."""
    forms: dict[str, Form[MixingShape]] = {MOCO: moco, POINTS: points, CLOSED: closed}
    seconds, memory = compare_forms(report, options, shape, TINY, forms)
    for what, measured, most in (("time", seconds, 0.5), ("peak memory", memory, 0.333)):
        goal = Goal(at_most=most)
        add_over(report, measured, CLOSED, POINTS, f"{shape}, {what}", goal)
        added = ratios(added_to(measured, CLOSED, MOCO), added_to(measured, POINTS, MOCO))
        said = f"the same, of what is added to MoCo v2's, {shape}, {what}"
        report.add(said, added, goal=goal)


def main() -> None:
    options = parse(__doc__ or "")
    report = Report(f"MoCHi, D {DIM}, {best_precision(options.device)} encoders", options)
    shapes = options.pick((IMAGENET100, IMAGENET1K), (IMAGENET100, IMAGENET1K), (TINY,))
    for shape in shapes:
        contrastive_part(report, options, shape)
    small = ResNetRecipe("resnet18", width=options.pick(1.0, 1.0, 0.125), stem="small")
    large = ResNetRecipe("resnet50", width=options.pick(1.0, 1.0, 0.125))
    small_size, large_size = options.pick((32, 224), (32, 224), (8, 32))
    first = shapes[0]
    training = Training(small, small_size, first.batch)
    compare_steps(report, options, training, first.recipes(), first, Goal(at_most=1.15))
    on_gpu = options.device.type == "cuda"
    for shape in shapes[:1] if on_gpu else shapes:
        part = None if on_gpu else options.pick(8, 8, 2)
        training = Training(large, large_size, shape.batch, part)
        compare_steps(report, options, training, shape.recipes(), shape, Goal(at_most=1.05))
    report.show()


if __name__ == "__main__":
    main()
