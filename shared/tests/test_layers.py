"""Further layers of a sample: cut with the view of their image, carried by every loader."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from fractions import Fraction
from math import floor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from retable import random
from retable.data.batch import Batch
from retable.data.decoding import UnreadableImageError
from retable.data.loader import Loader
from retable.data.sampler import Sampler
from retable.data.source import Source
from retable.data.sources import open_source
from retable.data.subsets import Subset
from retable.data.workers import _check_shared_memory
from retable.errors import UserError
from retable.views import ViewRecipe, center, moco_v2, resized_crop, sample_parameters
from retable.views.layers import companion_parameters, cut_boxes, cut_maps

PLAIN = ViewRecipe(16, crop_scale=(0.2, 1.0), flip_probability=0.5, mean=(0.0,) * 3, std=(1.0,) * 3)
BOXES = [[[2.0, 3, 12, 20, 5], [0, 0, 30, 26, 6]], [[20, 4, 29, 9, 7]], []]
SIZES = [(26 + i % 3, 30) for i in range(24)]


class Coordinates(Source):
    """Images whose red and green are row and column, and layers that say the same."""

    def __init__(
        self,
        sizes: Sequence[tuple[int, int]],
        *,
        broken: Collection[int] = (),
        in_memory: bool = False,
    ) -> None:
        n = len(sizes)
        super().__init__(
            torch.arange(n) % 3, ["a", "b", "c"], {"checksum": ""}, skip_unreadable=True
        )
        self.layers = {"place": "map", "texture": "image", "objects": "boxes"}
        self.sizes, self.broken, self.in_memory = sizes, broken, in_memory
        self.read: list[str] = []

    def image(self, index: int) -> Tensor:
        if index in self.broken:
            raise UnreadableImageError(f"number {index}", "broken")
        height, width = self.sizes[index]
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        return torch.stack([rows, columns, torch.full_like(rows, 7 * index)]).to(torch.uint8)

    def layer(self, index: int, name: str) -> Tensor:
        self.read.append(name)
        if name == "place":
            return self.image(index).to(torch.int16)
        if name == "texture":
            return self.image(index).repeat_interleave(2, 1)[:, :, ::2]
        return torch.tensor(BOXES[index % 3]).view(-1, 5)

    def resident(self, *, decode: bool = False) -> Tensor | None:
        return super().resident(decode=decode or self.in_memory)


def batches(source: Source, recipes: tuple[ViewRecipe, ...], **options: Any) -> list[Batch]:
    sampler = Sampler(len(source), 6, seed=5)
    return list(Loader(source, sampler, recipes, **options).batches(0, 5))


def asking(*names: str, recipe: ViewRecipe = PLAIN) -> ViewRecipe:
    return replace(recipe, layers=names)


RECIPES = {
    "crops": PLAIN,
    "bicubic": replace(PLAIN, interpolation="bicubic"),
    "windows": replace(resized_crop(12, 17, "random"), mean=(0.0,) * 3, std=(1.0,) * 3),
    "center": replace(center(12, 20), mean=(0.0,) * 3, std=(1.0,) * 3),
    "stretched": replace(center(12, 20), keep_aspect=False, mean=(0.0,) * 3, std=(1.0,) * 3),
}


@pytest.mark.parametrize("options", [{"resident": True}, {"workers": 0}])
@pytest.mark.parametrize("name", RECIPES)
def test_image_and_map_show_the_same_places(name: str, options: dict[str, Any]) -> None:
    source = Coordinates([(26, 30)] * 12, in_memory="resident" in options)
    flipped = 0
    for batch in batches(source, (asking("place", recipe=RECIPES[name]),), **options):
        seen, (layers,) = batch.views[0] * 255, batch.layers
        assert layers["place"].dtype == torch.int16
        # Up to a pixel of rounding, of the filter's reach at the border, and of half a step.
        assert (seen[:, :2] - layers["place"][:, :2]).abs().max() <= 2
        assert (seen[:, 2] - layers["place"][:, 2]).abs().max() <= 1
        flipped += int((seen[:, 1, 0, 0] > seen[:, 1, 0, -1]).sum())
    assert (flipped > 5) == (RECIPES[name].flip_probability > 0)


def nearest(
    image: Tensor, size: int, crop: list[int], resized: list[int], window: list[int]
) -> Any:
    """Return the pixels that the centres of a view's pixels fall on, one by one."""
    return torch.stack(
        [
            torch.stack(
                [
                    image[
                        :,
                        crop[0]
                        + floor(Fraction(2 * (window[0] + y) + 1, 2) * crop[2] / resized[0]),
                        crop[1]
                        + floor(Fraction(2 * (window[1] + x) + 1, 2) * crop[3] / resized[1]),
                    ]
                    for x in range(size)
                ],
                1,
            )
            for y in range(size)
        ],
        1,
    )


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 40), st.integers(2, 40), st.integers(1, 9), st.integers(0, 1000))
def test_maps_are_cut_by_nearest_neighbour(height: int, width: int, size: int, key: int) -> None:
    # Reference: exact fractions, pixel by pixel.
    for recipe in (replace(PLAIN, size=size), resized_crop(size, size + 3, "random")):
        maps = random.integers(key, torch.arange(3 * 2 * height * width), 9).view(
            3, 2, height, width
        )
        drawn = sample_parameters(recipe, key, torch.arange(3), height, width)
        for row, made in enumerate(cut_maps(maps, drawn, size)):
            expected = nearest(
                maps[row],
                size,
                *(p[row].tolist() for p in (drawn.crops, drawn.resized, drawn.window)),
            )
            assert torch.equal(made, expected.flip(2) if drawn.flip[row] else expected)


