"""The semi-hard triplet loss.

Schroff, Kalenichenko and Philbin (CVPR 2015) in the batch form of TensorFlow's
``triplet_semihard_loss``: every ordered pair of an anchor and a positive is compared with the
nearest negative that lies further away than the positive, or with the furthest negative where none
does.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from retable.errors import UserError
from retable.nn.checks import Rows, Shaped, check_shapes, unit_rows

Axis = Literal["feature", "batch"]


class Triplets(NamedTuple):
    """The triplets of groups of n rows; ``...`` stands for the groups.

    Attributes:
        pairs: (..., n, n) bool, whether anchor a and row p are a pair: of one label, not the same
            row, and with a negative to compare with.
        negatives: (..., n, n) int64, the row of the negative of a and p; without meaning where
            there is no pair.
        fallback: (..., n, n) bool, pairs whose positive is further away than all negatives: their
            negative is the furthest.
    """

    pairs: Tensor
    negatives: Tensor
    fallback: Tensor


def squared_distances(embeddings: Tensor) -> Tensor:
    """Return |e_i - e_j|^2 of all pairs of rows, (..., n, D) to (..., n, n).

    >>> squared_distances(torch.tensor([[0.0], [2.0], [1.0]]))
    tensor([[0., 4., 1.],
            [4., 0., 1.],
            [1., 1., 0.]])
    """
    check_shapes(Shaped("embeddings", embeddings, "... N D"))
    # Distances do not change when all rows move by one vector, and nor do their gradients. About
    # the mean, nearly equal rows (a collapsed embedding) do not cancel to noise.
    centred = embeddings - embeddings.detach().mean(dim=-2, keepdim=True)
    products = centred @ centred.mT
    squares = products.diagonal(dim1=-2, dim2=-1)
    distances = squares[..., :, None] + squares[..., None, :] - 2 * products
    return distances.clamp(min=0.0)


@torch.no_grad()
def mine_semi_hard(distances: Tensor, labels: Tensor) -> Triplets:
    """Find each pair's negative: one sort and one binary search for each row, nothing of n^3.

    ``distances`` are (..., n, n), rows are the anchors; ``labels`` as in `semi_hard_triplet_loss`.

    >>> line = torch.tensor([[0.0], [2.0], [1.0], [3.0]])
    >>> triplets = mine_semi_hard(squared_distances(line), torch.tensor([0, 0, 1, 1]))
    >>> triplets.negatives[0, 1], triplets.fallback[0, 1]  # 0 is 4 from 2; negatives at 1 and 9
    (tensor(3), tensor(False))
    """
    check_shapes(
        Shaped("distances", distances, "... N N"), Shaped("labels", labels, "N", kind="whole")
    )
    same = labels[:, None] == labels
    others = (~same).sum(dim=1)[:, None]
    ordered, order = distances.masked_fill(same, torch.inf).sort(dim=-1)
    # How many negatives are at most as far as the positive is the place of the first further one.
    place = torch.searchsorted(ordered, distances.contiguous(), right=True)
    pairs = same & (others > 0)
    pairs = pairs & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    last = (others - 1).clamp(min=0)
    return Triplets(
        pairs.expand_as(distances), order.gather(-1, place.minimum(last)), pairs & (place > last)
    )


def triplet_loss(distances: Tensor, triplets: Triplets, margin: float) -> Tensor:
    """Return the mean of max(0, margin + d_ap - d_an) over the pairs of each group: (...).

    Pairs whose term is zero count; a group without pairs has the loss 0. The gradient flows through
    both distances.
    """
    check_triplets(distances, triplets)
    if not margin > 0:
        raise UserError(f"`margin` must be positive, got {margin}. Use 0.5, the paper's value.")
    terms = (margin + distances - distances.gather(-1, triplets.negatives)).clamp(min=0.0)
    pairs = triplets.pairs
    # Selected, not multiplied: where there is no pair, a term may be anything.
    sums = torch.where(pairs, terms, 0.0).sum(dim=(-2, -1))
    return sums / pairs.sum(dim=(-2, -1)).clamp(min=1)


def check_triplets(distances: Tensor, triplets: Triplets) -> None:
    """Raise a UserError unless triplets are those of distances (..., n, n)."""
    check_shapes(Shaped("distances", distances, "... N N"))
    if triplets.pairs.shape != distances.shape or triplets.pairs.device != distances.device:
        raise UserError(
            f"`triplets` must be those of the distances {tuple(distances.shape)} on "
            f"{distances.device}, got {tuple(triplets.pairs.shape)} on {triplets.pairs.device}. "
            "Mine them from these distances."
        )


def semi_hard_triplet_loss(
    embeddings: Tensor, labels: Tensor, margin: float = 0.5, *, rows: Rows = "unit"
) -> Tensor:
    """Return the semi-hard triplet loss of squared distances.

    Args:
        embeddings: (..., n, D) unit rows, for which the margin is chosen; leading dimensions are
            groups that are mined separately.
        labels: (n,) int64, the same in each group; rows of equal label belong to one image. There
            should be two labels and two rows of a label at least: otherwise there is no pair, and
            the loss is 0.
        margin: 0.5 in the paper (official code's ``margin``); TensorFlow's default is 1.
        rows: "unit" refuses rows of another length, "normalise" scales them, "unchecked" compares
            rows of any length; see `retable.nn.checks.unit_rows`.

    Returns:
        (...), the loss of each group: the mean over its ordered pairs of rows of one label.

    >>> line = torch.tensor([[0.0], [2.0], [1.0], [3.0]])
    >>> semi_hard_triplet_loss(line, torch.tensor([0, 0, 1, 1]), rows="unchecked")
    tensor(1.7500)
    """
    check_shapes(
        Shaped("embeddings", embeddings, "... N D"), Shaped("labels", labels, "N", kind="whole")
    )
    distances = squared_distances(unit_rows("embeddings", embeddings, rows))
    return triplet_loss(distances, mine_semi_hard(distances, labels), margin)


def normalised(embeddings: Tensor, axis: Axis = "feature") -> Tensor:
    """Scale embeddings (..., n, D) to unit length along one axis.

    Args:
        embeddings: any vectors.
        axis: "feature": each row has length 1, as the loss expects. "batch": each *column* of a
            group has, as the official code's ``l2_normalize(axis=0)``, which is probably a slip but
            may be what the printed numbers come from.

    >>> normalised(torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 1.0000]])
    """
    check_shapes(Shaped("embeddings", embeddings, "... N D"))
    if axis not in ("feature", "batch"):
        raise UserError(f"`axis` must be 'feature' or 'batch', got {axis!r}. Choose one.")
    # The square root of TensorFlow's 1e-12, which is compared with the squared length.
    return F.normalize(embeddings, dim=-1 if axis == "feature" else -2, eps=1e-6)
