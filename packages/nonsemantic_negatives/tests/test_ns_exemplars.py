import pytest
import torch
from scipy import stats
from torch import Tensor

from nonsemantic_negatives.textures import cut_exemplars, synthesize
from nonsemantic_negatives.textures.quilting import Quilting, quilt
from nonsemantic_negatives.textures.stochastic import Stochastic, synthesize_stochastic
from retable.errors import UserError


def numbered(height: int, width: int) -> Tensor:
    pixels = torch.arange(height * width).view(height, width)
    return torch.stack([pixels % 251, pixels // 251 % 251, pixels // 63001]).to(torch.uint8)


def corner(exemplar: Tensor, width: int) -> tuple[int, int]:
    red, green, blue = (int(value) for value in exemplar[:, 0, 0])
    return divmod(red + 251 * green + 63001 * blue, width)


def test_the_first_exemplar_is_the_middle_and_the_second_lies_anywhere() -> None:
    image = numbered(110, 130)
    corners = []
    for number in range(3000):
        middle, other = cut_exemplars(image, 5, number)
        assert middle.shape == other.shape == (3, 96, 96)
        assert corner(middle, 130) == (7, 17)
        top, left = corner(other, 130)
        assert torch.equal(other, image[:, top : top + 96, left : left + 96])
        corners.append((top, left))
    tops, lefts = torch.tensor(corners).T
    assert stats.chisquare(torch.bincount(tops, minlength=15).numpy()).pvalue > 0.001
    assert stats.chisquare(torch.bincount(lefts, minlength=35).numpy()).pvalue > 0.001
    assert stats.chisquare(torch.bincount(tops * 35 + lefts, minlength=525)).pvalue > 0.001


@pytest.mark.parametrize(("height", "width"), [(95, 300), (40, 30), (1, 1), (96, 96), (2, 500)])
def test_images_with_a_short_side_are_enlarged_to_it(height: int, width: int) -> None:
    assert cut_exemplars(numbered(height, width), 0).shape == (2, 3, 96, 96)


def test_an_exemplar_of_96_pixels_is_the_image_itself() -> None:
    image = numbered(96, 96)
    for exemplar in cut_exemplars(image, 0):
        assert torch.equal(exemplar, image)


def test_one_function_serves_both_back_ends() -> None:
    exemplars = torch.stack([cut_exemplars(numbered(60, 60), 1, n, side=12) for n in (0, 1)])
    blocks, pixels = Quilting(6, 2), Stochastic(6, 5)
    found = synthesize(exemplars, 15, 3, backend=blocks)
    assert torch.equal(found, quilt(exemplars, 15, 3, sizes=blocks))
    found = synthesize(exemplars, 15, 3, backend=pixels)
    assert torch.equal(found, synthesize_stochastic(exemplars, 15, 3, settings=pixels))


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(UserError, match=r"`image` must be uint8, got torch.float32"):
        cut_exemplars(numbered(99, 99).float(), 0)
    with pytest.raises(UserError, match=r"`side` must be at least 1 pixel, got 0"):
        cut_exemplars(numbered(99, 99), 0, side=0)
