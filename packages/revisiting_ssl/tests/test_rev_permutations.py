"""The jigsaw's set of permutations."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from retable.errors import UserError
from revisiting_ssl import permutation_set
from revisiting_ssl.permutations import Selection


def distances(permutations: Tensor) -> Tensor:
    """Return the Hamming distances of all pairs."""
    pairs = itertools.combinations(permutations.tolist(), 2)
    return torch.tensor([sum(x != y for x, y in zip(*pair, strict=True)) for pair in pairs])


def occurrences(permutations: Tensor) -> Tensor:
    """Count how often each patch comes to each place."""
    return F.one_hot(permutations).sum(dim=0)


def are_permutations(rows: Tensor) -> bool:
    ordered = rows.sort(dim=1).values
    return torch.equal(ordered, torch.arange(rows.shape[1]).expand_as(rows))


@pytest.mark.parametrize(("selection", "nearest"), [("mean", 2), ("minimum", 6)])
def test_a_hundred_of_nine_patches_are_as_far_apart_as_can_be(
    selection: Selection, nearest: int
) -> None:
    chosen = permutation_set(9, 100, selection)
    assert chosen.shape == (100, 9)
    assert are_permutations(chosen)
    assert len({tuple(row) for row in chosen.tolist()}) == 100
    # With each patch 11 or 12 times in each place, 506 pairs agree there, as few as can be.
    assert sorted(set(occurrences(chosen).flatten().tolist())) == [11, 12]
    assert int(distances(chosen).sum()) == 9 * 4950 - 9 * 506
    assert float(distances(chosen).double().mean()) == 9 - 9 * 506 / 4950 == pytest.approx(8.08)
    assert int(distances(chosen).min()) >= nearest


@pytest.mark.parametrize("count", [1, 10, 24])
@pytest.mark.parametrize("selection", ["mean", "minimum"])
def test_small_sets_are_spread_too(count: int, selection: Selection) -> None:
    chosen = permutation_set(9, count, selection)
    counts = occurrences(chosen)
    assert are_permutations(chosen)
    if selection == "mean":  # then as evenly as can be
        assert int(counts.max() - counts.min()) <= 1
    elif count > 1:
        assert int(distances(chosen).min()) >= 7


@pytest.mark.parametrize("patches", [1, 2, 3, 4])
def test_all_permutations_of_a_small_grid_can_be_asked_for(patches: int) -> None:
    everything = permutation_set(patches, math.factorial(patches))
    expected = set(itertools.permutations(range(patches)))
    assert {tuple(row) for row in everything.tolist()} == expected


@pytest.mark.parametrize("selection", ["mean", "minimum"])
def test_of_more_patches_not_all_permutations_are_looked_at(selection: Selection) -> None:
    chosen = permutation_set(16, 20, selection)
    assert are_permutations(chosen)
    assert len({tuple(row) for row in chosen.tolist()}) == 20
    bound = 16 - 16 * 4 / 190  # four patches twice in each place: as many pairs agree there
    assert bound - 0.1 < float(distances(chosen).double().mean()) <= bound
    assert int(distances(chosen).min()) >= 12


def test_the_set_is_a_function_of_its_arguments() -> None:
    first = permutation_set(9, 12)
    first[:] = 0  # what was returned is the caller's
    again = permutation_set(9, 12)
    assert are_permutations(again)
    assert torch.equal(again, permutation_set(9, 12, "mean", 0))
    assert not torch.equal(again, permutation_set(9, 12, rng_key=1))
    # One after the other: a smaller set is the beginning of a larger one.
    assert torch.equal(again, permutation_set(9, 24)[:12])


def test_ties_are_broken_evenly() -> None:
    """The first permutation is any of the 24, since all are equally good."""
    first = torch.cat([permutation_set(4, 1, rng_key=seed) for seed in range(240)])
    counts = torch.tensor([first.tolist().count(list(p)) for p in itertools.permutations(range(4))])
    assert counts.min() >= 1
    assert counts.max() <= 26  # five standard deviations above ten


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((4, 25), r"permutations of 4 patches must be in \[1, 24\], got 25"),
        ((9, 0), r"\[1, 10000\], got 0"),
        ((16, 10_001), r"must be in \[1, 10000\], got 10001"),
        ((9, 10, "median"), "must be 'mean' or 'minimum', got 'median'"),
    ],
)
def test_sets_that_cannot_be_are_refused(arguments: tuple[int, int], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        permutation_set(*arguments)


def test_no_default_device_is_asked() -> None:
    with torch.device("meta"):
        on_meta = permutation_set(9, 11)
    assert on_meta.device.type == "meta"
    assert on_meta.shape == (11, 9)