def test_a_companion_is_cut_at_the_same_fractions() -> None:
    drawn = sample_parameters(PLAIN, 3, torch.arange(200), 60, 80)
    for height, width in ((30, 40), (60, 80), (7, 201)):
        other = companion_parameters(drawn, torch.tensor([60, 80]), torch.tensor([height, width]))
        scale = torch.tensor([height / 60, width / 80]).double()
        start, end = drawn.crops[:, :2] * scale, (drawn.crops[:, :2] + drawn.crops[:, 2:]) * scale
        assert (other.crops[:, :2] - start).abs().max() <= 0.5
        assert (other.crops[:, :2] + other.crops[:, 2:] - end).abs().max() <= 1
        assert other.crops[:, 2:].min() >= 1
        assert (other.crops[:, :2] + other.crops[:, 2:] <= torch.tensor([height, width])).all()
        assert all(
            torch.equal(getattr(drawn, name), getattr(other, name))
            for name in vars(drawn)
            if name != "crops"
        )
    same = companion_parameters(drawn, torch.tensor([60, 80]), torch.tensor([60, 80]))
    assert torch.equal(same.crops, drawn.crops)


class Flat(Source):
    """Images of one colour each, their companions half as large and of the same colour."""

    def __init__(self, in_memory: bool) -> None:
        super().__init__(torch.zeros(12, dtype=torch.int64), ["a"], {"checksum": ""})
        self.layers = {"texture": "image"}
        self.in_memory = in_memory

    def image(self, index: int, side: int = 24) -> Tensor:
        colour = torch.tensor([20 * index, 255 - 15 * index, 100], dtype=torch.uint8)
        return colour[:, None, None].expand(3, side, side)

    def layer(self, index: int, name: str) -> Tensor:
        return self.image(index, 12)

    def resident(self, *, decode: bool = False) -> Tensor | None:
        return super().resident(decode=decode or self.in_memory)


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_companion_is_coloured_by_the_draws_of_its_image(in_memory: bool) -> None:
    view = moco_v2(12)
    changed = []
    for batch in batches(Flat(in_memory), (asking("texture", recipe=view), view)):
        torch.testing.assert_close(batch.layers[0]["texture"], batch.views[0], rtol=0, atol=1e-5)
        assert batch.layers[1] == {}
        changed.append((batch.views[0] - batch.views[1]).abs().amax((1, 2, 3)))
    assert (torch.cat(changed) > 0.1).double().mean() > 0.5  # the two views' draws do differ


