"""Evaluations of figures 4 and 7 on images whose features are known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from relicv2.class_distances import concentration
from relicv2.evaluations import NEIGHBOURS, RATIOS, ClassConcentration, NeighbourConfusion
from retable.data.source import Source
from retable.errors import UserError
from retable.evaluate.protocol import EvalContext
from retable.files import read_record
from retable.views import center

COLOURS = {0: (10, 20, 30), 1: (20, 10, 30), 2: (200, 190, 180), 3: (190, 200, 170)}
"""Mean colours of four classes: 0 and 1 are alike, and 2 and 3."""


class Flat(Source):
    """Images of one colour each, three of every class."""

    def __init__(self, split: str) -> None:
        super().__init__(torch.arange(12) % 4, [f"class {number}" for number in range(4)])

    def image(self, index: int) -> Tensor:
        colour = torch.tensor(COLOURS[index % 4]) + index // 4
        return colour.to(torch.uint8)[:, None, None].expand(3, 8, 8).contiguous()

    def resident(self, *, decode: bool = False) -> Tensor | None:
        return torch.stack([self.image(index) for index in range(len(self))])


class Colours(nn.Module):
    """The mean colour as features."""

    feature_dim = 3

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))


def open_flat(split: str, variant: str | None = None, data: str | None = None) -> Flat:
    return Flat(split)


def features() -> tuple[Tensor, Tensor]:
    source = Flat("test")
    view = center(8, 8)
    mean, std = torch.tensor(view.mean), torch.tensor(view.std)
    colours = torch.stack([source.image(index)[:, 0, 0] for index in range(12)]) / 255
    return (colours - mean) / std, source.labels


def test_the_concentration_is_the_mean_over_classes_and_its_ratios_are_kept(tmp_path: Path) -> None:
    context = EvalContext("cpu", tmp_path)
    found = ClassConcentration(view=center(8, 8)).run(Colours(), open_flat, context)
    ratios = concentration(*features())
    assert found["ratio"] == pytest.approx(float(ratios.mean()), rel=1e-4)
    assert found["ratio"] > 5
    kept = read_record(tmp_path / RATIOS)
    assert kept["ratio"] == pytest.approx(ratios.tolist(), rel=1e-4)
    assert len(kept["unit_ratio"]) == 4
    assert found.keys() == ClassConcentration().metrics.keys()


def test_neighbours_are_of_their_class_or_of_its_group(tmp_path: Path) -> None:
    evaluation = NeighbourConfusion((0, 1, 3), (0, 0, 1), images=2, neighbours=3, view=center(8, 8))
    found = evaluation.run(Colours(), open_flat, EvalContext("cpu", tmp_path))
    # Images 0 and 4 of class 0, 1 and 5 of class 1, 3 and 7 of class 3: the nearest of an image of
    # class 0 or 1 are the other three of both, those of class 3 are its other one and two of these.
    assert found["same_class"] == pytest.approx(100 / 3)
    assert found["same_group"] == pytest.approx(100 * (4 * 3 + 2 * 1) / 18)
    kept = read_record(tmp_path / NEIGHBOURS)
    assert kept["labels"] == [0, 0, 1, 1, 3, 3]
    assert [sorted(row) for row in kept["positions"]][:2] == [[1, 2, 3], [0, 2, 3]]
    assert torch.tensor(kept["distances"]).diff(dim=1).min() >= 0
    assert found["distance"] == pytest.approx(float(torch.tensor(kept["distances"]).mean()))
    assert found.keys() == evaluation.metrics.keys()


def test_without_classes_the_first_four_are_compared_and_no_groups() -> None:
    evaluation = NeighbourConfusion(neighbours=2, view=center(8, 8))
    found = evaluation.run(Colours(), open_flat, EvalContext("cpu"))
    assert found["same_class"] == 100.0
    assert "same_group" not in found


def test_classes_that_are_not_there_are_named() -> None:
    with pytest.raises(UserError, match="`classes` must be classes of the test images, got 9"):
        NeighbourConfusion((0, 9)).run(Colours(), open_flat, EvalContext("cpu"))
    with pytest.raises(UserError, match="`groups` must have one number for each of the 2 classes"):
        NeighbourConfusion((0, 1), (0,))
    with pytest.raises(
        UserError, match="`neighbours` must be at most 11, the other images, got 20"
    ):
        NeighbourConfusion(neighbours=20).run(Colours(), open_flat, EvalContext("cpu"))
