"""Batches of images of one orientation, so that little of a batch is padding."""

from __future__ import annotations

import torch
from torch import Tensor

from retable import random
from retable.data.transfer.objects import ObjectSource
from retable.errors import UserError


class AspectSampler:
    """Batches of wide or of tall images, as a function of (seed, epoch, step).

    An epoch's images are drawn in random order; a batch is made whenever so many of one orientation
    have come, as Detectron2's loader does. What is left at the end of an epoch is left out, so that
    a step can be made without those before it.

    Args:
        samples: (n,) int64 images to draw.
        wide: (n,) bool, whether each is wider than high.
        batch: images of the global batch.
        seed: of the order.
    """

    def __init__(self, samples: Tensor, wide: Tensor, batch: int, seed: int) -> None:
        self.samples, self.wide, self.batch, self.seed = samples, wide, batch, seed
        counts = int(wide.sum()), int((~wide).sum())
        self.steps_per_epoch = sum(count // batch for count in counts)
        if not self.steps_per_epoch:
            raise UserError(
                f"`batch` must be at most the number of images with objects of one orientation, "
                f"{max(counts)}, got {batch}. Choose a smaller batch."
            )
        self._latest: tuple[int, Tensor] | None = None

    @classmethod
    def of(cls, source: ObjectSource, batch: int, seed: int) -> AspectSampler:
        """Return the sampler of a source's images that have objects."""
        samples = source.has_objects().nonzero()[:, 0]
        sizes = [source.size_of(index) for index in samples.tolist()]
        wide = torch.tensor([width > height for height, width in sizes], dtype=torch.bool)
        return cls(samples, wide, batch, seed)

    def epoch(self, step: int) -> int:
        """Return the zero-based epoch of a step."""
        return step // self.steps_per_epoch

    def global_batch(self, step: int) -> Tensor:
        """Return the samples of a step over all processes: (B,) int64."""
        return self._batches(self.epoch(step))[step % self.steps_per_epoch]

    def _batches(self, epoch: int) -> Tensor:
        """Return an epoch's batches in the order in which they are full: (steps, B)."""
        if self._latest is None or self._latest[0] != epoch:
            rng_key = random.derive_key(self.seed, "order", epoch)
            order = random.permutation(rng_key, len(self.samples))
            found = []
            for kind in (True, False):
                places = (self.wide[order] == kind).nonzero()[:, 0]
                full = places[: len(places) // self.batch * self.batch].view(-1, self.batch)
                found.append(full)
            every = torch.cat(found)
            every = every[every[:, -1].argsort()]
            self._latest = epoch, self.samples[order[every]]
        return self._latest[1]
