"""The parts that the pretext tasks share: output layer, classification loss, check of the views."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from retable.errors import UserError
from retable.methods.method import Batch, StepOutput
from retable.nn.checks import Shaped, check_shapes
from retable.random import initialising


def output_layer(encoder: nn.Module, outputs: int, rng_key: int) -> nn.Linear:
    """Return a linear layer on an encoder's features, with bias.

    The weights are Glorot uniform and the bias zero, TensorFlow's defaults, as in the last layer of
    the official networks (``models/resnet.py``). ``rng_key`` draws the weights.
    """
    features = int(encoder.feature_dim)  # type: ignore[arg-type]
    with initialising(rng_key):
        layer = nn.Linear(features, outputs)
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
    return layer


def classified(logits: Tensor, labels: Tensor) -> StepOutput:
    """Return the mean cross-entropy of scores (n, C) with labels (n,), and the accuracy."""
    check_shapes(Shaped("logits", logits, "n C"), Shaped("labels", labels, "n", kind="whole"))
    accuracy = (logits.detach().argmax(dim=1) == labels).float().mean()
    return StepOutput(F.cross_entropy(logits, labels), {"accuracy": accuracy})


def only_view(batch: Batch, task: str, maker: str) -> Tensor:
    """Return the only view of a batch; the message names the task and the view's ``maker``."""
    if len(batch.views) != 1:
        raise UserError(
            f"The `views` of {task} must be one, got {len(batch.views)}. Use the view of {maker}."
        )
    return batch.views[0]
