"""The two losses of the paper as columns beside the logits of InfoNCE (supplement, section B.1).

With the score s_p of a query and its positive, s_ns with its non-semantic negatives and s_n with
the standard negatives, the loss is -log(e^(s_p / tau) / Z) and

    L_in:   Z = e^(s_p / tau) + sum e^(alpha s_ns / tau) + sum e^(s_n / tau)
    L_out:  Z = e^(s_p / tau) + sum alpha e^(s_ns / tau) + sum e^(s_n / tau)

Both are InfoNCE with further columns: alpha s_ns for L_in and s_ns + tau log(alpha) for L_out. A
non-semantic negative belongs to its own query alone. L_in is the paper's method; L_out with a whole
alpha counts each negative alpha times.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from retable.errors import UserError
from retable.nn.checks import Rows, Shaped, check_shapes, check_temperature, unit_rows

Placement = Literal["inside", "outside"]
"""Place of alpha: inside the exponential, L_in, or outside, L_out."""


def nonsemantic_logits(
    query: Tensor,
    negatives: Tensor,
    *,
    alpha: float = 2.0,
    placement: Placement = "inside",
    temperature: float = 0.2,
    rows: Rows = "unit",
) -> Tensor:
    """Return the columns (B, n) that join the logits of InfoNCE, **not** divided by temperature.

    Args:
        query: (B, D) unit rows, with gradient.
        negatives: (B, n, D) unit rows, the embeddings of each query's own non-semantic negatives;
            they get no gradient.
        alpha: weight of the negatives, at least 0; 2 in the paper's tables (3 and 5 beside it).
        placement: "inside" for L_in, the paper's method, "outside" for L_out.
        temperature: tau of the loss; only L_out reads it. 0.2 in MoCo v2.
        rows: "unit" refuses rows of another length, see `retable.nn.checks.unit_rows`.

    Returns:
        (B, n) in float32 at least; (B, 0) for L_out with alpha 0, which has no such term.

    Raises:
        UserError: the shapes do not fit, rows are not of unit length, alpha is negative.

    >>> query, negatives = torch.tensor([[1.0, 0.0]]), torch.tensor([[[0.6, 0.8]]])
    >>> nonsemantic_logits(query, negatives, alpha=2.0)
    tensor([[1.2000]])
    """
    check_shapes(Shaped("query", query, "B D"), Shaped("negatives", negatives, "B n D"))
    query, negatives = unit_rows("query", query, rows), unit_rows("negatives", negatives, rows)
    with torch.autocast(query.device.type, enabled=False):
        wide = torch.promote_types(query.dtype, torch.float32)
        cosines = torch.einsum("bd,bnd->bn", query.to(wide), negatives.detach().to(wide))
    return weighted(cosines, alpha=alpha, placement=placement, temperature=temperature)


def weighted(cosines: Tensor, *, alpha: float, placement: Placement, temperature: float) -> Tensor:
    """Return the columns of given cosines (B, n); see `nonsemantic_logits`."""
    check_shapes(Shaped("cosines", cosines, "B n"))
    check_temperature(temperature)
    check_alpha(alpha)
    if placement == "inside":
        return alpha * cosines
    if placement != "outside":
        raise UserError(
            f"`placement` must be 'inside' or 'outside', got {placement!r}. Use 'inside', the "
            "paper's method."
        )
    return cosines + temperature * math.log(alpha) if alpha else cosines[:, :0]


def check_alpha(alpha: float) -> None:
    """Raise a UserError unless alpha is finite and not negative."""
    if not 0 <= alpha < math.inf:
        raise UserError(f"`alpha` must be 0 or more, got {alpha}. Use 2, the paper's value.")


@torch.no_grad()
def gradient_share(
    logits: Tensor, columns: int, *, alpha: float, placement: Placement, temperature: float
) -> Tensor:
    """Return the weight of the non-semantic negatives in the gradient of each query, (B,).

    The gradient of the loss with respect to a query is a weighted sum of embeddings over tau; the
    non-semantic ones have the weight alpha p in L_in and p in L_out, where p is their share of the
    softmax. ``logits`` (B, 1 + K + n) are those of the loss, the n = ``columns`` non-semantic last.
    """
    check_shapes(Shaped("logits", logits, "B 1+K"))
    share = torch.softmax(logits / temperature, dim=1)[:, logits.shape[1] - columns :].sum(dim=1)
    return alpha * share if placement == "inside" else share
