import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from feature_transform import SimCLRFT, SimCLRFTRecipe, TransformRecipe, simclr
from feature_transform import logits as logits_module
from feature_transform.draws import Mixture, mixture, positive_weights
from feature_transform.simclr import transformed_pairs_logits
from retable.errors import UserError
from retable.nn.losses import Pairs, info_nce, nt_xent, view_pairs
from retable.random import derive_key, normal
from retable.testing import TinyEncoder, make_batch

KEY = 7
TEMPERATURE = 0.1
IMAGES = 8

NOTHING = TransformRecipe(positives="none", negatives="none")
POSITIVES = TransformRecipe(negatives="none")
NEGATIVES = TransformRecipe(positives="none")
VARIANTS = {
    "both": TransformRecipe(),
    "positives": POSITIVES,
    "interpolated": NEGATIVES,
    "extrapolated": replace(NEGATIVES, negatives="extrapolate"),
    "groups of two": TransformRecipe(draw_group=2),
    "groups of an image": TransformRecipe(draw_group=1),
    "a group of two processes": TransformRecipe(draw_group=8),
    "a group beyond the batch": TransformRecipe(draw_group=16),
    "sample": TransformRecipe(level="sample"),
    "dimension": TransformRecipe(level="dimension", draw_group=4),
    "renormalised": TransformRecipe(renormalise=True),
    "raw anchors for negatives": TransformRecipe(score_against="raw"),
}
EACH = pytest.mark.parametrize("transform", VARIANTS.values(), ids=VARIANTS)
MIXED = pytest.mark.parametrize(
    "transform",
    [transform for transform in VARIANTS.values() if transform.negatives != "none"],
    ids=[name for name, transform in VARIANTS.items() if transform.negatives != "none"],
)


def unit_views(count: int = 4, dim: int = 6) -> tuple[Tensor, Tensor]:
    """Return two views (count, dim) that are alike, float64, asking for their gradient."""
    draws = [
        normal(derive_key(1, "view", n), torch.arange(count * dim)).view(count, dim).double()
        for n in (0, 1)
    ]
    first, second = (normalize(x, dim=1) for x in (draws[0], 2 * draws[0] + draws[1]))
    return first.requires_grad_(), second.requires_grad_()


