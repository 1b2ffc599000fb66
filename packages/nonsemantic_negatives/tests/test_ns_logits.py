import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nonsemantic_negatives import nonsemantic_logits
from nonsemantic_negatives.logits import Placement, gradient_share
from retable.errors import UserError
from retable.nn.losses import info_nce

TAU = 0.2


def rows(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, dtype=torch.float64, generator=generator), dim=-1)


QUERY, KEY, QUEUE, NEGATIVES = rows(0, 5, 8), rows(1, 5, 8), rows(2, 12, 8), rows(3, 5, 2, 8)


def moco_logits(query: Tensor = QUERY) -> Tensor:
    return torch.cat([(query * KEY).sum(dim=1, keepdim=True), query @ QUEUE.T], dim=1)


def loss(
    alpha: float,
    placement: Placement = "inside",
    query: Tensor = QUERY,
    negatives: Tensor = NEGATIVES,
) -> Tensor:
    columns = nonsemantic_logits(
        query, negatives, alpha=alpha, placement=placement, temperature=TAU
    )
    return info_nce(torch.cat([moco_logits(query), columns], dim=1), TAU)


def loss_by_loops(alpha: float, placement: Placement, query: Tensor = QUERY) -> float:
    """Source: Ge et al., supplement, section B.1, term by term."""
    losses = []
    for i in range(len(query)):
        positive = math.exp(float(query[i] @ KEY[i]) / TAU)
        total = positive + sum(math.exp(float(query[i] @ row) / TAU) for row in QUEUE)
        for negative in NEGATIVES[i]:
            score = float(query[i] @ negative)
            if placement == "inside":
                total += math.exp(alpha * score / TAU)
            else:
                total += alpha * math.exp(score / TAU)
        losses.append(-math.log(positive / total))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("placement", ["inside", "outside"])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.0, 3.0, 5.0])
def test_losses_are_the_papers(alpha: float, placement: Placement) -> None:
    expected = loss_by_loops(alpha, placement)
    assert float(loss(alpha, placement)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("placement", ["inside", "outside"])
@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 5.0])
def test_gradients_are_the_papers(alpha: float, placement: Placement) -> None:
    # Source: supplement, section B.1, the derivatives with respect to z_i.
    query = QUERY.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(alpha, placement, query), query)
    expected = []
    for i, z in enumerate(QUERY):
        inside = placement == "inside"
        positive, standard = torch.exp(KEY[i] @ z / TAU), torch.exp(QUEUE @ z / TAU)
        power = torch.exp((alpha if inside else 1.0) * (NEGATIVES[i] @ z) / TAU)
        weight = power if inside else alpha * power
        total = positive + weight.sum() + standard.sum()
        pushed = KEY[i] * positive + alpha * (power @ NEGATIVES[i]) + standard @ QUEUE
        expected.append((pushed / total - KEY[i]) / TAU / len(QUERY))
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-12, rtol=0)


def test_with_alpha_one_both_losses_are_one() -> None:
    torch.testing.assert_close(loss(1.0, "inside"), loss(1.0, "outside"), atol=1e-14, rtol=0)


def test_outside_with_alpha_zero_is_info_nce() -> None:
    assert torch.equal(loss(0.0, "outside"), info_nce(moco_logits(), TAU))


def test_inside_with_alpha_zero_adds_one_to_the_denominator() -> None:
    one = NEGATIVES[:, :1]
    total = torch.exp(moco_logits() / TAU).sum(dim=1)
    difference = loss(0.0, "inside", negatives=one) - info_nce(moco_logits(), TAU)
    torch.testing.assert_close(difference, torch.log(1 + 1 / total).mean(), atol=1e-14, rtol=0)


@pytest.mark.parametrize("times", [1, 2, 5])
def test_outside_with_a_whole_alpha_counts_negatives_so_often(times: int) -> None:
    repeated = NEGATIVES.repeat(1, times, 1)
    torch.testing.assert_close(
        loss(float(times), "outside"), loss(1.0, negatives=repeated), atol=1e-14, rtol=0
    )


def test_inside_rises_with_alpha_where_the_negative_is_similar_and_falls_where_it_is_not() -> None:
    for sign in (1.0, -1.0):
        negatives = (sign * QUERY)[:, None]
        values = [float(loss(alpha, negatives=negatives)) for alpha in (0.0, 0.5, 1.0, 2.0, 3.0)]
        assert values == sorted(values, reverse=sign < 0)
        assert len(set(values)) == 5
    orthogonal = rows(9, 5, 8)
    orthogonal = F.normalize(orthogonal - (orthogonal * QUERY).sum(1, keepdim=True) * QUERY, dim=1)
    first, second = (loss(alpha, negatives=orthogonal[:, None]) for alpha in (0.5, 5.0))
    torch.testing.assert_close(first, second, atol=1e-12, rtol=0)


