"""Losses and labels of the learned saliency: Nguyen et al., DeepUSPS, NeurIPS 2019.

A network learns from noisy maps. The F-measure tolerates their errors, pixels on which network and
map agree are settled and teach nothing more, and labels become an average of what the network said.
"""

from __future__ import annotations

import torch
from torch import Tensor

from retable.errors import UserError
from retable.nn.checks import Shaped, check_shapes

_SMALL = 1e-5

KEPT = 0.7
"""Share of the earlier average in `averaged` (the official code)."""


def f_measure_loss(prediction: Tensor, labels: Tensor, beta_squared: float = 1.0) -> Tensor:
    """Return 1 - F, the mean over images.

    Precision and recall are those of probabilities, so that the loss has a gradient.

    Args:
        prediction: (B, H, W) probabilities of foreground.
        labels: (B, H, W) in {0, 1}, floating-point.
        beta_squared: weight of recall; 1 in the first stage, 4 in the second (the official code).

    Returns:
        A scalar in [0, 1], 0 for a perfect prediction.
    """
    check_shapes(Shaped("prediction", prediction, "B H W"), Shaped("labels", labels, "B H W"))
    if not beta_squared > 0:
        raise UserError(f"`beta_squared` must be positive, got {beta_squared}. Use 1.")
    true = (prediction * labels).sum(dim=(1, 2))
    precision = true / (prediction.sum(dim=(1, 2)) + _SMALL)
    recall = true / (labels.sum(dim=(1, 2)) + _SMALL)
    weighted = beta_squared * precision + recall
    return (1 - (1 + beta_squared) * precision * recall / (weighted + _SMALL)).mean()


def settled(prediction: Tensor, maps: Tensor, threshold: float = 0.5) -> Tensor:
    """Return the prediction with the pixels that go beyond a map replaced by 1 or 0.

    Where the map (B, H, W) is above the threshold and the prediction above the map, the pixel is
    foreground and gets no gradient; below both it is background.
    """
    check_shapes(Shaped("prediction", prediction, "B H W"), Shaped("maps", maps, "B H W"))
    above = (maps > threshold) & (prediction > maps)
    below = (maps < threshold) & (prediction < maps)
    return prediction.masked_fill(above, 1.0).masked_fill(below, 0.0)


def saliency_loss(
    prediction: Tensor, maps: Tensor, threshold: float = 0.5, beta_squared: float = 1.0
) -> Tensor:
    """Return the loss of a prediction with noisy maps, (B, H, W) each: both steps together."""
    labels = (maps > threshold).to(prediction.dtype)
    return f_measure_loss(settled(prediction, maps, threshold), labels, beta_squared)


def averaged(average: Tensor, maps: Tensor) -> Tensor:
    """Return the moving average of maps, which starts at 0: 0.7 of it and 0.3 of the new ones."""
    return KEPT * average + (1 - KEPT) * maps


THRESHOLDS = {"mc": 0.31, "hs": 0.36, "dsr": 0.23, "rbd": 0.25, "mr": 0.30}
"""Thresholds of handcrafted maps in the first iteration (the official code; MR's is a decision)."""


def threshold_of(method: str, iteration: int) -> float:
    """Return the threshold of the labels of an iteration, counted from 0: 1/2 after the first."""
    if method not in THRESHOLDS:
        raise UserError(
            f"`method` must be one of {', '.join(THRESHOLDS)}, got {method!r}. Correct it."
        )
    return THRESHOLDS[method] if iteration == 0 else 0.5


def foreground(logits: Tensor) -> Tensor:
    """Return the probability (B, H, W) of foreground for logits (B, 2, H, W), background second."""
    check_shapes(Shaped("logits", logits, "B 2 H W"))
    return torch.softmax(logits.float(), dim=1)[:, 0]
