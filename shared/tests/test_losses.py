import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from retable import distributed
from retable.errors import UserError
from retable.nn.losses import info_nce, nt_xent
from retable.testing import run_processes


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def info_nce_by_loops(logits: Tensor, temperature: float) -> float:
    """MoCo's equation 1 with Python's floats."""
    losses = []
    for row in logits.double().tolist():
        terms = [math.exp(value / temperature) for value in row]
        losses.append(-math.log(terms[0] / sum(terms)))
    return sum(losses) / len(losses)


def nt_xent_by_loops(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """SimCLR's equation 1 and algorithm 1: rows 2k and 2k+1 are views of sample k."""
    z = torch.stack([first, second], 1).flatten(0, 1)
    z = z / z.norm(dim=1, keepdim=True)
    losses = []
    for i in range(len(z)):
        j = i + 1 if i % 2 == 0 else i - 1
        terms = [torch.exp(z[i] @ z[k] / temperature) for k in range(len(z)) if k != i]
        losses.append(-(z[i] @ z[j]) / temperature + torch.stack(terms).sum().log())
    return torch.stack(losses).mean()


@settings(max_examples=50, deadline=None)
@given(
    rows=st.integers(1, 5),
    negatives=st.integers(1, 8),
    temperature=st.sampled_from([0.07, 0.2, 1.0]),
    seed=st.integers(0, 1000),
)
def test_info_nce_is_the_formula(rows: int, negatives: int, temperature: float, seed: int) -> None:
    # Source: He et al. (2020), equation 1, in loops and float64.
    logits = randn(rows, 1 + negatives, seed=seed).tanh()
    expected = info_nce_by_loops(logits, temperature)
    assert info_nce(logits, temperature).item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("width", [16385, 65537])
def test_equal_logits_give_the_chance_level(width: int) -> None:
    # Source: log(1 + K) by hand, 9.7041 and 11.0904 for K = 16384 and 65536.
    loss = info_nce(torch.full((3, width), 0.7), 0.2)
    assert loss.item() == pytest.approx(math.log(width), rel=1e-6)


def test_the_gradient_of_info_nce_is_softmax_less_target() -> None:
    # Source: d loss / d logit = (softmax - one-hot) / (B tau).
    logits = randn(4, 6).requires_grad_()
    (gradient,) = torch.autograd.grad(info_nce(logits, 0.2), logits)
    target = F.one_hot(torch.zeros(4, dtype=torch.long), 6)
    expected = ((logits / 0.2).softmax(1) - target) / (4 * 0.2)
    torch.testing.assert_close(gradient, expected.detach(), rtol=1e-4, atol=1e-6)


def test_masked_negatives_are_left_out_and_all_masked_give_zero() -> None:
    logits = randn(2, 5)
    dropped = logits.clone()
    dropped[:, 2:4] = -math.inf
    kept = info_nce(logits[:, [0, 1, 4]], 0.2)
    torch.testing.assert_close(info_nce(dropped, 0.2), kept)
    alone = torch.full((2, 5), -math.inf)
    alone[:, 0] = 0.3
    alone.requires_grad_()
    loss = info_nce(alone, 0.2)
    (gradient,) = torch.autograd.grad(loss, alone)
    assert loss.item() == 0
    assert torch.equal(gradient, torch.zeros(2, 5))


@settings(max_examples=50, deadline=None)
@given(
    count=st.integers(1, 6),
    temperature=st.sampled_from([0.1, 0.5]),
    seed=st.integers(0, 1000),
)
def test_nt_xent_is_the_formula_with_its_gradient(
    count: int, temperature: float, seed: int
) -> None:
    # Source: Chen et al. (2020), equation 1, in loops and float64.
    pair = [randn(count, 4, seed=2 * seed + view).requires_grad_() for view in range(2)]
    exact = [view.detach().double().requires_grad_() for view in pair]
    loss = nt_xent(pair[0], pair[1], temperature)
    expected = nt_xent_by_loops(exact[0], exact[1], temperature)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    gradients = torch.autograd.grad(loss, pair)
    references = torch.autograd.grad(expected, exact)
    for gradient, reference in zip(gradients, references, strict=True):
        torch.testing.assert_close(gradient.double(), reference, rtol=1e-4, atol=1e-5)


def test_nt_xent_ignores_lengths_order_of_samples_and_of_views() -> None:
    first, second = randn(6, 4, seed=1), randn(6, 4, seed=2)
    loss = nt_xent(first, second, 0.5)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(nt_xent(3 * first, second / 7, 0.5), loss)
    torch.testing.assert_close(nt_xent(first[order], second[order], 0.5), loss)
    torch.testing.assert_close(nt_xent(second, first, 0.5), loss)


def test_losses_are_float32_under_autocast() -> None:
    logits = randn(4, 9)
    first, second = randn(4, 8, seed=1), randn(4, 8, seed=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = info_nce(logits, 0.2), nt_xent(first, second, 0.1)
    assert inside[0].dtype == inside[1].dtype == torch.float32
    assert torch.equal(inside[0], info_nce(logits, 0.2))
    assert torch.equal(inside[1], nt_xent(first, second, 0.1))


def share_of_nt_xent(inputs: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """One process's loss and its parameter's gradient, averaged as DDP does."""
    weight = weight.clone().requires_grad_()
    own = [distributed.own_slice(view) @ weight for view in inputs]
    loss = nt_xent(own[0], own[1], 0.2)
    (gradient,) = torch.autograd.grad(loss, weight)
    return loss.detach(), distributed.mean(gradient)


@pytest.mark.parametrize("count", [2, 3])
def test_processes_together_compute_the_global_loss_and_gradient(count: int) -> None:
    # Source: one process on the joined batch.
    inputs, weight = randn(2, 6, 5), randn(5, 4, seed=1)
    loss, gradient = share_of_nt_xent(inputs, weight)
    shares = run_processes(share_of_nt_xent, count, inputs, weight)
    torch.testing.assert_close(torch.stack([share[0] for share in shares]).mean(), loss)
    for _, averaged in shares:
        torch.testing.assert_close(averaged, gradient, rtol=1e-4, atol=1e-6)


def test_temperatures_must_be_positive() -> None:
    with pytest.raises(UserError, match="`temperature` must be positive, got 0"):
        info_nce(torch.zeros(1, 2), 0)
    with pytest.raises(UserError, match=r"`temperature` must be positive, got -0\.1"):
        nt_xent(torch.zeros(1, 2), torch.zeros(1, 2), -0.1)


def test_a_second_backward_pass_is_an_error() -> None:
    logits = torch.randn(4, 9, requires_grad=True)
    loss = info_nce(logits, 0.2)
    loss.backward(retain_graph=True)  # type: ignore[no-untyped-call]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("masked", [False, True])
def test_info_nce_keeps_float64_and_its_gradient_passes_gradcheck(masked: bool) -> None:
    logits = randn(3, 5).double()
    if masked:
        logits[1, 2:4] = -math.inf
    assert info_nce(logits, 0.2).dtype == torch.float64
    assert info_nce(logits, 0.2).item() == pytest.approx(info_nce_by_loops(logits, 0.2), rel=1e-14)
    seen = (randn(3, 5, seed=1).double() * 0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: info_nce(logits + x, 0.2), (seen,))


def test_nt_xent_keeps_float64_and_its_gradient_passes_gradcheck() -> None:
    views = [randn(3, 4, seed=seed).double().requires_grad_() for seed in (1, 2)]
    assert nt_xent(views[0], views[1], 0.2).dtype == torch.float64
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, 0.2), views)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_of_half_precision_are_computed_in_float32(dtype: torch.dtype) -> None:
    logits = randn(4, 9).to(dtype)
    assert info_nce(logits, 0.2).dtype == torch.float32
    assert torch.equal(info_nce(logits, 0.2), info_nce(logits.float(), 0.2))
