"""TensorFlow's default initialisation and batch-norm constants."""

from __future__ import annotations

from torch import nn


def tensorflow_defaults(network: nn.Module) -> None:
    """Give convolutions Glorot's uniform weights and batch norms TensorFlow 1's constants.

    The official code of Kolesnikov et al. (2019) uses the defaults of ``tf.layers``: epsilon 1e-3
    (torch: 1e-5) and running statistics that decay by 0.99 (torch's momentum 0.01). Weights are
    drawn from torch's generator, see `retable.random.initialising`.
    """
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps, layer.momentum = 1e-3, 0.01
        # On the meta device nothing can be drawn.
        elif isinstance(layer, nn.Conv2d) and not layer.weight.is_meta:
            nn.init.xavier_uniform_(layer.weight)
