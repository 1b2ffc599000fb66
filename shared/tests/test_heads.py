import pytest
import torch
from torch import nn

from retable.nn.heads import (
    byol_head,
    linear_head,
    mlp_head,
    simclr_head,
    simsiam_predictor,
    simsiam_projector,
)


def layers(head: nn.Sequential) -> list[str]:
    return [type(layer).__name__ for layer in head]


def biases(head: nn.Sequential) -> list[bool]:
    return [layer.bias is not None for layer in head if hasattr(layer, "bias")]


def test_moco_heads_have_no_batch_norm() -> None:
    # Source: moco/builder.py: fc, and for v2 Sequential(Linear(dim_mlp, dim_mlp), ReLU, fc).
    assert layers(linear_head(2048, rng_key=0)) == ["Linear"]
    head = mlp_head(2048, rng_key=0)
    assert layers(head) == ["Linear", "ReLU", "Linear"]
    assert [tuple(p.shape) for p in head.parameters()] == [
        (2048, 2048),
        (2048,),
        (128, 2048),
        (128,),
    ]


def test_byol_heads_have_the_official_shapes() -> None:
    # Source: deepmind-research byol/configs/byol.py: hidden 4096, output 256 without bias.
    projector, predictor = byol_head(2048, rng_key=0), byol_head(256, rng_key=1)
    assert layers(projector) == layers(predictor) == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert biases(projector) == [True, True, False]
    assert projector[0].weight.shape == (4096, 2048)
    assert projector[3].weight.shape == (256, 4096)
    assert predictor[0].weight.shape == (4096, 256)


def test_simclr_head_ends_with_a_batch_norm_without_shift() -> None:
    # Source: google-research/simclr model_util.py: batch norm after both layers, last uncentred.
    head = simclr_head(2048, rng_key=0)
    assert layers(head) == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d"]
    assert biases(head) == [False, True, False, False]
    assert head[3].weight.shape == (128, 2048)
    out = head.train()(torch.randn(64, 2048, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(out.mean(0), torch.zeros(128), atol=1e-5, rtol=0)


def test_simsiam_heads_have_the_official_layers() -> None:
    # Source: facebookresearch/simsiam builder.py; the bias before its last batch norm is frozen.
    projector, predictor = simsiam_projector(64, 32, rng_key=0), simsiam_predictor(32, rng_key=1)
    hidden = ["Linear", "BatchNorm1d", "ReLU"]
    assert layers(projector) == [*hidden, *hidden, "Linear", "BatchNorm1d"]
    assert biases(projector) == [False, True, False, True, False, False]
    assert not list(projector[-1].parameters())
    assert layers(predictor) == [*hidden, "Linear"]
    assert biases(predictor) == [False, True, True]


@pytest.mark.parametrize(
    "build",
    [linear_head, mlp_head, simclr_head, byol_head, simsiam_projector, simsiam_predictor],
)
def test_weights_are_a_function_of_the_key(build: object) -> None:
    assert callable(build)
    one, same, other = (next(build(8, rng_key=key).parameters()) for key in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