def test_outside_always_rises_with_alpha() -> None:
    for negatives in (QUERY[:, None], -QUERY[:, None], NEGATIVES):
        values = [float(loss(a, "outside", negatives=negatives)) for a in (0.0, 0.1, 1.0, 4.0)]
        assert values == sorted(values)
        assert values[0] >= 0


def test_inside_is_a_cross_entropy_of_scaled_cosines() -> None:
    # Source: the official code multiplies the cosine by alpha and divides all logits by tau.
    columns = 3.0 * torch.einsum("bd,bnd->bn", QUERY, NEGATIVES)
    logits = torch.cat([moco_logits(), columns], dim=1) / TAU
    expected = F.cross_entropy(logits, torch.zeros(5, dtype=torch.int64))
    torch.testing.assert_close(loss(3.0), expected, atol=1e-14, rtol=0)


def test_a_negative_belongs_to_its_own_query() -> None:
    columns = nonsemantic_logits(QUERY, NEGATIVES)
    changed = NEGATIVES.clone()
    changed[2] = rows(8, 2, 8)
    other = nonsemantic_logits(QUERY, changed)
    kept = torch.tensor([0, 1, 3, 4])
    assert torch.equal(columns[kept], other[kept])
    assert not torch.equal(columns[2], other[2])


def test_the_order_of_the_queue_does_not_matter() -> None:
    columns = nonsemantic_logits(QUERY, NEGATIVES)
    order = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + torch.randperm(12)])
    losses = [
        info_nce(torch.cat([logits, columns], dim=1), TAU)
        for logits in (moco_logits(), moco_logits()[:, order])
    ]
    torch.testing.assert_close(*losses, atol=1e-14, rtol=0)


def test_negatives_get_no_gradient() -> None:
    query, negatives = QUERY.clone().requires_grad_(), NEGATIVES.clone().requires_grad_()
    columns = nonsemantic_logits(query, negatives).sum()
    gradients = torch.autograd.grad(columns, (query, negatives), allow_unused=True)
    assert gradients[0] is not None
    assert gradients[1] is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    columns = nonsemantic_logits(QUERY.to(dtype), NEGATIVES.to(dtype))
    assert columns.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = nonsemantic_logits(QUERY.float(), NEGATIVES.float())
    torch.testing.assert_close(under, nonsemantic_logits(QUERY.float(), NEGATIVES.float()))


@pytest.mark.parametrize("placement", ["inside", "outside"])
def test_the_gradient_share_is_the_weight_in_the_gradient(placement: Placement) -> None:
    query = QUERY.clone().requires_grad_()
    cosines = torch.einsum("bd,bnd->bn", query, NEGATIVES)
    scale = 3.0 if placement == "inside" else 1.0
    shift = 0.0 if placement == "inside" else TAU * math.log(3.0)
    logits = torch.cat([moco_logits(query), scale * cosines + shift], dim=1)
    (gradient,) = torch.autograd.grad(info_nce(logits, TAU), cosines)
    share = gradient_share(logits.detach(), 2, alpha=3.0, placement=placement, temperature=TAU)
    torch.testing.assert_close(gradient.sum(dim=1) * TAU * len(QUERY), share)


def test_share_of_the_gradient_in_the_paper_s_setting() -> None:
    # Source: formula alpha e^(alpha s / tau) / Z with s_p = 0.9, s_ns = 0.404 and s_n = 0.
    def share(alpha: float, queue: int) -> float:
        logits = torch.cat([torch.tensor([0.9]), torch.zeros(queue), torch.tensor([alpha * 0.404])])
        found = gradient_share(
            logits[None].double(), 1, alpha=alpha, placement="inside", temperature=0.2
        )
        return float(found)

    assert share(2, 16384) == pytest.approx(0.0069, abs=5e-5)
    assert share(3, 8192) == pytest.approx(0.1475, abs=5e-5)
    assert share(1, 1024) == pytest.approx(0.0067, abs=5e-5)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(UserError, match="`negatives` must have shape"):
        nonsemantic_logits(QUERY, NEGATIVES[:3])
    with pytest.raises(UserError, match="`negatives` must have rows of length 1"):
        nonsemantic_logits(QUERY, 2 * NEGATIVES)
    with pytest.raises(UserError, match="`alpha` must be 0 or more, got -1"):
        nonsemantic_logits(QUERY, NEGATIVES, alpha=-1)
    with pytest.raises(UserError, match="`placement` must be 'inside' or 'outside'"):
        nonsemantic_logits(QUERY, NEGATIVES, placement="beside")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="`temperature` must be positive"):
        nonsemantic_logits(QUERY, NEGATIVES, temperature=0.0)
