"""The loss of ReLICv2 as functions of tensors (arXiv 2201.05119, equations 1 to 4).

A view a of an image predicts, among the image and its negatives, which of them a view b is of:

    p(x^a; x^b)[c] = exp(<o^a, t_c^b> / tau) / sum over candidates c' of exp(<o^a, t_c'^b> / tau)

with the online output o and the target output t, both of unit length. Of every pair (a, b), where b
is a large view and a is a large or a small one, the loss takes

    -c log p(x^a; x^b)[image itself]  +  beta KL(p(x^a; x^b) || reference)

The reference of a large view a is p(x^b; x^a), the two networks' roles swapped. A small view has no
target output, so that its reference is p(x^b; x^b), what the large view itself predicts, without
gradient: small views are no learning targets (section 2.2).

All pairs of a step are computed together: `predictions` returns log p with one dimension for a and
one for b, and swapping roles is swapping these two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from relicv2.candidates import check_candidates
from retable import distributed
from retable.errors import UserError
from retable.nn.checks import Rows, Shaped, check_least, check_shapes, check_temperature, unit_rows

StopGradient = Literal["entropy", "second", "first", "none"]
"""Where an invariance term KL(p || q) has no gradient, see `divergence`."""

Reference = Literal["swap", "transpose"]
"""What the prediction of a view a about a large view b is compared with.

- "swap": p(x^b; x^a) for a large a, with the networks' roles swapped; p(x^b; x^b) without gradient
  for a small a, which has no target output. See `invariance`.
- "transpose": for every a the distribution of the target output t^b over the online outputs o^a of
  the candidates. See `transposed_predictions`.
