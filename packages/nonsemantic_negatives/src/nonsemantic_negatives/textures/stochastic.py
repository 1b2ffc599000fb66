"""Multiresolution stochastic texture synthesis, after the tool that the paper used.

The official script calls ``texture-synthesis`` (Opara and Stachowiak, 2019). Pixels are resolved in
random order, more and more of them in six stages; what earlier stages resolved is resolved again.
A pixel takes the place in an exemplar whose surroundings agree best with the resolved pixels around
it, among the places that continue its neighbours' and random ones. Early stages compare blurred
exemplars. The tool is not reproducible by itself, since its threads race; here the result is a
function of the key.

Errors are sums of whole numbers, so that a texture has the same bits on every device.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nonsemantic_negatives.textures.neighbours import Neighbours, nearest_resolved
from nonsemantic_negatives.textures.pyramid import pyramid
from retable.domains import Positive, Share, Small
from retable.errors import UserError
from retable.nn.checks import Shaped, check_rng_key, check_shapes, row_positions
from retable.random import derive_key, integers, permutation
from retable.settings import validate_fields


@dataclass(frozen=True)
class Stochastic:
    """Settings of the stochastic synthesis; the defaults are the tool's.

    Attributes:
        neighbours: resolved pixels that a place is compared by.
        candidates: random places beside those that continue the neighbours'.
        stages: stages before the last one, and levels of the pyramid.
        share: ratio of the pixels of one stage to those of the next.
        sigma: scale of colour differences, in multiples of 255, beyond which errors grow slowly.
    """

    neighbours: Small = 50
    candidates: Small = 50
    stages: Small = 5
    share: Share = 0.5
    sigma: Positive = 1.0

    def __post_init__(self) -> None:
        validate_fields(self)

    def resolved(self, size: int) -> list[int]:
        """Return the number of pixels that each stage resolves, of ``size`` x ``size``.

        >>> Stochastic().resolved(32)
        [32, 64, 128, 256, 512, 1024]
        """
        return [math.floor(size**2 * self.share**stage) for stage in range(self.stages, -1, -1)]


def synthesize_stochastic(
    exemplars: Tensor,
    size: int,
    rng_key: int,
    positions: Tensor | None = None,
    *,
    settings: Stochastic | None = None,
) -> Tensor:
    """Return textures uint8 (B, C, S, S); the arguments are those of `stochastic_sources`."""
    sources = stochastic_sources(exemplars, size, rng_key, positions, settings=settings)
    return render(exemplars, sources)


def render(exemplars: Tensor, sources: Tensor) -> Tensor:
    """Return the pixels (B, C, S, S) of exemplars (B, E, C, e, e) at sources (B, S, S)."""
    colours = exemplars.transpose(1, 2).flatten(2)  # (B, C, E e e)
    places = sources.flatten(1)[:, None].expand(-1, colours.shape[1], -1)
    return colours.gather(2, places).view(*colours.shape[:2], *sources.shape[1:])


def stochastic_sources(
    exemplars: Tensor,
    size: int,
    rng_key: int,
    positions: Tensor | None = None,
    *,
    settings: Stochastic | None = None,
) -> Tensor:
    """Return where each pixel of the textures comes from.

    Args:
        exemplars: uint8 (B, E, C, e, e), E exemplars of each image, on any device.
        size: side S of the textures in pixels.
        rng_key: random key of the draws. The order of the pixels is a function of it alone, so that
            all images of a batch resolve one pixel together.
        positions: (B,) int64 numbers of the images, counters of their draws; 0 to B - 1 if None.
        settings: None: the defaults of `Stochastic`.

    Returns:
        int64 (B, S, S): (exemplar * e + row) * e + column in the image's exemplars.
    """
    settings = settings or Stochastic()
    check_shapes(Shaped("exemplars", exemplars, "B E C H H", kind="any"))
    check_rng_key(rng_key)
    positions = row_positions(positions, exemplars)
    if exemplars.dtype != torch.uint8:
        raise UserError(f"`exemplars` must be uint8, got {exemplars.dtype}. Convert them.")
    if size < 1:
        raise UserError(f"`size` must be at least 1 pixel, got {size}. Use 224.")
    synthesis = _Synthesis(exemplars, size, rng_key, positions, settings)
    done = 0
    for stage, count in enumerate(settings.resolved(size)):
        synthesis.begin(stage)
        nearest = _nearest(size, rng_key, settings.neighbours, done, count)
        for number in range(count):
            synthesis.resolve(number, nearest)
        done = max(done, count)
    return synthesis.sources.view(-1, size, size)


@functools.lru_cache(maxsize=8)
def _nearest(size: int, rng_key: int, count: int, done: int, stop: int) -> Neighbours:
    """Return the neighbours of the first ``stop`` pixels of the order; equal for all images."""
    return nearest_resolved(_order(size, rng_key), size, count, done, stop)


@functools.lru_cache(maxsize=8)
def _order(size: int, rng_key: int) -> Tensor:
    return permutation(derive_key(rng_key, "order"), size**2)


class _Synthesis:
    """The textures under construction.

    Attributes:
        sources: (B, S * S) int64, place in the exemplars of each resolved pixel.
        colours: (B, S * S, C) int64, its colours at the level of the stage.
    """

    def __init__(
        self, exemplars: Tensor, size: int, rng_key: int, positions: Tensor, settings: Stochastic
    ) -> None:
        count, self.exemplar_count, channels, self.side, _ = exemplars.shape
        self.levels = [
            level.permute(0, 1, 3, 4, 2).flatten(1, 3).to(torch.int64)  # (B, E e e, C)
            for level in pyramid(exemplars, settings.stages)
        ]
        self.level = self.levels[0]
        self.size, self.settings, self.positions = size, settings, positions
        self.key = derive_key(rng_key, "candidates")
        self.table = _errors_of_differences(settings.sigma, exemplars.device)
        self.sources = exemplars.new_zeros(count, size**2, dtype=torch.int64)
        self.colours = exemplars.new_zeros(count, size**2, channels, dtype=torch.int64)
        self.order = _order(size, rng_key).tolist()
        self.steps, self.total = 0, sum(settings.resolved(size))
        self.image = torch.arange(count, device=exemplars.device)

    def begin(self, stage: int) -> None:
        """Let the resolved pixels have the colours of the stage's level."""
        self.level = self.levels[min(stage, len(self.levels) - 1)]
        places = self.sources[..., None].expand(-1, -1, self.level.shape[2])
        self.colours = self.level.gather(1, places)

    def resolve(self, number: int, nearest: Neighbours) -> None:
        """Resolve the pixel with this number in the order."""
        pixel = self.order[number]
        around = slice(0, int(nearest.counts[number]))
        neighbours = nearest.pixels[number, around].to(self.sources.device)
        weights = nearest.weights[number, around].to(self.sources.device)
        exemplar, row, column = self._candidates(pixel, neighbours)
        inside = (row >= 0) & (row < self.side) & (column >= 0) & (column < self.side)
        if len(neighbours):
            down, across = self._offsets(pixel, neighbours)
            errors = self._errors(exemplar, row, column, -down, -across, neighbours, weights)
            errors = errors.masked_fill(~inside, torch.iinfo(torch.int64).max)
            best = errors.argmin(dim=1)
        else:
            best = torch.zeros_like(self.image)
        places = (exemplar * self.side + row) * self.side + column
        self.sources[:, pixel] = places[self.image, best]
        self.colours[:, pixel] = self.level[self.image, self.sources[:, pixel]]
        self.steps += 1

    def _offsets(self, pixel: int, neighbours: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows and columns from each neighbour to the pixel, (k,)."""
        return (
            pixel // self.size - neighbours // self.size,
            pixel % self.size - neighbours % self.size,
        )

    def _candidates(self, pixel: int, neighbours: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return exemplars, rows and columns (B, k + m): first those next to neighbours' places."""
        count = self.settings.candidates
        counters = (self.positions[:, None] * self.total + self.steps) * count + torch.arange(
            count, device=self.positions.device
        )
        drawn = integers(self.key, counters, self.exemplar_count * self.side**2)
        down, across = self._offsets(pixel, neighbours)
        continued = self.sources[:, neighbours]
        area = self.side**2
        return (
            torch.cat([continued // area, drawn // area], dim=1),
            torch.cat([continued % area // self.side + down, drawn % area // self.side], dim=1),
            torch.cat([continued % self.side + across, drawn % self.side], dim=1),
        )

    def _errors(
        self,
        exemplar: Tensor,
        row: Tensor,
        column: Tensor,
        down: Tensor,
        across: Tensor,
        neighbours: Tensor,
        weights: Tensor,
    ) -> Tensor:
        """Return the weighted error of the surroundings of each candidate, int64 (B, k + m)."""
        rows = row[..., None] + down  # (B, M, k)
        columns = column[..., None] + across
        inside = (rows >= 0) & (rows < self.side) & (columns >= 0) & (columns < self.side)
        places = (exemplar[..., None] * self.side + rows) * self.side + columns
        places = torch.where(inside, places, 0)
        count, candidates, near = places.shape
        channels = self.level.shape[2]
        found = self.level.gather(1, places.view(count, -1, 1).expand(-1, -1, channels)).view(
            count, candidates, near, channels
        )
        found = torch.where(inside[..., None], found, 0)  # outside of an exemplar it is black
        difference = (found - self.colours[:, neighbours][:, None]).abs()
        return (self.table[difference].sum(dim=3) * weights).sum(dim=2)


def _errors_of_differences(sigma: float, device: torch.device) -> Tensor:
    """Return 2^16 ln(1 + (d / 255)^2 / sigma^2) for d = 0 to 255, rounded to whole numbers."""
    errors = [round(2**16 * math.log1p((d / 255) ** 2 / sigma**2)) for d in range(256)]
    return torch.tensor(errors, device=device)
