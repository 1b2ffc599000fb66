from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from retable.methods.multi_crop import by_image, encode_crops
from retable.nn.batch_norm import group_batch_norm


def make_crops(*sizes: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(6, 3, size, size, generator=generator) for size in sizes]


class Average(nn.Module):
    """The mean over pixels; it keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.given.append(images)
        return images.mean(dim=(2, 3))


@pytest.mark.parametrize("sizes", [(8,), (8, 8), (8, 8, 5, 5, 5), (8, 5, 8)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_crops_keep_their_order_and_their_memory_format(
    sizes: tuple[int, ...], layout: torch.memory_format
) -> None:
    crops = [crop.contiguous(memory_format=layout) for crop in make_crops(*sizes)]
    encoder = Average()
    expected = torch.stack([crop.mean(dim=(2, 3)) for crop in crops], dim=1)
    torch.testing.assert_close(encode_crops(encoder, crops), expected)
    assert all(images.is_contiguous(memory_format=layout) for images in encoder.given)


def test_crops_of_one_size_pass_together() -> None:
    encoder = Average()
    encode_crops(encoder, make_crops(8, 8, 5, 5, 5))
    assert [tuple(images.shape) for images in encoder.given] == [(12, 3, 8, 8), (18, 3, 5, 5)]


def test_rows_of_an_image_share_its_batch_norm_group() -> None:
    # Source: an ordinary layer on all rows of two images at a time.
    rows = torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(0))
    layer = group_batch_norm(nn.BatchNorm1d(4), 2)
    expected = [nn.BatchNorm1d(4)(part.flatten(0, 1)).view(2, 3, 4) for part in rows.chunk(3)]
    torch.testing.assert_close(by_image(layer, rows), torch.cat(expected))