def score(pairs: Pairs, transform: TransformRecipe, rng_key: int = KEY, start: int = 0) -> Tensor:
    positions = torch.arange(start, start + len(pairs.anchors) // 2)
    return transformed_pairs_logits(pairs, transform, rng_key, positions)


def exact_info_nce(scores: Tensor) -> Tensor:
    """InfoNCE in the precision of the scores."""
    return ((scores / TEMPERATURE).logsumexp(dim=1) - scores[:, 0] / TEMPERATURE).mean()


def group_of(transform: TransformRecipe, position: int) -> Tensor:
    return torch.tensor(position // transform.draw_group if transform.draw_group else 0)


def loss_by_loops(
    first: Tensor, second: Tensor, transform: TransformRecipe, start: int = 0
) -> Tensor:
    """The loss of section E.1 from the drawn weights, one anchor and column after the other."""
    count, dim = first.shape
    rows, images = [*first, *second], [*range(count), *range(count)]
    extrapolating = positive_weights(transform, KEY, torch.arange(start, start + count), dim)

    def finished(x: Tensor) -> Tensor:
        return x / x.square().sum().sqrt() if transform.renormalise else x

    losses = []
    for row, image in enumerate(images):
        anchor, partner = rows[row], rows[(row + count) % (2 * count)]
        if transform.positives == "extrapolate":
            w = extrapolating[image].double()
            anchor, partner = (
                finished(w * anchor + (1 - w) * partner),
                finished(w * partner + (1 - w) * anchor),
            )
        positive = (anchor * partner).sum()
        scored = anchor if transform.score_against == "extrapolated" else rows[row]
        terms = [positive]
        drawn = TransformRecipe() if transform.negatives == "none" else transform
        mixed = mixture(drawn, KEY, group_of(transform, start + image), 2 * count, dim)
        for column in range(2 * count):
            z, other = rows[column], int(mixed.partners[column])
            if images[column] == image:
                continue
            if transform.negatives != "none":
                if images[other] == image:
                    continue
                w = mixed.weight.double().expand(2 * count, dim)[column]
                z = finished(w * z + (1 - w) * rows[other])
            terms.append((scored * z).sum())
        exponents = [torch.exp((term - positive) / TEMPERATURE) for term in terms]
        losses.append(torch.log(torch.stack(exponents).sum()))
    return torch.stack(losses).mean()


# The function


@settings(deadline=None, max_examples=60)
@given(
    positives=st.sampled_from(["none", "extrapolate"]),
    negatives=st.sampled_from(["none", "interpolate", "extrapolate"]),
    level=st.sampled_from(["batch", "sample", "dimension"]),
    draw_group=st.sampled_from([None, 1, 2, 4, 8]),
    renormalise=st.booleans(),
    score_against=st.sampled_from(["extrapolated", "raw"]),
    single_target_elementwise=st.booleans(),
    share=st.integers(0, 2),
)
def test_loss_and_gradient_are_those_of_plain_loops(share: int, **fields: Any) -> None:
    transform = TransformRecipe(**fields)
    views = unit_views()
    expected = loss_by_loops(*views, transform, 4 * share)
    exact = torch.autograd.grad(expected, views)
    for loss_of, tolerance in ((exact_info_nce, 1e-9), (lambda x: info_nce(x, 0.1), 1e-4)):
        loss = loss_of(score(view_pairs(*views), transform, start=4 * share))
        torch.testing.assert_close(loss.double(), expected, rtol=tolerance, atol=tolerance)
        for found, reference in zip(torch.autograd.grad(loss, views), exact, strict=True):
            torch.testing.assert_close(found, reference, rtol=tolerance, atol=tolerance)


def test_nothing_to_transform_gives_the_scores_of_nt_xent_to_the_bit() -> None:
    pairs = view_pairs(*unit_views())
    assert torch.equal(score(pairs, NOTHING), pairs.logits())


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_weights_of_one_give_nt_xent_where_each_column_is_its_own_partner(
    weight: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    itself = Mixture(torch.arange(8), torch.tensor(weight))
    monkeypatch.setattr(logits_module, "positive_weights", lambda *_: torch.ones(4, 1))
    monkeypatch.setattr(simclr, "mixture", lambda *_: itself)
    raw = unit_views()
    pairs = view_pairs(*(normalize(view, dim=1) for view in raw))
    scores = score(pairs, TransformRecipe())
    assert torch.equal(scores, pairs.logits())
    loss, expected = info_nce(scores, TEMPERATURE), nt_xent(*raw, TEMPERATURE)
    torch.testing.assert_close(loss, expected)
    found, reference = (torch.autograd.grad(x, raw) for x in (loss, expected))
    torch.testing.assert_close(found, reference, rtol=1e-5, atol=1e-6)


def test_columns_mixed_with_an_anchors_own_image_are_masked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    partners = torch.tensor([1, 2, 3, 4, 5, 6, 7, 0])
    monkeypatch.setattr(simclr, "mixture", lambda *_: Mixture(partners, torch.tensor(1.0)))
    pairs = view_pairs(*unit_views())
    found, raw = score(pairs, NEGATIVES), pairs.logits()
    seen = found.isfinite()
    assert torch.equal(found[seen], raw[seen])
    for anchor in range(8):
        image = anchor % 4  # whose columns, image and image + 4, are partners of those before them
        dropped = {image, image + 4, image - 1 if image else 7, image + 3}
        assert set((~seen[anchor, 1:]).nonzero().flatten().tolist()) == dropped


# Which columns an anchor sees


@settings(deadline=None, max_examples=40)
@given(rng_key=st.integers(0, 2**31), draw_group=st.sampled_from([None, 1, 2]), level=st.booleans())
def test_exactly_the_columns_with_a_part_of_the_anchors_image_are_masked(
    rng_key: int, draw_group: int | None, level: bool
) -> None:
    transform = TransformRecipe(draw_group=draw_group, level="dimension" if level else "batch")
    seen = score(view_pairs(*unit_views()), transform, rng_key).isfinite()
    assert seen[:, 0].all()
    images = [0, 1, 2, 3, 0, 1, 2, 3]
    for anchor, image in enumerate(images):
        partners = mixture(transform, rng_key, group_of(transform, image), 8, 6).partners.tolist()
        expected = [image not in (images[j], images[partners[j]]) for j in range(8)]
        assert seen[anchor, 1:].tolist() == expected


@MIXED
def test_no_score_with_a_negative_depends_on_the_anchors_own_columns(
    transform: TransformRecipe,
) -> None:
    """Whatever the mask says: a score that did would have a slope."""
    pairs = view_pairs(*unit_views(IMAGES))
    columns = pairs.columns.detach().clone().requires_grad_()
    scores = score(pairs._replace(columns=columns), transform)
    for anchor in range(2 * IMAGES):
        negatives = scores[anchor, 1:]
        slopes = [
            torch.autograd.grad(negative, columns, retain_graph=True)[0].abs().sum(dim=1) > 0
            for negative in negatives[negatives.isfinite()]
        ]
        image = anchor % IMAGES
        for slope in slopes:
            assert not slope[[image, image + IMAGES]].any()
            assert 1 <= int(slope.sum()) <= 2  # the column and, unless it is that, its partner
        assert len(slopes) >= 2 * IMAGES - 4


@MIXED
def test_gradient_flows_through_the_mixed_columns(transform: TransformRecipe) -> None:
    views = unit_views()
    pairs = view_pairs(*views)
    whole, part = (
        torch.autograd.grad(exact_info_nce(score(chosen, transform)), views)
        for chosen in (pairs, pairs._replace(columns=pairs.columns.detach()))
    )
    columns = pairs.columns.detach().clone().requires_grad_()
    loss = exact_info_nce(score(pairs._replace(columns=columns), transform))
    (through,) = torch.autograd.grad(loss, columns)
    assert (through.norm(dim=1) > 1e-6).all()
    torch.testing.assert_close(torch.cat(whole) - torch.cat(part), through)


# What the operations do to scores


@EACH
def test_both_views_of_an_image_are_moved_by_one_weight(transform: TransformRecipe) -> None:
    first, second = unit_views()
    positives = score(view_pairs(first, second), transform)[:, 0]
    torch.testing.assert_close(positives[:4], positives[4:])


@pytest.mark.parametrize("level", ["batch", "sample"])
def test_positives_fall_by_the_closed_form(level: Any) -> None:
    transform = replace(POSITIVES, level=level)
    first, second = unit_views()
    raw = (first * second).sum(dim=1)
    w = positive_weights(transform, KEY, torch.arange(4), 6).squeeze(1).double()
    positives = score(view_pairs(first, second), transform)[:4, 0]
    torch.testing.assert_close(positives, raw - 2 * w * (w - 1) * (1 - raw))


@EACH
def test_renormalised_scores_are_cosines(transform: TransformRecipe) -> None:
    scores = score(view_pairs(*unit_views(IMAGES)), replace(transform, renormalise=True))
    assert scores[scores.isfinite()].abs().max() <= 1 + 1e-12


@EACH
def test_nothing_is_read_from_the_device(transform: TransformRecipe) -> None:
    with torch.device("meta"):
        first, second = (torch.empty(4, 6, requires_grad=True) for _ in range(2))
        scores = transformed_pairs_logits(
            view_pairs(first, second), transform, KEY, torch.arange(4)
        )
    torch.autograd.backward(scores.sum())
    assert (scores.shape, scores.device.type) == ((8, 9), "meta")


# The method


def build(transform: TransformRecipe) -> SimCLRFT:
    return SimCLRFTRecipe(temperature=0.2, dim=6, transform=transform).build(TinyEncoder(), 3)


@EACH
def test_the_loss_is_infonce_of_the_transformed_pairs_of_that_step(
    transform: TransformRecipe,
) -> None:
    method = build(transform)
    for step in (0, 1):  # draws are those of the step, not of the construction
        batch = make_batch(step)
        pairs = view_pairs(*method.embeddings(batch.views))
        logits = score(pairs, transform, derive_key(batch.rng_key, "transform")) / 0.2
        expected = (logits.logsumexp(dim=1) - logits[:, 0]).mean()
        torch.testing.assert_close(method(batch).loss, expected)


def numbers_of(scores: Tensor) -> list[float]:
    """Return means over anchors: positive, mean and unbiased variance of negatives it sees."""
    rows = [[x for x in row if math.isfinite(x)] for row in scores.double().tolist()]
    means = [sum(row[1:]) / len(row[1:]) for row in rows]
    variances = [
        sum((x - mean) ** 2 for x in row[1:]) / (len(row) - 2)
        for row, mean in zip(rows, means, strict=True)
    ]
    return [sum(column) / len(rows) for column in ([row[0] for row in rows], means, variances)]


@EACH
def test_the_trace_holds_raw_and_transformed_scores_of_the_step(
    transform: TransformRecipe,
) -> None:
    method, batch = build(transform), make_batch()
    names = ("positive_mean", "negative_mean", "negative_variance")
    trace = method(batch).trace
    assert set(trace) == {*names, *(f"transformed_{name}" for name in names)}
    pairs = view_pairs(*method.embeddings(batch.views))
    seen = score(pairs, transform, derive_key(batch.rng_key, "transform"))
    for prefix, scores in (("", pairs.logits()), ("transformed_", seen)):
        found = [float(trace[f"{prefix}{name}"]) for name in names]
        assert found == pytest.approx(numbers_of(scores.detach()), abs=1e-5)


@EACH
def test_a_collapsed_embedding_has_the_chance_loss(transform: TransformRecipe) -> None:
    method = build(transform)
    with torch.no_grad():
        for parameter in method.head[-1].parameters():
            parameter.fill_(1.0)  # every image is mapped to one direction
    output = method(make_batch())
    chance = float(output.metrics["chance_loss"])
    assert output.loss.item() == pytest.approx(chance, rel=1e-5)
    ways = 2 * IMAGES - 1
    if transform.negatives == "none":
        assert chance == pytest.approx(math.log(ways))
    else:
        assert math.log(ways - 2) - 1e-6 <= chance < math.log(ways)


# Processes


# The recipe


def test_hard_negatives_are_refused() -> None:
    with pytest.raises(UserError, match="must be interpolate, extrapolate or none, got hard"):
        SimCLRFTRecipe(transform=TransformRecipe(negatives="hard"))
