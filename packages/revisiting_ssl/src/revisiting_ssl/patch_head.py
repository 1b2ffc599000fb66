"""The two-layer network that classifies joined patches, in both patch tasks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from retable.nn.batch_norm import rows_per_image
from retable.nn.checks import Shaped, check_least, check_rng_key, check_shapes, row_positions
from retable.random import dropout, initialising


class PatchHead(nn.Module):
    """Joined embeddings (B, R, F), R rows of each image, to scores (B, R, C).

    Linear, batch norm, ReLU, dropout, linear: ``fully_connected`` of the official code's
    ``patch_utils.py``, with its weights (normal of deviation 0.005, cut off at two deviations), its
    first bias of 0.1 and its batch norm (eps 1e-5, running averages that move by 0.003).

    Args:
        inputs: F, the number of joined patches times their dimensions.
        classes: C.
        hidden_dim: width of the hidden layer, 4096 in the paper.
        dropout_rate: probability that a hidden unit is dropped in training.
        norm_momentum: share of a step's statistics in the running ones. 0.003 averages over some
            hundred steps; in a training of as few steps, scores in evaluation mode have another
            scale than in training.
        rng_key: source of the weights.
    """

    def __init__(
        self,
        inputs: int,
        classes: int,
        *,
        hidden_dim: int = 4096,
        dropout_rate: float = 0.5,
        norm_momentum: float = 0.003,
        rng_key: int,
    ) -> None:
        super().__init__()
        check_rng_key(rng_key)
        check_least(1, inputs=inputs, classes=classes, hidden_dim=hidden_dim)
        self.dropout_rate = dropout_rate
        with initialising(rng_key):
            self.hidden = nn.Linear(inputs, hidden_dim)
            self.norm = nn.BatchNorm1d(hidden_dim, eps=1e-5, momentum=norm_momentum)
            self.scores = nn.Linear(hidden_dim, classes)
            for layer in (self.hidden, self.scores):
                nn.init.trunc_normal_(layer.weight, std=0.005, a=-0.01, b=0.01)
        nn.init.constant_(self.hidden.bias, 0.1)
        nn.init.zeros_(self.scores.bias)

    def forward(self, rows: Tensor, rng_key: int, positions: Tensor | None = None) -> Tensor:
        """Return scores (B, R, C) of rows (B, R, F).

        Args:
            rows: the rows of each image side by side: a batch-norm group holds all of them.
            rng_key: key of the step's dropout, equal on all processes.
            positions: (B,) int64 places of the images in the global batch; 0 to B - 1 if None.
        """
        check_shapes(Shaped("rows", rows, "B R F"), F=self.hidden.in_features)
        check_rng_key(rng_key)
        positions = row_positions(positions, rows)
        count = rows.shape[1]
        with rows_per_image(self, count):
            hidden = self.norm(self.hidden(rows.flatten(0, 1))).relu()
        if self.training and self.dropout_rate > 0:
            numbers = positions[:, None] * count + torch.arange(count, device=rows.device)
            hidden = dropout(hidden, self.dropout_rate, rng_key, numbers.flatten())
        scores: Tensor = self.scores(hidden)
        return scores.view(*rows.shape[:2], -1)