def test_boxes_move_with_their_view_and_say_what_is_left_of_them() -> None:
    # Reference: the box painted on a fine grid and cut as a map.
    boxes = torch.tensor([[[4.0, 10, 20, 18, 3], [0, 0, 0, 0, 0]]] * 40)
    painted = torch.zeros(40, 1, 26, 30, dtype=torch.uint8)
    painted[:, :, 10:18, 4:20] = 1
    recipe = replace(PLAIN, size=64, crop_scale=(0.1, 1.0))
    drawn = sample_parameters(recipe, 0, torch.arange(40), 26, 30)
    made, maps = cut_boxes(boxes, drawn, 64), cut_maps(painted, drawn, 64)
    assert made.shape == (40, 2, 6)
    assert (made[:, 1] == 0).all()
    assert (made[:, 0, 5] == 3).all()
    for row, ((left, top, right, bottom, share, _), _) in enumerate(made.tolist()):
        rows, columns = maps[row, 0].nonzero().T
        if not len(rows):
            assert share < 0.02
            continue
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert torch.tensor([left, top, right, bottom]).sub(torch.stack(found)).abs().max() <= 1
        scale = drawn.resized[row] / drawn.crops[row, 2:]
        assert share == pytest.approx(len(rows) / (8 * 16 * float(scale.prod())), abs=0.1)


def assert_equal_layers(ours: list[Batch], theirs: list[Batch], names: Sequence[str]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.indices, b.indices)
        for x, y in zip(a.layers, b.layers, strict=True):
            assert x.keys() == y.keys()
            assert all(torch.equal(x[name], y[name]) for name in x if name in names)


ALL = ("place", "texture", "objects")
TWO = (asking(*ALL), asking("place", recipe=moco_v2(8)))


def test_workers_and_residents_carry_the_same_layers() -> None:
    source = Coordinates([(26, 30)] * 24)
    alone = batches(source, TWO, resident=False)
    assert [sorted(of) for of in alone[0].layers] == [sorted(ALL), ["place"]]
    assert_equal_layers(batches(source, TWO, workers=2, resident=False), alone, ALL)
    resident = batches(source, TWO, resident=True)
    assert_equal_layers(resident, alone, ("place", "objects"))
    for a, b in zip(resident, alone, strict=True):
        # The worker's crop is rounded to uint8 after each axis.
        assert (a.layers[0]["texture"] - b.layers[0]["texture"]).abs().max() <= 2 / 255


def test_layers_of_images_of_several_sizes_are_carried() -> None:
    source = Coordinates(SIZES)
    alone = batches(source, TWO)
    assert_equal_layers(batches(source, TWO, workers=2), alone, ALL)
    assert max(batch.layers[0]["objects"].shape[1] for batch in alone) == 2


