"""Random choice of anchors and proposals by keys, in torchvision's interface of a sampler."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from retable.random import derive_key, uniform


class KeyedSampler(BalancedPositiveNegativeSampler):
    """Chooses positives, at most a share of them, and fills up with negatives.

    The choice depends on the step's key, the image's position in the global batch and the place in
    the image's list, so that splitting a batch over processes does not change it. `start` names
    them before the sampler is called.
    """

    rng_key = 0
    positions: Sequence[int] = ()

    def start(self, rng_key: int, positions: Sequence[int]) -> None:
        """Set the key of the draws and the positions of the images of the next call."""
        self.rng_key, self.positions = rng_key, positions

    def __call__(self, labels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Choose among candidates labelled 1 and above, 0, or -1 for neither.

        Returns:
            Two lists of masks (n,), of chosen positives and of chosen negatives of each image.
        """
        chosen: tuple[list[Tensor], list[Tensor]] = ([], [])
        for position, of_image in zip(self.positions, labels, strict=True):
            places = torch.arange(len(of_image), device=of_image.device)
            draws = uniform(derive_key(self.rng_key, position), places)
            most = int(self.batch_size_per_image * self.positive_fraction)
            positive = first_by(draws, of_image >= 1, most)
            left = self.batch_size_per_image - int(positive.sum())
            chosen[0].append(positive)
            chosen[1].append(first_by(draws, of_image == 0, left))
        return chosen


def first_by(draws: Tensor, candidates: Tensor, count: int) -> Tensor:
    """Return the mask (n,) of the ``count`` candidates (n,) with the smallest draws (n,).

    >>> first_by(torch.tensor([0.3, 0.1, 0.2]), torch.tensor([True, False, True]), 1)
    tensor([False, False,  True])
    """
    order = torch.where(candidates, draws, 2.0).argsort(stable=True)[:count]
    found = torch.zeros_like(candidates)
    found[order] = True
    return found & candidates
