"""Training batches of whole images, resized and cut by the data set's own rules, by step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from retable import distributed
from retable.data.batch import Progress
from retable.data.source import Source
from retable.data.worker_processes import results_by_step
from retable.errors import UserError
from retable.random import derive_key
from retable.views.recipe import IMAGENET_MEAN, IMAGENET_STD

Example = TypeVar("Example")
Made = TypeVar("Made")
_STATISTICS = (IMAGENET_MEAN, IMAGENET_STD)


class StepSampler(Protocol):
    """Samples by step, see `retable.data.sampler.Sampler`."""

    seed: int
    steps_per_epoch: int

    def epoch(self, step: int) -> int:
        """Return the zero-based epoch of a step."""

    def global_batch(self, step: int) -> Tensor:
        """Return the samples of a step over all processes, (B,) int64."""


class ExampleLoader(ABC, Generic[Example, Made]):
    """Batches in the interface of `retable.data.loader.Loader`.

    A subclass defines `examples`, which worker processes call, and `batch`.

    Args:
        source: images.
        sampler: which of them a step takes.
        batch: images of a step, over all processes.
        epochs: of the training.
        workers: processes that make examples; 0: none.
        device: of the batches.
    """

    def __init__(
        self,
        source: Source,
        sampler: StepSampler,
        *,
        batch: int,
        epochs: int,
        workers: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.source, self.sampler, self.epochs = source, sampler, epochs
        self.workers, self.device = workers, torch.device(device)
        share = batch // distributed.process_count()
        first = distributed.process_index() * share
        self.positions = torch.arange(first, first + share)

    @abstractmethod
    def examples(self, step: int, indices: Tensor) -> list[Example]:
        """Return the finished images ``indices`` (B_r,) of a step, on the CPU."""

    @abstractmethod
    def batch(self, examples: Sequence[Example], **places: Any) -> Made:
        """Return a batch on the device.

        Args:
            examples: the finished images.
            places: ``indices``, ``positions``, ``labels``, ``progress`` and ``rng_key`` of
                `retable.data.batch.Batch`.
        """

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return self.sampler.steps_per_epoch

    def indices(self, step: int) -> Tensor:
        """Return this process's samples of a step, (B_r,) int64."""
        return self.sampler.global_batch(step)[self.positions]

    def batches(self, first_step: int, last_step: int) -> Iterator[Made]:
        """Yield this process's batches of the steps [first_step, last_step)."""
        steps = range(first_step, last_step)
        made = results_by_step(_Steps(self), steps, self.workers, self.device)
        for step, examples in zip(steps, made, strict=True):
            yield self.batch(
                examples,
                indices=self.indices(step),
                positions=self.positions,
                labels=torch.full((len(examples),), -1),
                progress=Progress(step, self.steps_per_epoch, self.epochs),
                rng_key=derive_key(self.sampler.seed, "step", step),
            )


class _Steps(Dataset[list[Example] | str]):
    """The examples of each step, or what is wrong with one."""

    def __init__(self, loader: ExampleLoader[Example, Any]) -> None:
        self.loader = loader

    def __getitem__(self, step: int) -> list[Example] | str:
        try:
            return self.loader.examples(step, self.loader.indices(step))
        except UserError as error:
            return str(error)


def normalised(image: Tensor, device: torch.device | str) -> Tensor:
    """Return an image, or images, uint8 (..., 3, H, W), with ImageNet's statistics, on a device."""
    mean, std = (torch.tensor(of, device=device)[:, None, None] for of in _STATISTICS)
    # In place: each further copy of a photograph in float32 takes as long as its decoding.
    found = image.to(device, non_blocking=True).to(torch.float32)
    return found.div_(255).sub_(mean).div_(std)