def test_the_processes_shares_of_layers_join(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Coordinates(SIZES)
    alone, parts = batches(source, TWO), []
    for process in range(2):
        monkeypatch.setattr("retable.distributed.process_index", lambda process=process: process)
        monkeypatch.setattr("retable.distributed.process_count", lambda: 2)
        parts.append(batches(source, TWO))
    for step, whole in enumerate(alone):
        for name in ("place", "texture"):
            joined = torch.cat([part[step].layers[0][name] for part in parts])
            torch.testing.assert_close(joined, whole.layers[0][name], rtol=0, atol=2e-6)


@pytest.mark.parametrize("options", [{"workers": 0}, {"workers": 2}, {"resident": True}])
def test_a_replacement_brings_its_own_layers(options: dict[str, Any]) -> None:
    source = Coordinates([(26, 30)] * 12, broken=(4, 5, 11))
    for batch in batches(source, (asking("place", recipe=center(12)),), **options):
        # Blue is seven times the position in the data set, in the image and in its map.
        shown = batch.layers[0]["place"][:, 2, 0, 0] // 7
        expected = [{4: 6, 5: 6, 11: 0}.get(i, i) for i in batch.indices.tolist()]
        assert shown.tolist() == expected
        assert torch.equal(batch.labels, torch.tensor(expected) % 3)
    assert source.unreadable == {4, 5, 11}


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_subset_has_the_layers_of_its_samples(in_memory: bool) -> None:
    source = Coordinates([(26, 30)] * 24, in_memory=in_memory)
    rows = torch.arange(1, 24, 2)
    part = Subset(source, rows, source.labels[rows], source.class_names, "odd")
    for batch in batches(part, (asking("place", "objects", recipe=center(12)),)):
        assert torch.equal(batch.layers[0]["place"][:, 2, 0, 0] // 7, rows[batch.indices])
        firsts = [(BOXES[i % 3] or [[0] * 5])[0][4] for i in rows[batch.indices].tolist()]
        assert batch.layers[0]["objects"][:, 0, 5].tolist() == firsts


@pytest.mark.parametrize("resident", [True, False])
def test_layers_that_nobody_asks_for_are_never_read(resident: bool) -> None:
    source = Coordinates([(26, 30)] * 12)
    assert {batch.layers for batch in batches(source, (PLAIN, PLAIN), resident=resident)} == {()}
    assert source.read == []
    batches(source, (PLAIN, asking("place")), resident=resident)
    assert set(source.read) == {"place"}


def test_asking_changes_no_view() -> None:
    source = Coordinates(SIZES)
    asked = batches(source, (asking(*ALL, recipe=moco_v2(8)),))
    for with_layers, without in zip(asked, batches(source, (moco_v2(8),)), strict=True):
        assert torch.equal(with_layers.views[0], without.views[0])


def test_a_layer_that_is_missing_or_of_another_size_is_refused() -> None:
    with pytest.raises(UserError, match=r"layers of the data set \(mask\), got 'saliency'"):
        batches(open_source("shapes?count=12", "train"), (asking("saliency"),))

    class Wrong(Coordinates):
        def layer(self, index: int, name: str) -> Tensor:
            return torch.zeros(9, 9)

    with pytest.raises(
        UserError, match=r"'place' of sample \d+ is of size \(9, 9\), but its image"
    ):
        batches(Wrong(SIZES), (asking("place"),))


def test_a_part_of_a_batch_has_its_part_of_the_layers() -> None:
    (batch, *_) = batches(Coordinates(SIZES), TWO)
    parts = [batch.rows(slice(start, start + 3)) for start in (0, 3)]
    for view in range(2):
        for name, layer in batch.layers[view].items():
            assert torch.equal(torch.cat([part.layers[view][name] for part in parts]), layer)
        assert torch.equal(torch.cat([part.views[view] for part in parts]), batch.views[view])


@pytest.mark.parametrize("resident", [None, False])
def test_shapes_offer_the_mask_of_their_object(resident: bool | None) -> None:
    # Reference: silhouettes of the same scenes are black where the object is.
    views = (asking("mask", recipe=replace(PLAIN, size=32)),)
    source = open_source("shapes?count=12&variant=silhouette", "train")
    for batch in batches(source, views, resident=resident):
        mask = batch.layers[0]["mask"]
        assert (mask.dtype, mask.shape) == (torch.uint8, (6, 1, 32, 32))
        assert set(mask.flatten().tolist()) == {0, 1}
        assert ((batch.views[0][:, :1] < 0.5) == mask).double().mean() > 0.95


def test_a_layer_needs_as_much_shared_memory_as_its_image(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Two workers have two batches ahead each, and two more are on their way.
    needed = 6 * (2 * 2 + 2) * 3 * 16**2 * 2
    for free in (needed - 1, needed):
        usage = SimpleNamespace(free=free)
        monkeypatch.setattr("shutil.disk_usage", lambda folder, usage=usage: usage)
        _check_shared_memory(6, (PLAIN,), 2, str(tmp_path))
        if free < needed:
            with pytest.raises(UserError, match=r"need .* of shared memory"):
                _check_shared_memory(6, (asking("place"),), 2, str(tmp_path))
        else:
            _check_shared_memory(6, (asking("place"),), 2, str(tmp_path))


def test_a_companion_of_few_pixels_is_never_cut_beyond_its_edge() -> None:
    drawn = sample_parameters(PLAIN, 0, torch.arange(2), 60, 80)
    corners = replace(drawn, crops=torch.tensor([[59, 79, 1, 1], [0, 0, 1, 1]]))
    other = companion_parameters(corners, torch.tensor([60, 80]), torch.tensor([7, 9]))
    assert other.crops.tolist() == [[6, 8, 1, 1], [0, 0, 1, 1]]
