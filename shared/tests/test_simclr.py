from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from retable import distributed
from retable.errors import UserError
from retable.methods import Batch, SimCLR, SimCLRRecipe
from retable.nn.batch_norm import group_batch_norm
from retable.nn.losses import Pairs
from retable.testing import TinyEncoder, make_batch, own_share, run_processes


def batch_of_four() -> Batch:
    """Return this process's share of a batch of four images."""
    return own_share(make_batch(size=4))


def make_simclr(**changes: object) -> SimCLR:
    return SimCLRRecipe(**{"dim": 6, **changes}).build(TinyEncoder(), rng_key=3)  # type: ignore[arg-type]


def by_loops(method: SimCLR, batch: Batch, temperature: float) -> tuple[Tensor, list[Tensor]]:
    """Equation 1 and algorithm 1 of the paper, one pair at a time in float64: loss, gradients."""
    exact = copy.deepcopy(method).double()
    views = [view.double() for view in batch.views]
    z = [
        exact.head(exact.encoder(view[k : k + 1]))[0]
        for k in range(len(views[0]))
        for view in views
    ]
    z = [row / row.norm() for row in z]  # rows 2k and 2k + 1 are the views of image k
    losses = []
    for i, anchor in enumerate(z):
        partner = z[i + 1 if i % 2 == 0 else i - 1]
        terms = [torch.exp(anchor @ z[k] / temperature) for k in range(len(z)) if k != i]
        losses.append(-torch.log(torch.exp(anchor @ partner / temperature) / sum(terms)))
    loss = torch.stack(losses).mean()
    return loss.detach(), list(torch.autograd.grad(loss, list(exact.parameters())))


def gradients(method: SimCLR, batch: Batch) -> tuple[Tensor, list[Tensor]]:
    """Return loss and gradients of this process, both averaged over processes as DDP does."""
    loss = method(batch).loss
    found = torch.autograd.grad(loss, list(method.parameters()))
    return distributed.mean(loss), [distributed.mean(gradient) for gradient in found]


def share_of_step(temperature: float) -> tuple[Tensor, list[Tensor]]:
    return gradients(make_simclr(temperature=temperature), batch_of_four())


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_loss_and_gradient_are_the_papers_in_plain_loops(temperature: float) -> None:
    method, batch = make_simclr(temperature=temperature), batch_of_four()
    loss, found = gradients(method, batch)
    expected, exact = by_loops(method, batch, temperature)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    for gradient, reference in zip(found, exact, strict=True):
        torch.testing.assert_close(gradient.double(), reference, rtol=1e-4, atol=1e-5)


def test_two_processes_contrast_the_global_batch_with_its_gradient() -> None:
    expected, exact = by_loops(make_simclr(temperature=0.5), batch_of_four(), 0.5)
    for loss, found in run_processes(share_of_step, 2, 0.5):
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
        for gradient, reference in zip(found, exact, strict=True):
            torch.testing.assert_close(gradient.double(), reference, rtol=1e-4, atol=1e-5)


def test_a_collapsed_embedding_has_the_chance_loss() -> None:
    method, batch = make_simclr(), batch_of_four()
    with torch.no_grad():
        for parameter in method.head[-1].parameters():
            parameter.fill_(1.0)  # every image is mapped to one direction
    output = method(batch)
    assert output.loss.item() == pytest.approx(math.log(2 * 4 - 1), rel=1e-6)
    assert output.metrics["chance_loss"] == math.log(2 * 4 - 1)
    assert float(output.metrics["embedding_spread"]) == pytest.approx(0.0, abs=1e-6)


def test_an_anchors_own_image_is_masked() -> None:
    method, batch = make_simclr(), batch_of_four()
    seen: list[Tensor] = []

    class Watched(SimCLR):
        def logits(self, pairs: Pairs, batch: Batch) -> Tensor:
            seen.append(super().logits(pairs, batch))
            return seen[-1]

    method.__class__ = Watched
    method(batch)
    anchor_images = column_images = [0, 1, 2, 3, 0, 1, 2, 3]
    masked = [[anchor == column for column in column_images] for anchor in anchor_images]
    assert torch.equal(seen[0][:, 1:].isinf(), torch.tensor(masked))


def test_batch_norm_of_the_head_normalises_all_views_of_a_group() -> None:
    # Source: the official code, which concatenates the views before the network.
    method, batch = make_simclr(head="simclr"), make_batch()
    plain = copy.deepcopy(method)
    group_batch_norm(method, 4)
    first, second = method.embeddings(batch.views)
    for rows in (slice(0, 4), slice(4, 8)):
        group = torch.cat([view[rows] for view in batch.views])
        raw = plain.head(plain.encoder(group))
        expected = (raw / raw.norm(dim=1, keepdim=True)).chunk(2)
        torch.testing.assert_close(first[rows], expected[0])
        torch.testing.assert_close(second[rows], expected[1])


def test_the_trace_is_of_raw_pairs_one_at_a_time() -> None:
    method, batch = make_simclr(), batch_of_four()
    first, second = (view.detach().double() for view in method.embeddings(batch.views))
    positives, means, variances = [], [], []
    for own, other in ((first, second), (second, first)):
        for i in range(4):
            positives.append(float(own[i] @ other[i]))
            scores = [float(own[i] @ z[j]) for z in (own, other) for j in range(4) if j != i]
            means.append(sum(scores) / 6)
            variances.append(sum((score - means[-1]) ** 2 for score in scores) / 5)
    trace = method(batch).trace
    assert float(trace["positive_mean"]) == pytest.approx(sum(positives) / 8, abs=1e-6)
    assert float(trace["negative_mean"]) == pytest.approx(sum(means) / 8, abs=1e-6)
    assert float(trace["negative_variance"]) == pytest.approx(sum(variances) / 8, abs=1e-6)


class Permuted(SimCLR):
    """A subclass in which each anchor sees the columns in another order."""

    order = torch.tensor([3, 0, 1, 2, 7, 4, 5, 6])

    def logits(self, pairs: Pairs, batch: Batch) -> Tensor:
        return pairs._replace(
            columns=pairs.columns[self.order], masked=pairs.masked[:, self.order]
        ).logits()


def test_a_subclass_may_replace_columns_and_their_mask() -> None:
    batch = batch_of_four()
    plain, permuted = make_simclr(), Permuted(TinyEncoder(), SimCLRRecipe(dim=6), rng_key=3)
    loss, found = gradients(plain, batch)
    ours, theirs = gradients(permuted, batch)
    torch.testing.assert_close(ours, loss)
    for gradient, reference in zip(theirs, found, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-6)


def test_unknown_heads_are_refused() -> None:
    with pytest.raises(UserError, match="`head` must be one of 'mlp', 'simclr', got 'linear'"):
        make_simclr(head="linear")
