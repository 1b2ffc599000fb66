"""Public functions of the package refuse arguments that do not fit, in one form of sentence."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from nonsemantic_negatives import nonsemantic_logits, patch_negatives
from nonsemantic_negatives.histograms import histogram
from nonsemantic_negatives.logits import gradient_share, weighted
from nonsemantic_negatives.patches import PatchDraws, assemble_patches, draw_patches
from nonsemantic_negatives.textures import cut_exemplars, synthesize
from nonsemantic_negatives.textures.quilting import Quilting
from nonsemantic_negatives.textures.stochastic import Stochastic
from retable.errors import UserError
from retable.testing import SENTENCES, Described, check_refusals


def unit(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator), dim=-1)


IMAGES, POSITIONS = unit(4, 3, 8, 9), torch.arange(4)
DRAWS = draw_patches(1, POSITIONS, (8, 9), low=3, high=5)
QUERY, NEGATIVES, COSINES = unit(5, 3), unit(5, 2, 3), unit(5, 4)
EXEMPLARS = torch.zeros(2, 3, 3, 7, 7, dtype=torch.uint8)
SHARE: dict[str, Any] = {"alpha": 2.0, "placement": "inside", "temperature": 0.2}


def assembled(images: Tensor, side: Tensor, top: Tensor, left: Tensor) -> Tensor:
    return assemble_patches(images, PatchDraws(side, top, left))


FUNCTIONS: dict[str, tuple[Callable[..., object], Described]] = {
    "patch_negatives": (
        lambda images, positions: patch_negatives(images, 1, positions, low=3, high=5),
        {"images": ("B C H W", IMAGES), "positions": ("B", POSITIONS)},
    ),
    "assemble_patches": (
        assembled,
        {
            "images": ("B C H W", IMAGES),
            "side": ("B", DRAWS.side),
            "top": ("B N M", DRAWS.top),
            "left": ("B N M", DRAWS.left),
        },
    ),
    "nonsemantic_logits": (
        nonsemantic_logits,
        {"query": ("B D", QUERY), "negatives": ("B n D", NEGATIVES)},
    ),
    "weighted": (lambda cosines: weighted(cosines, **SHARE), {"cosines": ("B n", COSINES)}),
    "gradient_share": (
        lambda logits: gradient_share(logits, 1, **SHARE),
        {"logits": ("B 1+K", COSINES)},
    ),
    "histogram": (histogram, {"cosines": ("N", COSINES[0])}),
}


@pytest.mark.wheel
@pytest.mark.parametrize(("function", "described"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_only_tensors_that_fit_are_accepted(
    function: Callable[..., object], described: Described
) -> None:
    assert check_refusals(function, described) >= 3


@pytest.mark.wheel
@pytest.mark.parametrize("backend", [Quilting(4, 1), Stochastic(3, 2)])
def test_textures_are_made_of_whole_squares(backend: Quilting | Stochastic) -> None:
    def make(exemplars: Any, rng_key: Any = 0, positions: Any = None) -> Tensor:
        return synthesize(exemplars, 6, rng_key, positions, backend=backend)

    assert make(EXEMPLARS).shape == (2, 3, 6, 6)
    for wrong in (
        {"exemplars": EXEMPLARS[0]},
        {"exemplars": EXEMPLARS[..., :6]},
        {"exemplars": EXEMPLARS.float()},
        {"exemplars": EXEMPLARS.tolist()},
        {"exemplars": EXEMPLARS, "rng_key": 0.5},
        {"exemplars": EXEMPLARS, "positions": torch.arange(3)},
    ):
        with pytest.raises(UserError) as refused:
            make(**wrong)
        assert SENTENCES.fullmatch(str(refused.value))


@pytest.mark.parametrize("rng_key", [torch.Generator(), 0.5, None, "1", 2**63])
def test_a_random_key_is_an_integer(rng_key: Any) -> None:
    image = torch.zeros(3, 9, 9, dtype=torch.uint8)
    calls: list[Callable[[], Tensor]] = [
        lambda: patch_negatives(IMAGES, rng_key, low=3, high=5),
        lambda: cut_exemplars(image, rng_key, side=4),
    ]
    for call in calls:
        with pytest.raises(UserError) as refused:
            call()
        assert SENTENCES.fullmatch(str(refused.value))


def test_positions_count_from_0_if_none_are_given() -> None:
    found = patch_negatives(IMAGES, 1, low=3, high=5)
    assert torch.equal(found, patch_negatives(IMAGES, 1, POSITIONS, low=3, high=5))
    assert not torch.equal(found, patch_negatives(IMAGES, 1, POSITIONS + 4, low=3, high=5))
