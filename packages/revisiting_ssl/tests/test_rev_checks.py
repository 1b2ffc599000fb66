"""Public functions of the package refuse arguments that do not fit, in one form of sentence."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

import revisiting_ssl as pretext
from retable.errors import UserError
from retable.testing import SENTENCES, Described, check_refusals
from revisiting_ssl.analysis.correlations import chance_spread
from revisiting_ssl.analysis.grids import Cell, best_of, cell_of
from revisiting_ssl.exemplar import triplet_metrics
from revisiting_ssl.task import classified
from revisiting_ssl.triplet import (
    Triplets,
    mine_semi_hard,
    normalised,
    squared_distances,
    triplet_loss,
)


def unit(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator), dim=-1)


LABELS = torch.tensor([0, 0, 1, 1, 1])
DISTANCES = squared_distances(unit(5, 3))
TRIPLETS = mine_semi_hard(DISTANCES, LABELS)
ORDERS = torch.stack([torch.arange(4), torch.arange(4).flip(0)]).expand(5, 2, 4)
HEAD = pretext.PatchHead(6, 3, hidden_dim=4, rng_key=0)
GRID = pretext.PatchGrid(cell=2, patch=2)
PLACED: Described = {"positions": ("B", torch.arange(5))}

FUNCTIONS: dict[str, tuple[Callable[..., object], Described]] = {
    "rotations": (pretext.rotations, {"images": ("B C H W", torch.rand(2, 3, 4, 4))}),
    "cut_patches": (
        lambda images, positions: pretext.cut_patches(images, GRID, 1, positions),
        {"images": ("b C H W", torch.rand(5, 3, 6, 6)), "positions": ("b", torch.arange(5))},
    ),
    "draw_permutations": (
        lambda positions: pretext.draw_permutations(1, positions, 4, 12),
        PLACED,
    ),
    "join": (pretext.join, {"vectors": ("B N E", unit(5, 4, 3)), "orders": ("B R N", ORDERS)}),
    "join_with_centre": (pretext.join_with_centre, {"vectors": ("B N E", unit(5, 9, 3))}),
    "PatchHead": (
        lambda rows, positions: HEAD(rows, 1, positions),
        {"rows": ("B R F", unit(5, 2, 6)), **PLACED},
    ),
    "semi_hard_triplet_loss": (
        pretext.semi_hard_triplet_loss,
        {"embeddings": ("... N D", unit(5, 3)), "labels": ("N", LABELS)},
    ),
    "squared_distances": (squared_distances, {"embeddings": ("... N D", unit(5, 3))}),
    "mine_semi_hard": (
        mine_semi_hard,
        {"distances": ("... N N", DISTANCES), "labels": ("N", LABELS)},
    ),
    "triplet_loss": (
        lambda distances: triplet_loss(distances, TRIPLETS, 0.5),
        {"distances": ("... N N", DISTANCES)},
    ),
    "triplet_metrics": (
        lambda distances: triplet_metrics(distances, TRIPLETS),
        {"distances": ("... N N", DISTANCES)},
    ),
    "normalised": (normalised, {"embeddings": ("... N D", unit(5, 3))}),
    "classified": (classified, {"logits": ("N C", unit(5, 3)), "labels": ("N", LABELS)}),
}


@pytest.mark.wheel
@pytest.mark.parametrize(("function", "described"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_only_tensors_that_fit_are_accepted(
    function: Callable[..., object], described: Described
) -> None:
    assert check_refusals(function, described) >= 3


def test_embeddings_of_another_length_are_refused_normalised_or_taken_as_they_are() -> None:
    # A head whose mean length is 0.39 never reaches a margin of 0.5.
    embeddings, loss = 0.39 * unit(5, 3), pretext.semi_hard_triplet_loss
    with pytest.raises(UserError, match=r"`embeddings` must have rows of length 1, got .* of 0.39"):
        loss(embeddings, LABELS)
    torch.testing.assert_close(loss(embeddings, LABELS, rows="normalise"), loss(unit(5, 3), LABELS))
    assert loss(embeddings, LABELS, rows="unchecked") != loss(unit(5, 3), LABELS)


def test_permutations_of_another_image_or_length_are_not_broadcast() -> None:
    vectors = unit(5, 4, 3)
    for orders in (ORDERS[0], ORDERS[:1], ORDERS[:, :, :3], ORDERS[:, :0]):
        with pytest.raises(UserError, match="`orders` must have shape"):
            pretext.join(vectors, orders)


@pytest.mark.parametrize("rng_key", [torch.Generator(), 0.5, "1", 2**63])
@pytest.mark.parametrize(
    "draw",
    [
        lambda key: pretext.cut_patches(torch.rand(5, 3, 6, 6), GRID, key),
        lambda key: pretext.draw_permutations(key, torch.arange(5), 4, 12),
        lambda key: pretext.permutation_set(4, 4, rng_key=key),
        lambda key: HEAD(unit(5, 2, 6), key),
        lambda key: pretext.PatchHead(6, 3, hidden_dim=4, rng_key=key),
    ],
    ids=["cut_patches", "draw_permutations", "permutation_set", "PatchHead.forward", "PatchHead"],
)
def test_a_random_key_is_an_integer(draw: Callable[[Any], object], rng_key: Any) -> None:
    with pytest.raises(UserError) as refused:
        draw(rng_key)
    assert SENTENCES.fullmatch(str(refused.value))


def test_positions_count_from_0_if_none_are_given() -> None:
    rows = unit(5, 2, 6)
    assert torch.equal(HEAD(rows, 1), HEAD(rows, 1, torch.arange(5)))


@pytest.mark.parametrize(
    "call",
    [
        lambda: pretext.rotation_labels(0),
        lambda: pretext.draw_permutations(1, torch.arange(5), 13, 12),
        lambda: pretext.draw_permutations(1, torch.arange(5), 0, 12),
        lambda: pretext.join_with_centre(unit(5, 4, 3)),
        lambda: pretext.join_with_centre(unit(5, 1, 3)),
        lambda: pretext.location_pairs(4),
        lambda: pretext.PatchHead(0, 3, rng_key=0),
        lambda: pretext.semi_hard_triplet_loss(unit(5, 3), LABELS, 0.0),
        lambda: triplet_loss(DISTANCES[:4, :4], TRIPLETS, 0.5),
        lambda: triplet_loss(DISTANCES, TRIPLETS, float("nan")),
        lambda: triplet_metrics(DISTANCES, Triplets(*(part[:4, :4] for part in TRIPLETS))),
        lambda: normalised(unit(5, 3), "rows"),  # type: ignore[arg-type]
        lambda: chance_spread(1),
        lambda: cell_of("rotation"),
        lambda: cell_of("rotation_wide"),
        lambda: best_of({Cell("rotation", 4): {"v1": 40.0}}, "jigsaw"),
    ],
)
def test_values_outside_their_range_are_refused(call: Callable[[], object]) -> None:
    with pytest.raises(UserError, match=r"must .*, got .*\. [A-Z]"):
        call()
