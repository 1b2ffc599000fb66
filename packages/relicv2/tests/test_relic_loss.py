import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from relicv2 import loss
from relicv2.candidates import draw_candidates
from relicv2.loss import (
    PairLosses,
    StopGradient,
    divergence,
    invariance,
    pair_losses,
    predictions,
)
from retable.errors import UserError

TAU = 0.2
MODES: tuple[StopGradient, ...] = ("entropy", "second", "first", "none")
LARGE, SMALL, IMAGES, DIM, NEGATIVES = 4, 2, 7, 6, 3


def rows(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, dtype=torch.float64, generator=generator), dim=-1)


ONLINE, TARGETS = rows(0, LARGE + SMALL, IMAGES, DIM), rows(1, LARGE, IMAGES, DIM)
CANDIDATES = draw_candidates(0, torch.arange(IMAGES), IMAGES, negatives=NEGATIVES)


def losses(online: Tensor = ONLINE, targets: Tensor = TARGETS, **options: object) -> PairLosses:
    return pair_losses(online, targets, CANDIDATES, **options)  # type: ignore[arg-type]


def distribution(online: Tensor, targets: Tensor, image: int) -> list[float]:
    """Source: equation 1, for one image and one pair of views, (B, D) each."""
    scores = [float(online[image] @ targets[c]) / TAU for c in CANDIDATES[image].tolist()]
    total = sum(map(math.exp, scores))
    return [math.exp(score) / total for score in scores]


def kl(p: list[float], q: list[float]) -> float:
    return sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))


def loss_by_loops(contrast: float, scale: float, *, same_view_pairs: bool = True) -> float:
    """Source: equations 2 to 4, pair by pair and image by image."""
    terms = []
    for a, b in itertools.product(range(LARGE + SMALL), range(LARGE)):
        if a == b and not same_view_pairs:
            continue
        for image in range(IMAGES):
            p = distribution(ONLINE[a], TARGETS[b], image)
            swapped = (ONLINE[b], TARGETS[a]) if a < LARGE else (ONLINE[b], TARGETS[b])
            q = distribution(*swapped, image)
            terms.append(-contrast * math.log(p[0]) + scale * kl(p, q))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("same_view_pairs", [True, False])
@pytest.mark.parametrize(("contrast", "scale"), [(0.3, 1.5), (1.0, 0.0), (0.0, 1.0)])
def test_the_loss_is_that_of_the_equations(
    contrast: float, scale: float, same_view_pairs: bool
) -> None:
    found = losses(same_view_pairs=same_view_pairs).total(contrast, scale)
    expected = loss_by_loops(contrast, scale, same_view_pairs=same_view_pairs)
    assert float(found) == pytest.approx(expected, abs=1e-12)


def test_the_pairs_are_those_of_the_listing_or_those_of_different_views() -> None:
    assert int(losses().counted.sum()) == (LARGE + SMALL) * LARGE == 24
    different = losses(same_view_pairs=False).counted
    assert int(different.sum()) == LARGE * (LARGE - 1) + SMALL * LARGE == 20
    assert not different[:LARGE].diagonal().any()


def test_predictions_are_distributions_over_the_candidates() -> None:
    log_p = predictions(ONLINE, TARGETS, CANDIDATES, TAU)
    assert log_p.shape == (LARGE + SMALL, LARGE, IMAGES, 1 + NEGATIVES)
    torch.testing.assert_close(log_p.exp().sum(dim=3), torch.ones_like(log_p[..., 0]))


def test_without_negatives_both_terms_are_zero() -> None:
    alone = pair_losses(ONLINE, TARGETS, CANDIDATES[:, :1])
    assert float(alone.contrastive.abs().max()) == 0.0
    assert float(alone.invariance.abs().max()) == 0.0


def test_equal_embeddings_give_chance() -> None:
    same = rows(2, 1, 1, DIM)
    chance = losses(same.expand_as(ONLINE), same.expand_as(TARGETS))
    assert float(chance.contrastive.min()) == pytest.approx(math.log(1 + NEGATIVES))
    assert float(chance.invariance.abs().max()) == pytest.approx(0.0, abs=1e-12)


