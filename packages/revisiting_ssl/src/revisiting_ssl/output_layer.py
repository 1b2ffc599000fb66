"""The linear layer that follows the encoder in all four pretext tasks."""

from __future__ import annotations

from torch import nn

from retable.random import initialising


def output_layer(encoder: nn.Module, outputs: int, rng_key: int) -> nn.Linear:
    """Return a linear layer on an encoder's features, with bias.

    The weights are Glorot uniform and the bias zero, as the last layer of the official networks
    has them (``models/resnet.py`` leaves TensorFlow's defaults as they are).

    Args:
        encoder: any module with ``feature_dim``.
        outputs: classes, or dimensions of an embedding.
        rng_key: source of the weights.

    >>> from retable.encoders import ResNetRecipe, build_encoder
    >>> output_layer(build_encoder(ResNetRecipe("small_resnet8"), rng_key=0), 4, rng_key=0)
    Linear(in_features=64, out_features=4, bias=True)
    """
    features = int(encoder.feature_dim)  # type: ignore[arg-type]
    with initialising(rng_key):
        layer = nn.Linear(features, outputs)
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
    return layer
