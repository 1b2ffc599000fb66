from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retable.methods import SimSiam, SimSiamRecipe
from retable.testing import TinyEncoder, make_batch


def make_simsiam() -> SimSiam:
    return SimSiamRecipe(dim=6, hidden_dim=10, predictor_hidden_dim=4).build(
        TinyEncoder(), rng_key=3
    )


def straight_line_loss(networks: list[nn.Module], views: tuple[Tensor, ...]) -> Tensor:
    """Return the loss of the paper's algorithm 1, view by view."""
    encoder, projector, predictor = networks
    z1, z2 = (projector(encoder(view)) for view in views)
    p1, p2 = predictor(z1), predictor(z2)
    d12 = -F.cosine_similarity(p1, z2.detach()).mean()
    d21 = -F.cosine_similarity(p2, z1.detach()).mean()
    return d12 / 2 + d21 / 2


def test_three_steps_equal_the_papers_algorithm() -> None:
    # Chen & He (2021), algorithm 1, in float64 with torch's SGD; also its running statistics.
    method = make_simsiam()
    exact = copy.deepcopy(method).double()
    networks = [exact.encoder, exact.projector, exact.predictor]
    ours = torch.optim.SGD(method.parameters(), lr=0.1, momentum=0.9)
    theirs = torch.optim.SGD(exact.parameters(), lr=0.1, momentum=0.9)
    before = next(method.parameters()).detach().clone()
    for step in range(3):
        batch = make_batch(step)
        loss = method(batch).loss
        expected = straight_line_loss(networks, tuple(view.double() for view in batch.views))
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
        for optimizer, scalar in ((ours, loss), (theirs, expected)):
            optimizer.zero_grad()
            torch.autograd.backward(scalar)
            optimizer.step()
        method.after_step(batch.progress)
    assert (next(method.parameters()) - before).abs().max() > 1e-3
    reference = exact.state_dict()
    for name, value in method.state_dict().items():
        torch.testing.assert_close(value.double(), reference[name].double(), rtol=1e-4, atol=1e-5)


def test_no_gradient_reaches_the_projector_as_a_target() -> None:
    # Without the predictor in the way, a stopped gradient is all that there is.
    method, batch = make_simsiam(), make_batch()
    targets = [method.branches(view)[1] for view in batch.views]
    assert not any(target.requires_grad for target in targets)
    method.predictor.requires_grad_(False)
    whole = torch.autograd.grad(method(batch).loss, list(method.projector.parameters()))
    frozen = [target.clone() for target in targets]
    predictions = [method.branches(view)[0] for view in batch.views]
    loss = sum(
        -F.cosine_similarity(one, other).mean() / 2
        for one, other in zip(predictions, frozen[::-1], strict=True)
    )
    assert isinstance(loss, Tensor)
    parts = torch.autograd.grad(loss, list(method.projector.parameters()))
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other)


def test_projections_of_a_batch_are_standardised() -> None:
    method, batch = make_simsiam(), make_batch()
    _, projections = method.branches(batch.views[0])
    torch.testing.assert_close(projections.mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(projections.var(0, correction=0), torch.ones(6), atol=1e-2, rtol=0)


def test_widths_are_the_papers() -> None:
    # Source: facebookresearch/simsiam simsiam/builder.py, ResNet-50: 2048-2048-2048, 2048-512-2048.
    encoder = nn.Identity()
    encoder.feature_dim = 2048  # type: ignore[assignment]
    with torch.device("meta"):
        method = SimSiamRecipe().build(encoder, rng_key=0)
    weights = [tuple(p.shape) for p in method.parameters() if p.ndim == 2]
    assert weights == [(2048, 2048)] * 3 + [(512, 2048), (2048, 512)]