def test_the_contrastive_term_is_bounded() -> None:
    pole = F.normalize(torch.ones(1, 1, 2, dtype=torch.float64), dim=-1)
    candidates = torch.arange(11).expand(1, 11)
    for sign, expected in ((1.0, 4.54e-4), (-1.0, 12.3026)):
        targets = torch.cat([sign * pole, -sign * pole.expand(1, 10, 2)], dim=1)
        log_p = predictions(pole, targets, candidates, TAU)
        assert float(-log_p[..., 0]) == pytest.approx(expected, rel=1e-3)


def test_all_others_as_negatives_are_the_cross_entropy_of_the_whole_batch() -> None:
    everything = draw_candidates(0, torch.arange(IMAGES), IMAGES, negatives=IMAGES)
    found = pair_losses(ONLINE, TARGETS, everything).contrastive
    for a, b in itertools.product(range(LARGE + SMALL), range(LARGE)):
        scores = ONLINE[a] @ TARGETS[b].T / TAU
        expected = F.cross_entropy(scores, torch.arange(IMAGES), reduction="none")
        torch.testing.assert_close(found[a, b], expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("dim", [2, 500])
def test_the_cheaper_way_to_score_is_the_same_as_the_other(dim: int) -> None:
    rows = torch.randn(3, 8, dim, dtype=torch.float64)
    everything = torch.randn(2, 8, dim, dtype=torch.float64)
    candidates = draw_candidates(0, torch.arange(8), 8, negatives=3)
    found = loss._scores(rows, everything, candidates)
    for v, w, b in itertools.product(range(3), range(2), range(8)):
        expected = everything[w, candidates[b]] @ rows[v, b]
        torch.testing.assert_close(found[v, w, b], expected)


def test_outputs_of_length_0_have_finite_gradients() -> None:
    online = torch.zeros(2, IMAGES, 3, requires_grad=True)
    found = pair_losses(online, torch.zeros(2, IMAGES, 3), CANDIDATES, rows="normalise").total()
    found.backward()  # type: ignore[no-untyped-call]
    assert online.grad is not None
    assert online.grad.isfinite().all()


def test_scaled_outputs_have_the_same_loss() -> None:
    lengths = 1 + torch.rand(LARGE + SMALL, IMAGES, 1, dtype=torch.float64)
    scaled = pair_losses(ONLINE * lengths, 3 * TARGETS, CANDIDATES, rows="normalise").total()
    torch.testing.assert_close(scaled, pair_losses(ONLINE, TARGETS, CANDIDATES).total())


def test_candidates_beyond_the_batch_are_refused() -> None:
    with pytest.raises(UserError, match="`candidates` must be positions in the global batch"):
        pair_losses(ONLINE, TARGETS, CANDIDATES + 1)


def test_two_large_views_without_invariance_are_symmetric_info_nce() -> None:
    everything = draw_candidates(0, torch.arange(IMAGES), IMAGES, negatives=IMAGES)
    found = pair_losses(ONLINE[:2], TARGETS[:2], everything, same_view_pairs=False).total(1.0, 0.0)
    labels = torch.arange(IMAGES)
    expected = sum(F.cross_entropy(ONLINE[a] @ TARGETS[1 - a].T / TAU, labels) for a in range(2))
    assert float(found) == pytest.approx(float(expected) / 2, abs=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_the_value_does_not_depend_on_the_stop_gradient(mode: StopGradient) -> None:
    found = losses(stop_gradient=mode).invariance
    torch.testing.assert_close(found, losses(stop_gradient="none").invariance, atol=1e-14, rtol=0)


def logits(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(5, 4, dtype=torch.float64, generator=generator).requires_grad_()


def gradients(mode: StopGradient, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    value = divergence(first.log_softmax(1), second.log_softmax(1), mode).sum()
    found = torch.autograd.grad(value, (first, second), allow_unused=True)
    return tuple(torch.zeros_like(first) if one is None else one for one in found)  # type: ignore[return-value]


def test_each_mode_has_the_gradient_that_it_names() -> None:
    first, second = logits(0), logits(1)
    p, q = first.softmax(1).detach(), second.softmax(1).detach()
    log_q = q.log()
    to_second = q - p
    cross = -p * (log_q - (p * log_q).sum(dim=1, keepdim=True))  # of -sum p log q
    entropy = p * (p.log() - (p * p.log()).sum(dim=1, keepdim=True))  # of sum p log p
    expected = {
        "entropy": (cross, to_second),
        "second": (cross + entropy, torch.zeros_like(p)),
        "first": (torch.zeros_like(p), to_second),
        "none": (cross + entropy, to_second),
    }
    for mode in MODES:
        for found, wanted in zip(gradients(mode, first, second), expected[mode], strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)


def test_equal_distributions_leave_a_gradient_under_entropy_alone() -> None:
    first = logits(0)
    second = first.detach().clone().requires_grad_()
    for mode in MODES:
        largest = max(float(one.abs().max()) for one in gradients(mode, first, second))
        assert (largest > 0.01) == (mode == "entropy")
        if mode != "entropy":
            assert largest < 1e-12


def test_divergences_are_positive_and_zero_between_equal_distributions_only() -> None:
    first, second = logits(0).log_softmax(1), logits(1).log_softmax(1)
    assert (divergence(first, second).detach() > 0).all()
    assert float(divergence(first, first).detach().abs().max()) < 1e-14


def test_small_views_are_no_learning_targets() -> None:
    log_p = predictions(ONLINE, TARGETS, CANDIDATES, TAU).requires_grad_()
    for mode in MODES:
        (found,) = torch.autograd.grad(invariance(log_p, mode)[LARGE:].sum(), log_p)
        assert float(found[:LARGE].abs().max()) == 0.0
        assert float(found[LARGE:].abs().max()) > 0


def test_a_view_with_itself_has_no_invariance_and_no_gradient_of_one() -> None:
    log_p = predictions(ONLINE, TARGETS, CANDIDATES, TAU).requires_grad_()
    for mode in MODES:
        itself = invariance(log_p, mode)[:LARGE].diagonal()
        assert float(itself.detach().abs().max()) == 0.0
        (found,) = torch.autograd.grad(itself.sum(), log_p)
        assert float(found.abs().max()) == 0.0


@pytest.mark.parametrize("reference", ["swap", "transpose"])
def test_the_loss_does_not_depend_on_the_order_of_images_or_views(reference: str) -> None:
    order = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(0))
    inverse = order.argsort()
    moved = pair_losses(
        ONLINE[:, order],
        TARGETS[:, order],
        inverse[CANDIDATES[order]],
        reference=reference,  # type: ignore[arg-type]
    )
    itself = losses(reference=reference)
    torch.testing.assert_close(moved.total(), itself.total(), atol=1e-14, rtol=0)
    views = [2, 0, 3, 1, 5, 4]
    swapped = losses(ONLINE[views], TARGETS[views[:LARGE]], reference=reference)
    torch.testing.assert_close(swapped.total(), itself.total(), atol=1e-14, rtol=0)


def test_the_transposed_reference_compares_a_target_with_the_candidates_outputs() -> None:
    found = losses(reference="transpose").invariance
    for a, b, image in itertools.product(range(LARGE + SMALL), range(LARGE), range(IMAGES)):
        p = distribution(ONLINE[a], TARGETS[b], image)
        q = distribution(TARGETS[b], ONLINE[a], image)
        assert float(found[a, b, image]) == pytest.approx(kl(p, q), abs=1e-12)


def test_gradients_reach_the_online_network_alone() -> None:
    for reference in ("swap", "transpose"):
        online, targets = ONLINE.clone().requires_grad_(), TARGETS.clone().requires_grad_()
        losses(online, targets, reference=reference).total().backward()  # type: ignore[no-untyped-call]
        assert targets.grad is None
        assert online.grad is not None
        assert (online.grad.abs().sum(dim=2) > 0).all()


def test_half_precision_is_computed_in_float32_under_autocast() -> None:
    online, targets = ONLINE.bfloat16(), TARGETS.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = pair_losses(online, targets, CANDIDATES, rows="normalise").total()
    wide = [F.normalize(x.float(), dim=-1) for x in (online, targets)]
    assert found.dtype == torch.float32
    expected = pair_losses(wide[0], wide[1], CANDIDATES).total()
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(UserError, match="must have the 4 views of `targets` first"):
        pair_losses(ONLINE[:3], TARGETS, CANDIDATES)
    with pytest.raises(UserError, match="no view is paired with itself"):
        pair_losses(ONLINE[:1], TARGETS[:1], CANDIDATES, same_view_pairs=False)
    with pytest.raises(UserError, match="`stop_gradient` must be"):
        losses(stop_gradient="all")
    with pytest.raises(UserError, match="`reference` must be"):
        losses(reference="anchor")
    with pytest.raises(UserError, match="rows of length 1"):
        losses(2 * ONLINE)
