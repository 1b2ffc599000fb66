"""Choose the settings of an evaluation on held-out images, then run it with the chosen ones."""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from torch import nn

from retable import random
from retable.distributed import gather_objects
from retable.domains import Count, Name
from retable.errors import UserError
from retable.evaluate.data import EvalData, OpenSource, open_eval_splits
from retable.evaluate.linear import LinearProbe
from retable.evaluate.protocol import Budget, EvalContext, Evaluation, MetricSpec
from retable.evaluate.transfer.finetune import FineTuning
from retable.settings import validate_fields

if TYPE_CHECKING:
    from retable.data.source import Source
    from retable.encoders import EncoderRecipe

Value = bool | int | float
Grid = tuple[tuple[str, tuple[Value, ...]], ...]
"""Values to try by the name of a field."""


@dataclass(frozen=True)
class Sweep(Evaluation):
    """An evaluation whose settings are chosen on held-out images and which then learns from all.

    Each candidate learns from the training images without those that choose
    (`retable.evaluate.data.EvalData`, split "validation") and is measured on these. The best one,
    of equals the first, learns from all of them and is measured on the test images. Finished
    candidates are kept, an interrupted one goes on as the evaluation itself does.

    Attributes:
        base: the evaluation; its own data set is not used.
        grid: fields of ``base`` with the values to try; none: the evaluation as it is.
        candidates: number of combinations of these values, drawn without repetition and the same
            for every encoder; None: all.
        chosen_by: metric of ``base`` that chooses; "": the accuracy that the data set's papers
            report ("accuracy" of its description), or top-1.
        data: images; ``split`` must be "test".
    """

    base: FineTuning | LinearProbe
    grid: Grid
    candidates: Count | None = None
    chosen_by: str = ""
    data: EvalData = field(default_factory=EvalData)
    name: Name = "sweep"

    def __post_init__(self) -> None:
        """Validate the fields and the settings of every candidate."""
        validate_fields(self)
        if self.data.split != "test":
            raise UserError(
                f"`data.split` of a sweep must be 'test', got {self.data.split!r}. A sweep holds "
                "images out itself."
            )
        fields = [one.name for one in dataclasses.fields(self.base)]
        for name, values in self.grid:
            if name not in fields or not values:
                raise UserError(
                    f"`grid` must name fields of {type(self.base).__name__} with values, got "
                    f"{name!r} with {len(values)} values. Choose from {', '.join(fields)}."
                )
        if self.chosen_by and self.chosen_by not in self.base.metrics:
            raise UserError(
                f"`chosen_by` must be one of {', '.join(self.base.metrics)}, got "
                f"{self.chosen_by!r}. Choose one of them."
            )
        for each in self.settings():
            replace(self.base, **each)

    @property
    def metrics(self) -> dict[str, MetricSpec]:
        """Those of the evaluation, the best candidate's held-out accuracy, and its settings."""
        chosen = {f"chosen_{name}": MetricSpec(f"Chosen {name}") for name, _ in self.grid}
        accuracy = MetricSpec("Held-out accuracy", "%", higher_is_better=True)
        return {**self.base.metrics, "validation": accuracy, **chosen}

    def settings(self) -> list[dict[str, Any]]:
        """Return the settings of each candidate, by field."""
        names = [name for name, _ in self.grid]
        combinations = list(itertools.product(*(values for _, values in self.grid)))
        if self.candidates is not None and self.candidates < len(combinations):
            rng_key = random.derive_key(0, "candidates of a sweep")
            order = random.permutation(rng_key, len(combinations))
            combinations = [combinations[row] for row in sorted(order[: self.candidates].tolist())]
        return [dict(zip(names, values, strict=True)) for values in combinations]

    def run(
        self, encoder: nn.Module, open_source: OpenSource, context: EvalContext, *, seed: int
    ) -> dict[str, float]:
        """Return `metrics`, see `Evaluation.run`."""
        held_out = replace(self.data, split="validation")
        train = open_eval_splits(open_source, held_out).train
        metric = self.chosen_by or str(train.description.get("accuracy", "top1"))
        with tempfile.TemporaryDirectory() as temporary:  # all candidates read the same features
            shared_by_all = Path(gather_objects([temporary])[0])
            kept = replace(context, features=context.features or shared_by_all)

            def run(name: str, settings: Mapping[str, Any], data: EvalData) -> dict[str, float]:
                folder = None if context.directory is None else context.directory / name
                own = replace(kept, directory=folder)
                candidate = replace(self.base, data=data, **settings)
                return candidate.run(encoder, open_source, own, seed=seed)

            settings = self.settings()
            found = [
                run(f"candidate-{number}", each, held_out)[metric]
                for number, each in enumerate(settings)
            ]
            best = max(range(len(found)), key=found.__getitem__)
            results = run("chosen", settings[best], self.data)
            gather_objects([])  # the folder stays until the last process has read from it
        chosen = {f"chosen_{name}": float(value) for name, value in settings[best].items()}
        return {**results, "validation": found[best], **chosen}

    def with_views(self, *sources: Source) -> Self:
        """Return the evaluation with the views of ``base`` filled in."""
        return replace(self, base=self.base.with_views(*sources))

    def limited(self, max_steps: int) -> Self:
        """Return one candidate with limited trainings."""
        return replace(self, base=self.base.limited(max_steps), candidates=1)

    def shrunk(self, epochs: int, size: int = 32) -> Self:
        """Return the shrunk evaluation with its learning rate and a third of it as candidates."""
        base = self.base.shrunk(epochs, size)
        assert base.lr is not None  # a shrunk evaluation states its rate
        return replace(self, base=base, grid=(("lr", (base.lr / 3, base.lr)),), candidates=None)

    def memory(self, encoder: EncoderRecipe, images: int, size: int) -> float | None:
        """Return the bytes of the largest training, see `Evaluation.memory`."""
        each = (replace(self.base, **settings) for settings in self.settings())
        largest = max(each, key=lambda candidate: candidate.batch)
        return largest.memory(encoder, images, size)

    def budget(self, images: int, size: int) -> Budget | None:
        """Return at most what all trainings together take, see `Evaluation.budget`.

        Candidates count as if they learned from all images.
        """
        found = [replace(self.base, **each).budget(images, size) for each in self.settings()]
        budgets = [budget for budget in found if budget is not None]
        if not budgets:
            return None
        longest = max(budgets, key=lambda budget: budget.images)
        return replace(
            longest,
            steps=longest.steps + sum(budget.steps for budget in budgets),
            images=longest.images + sum(budget.images for budget in budgets),
        )
