"""Projection and prediction heads: features (B, F) to embeddings (B, D), not yet normalised."""

from __future__ import annotations

from torch import nn

from retable.nn.checks import check_least, check_rng_key
from retable.random import initialising


def _check(rng_key: int, **widths: int | None) -> None:
    check_rng_key(rng_key)
    check_least(1, **widths)


def linear_head(in_dim: int, out_dim: int = 128, *, rng_key: int) -> nn.Sequential:
    """MoCo v1's head: one linear layer (He et al., 2020, section 3.3).

    ``rng_key`` draws the weights, here and below.
    """
    _check(rng_key, in_dim=in_dim, out_dim=out_dim)
    with initialising(rng_key):
        return nn.Sequential(nn.Linear(in_dim, out_dim))


def mlp_head(
    in_dim: int, out_dim: int = 128, *, hidden_dim: int | None = None, rng_key: int
) -> nn.Sequential:
    """MoCo v2's head, Linear-ReLU-Linear without batch norm (Chen et al., 2020, section 2).

    ``hidden_dim`` defaults to ``in_dim``: 2048 for ResNet-50, as in the paper.
    """
    _check(rng_key, in_dim=in_dim, out_dim=out_dim, hidden_dim=hidden_dim)
    hidden = hidden_dim or in_dim
    with initialising(rng_key):
        return nn.Sequential(
            nn.Linear(in_dim, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, out_dim)
        )


def simclr_head(
    in_dim: int, out_dim: int = 128, *, hidden_dim: int | None = None, rng_key: int
) -> nn.Sequential:
    """SimCLR's head: Linear-BN-ReLU-Linear-BN (Chen et al., 2020, section 2.1 and official code).

    The linear layers have no bias, since batch norm removes it, and the last batch norm has a scale
    but no shift. ``hidden_dim`` defaults to ``in_dim``.
    """
    _check(rng_key, in_dim=in_dim, out_dim=out_dim, hidden_dim=hidden_dim)
    hidden = hidden_dim or in_dim
    last = nn.BatchNorm1d(out_dim)
    last.register_parameter("bias", None)
    with initialising(rng_key):
        return nn.Sequential(
            nn.Linear(in_dim, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, out_dim, bias=False),
            last,
        )


def byol_head(
    in_dim: int, out_dim: int = 256, *, hidden_dim: int = 4096, rng_key: int
) -> nn.Sequential:
    """BYOL's projector, and its predictor with ``in_dim=256`` (Grill et al., 2020, appendix C.1).

    Linear-BN-ReLU-Linear; the output layer has no bias, as in the official code.
    """
    _check(rng_key, in_dim=in_dim, out_dim=out_dim, hidden_dim=hidden_dim)
    with initialising(rng_key):
        return nn.Sequential(
            nn.Linear(in_dim, hidden_dim),
            nn.BatchNorm1d(hidden_dim),
            nn.ReLU(inplace=True),
            nn.Linear(hidden_dim, out_dim, bias=False),
        )


def simsiam_projector(
    in_dim: int, out_dim: int = 2048, *, hidden_dim: int | None = None, rng_key: int
) -> nn.Sequential:
    """SimSiam's projector: three layers, batch norm after each (Chen & He, 2021, section 3).

    No linear layer has a bias, since batch norm removes it, and the last batch norm has neither
    scale nor shift (official code). ``hidden_dim`` defaults to ``in_dim``: 2048 for ResNet-50.
    """
    _check(rng_key, in_dim=in_dim, out_dim=out_dim, hidden_dim=hidden_dim)
    hidden = hidden_dim or in_dim
    with initialising(rng_key):
        return nn.Sequential(
            nn.Linear(in_dim, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, out_dim, bias=False),
            nn.BatchNorm1d(out_dim, affine=False),
        )


def simsiam_predictor(dim: int = 2048, *, hidden_dim: int = 512, rng_key: int) -> nn.Sequential:
    """SimSiam's predictor: Linear-BN-ReLU-Linear, a bottleneck (Chen & He, 2021, section 3).

    The first layer has no bias (official code).
    """
    _check(rng_key, dim=dim, hidden_dim=hidden_dim)
    with initialising(rng_key):
        return nn.Sequential(
            nn.Linear(dim, hidden_dim, bias=False),
            nn.BatchNorm1d(hidden_dim),
            nn.ReLU(inplace=True),
            nn.Linear(hidden_dim, dim),
        )
