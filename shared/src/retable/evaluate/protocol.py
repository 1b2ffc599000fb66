"""Interface of evaluations: frozen recipes that turn an encoder into named metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import nn

from retable.data.source import TEST, TRAIN
from retable.evaluate.data import (
    EvalData,
    OpenSource,
    Splits,
    natural_test_view,
    split_facts,
)
from retable.settings import to_plain

if TYPE_CHECKING:
    from retable.data.source import Source
    from retable.encoders import EncoderRecipe
    from retable.evaluate.frozen import FrozenEncoder
    from retable.methods.method import Method
    from retable.train.checkpoint import Checkpoints


@dataclass(frozen=True)
class MetricSpec:
    """A metric's name in a table's head, its unit ("" for plain numbers) and its direction.

    ``higher_is_better`` is None for facts that are neither good nor bad.
    """

    label: str
    unit: str = ""
    higher_is_better: bool | None = None


TOP1 = MetricSpec("Top-1", "%", higher_is_better=True)
TOP5 = MetricSpec("Top-5", "%", higher_is_better=True)
ACCURACIES = {
    "top1": TOP1,
    "top5": TOP5,
    "mean_per_class": MetricSpec("Mean per class", "%", higher_is_better=True),
}
"""Metrics of `retable.evaluate.classifier.accuracy`."""


@dataclass(frozen=True)
class Budget:
    """Encoder work of an evaluation that trains the encoder.

    ``images`` are those of all optimizer steps together, ``size`` is the side of an encoder input
    in pixels. An image takes as long as so many forward ``passes``: 3 for forward and backward.
    """

    steps: int
    images: int
    size: int
    passes: float = 3.0


@dataclass(frozen=True)
class EvalContext:
    """Where and how an evaluation runs; nothing here changes its metrics beyond rounding.

    Attributes:
        directory: folder of the state that makes an interrupted evaluation resumable; None keeps
            nothing.
        precision: "float32", "bf16" or "fp16" for the encoder's passes.
        progress: whether process 0 shows a progress bar, if there is a terminal.
        features: folder of features of views without random draws, which other evaluations of the
            same encoder read (`retable.evaluate.cache`); None keeps nothing.
        checkpoint: where the encoder was loaded from (`retable.weights.load_encoder`); evaluations
            that train the encoder start from it. "": unknown.
        owner: name of this evaluation of this encoder, which its files carry.
        method: loads the trained method that the encoder belongs to, for evaluations of its heads;
            None: unknown, for instance of an encoder file of another program.
    """

    device: torch.device | str
    directory: Path | None = None
    workers: int = 0
    precision: str = "float32"
    progress: bool = False
    features: Path | None = None
    checkpoint: str = ""
    owner: str = ""
    method: Callable[[], Method] | None = None

    def accelerator(self) -> Any:
        """Return a new ``accelerate.Accelerator`` of this device and precision, for training."""
        from retable.train.pretrain import make_accelerator

        return make_accelerator(self.precision, cpu=torch.device(self.device).type == "cpu")


class Evaluation(ABC):
    """Base class of evaluations, which are frozen dataclasses of settings.

    Equal settings, encoder, data and seed give equal metrics. A subclass has the fields ``name``
    and ``data`` and defines `metrics` and `run`; what trains overrides `limited` and `shrunk`, what
    trains the encoder also `budget`.

    Attributes:
        reads: splits that the evaluation opens.
        defaults_of: whose settings the defaults are and for which data set; "": of no paper.
    """

    reads: ClassVar[tuple[str, ...]] = (TRAIN, TEST)
    defaults_of: ClassVar[str] = ""

    if TYPE_CHECKING:  # as properties, since the fields of frozen subclasses are read-only

        @property
        def name(self) -> str:
            """Name of the results."""

        @property
        def data(self) -> EvalData:
            """Images that the evaluation uses."""

    @property
    @abstractmethod
    def metrics(self) -> dict[str, MetricSpec]:
        """The metrics that `run` returns, by name; the first is the primary one."""

    @abstractmethod
    def run(
        self, encoder: nn.Module, open_source: OpenSource, context: EvalContext, *, seed: int
    ) -> dict[str, float]:
        """Evaluate the encoder, which keeps its weights and its mode, and return `metrics`.

        The encoder maps images (B, 3, H, W) to (B, F); a `FrozenEncoder` is used as it is.
        ``seed`` is the key of every draw, by purpose, epoch and image, whatever the number of
        processes.
        """

    def descriptions(self, open_source: OpenSource) -> dict[str, Any]:
        """Return the descriptions of the images that the evaluation reads, by split."""
        data = self.data.source or None
        return {split: open_source(split, data=data).description for split in self.reads}

    def checkpoints(
        self, frozen: FrozenEncoder, splits: Splits, context: EvalContext, seed: int
    ) -> Checkpoints:
        """Return the states of a training, which depend on all of these."""
        from retable.train.checkpoint import Checkpoints

        return Checkpoints(
            context.directory,
            self.name,
            encoder=frozen.digest,
            structure=frozen.structure,
            recipe=to_plain(self),
            seed=seed,
            precision=[frozen.precision, context.precision],
            **split_facts(splits),
        )

    def with_data(self, data: EvalData) -> Self:
        """Return the evaluation on other images."""
        return replace(self, data=data)  # type: ignore[type-var]

    def on_data(self, known: Mapping[str, str]) -> Self:
        """Return the evaluation with the name of its data set replaced by the data set itself."""
        if self.data.source not in known:
            return self
        return self.with_data(replace(self.data, source=known[self.data.source]))

    def with_views(self, *sources: Source) -> Self:
        """Return the evaluation with the views of these images where its settings name none.

        It gives the metrics of the evaluation itself, whose settings it spells out. Fields named
        ``view`` and ``test_view`` are filled in.
        """
        names = [name for name in ("view", "test_view") if getattr(self, name, self) is None]
        if not names:
            return self
        return replace(self, **dict.fromkeys(names, natural_test_view(*sources)))  # type: ignore[type-var]

    def limited(self, max_steps: int) -> Self:
        """Return an evaluation whose training stops after so many steps; it measures nothing."""
        return self

    def shrunk(self, epochs: int, size: int = 32) -> Self:
        """Return the evaluation for images of ``size`` pixels, with ``epochs`` of any training."""
        return self

    def memory(self, encoder: EncoderRecipe, images: int, size: int) -> float | None:
        """Return about how many bytes a training of the encoder takes, None if it is not trained.

        One process holds the whole batch. The arguments are those of `budget`.
        """
        return None

    def budget(self, images: int, size: int) -> Budget | None:
        """Return the budget of a training on labelled images, None if the encoder is not trained.

        ``size`` is the side of the training view in pixels where the recipe has no view.
        """
        return None
