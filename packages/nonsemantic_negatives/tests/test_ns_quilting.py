from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nonsemantic_negatives.textures.quilting import Quilting, quilt
from retable.errors import UserError
from retable.random import derive_key, integers

SMALL = Quilting(block=6, overlap=2)


def noise(count: int, side: int, seed: int = 0, exemplars: int = 2, levels: int = 256) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, exemplars, 3, side, side)
    return torch.randint(0, levels, shape, generator=generator).to(torch.uint8)


def least_path(errors: list[list[int]]) -> list[int]:
    """Return the column in each row of the path of least error, found from the end by recursion."""
    height, width = len(errors), len(errors[0])
    best = [errors[0]]
    for row in range(1, height):
        before = best[-1]
        best.append(
            [
                errors[row][column] + min(before[max(0, column - 1) : column + 2])
                for column in range(width)
            ]
        )
    path = [best[-1].index(min(best[-1]))]
    for row in range(height - 2, -1, -1):
        start = max(0, path[-1] - 1)
        options = best[row][start : path[-1] + 2]
        path.append(start + options.index(min(options)))
    return path[::-1]


def quilted_one_by_one(exemplars: Tensor, size: int, rng_key: int, sizes: Quilting) -> Tensor:
    """Source: Efros and Freeman (SIGGRAPH 2001, section 2), over whole windows in int64."""
    textures = []
    step, block = sizes.block - sizes.overlap, sizes.block
    cells = sizes.cells(size)
    for number, of_image in enumerate(exemplars.to(torch.int64)):
        places = range(of_image.shape[-1] - block + 1)
        windows = torch.stack(
            [e[:, y : y + block, x : x + block] for e in of_image for y in places for x in places]
        )
        canvas = torch.zeros(3, *[block + (cells - 1) * step] * 2, dtype=torch.int64)
        for cell in range(cells**2):
            row, column = divmod(cell, cells)
            old = canvas[:, row * step :, column * step :][:, :block, :block]
            overlaps = torch.zeros(block, block, dtype=torch.bool)
            if column:
                overlaps[:, : sizes.overlap] = True
            if row:
                overlaps[: sizes.overlap] = True
            errors = ((windows - old).square() * overlaps).sum(dim=(1, 2, 3))
            least = int(errors.min())
            good = (errors <= least + int(sizes.tolerance * least)).nonzero()[:, 0]
            counter = torch.tensor(number * cells**2 + cell)
            rank = integers(derive_key(rng_key, "blocks"), counter, len(good))
            new = windows[good[rank]]
            error = (new - old).square().sum(dim=0)
            result = new.clone()
            if column:
                for y, x in enumerate(least_path(error[:, : sizes.overlap].tolist())):
                    result[:, y, :x] = old[:, y, :x]
            if row:
                for x, y in enumerate(least_path(error[: sizes.overlap].T.tolist())):
                    result[:, :y, x] = old[:, :y, x]
            old.copy_(result)
        textures.append(canvas[:, :size, :size])
    return torch.stack(textures).to(torch.uint8)


@pytest.mark.parametrize("levels", [2, 256])
@pytest.mark.parametrize(
    ("size", "side", "sizes"),
    [
        (17, 9, SMALL),
        (12, 7, Quilting(block=5, overlap=1, tolerance=0.5)),
        (4, 8, SMALL),
        (20, 10, Quilting(block=10, overlap=4)),
        (15, 9, Quilting(block=7, overlap=6, tolerance=0.0)),
    ],
)
def test_it_equals_quilting_window_by_window(
    size: int, side: int, sizes: Quilting, levels: int
) -> None:
    exemplars = noise(2, side, levels=levels)
    found = quilt(exemplars, size, 11, sizes=sizes)
    assert found.shape == (2, 3, size, size)
    assert torch.equal(found, quilted_one_by_one(exemplars, size, 11, sizes))


def test_strips_of_many_values_are_summed_exactly() -> None:
    # 3 x 30 x 12 values in a strip: more than float32 holds at once. All colours are extreme.
    exemplars = noise(1, 32, levels=2) * 255
    sizes = Quilting(block=30, overlap=12)
    assert torch.equal(
        quilt(exemplars, 60, 4, sizes=sizes), quilted_one_by_one(exemplars, 60, 4, sizes)
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(6, 12), st.integers(0, 2**40))
def test_every_pixel_is_a_pixel_of_an_exemplar(size: int, side: int, rng_key: int) -> None:
    exemplars = noise(2, side, seed=rng_key)
    textures = quilt(exemplars, size, rng_key, sizes=SMALL)
    for texture, of_image in zip(textures, exemplars, strict=True):
        pixels = {tuple(pixel) for pixel in of_image.transpose(0, 1).flatten(1).T.tolist()}
        assert {tuple(pixel) for pixel in texture.flatten(1).T.tolist()} <= pixels


def test_constant_exemplars_give_a_constant_texture() -> None:
    exemplars = torch.full((1, 2, 3, 9, 9), 77, dtype=torch.uint8)
    assert torch.equal(quilt(exemplars, 20, 0, sizes=SMALL), torch.full((1, 3, 20, 20), 77))


def test_a_perfect_continuation_is_preferred() -> None:
    # Stripes of period 3 in both exemplars: the strips of any texture can agree exactly.
    stripes = (torch.arange(18) % 3 * 100).to(torch.uint8)
    exemplars = stripes.expand(1, 2, 3, 18, 18).contiguous()
    (texture,) = quilt(exemplars, 40, 5, sizes=SMALL)
    assert torch.equal(texture[:, :, 3:], texture[:, :, :-3])


def test_a_texture_depends_on_its_number_not_on_its_batch() -> None:
    exemplars = noise(4, 9)
    together = quilt(exemplars, 20, 7, sizes=SMALL)
    for number in range(4):
        alone = quilt(exemplars[number : number + 1], 20, 7, torch.tensor([number]), sizes=SMALL)
        assert torch.equal(alone[0], together[number])
    equal = quilt(exemplars[:1].expand(2, -1, -1, -1, -1), 20, 7, sizes=SMALL)
    assert not torch.equal(equal[0], equal[1])


def test_equal_keys_give_equal_textures_and_other_keys_others() -> None:
    first, again, other = (quilt(noise(1, 9), 20, key, sizes=SMALL) for key in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_number_of_threads_does_not_matter() -> None:
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(quilt(noise(3, 24), 64, 5, sizes=Quilting(block=10, overlap=3)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(UserError, match=r"`overlap` must be below `block`, 6 pixels, got 6"):
        replace(SMALL, overlap=6)
    with pytest.raises(UserError, match=r"`block` must be at most the side .* 5 pixels, got 6"):
        quilt(noise(1, 5), 20, 0, sizes=SMALL)
    with pytest.raises(UserError, match=r"`exemplars` must be uint8, got torch.float32"):
        quilt(noise(1, 9).float(), 20, 0, sizes=SMALL)
