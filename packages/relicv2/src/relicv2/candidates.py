"""Candidates of the contrastive probabilities: an image and a few others of the global batch.

The negatives of an image are drawn uniformly and without replacement from the other images of the
global batch, with another key in every step. All pairs of views of a step share one draw, so that
the two distributions of an invariance term are over the same candidates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from retable.errors import UserError
from retable.nn.checks import Shaped, check_rng_key, check_shapes
from retable.random import bits, derive_key, integers

NEGATIVES = "negatives"
"""Purpose of the draws, by which their key is derived from the step's."""

MANY = 64
"""Negatives above which all others are ranked at once, instead of one round for each negative."""


def draw_candidates(rng_key: int, positions: Tensor, batch: int, *, negatives: int = 10) -> Tensor:
    """Draw the candidates of B_r images in a global batch of B images.

    Every set of others is equally likely.

    Args:
        rng_key: random key of the step, equal on all processes; it must change with every step.
        positions: (B_r,) int64 positions of the images in the global batch.
        batch: B, number of images in the global batch.
        negatives: n, number of negatives; 10 (table 21). From B - 1 on, all other images.

    Returns:
        (B_r, 1 + n) int64 positions in the global batch: the image itself first, then its
        negatives, none of them twice.

    Raises:
        UserError: ``negatives`` is negative, ``batch`` is not positive, or (on a CPU) positions are
            not in the batch.

    >>> draw_candidates(0, torch.tensor([0, 1, 2]), 3, negatives=9)
    tensor([[0, 1, 2],
            [1, 2, 0],
            [2, 0, 1]])
    """
    check_rng_key(rng_key)
    check_shapes(Shaped("positions", positions, "B", kind="whole"))
    if negatives < 0 or batch < 1:
        raise UserError(
            f"`negatives` must be 0 or more and `batch` at least 1, got {negatives} and {batch}. "
            "Use 10 negatives, the paper's value."
        )
    check_candidates(positions, batch, name="positions")
    others = batch - 1
    if negatives >= others:
        steps = torch.arange(batch, device=positions.device)
        return (positions[:, None] + steps) % batch
    rng_key = derive_key(rng_key, NEGATIVES)
    draw = _ranked if negatives > MANY else _one_by_one
    found = (positions[:, None] + 1 + draw(rng_key, positions, others, negatives)) % batch
    return torch.cat([positions[:, None], found], dim=1)


def _one_by_one(rng_key: int, positions: Tensor, others: int, count: int) -> Tensor:
    """Draw different numbers (B_r, n) below ``others`` by Floyd's algorithm for all rows at once.

    In round j one of the first others - n + j numbers is drawn, and where it has been drawn before,
    the last of them is taken.
    """
    chosen = positions.new_empty(len(positions), count)
    for round_ in range(count):
        last = others - count + round_
        drawn = integers(rng_key, positions * count + round_, last + 1)
        again = (chosen[:, :round_] == drawn[:, None]).any(dim=1)
        chosen[:, round_] = torch.where(again, last, drawn)
    return chosen


def _ranked(rng_key: int, positions: Tensor, others: int, count: int) -> Tensor:
    """Draw the same as the n smallest of random words, one for each of the others."""
    places = torch.arange(others, device=positions.device)
    words = bits(rng_key, positions[:, None] * others + places)
    return words.topk(count, dim=1, largest=False, sorted=False).indices


def check_candidates(places: Tensor, batch: int, name: str = "candidates") -> None:
    """Raise a UserError unless places are positions in a global batch; a GPU is not waited for."""
    if places.device.type != "cpu" or not places.numel():
        return
    least, most = int(places.min()), int(places.max())
    if least < 0 or most >= batch:
        raise UserError(
            f"`{name}` must be positions in the global batch, 0 to {batch - 1}, got {least} to "
            f"{most}. Pass the size of the batch of all processes."
        )
