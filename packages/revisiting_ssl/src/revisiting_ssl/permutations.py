"""Choose the permutations of Jigsaw: few of 9!, as different from each other as possible.

Noroozi and Favaro (ECCV 2016) choose them greedily by Hamming distance. The set is a part of the
task: it depends on its own parameters alone, not on a run's seed.
"""

from __future__ import annotations

import functools
import math
from typing import Literal

import torch
from torch import Tensor

from retable import random
from retable.errors import UserError
from retable.nn.checks import check_rng_key

Selection = Literal["mean", "minimum"]

_LISTED = 9
"""Most patches for which all permutations are candidates: 9! of one byte a patch take 3 MB."""

_DRAWN = math.factorial(_LISTED)
"""Number of candidates that are drawn for more patches."""

_MOST = 10_000
"""Most permutations in a set: far fewer than candidates, so that none is chosen twice."""


def permutation_set(
    patches: int = 9, count: int = 100, selection: Selection = "mean", rng_key: int = 0
) -> Tensor:
    """Choose permutations one after the other, each as far from those before as possible.

    Distance is Hamming's: the number of places at which two permutations differ. By the mean
    distance, 100 of 9 patches reach 9 - 9 * 506 / 4950 = 8.08 on average, the largest mean there
    can be, since each patch comes 11 or 12 times to each place. By the minimum, no two are close,
    and the task is easier.

    Args:
        patches: number of patches, 9 in the paper (a grid of 3 x 3). For more than 9, 9! candidates
            are drawn instead of all permutations.
        count: number of permutations, 100 in the paper.
        selection: take the candidate with the largest "mean" or the largest "minimum" of its
            distances to those that are chosen.
        rng_key: random key of the first one, and of the choice among equally good ones.

    Returns:
        (count, patches) int64, no two rows equal. A process computes each set once, in about a
        second for 100 of 9!.

    >>> permutation_set(4, count=4)  # a Latin square: each patch once in each place
    tensor([[3, 2, 1, 0],
            [1, 0, 3, 2],
            [0, 3, 2, 1],
            [2, 1, 0, 3]])
    """
    most = min(math.factorial(max(patches, 0)), _MOST)
    if not (patches >= 1 and 1 <= count <= most):
        raise UserError(
            f"The number of permutations of {patches} patches must be in [1, {most}], got {count}."
        )
    if selection not in ("mean", "minimum"):
        raise UserError(f"`selection` must be 'mean' or 'minimum', got {selection!r}.")
    check_rng_key(rng_key)
    return torch.tensor(_chosen(patches, count, selection, rng_key))


@functools.lru_cache(maxsize=16)
def _chosen(patches: int, count: int, selection: Selection, seed: int) -> tuple[list[int], ...]:
    rng_key = random.derive_key(seed, "permutations", patches)
    if patches <= _LISTED:
        candidates = _all_permutations(patches)
    else:
        candidates = _drawn_permutations(random.derive_key(rng_key, "candidates"), patches)
    # In random order the first of the best is any of the best.
    order = random.permutation(random.derive_key(rng_key, "order"), len(candidates))
    by_place = candidates[order].T.contiguous()
    total = torch.zeros(len(candidates), dtype=torch.int32, device="cpu")
    nearest = torch.full_like(total, patches)
    chosen = []
    for _ in range(count):
        score = total if selection == "mean" else nearest * (count * patches) + total
        # A permutation that is taken is at distance 0 from one of the set.
        row = by_place[:, score.masked_fill(nearest == 0, -1).argmax()].tolist()
        chosen.append(row)
        distance = torch.zeros_like(total)
        for patches_here, patch in zip(by_place, row, strict=True):
            distance += patches_here != patch
        total += distance
        nearest = nearest.minimum(distance)
    return tuple(chosen)


def _all_permutations(patches: int) -> Tensor:
    """List all permutations: (patches!, patches) int8."""
    rows = torch.zeros(1, 1, dtype=torch.int8, device="cpu")
    for patch in range(1, patches):
        new = torch.full((len(rows), 1), patch, dtype=torch.int8, device="cpu")
        rows = torch.cat(
            [torch.cat([rows[:, :i], new, rows[:, i:]], dim=1) for i in range(patch + 1)]
        )
    return rows


def _drawn_permutations(rng_key: int, patches: int) -> Tensor:
    """Draw independent permutations: (9!, patches) int8."""
    counters = torch.arange(_DRAWN * patches, device="cpu").view(_DRAWN, patches)
    return random.bits(rng_key, counters).argsort(dim=1).to(torch.int8)