"""


class PairLosses(NamedTuple):
    """The terms of all pairs of views, (V, L, B_r): view a, large view b, image.

    Attributes:
        contrastive: -log p of the image itself.
        invariance: KL divergence from the reference.
        counted: (V, L) bool, the pairs that belong to the loss.
    """

    contrastive: Tensor
    invariance: Tensor
    counted: Tensor

    def total(self, contrast_scale: float = 0.3, invariance_scale: float = 1.5) -> Tensor:
        """Return the loss, a scalar: both terms, scaled, in the mean over pairs and images."""
        check_least(0, contrast_scale=contrast_scale, invariance_scale=invariance_scale)
        terms = contrast_scale * self.contrastive + invariance_scale * self.invariance
        return self._mean(terms)

    def means(self) -> tuple[Tensor, Tensor]:
        """Return the contrastive and the invariance term, means over pairs and images."""
        return self._mean(self.contrastive), self._mean(self.invariance)

    def _mean(self, terms: Tensor) -> Tensor:
        return (terms.mean(dim=2) * self.counted).sum() / self.counted.sum()


def pair_losses(
    online: Tensor,
    targets: Tensor,
    candidates: Tensor,
    *,
    temperature: float = 0.2,
    same_view_pairs: bool = True,
    reference: Reference = "swap",
    stop_gradient: StopGradient = "entropy",
    rows: Rows = "unit",
) -> PairLosses:
    """Return the terms of all pairs of V views with L large ones, which come first.

    Args:
        online: (V, B_r, D) unit rows, the online network's outputs of this process's images.
        targets: (L, B_r, D) unit rows, the target network's outputs of the same images. They get no
            gradient; those of other processes are gathered.
        candidates: (B_r, 1 + n) int64 positions in the global batch, each image itself first
            (`relicv2.candidates.draw_candidates`). All processes hold equally many images.
        temperature: tau, which the paper does not state, see `relicv2.method.ReLICv2Recipe`.
        same_view_pairs: whether a large view is also paired with itself, as in the paper's listing:
            (L + S) L pairs instead of L (L - 1) + S L.
        reference: see `Reference`.
        stop_gradient: see `divergence`.
        rows: "unit" refuses rows of another length, see `retable.nn.checks.unit_rows`.

    Raises:
        UserError: the shapes do not fit, there are fewer views than large ones, or no pair is left.
    """
    check_shapes(
        Shaped("online", online, "V B D"),
        Shaped("targets", targets, "L B D"),
        Shaped("candidates", candidates, "B 1+n", kind="whole"),
    )
    check_temperature(temperature)
    check_candidates(candidates, targets.shape[1] * distributed.process_count())
    views, large = len(online), len(targets)
    if views < large or (views == 1 and not same_view_pairs):
        raise UserError(
            f"`online` must have the {large} views of `targets` first, and two views where no view "
            f"is paired with itself, got {views}. Pass the outputs of all views."
        )
    online, targets = unit_rows("online", online, rows), unit_rows("targets", targets, rows)
    with torch.autocast(online.device.type, enabled=False):
        wide = torch.promote_types(online.dtype, torch.float32)
        online, targets = online.to(wide), targets.detach().to(wide)
        log_p = predictions(online, targets, candidates, temperature)
        if reference == "swap":
            kl = invariance(log_p, stop_gradient)
        elif reference == "transpose":
            transposed = transposed_predictions(online, targets, candidates, temperature)
            kl = divergence(log_p, transposed, stop_gradient)
        else:
            raise UserError(f"`reference` must be 'swap' or 'transpose', got {reference!r}.")
    counted = torch.ones(views, large, dtype=torch.bool, device=online.device)
    if not same_view_pairs:
        counted[:large].fill_diagonal_(False)
    return PairLosses(-log_p[..., 0], kl, counted)


def predictions(online: Tensor, targets: Tensor, candidates: Tensor, temperature: float) -> Tensor:
    """Return log p(x^a; x^b), (V, L, B_r, 1 + n) for V views a and L large views b (equation 1).

    Targets of other processes are gathered.
    """
    scores = _scores(online, _gathered(targets, distributed.gather), candidates)
    return torch.log_softmax(scores / temperature, dim=3)


def transposed_predictions(
    online: Tensor, targets: Tensor, candidates: Tensor, temperature: float
) -> Tensor:
    """Return the log-probabilities of the target t^b among the online outputs o^a of candidates.

    (V, L, B_r, 1 + n). Online outputs of other processes are gathered with their gradient.
    """
    everything = _gathered(online, distributed.gather_with_gradient)
    scores = _scores(targets, everything, candidates).transpose(0, 1)
    return torch.log_softmax(scores / temperature, dim=3)


def _scores(rows: Tensor, everything: Tensor, candidates: Tensor) -> Tensor:
    """Return the cosines (V, W, B_r, 1 + n) of rows (V, B_r, D) with candidates in (W, B, D).

    Either the candidates are copied, W B_r (1 + n) D numbers, or all others are compared too,
    V W B_r B numbers: whichever is less.
    """
    copied = candidates.shape[1] * everything.shape[2]
    if copied < len(rows) * everything.shape[1]:
        return torch.einsum("vbd,wbnd->vwbn", rows, everything[:, candidates])
    scores = torch.einsum("vbd,wcd->vwbc", rows, everything)
    return scores.gather(3, candidates.expand(len(rows), len(everything), -1, -1))


def invariance(log_p: Tensor, stop_gradient: StopGradient = "entropy") -> Tensor:
    """Return KL(p(x^a; x^b) || reference), (V, L, B_r), for predictions (V, L, B_r, 1 + n).

    The reference of a large view is p(x^b; x^a); that of a small one is p(x^b; x^b), always without
    gradient. A large view with itself has the divergence 0, and no gradient either: what is left of
    it under ``stop_gradient="entropy"`` would only sharpen the prediction.
    """
    large = log_p.shape[1]
    swapped = log_p[:large].transpose(0, 1)
    kl = divergence(log_p[:large], swapped, stop_gradient)
    same = torch.eye(large, dtype=torch.bool, device=log_p.device)[..., None]
    kl = kl.masked_fill(same, 0.0)
    anchors = log_p[:large].diagonal(dim1=0, dim2=1).movedim(2, 0)
    return torch.cat([kl, divergence(log_p[large:], anchors.expand_as(log_p[large:]), "second")])


def divergence(log_p: Tensor, log_q: Tensor, stop_gradient: StopGradient = "entropy") -> Tensor:
    """Return KL(p || q) of log-probabilities (..., 1 + n), in the shape (...).

    The value does not depend on ``stop_gradient``, which chooses the gradient:

    - "entropy": that of the cross-entropy -sum p log q, with respect to both. The entropy of p,
      whose part of the gradient favours uniform predictions, is taken as a constant.
    - "second": q is a constant.
    - "first": p is a constant.
    - "none": the whole gradient.
    """
    if stop_gradient not in ("entropy", "second", "first", "none"):
        raise UserError(
            "`stop_gradient` must be 'entropy', 'second', 'first' or 'none', got "
            f"{stop_gradient!r}. Use 'entropy'."
        )
    if stop_gradient == "first":
        log_p = log_p.detach()
    if stop_gradient == "second":
        log_q = log_q.detach()
    p = log_p.exp()
    negative_entropy = (p * log_p).sum(dim=-1)
    if stop_gradient == "entropy":
        negative_entropy = negative_entropy.detach()
    return negative_entropy - (p * log_q).sum(dim=-1)


def _gathered(outputs: Tensor, gather: Callable[[Tensor], Tensor]) -> Tensor:
    """Gather (V, B_r, D) of all processes as (V, B, D)."""
    return gather(outputs.transpose(0, 1).contiguous()).transpose(0, 1)
