import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nonsemantic_negatives.textures.neighbours import nearest_resolved
from nonsemantic_negatives.textures.pyramid import pyramid
from nonsemantic_negatives.textures.stochastic import (
    Stochastic,
    render,
    stochastic_sources,
    synthesize_stochastic,
)
from retable.errors import UserError
from retable.random import derive_key, integers, permutation

SMALL = Stochastic(neighbours=6, candidates=5)


def noise(count: int, side: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 2, 3, side, side), generator=generator).to(torch.uint8)


def sources_one_by_one(
    exemplars: Tensor, size: int, rng_key: int, settings: Stochastic
) -> list[int]:
    """Source: the description of the tool by Opara and Stachowiak, pixel by pixel, one image."""
    side, area = exemplars.shape[-1], exemplars.shape[-1] ** 2
    levels = [level[0].tolist() for level in pyramid(exemplars, settings.stages)]
    order = permutation(derive_key(rng_key, "order"), size**2).tolist()
    source: dict[int, int] = {}
    total, step = sum(settings.resolved(size)), 0

    def colour(level: list, exemplar: int, row: int, column: int) -> list[int]:  # type: ignore[type-arg]
        if not (0 <= row < side and 0 <= column < side):
            return [0, 0, 0]
        return [channel[row][column] for channel in level[exemplar]]

    def at(level: list, place: int) -> list[int]:  # type: ignore[type-arg]
        return colour(level, place // area, place % area // side, place % side)

    for stage, count in enumerate(settings.resolved(size)):
        level = levels[min(stage, len(levels) - 1)]
        for i in range(count):
            y, x = divmod(order[i], size)
            rank = {pixel: number for number, pixel in enumerate(order)}
            near = sorted(((n // size - y) ** 2 + (n % size - x) ** 2, rank[n], n) for n in source)[
                : settings.neighbours
            ]
            mean = sum(square for square, _, _ in near) / max(1, len(near))
            weights = [round(2**12 * math.exp(-square / max(mean, 1e-9))) for square, _, _ in near]
            candidates = []
            for _, _, n in near:
                row = source[n] % area // side + y - n // size
                column = source[n] % side + x - n % size
                if 0 <= row < side and 0 <= column < side:
                    candidates.append(source[n] // area * area + row * side + column)
            counters = step * settings.candidates + torch.arange(settings.candidates)
            drawn = integers(derive_key(rng_key, "candidates"), counters, 2 * area)
            candidates += drawn.tolist()
            best, least = -1, math.inf
            for candidate in candidates:
                error = 0
                for (_, _, n), weight in zip(near, weights, strict=True):
                    row = candidate % area // side + n // size - y
                    column = candidate % side + n % size - x
                    theirs, ours = (
                        colour(level, candidate // area, row, column),
                        at(level, source[n]),
                    )
                    for a, b in zip(theirs, ours, strict=True):
                        scaled = ((a - b) / 255) ** 2 / settings.sigma**2
                        error += weight * round(2**16 * math.log1p(scaled))
                if error < least:
                    best, least = candidate, error
            source[order[i]] = best
            step += 1
    assert step == total
    return [source[pixel] for pixel in range(size**2)]


@pytest.mark.parametrize(("size", "side"), [(9, 7), (12, 5), (8, 16)])
def test_it_equals_the_synthesis_pixel_by_pixel(size: int, side: int) -> None:
    exemplars = noise(1, side)
    found = stochastic_sources(exemplars, size, 3, settings=SMALL)
    assert found.flatten().tolist() == sources_one_by_one(exemplars, size, 3, SMALL)


def test_every_pixel_is_the_pixel_of_an_exemplar_that_it_names() -> None:
    exemplars = noise(3, 9)
    sources = stochastic_sources(exemplars, 14, 5, settings=SMALL)
    textures = synthesize_stochastic(exemplars, 14, 5, settings=SMALL)
    assert torch.equal(render(exemplars, sources), textures)
    for number in range(3):
        for y, x in ((0, 0), (13, 13), (5, 8)):
            exemplar, row, column = torch.unravel_index(sources[number, y, x], (2, 9, 9))
            pixel = exemplars[number, exemplar, :, row, column]
            assert torch.equal(textures[number, :, y, x], pixel)


def test_the_stages_resolve_each_pixel_twice_on_average() -> None:
    assert sum(Stochastic().resolved(32)) == 2016
    assert sum(Stochastic().resolved(224)) == 98784


def test_constant_exemplars_give_a_constant_texture() -> None:
    exemplars = torch.full((1, 2, 3, 6, 6), 9, dtype=torch.uint8)
    found = synthesize_stochastic(exemplars, 10, 0, settings=SMALL)
    assert torch.equal(found, torch.full((1, 3, 10, 10), 9, dtype=torch.uint8))


def test_coherent_neighbours_keep_pieces_of_the_exemplar_together() -> None:
    sources = stochastic_sources(noise(1, 12), 24, 1, settings=replace(SMALL, candidates=2))[0]
    together = (sources[:, 1:] == sources[:, :-1] + 1).float().mean()
    assert together > 0.15  # by chance 1 in 288


def test_a_texture_depends_on_its_number_not_on_its_batch() -> None:
    exemplars = noise(3, 9)
    together = synthesize_stochastic(exemplars, 10, 7, settings=SMALL)
    for number in range(3):
        one = exemplars[number : number + 1]
        alone = synthesize_stochastic(one, 10, 7, torch.tensor([number]), settings=SMALL)
        assert torch.equal(alone[0], together[number])


def test_neighbours_are_the_nearest_resolved_pixels() -> None:
    size, count, done, stop = 13, 5, 20, 60
    order = permutation(4, size**2)
    found = nearest_resolved(order, size, count, done, stop)
    for number in range(stop):
        limit = max(number, done)
        y, x = divmod(int(order[number]), size)
        squares = [(int(p) // size - y) ** 2 + (int(p) % size - x) ** 2 for p in order[:limit]]
        nearest = sorted((square, rank) for rank, square in enumerate(squares))[:count]
        assert found.counts[number] == len(nearest)
        assert found.pixels[number].tolist() == [int(order[rank]) for _, rank in nearest]
        mean = sum(square for square, _ in nearest) / len(nearest)
        expected = [round(2**12 * math.exp(-square / mean)) for square, _ in nearest]
        assert found.weights[number].tolist() == expected


def test_the_first_pixels_have_fewer_neighbours() -> None:
    found = nearest_resolved(permutation(4, 25), 5, 4, 0, 7)
    assert found.counts.tolist() == [0, 1, 2, 3, 4, 4, 4]
    assert (found.weights[0] == 0).all()
    assert found.weights[1].tolist() == [round(2**12 / math.e), 0, 0, 0]


def test_the_pyramid_ends_with_the_exemplar_and_begins_with_its_mean_colour() -> None:
    exemplars = noise(1, 16)
    levels = pyramid(exemplars, 5)
    assert len(levels) == 5
    assert torch.equal(levels[-1], exemplars)
    deviations = [float(level.float().std(dim=(3, 4)).mean()) for level in levels]
    assert deviations == sorted(deviations)
    assert deviations[0] == 0  # 16 px reduced by 16 are one pixel
    mean = exemplars.float().mean(dim=(3, 4), keepdim=True)
    assert (levels[0] - mean).abs().max() < 45
    assert len(pyramid(noise(1, 5), 5)) == 3


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(UserError, match=r"`exemplars` must be uint8"):
        stochastic_sources(noise(1, 5).float(), 8, 0)
    with pytest.raises(UserError, match=r"`size` must be at least 1 pixel, got 0"):
        stochastic_sources(noise(1, 5), 0, 0)
