import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from relicv2 import candidates
from relicv2.candidates import draw_candidates
from retable.errors import UserError


@given(key=st.integers(0, 2**31), batch=st.integers(1, 40), negatives=st.integers(0, 50))
def test_candidates_are_the_image_and_different_others(
    key: int, batch: int, negatives: int
) -> None:
    positions = torch.arange(batch)
    found = draw_candidates(key, positions, batch, negatives=negatives)
    assert found.shape == (batch, 1 + min(negatives, batch - 1))
    assert torch.equal(found[:, 0], positions)
    for row in found.tolist():
        assert len(set(row)) == len(row)
        assert set(row) <= set(range(batch))


@pytest.mark.parametrize("many", [64, 0])
def test_every_set_of_negatives_is_equally_likely(
    many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "MANY", many)
    draws = 20_000
    found = torch.cat(
        [draw_candidates(key, torch.tensor([2]), 6, negatives=3) for key in range(draws)]
    )
    counts = Counter(tuple(sorted(row)) for row in found[:, 1:].tolist())
    sets = math.comb(5, 3)
    assert len(counts) == sets
    expected = draws / sets
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    assert chi_square < 27.9  # 99.9 % of chi-square with 9 degrees of freedom


@pytest.mark.parametrize(("batch", "negatives"), [(16, 4), (160, 100)])
def test_draws_depend_on_the_step_and_on_global_positions_alone(batch: int, negatives: int) -> None:
    positions = torch.arange(batch)
    whole = draw_candidates(7, positions, batch, negatives=negatives)
    halves = [draw_candidates(7, part, batch, negatives=negatives) for part in positions.chunk(2)]
    assert torch.equal(whole, torch.cat(halves))
    assert not torch.equal(whole, draw_candidates(8, positions, batch, negatives=negatives))


def test_many_negatives_are_different_others() -> None:
    found = draw_candidates(3, torch.arange(200), 200, negatives=120)
    assert found.shape == (200, 121)
    assert all(len(set(row)) == 121 for row in found.tolist())
    assert torch.equal(found[:, 0], torch.arange(200))


def test_impossible_numbers_are_refused() -> None:
    with pytest.raises(UserError, match="`negatives` must be 0 or more"):
        draw_candidates(0, torch.arange(2), 2, negatives=-1)
    with pytest.raises(UserError, match="`batch` at least 1"):
        draw_candidates(0, torch.arange(2), 0)
    # The batch of one process with positions in that of all.
    with pytest.raises(
        UserError, match="`positions` must be positions in the global batch, 0 to 3"
    ):
        draw_candidates(0, torch.tensor([4, 5, 6, 7]), 4)
