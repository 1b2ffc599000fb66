from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from feature_transform import TransformRecipe, transformed_logits
from feature_transform import logits as logits_module
from feature_transform.draws import Mixture, hard_weights, mixture, positive_weights
from feature_transform.logits import mixed_scores, transformed_pair, transformed_scores
from retable.errors import UserError
from retable.nn.losses import info_nce
from retable.nn.scores import score_statistics

KEY = 7
TEMPERATURE = 0.07

POSITIVES = TransformRecipe(negatives="none")
NEGATIVES = TransformRecipe(positives="none")
EXTRAPOLATED = TransformRecipe(positives="none", negatives="extrapolate")
HARD = TransformRecipe(positives="none", negatives="hard")
VARIANTS = {
    "both": TransformRecipe(),
    "positives": POSITIVES,
    "interpolated": NEGATIVES,
    "extrapolated": EXTRAPOLATED,
    "hard": HARD,
    "hard, weight on the negative": replace(HARD, hard_weight_on="negative"),
    "both, groups": TransformRecipe(draw_group=2),
    "both, sample": TransformRecipe(level="sample"),
    "both, dimension": TransformRecipe(level="dimension"),
    "hard, dimension": replace(HARD, level="dimension"),
    "both, renormalised": TransformRecipe(renormalise=True),
    "hard, renormalised": replace(HARD, renormalise=True),
    "both, raw query for negatives": TransformRecipe(score_against="raw"),
}
EACH = pytest.mark.parametrize("transform", VARIANTS.values(), ids=VARIANTS)


def unit(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def features(batch: int = 4, dim: int = 8, size: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """Return a query that asks for gradient, its key and a queue."""
    query = unit(batch, dim)
    key = normalize(query + 0.5 * unit(batch, dim, seed=1), dim=1)
    return query.requires_grad_(), key, unit(size, dim, seed=2)


def plain_logits(query: Tensor, key: Tensor, queue: Tensor) -> Tensor:
    return torch.cat([(query * key).sum(1, keepdim=True), query @ queue.T], dim=1)


def reference(
    query: Tensor, key: Tensor, queue: Tensor, transform: TransformRecipe, positions: Tensor
) -> Tensor:
    """Score every pair on its own, by the formulas of the paper and the drawn weights."""
    (batch, dim), size = query.shape, len(queue)

    def back_on_sphere(x: Tensor) -> Tensor:
        return x / x.square().sum().sqrt() if transform.renormalise else x

    extrapolating = positive_weights(transform, KEY, positions, dim).double().expand(batch, dim)
    hard = hard_weights(transform, KEY, positions, dim).double().expand(batch, dim)
    rows = []
    for b in range(batch):
        q, k = query[b], key[b]
        if transform.positives == "extrapolate":
            w = extrapolating[b]
            q, k = back_on_sphere(w * q + (1 - w) * k), back_on_sphere(w * k + (1 - w) * q)
        scored = q if transform.score_against == "extrapolated" else query[b]
        group = positions[b] // transform.draw_group if transform.draw_group else torch.tensor(0)
        if transform.negatives in ("interpolate", "extrapolate"):
            partners, weight = mixture(transform, KEY, group, size, dim)
        scores = [(q * k).sum()]
        for j in range(size):
            z = queue[j]
            if transform.negatives == "hard":
                w = hard[b]
                z = back_on_sphere(w * query[b] + (1 - w) * z)
            elif transform.negatives != "none":
                w = weight.double().expand(size, dim)[j]
                z = back_on_sphere(w * z + (1 - w) * queue[partners[j]])
            scores.append((scored * z).sum())
        rows.append(torch.stack(scores))
    return torch.stack(rows)


@settings(deadline=None, max_examples=120)
@given(
    positives=st.sampled_from(["none", "extrapolate"]),
    negatives=st.sampled_from(["none", "interpolate", "extrapolate", "hard"]),
    level=st.sampled_from(["batch", "sample", "dimension"]),
    draw_group=st.sampled_from([None, 1, 2, 4, 8]),
    renormalise=st.booleans(),
    score_against=st.sampled_from(["extrapolated", "raw"]),
    hard_weight_on=st.sampled_from(["query", "negative"]),
    single_target_elementwise=st.booleans(),
    dim=st.sampled_from([2, 8, 16]),
    share=st.integers(0, 2),
)
def test_the_logits_equal_scores_of_one_pair_after_the_other_in_value_and_gradient(
    dim: int, share: int, **fields: Any
) -> None:
    transform = TransformRecipe(**fields)
    query, key, queue = features(dim=dim, size=6)
    positions = torch.arange(4) + 4 * share
    found = transformed_logits(query, key, queue, transform, KEY, positions)
    expected = reference(query, key, queue, transform, positions)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    pull = unit(4, 7, seed=3)
    gradients = [torch.autograd.grad((form * pull).sum(), query)[0] for form in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-8)


# How it is computed


@EACH
def test_scores_of_a_split_batch_are_those_of_the_whole(transform: TransformRecipe) -> None:
    query, key, queue = features(batch=8)
    whole = transformed_logits(query, key, queue, transform, KEY)
    for size in (4, 2):
        parts = [
            transformed_logits(query[rows], key[rows], queue, transform, KEY, torch.arange(8)[rows])
            for rows in (slice(start, start + size) for start in range(0, 8, size))
        ]
        torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("negatives", ["interpolate", "extrapolate"])
@pytest.mark.parametrize("draw_group", [None, 1, 2])
def test_columns_of_scores_and_rows_of_the_queue_give_equal_logits(
    negatives: Any, draw_group: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    transform = TransformRecipe(negatives=negatives, draw_group=draw_group)
    query, key, queue = features()
    forms, gradients = [], []
    for columns in (True, False):
        monkeypatch.setattr(logits_module, "_mixing_columns_is_faster", lambda *_, c=columns: c)
        forms.append(transformed_logits(query, key, queue, transform, KEY))
        gradients.append(torch.autograd.grad(forms[-1].square().sum(), query)[0])
    torch.testing.assert_close(*forms, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("level", ["batch", "sample", "dimension"])
@pytest.mark.parametrize("draw_group", [None, 2])
def test_branches_see_one_mixed_queue(level: Any, draw_group: int | None) -> None:
    transform = replace(NEGATIVES, level=level, draw_group=draw_group)
    branches, queue, positions = (
        [unit(4, 8), unit(4, 8, seed=1)],
        unit(12, 8, seed=2),
        torch.arange(4),
    )
    together = mixed_scores(branches, queue, transform, KEY, positions)
    for scored, scores in zip(branches, together, strict=True):
        (alone,) = mixed_scores([scored], queue, transform, KEY, positions)
        assert torch.equal(alone, scores)


@EACH
def test_half_precision_features_are_scored_in_single(transform: TransformRecipe) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        query, key, queue = (x.detach().to(dtype) for x in features())
        found = transformed_logits(query, key, queue, transform, KEY)
        assert found.dtype == torch.float32
        query, key, queue = query.double(), key.double(), queue.double()
        expected = transformed_logits(query, key, queue, transform, KEY)
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@EACH
def test_autocast_does_not_reach_the_scores(transform: TransformRecipe) -> None:
    query, key, queue = (x.detach().float() for x in features())
    expected = transformed_logits(query, key, queue, transform, KEY)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(transformed_logits(query, key, queue, transform, KEY), expected)


@EACH
def test_nothing_is_read_from_the_device(transform: TransformRecipe) -> None:
    with torch.device("meta"):
        query, key, queue = (torch.empty(n, 8, requires_grad=True) for n in (4, 4, 12))
        positions = torch.arange(4)
    moved, moved_key = transformed_pair(query, key, transform, KEY, positions)
    scores = transformed_scores(moved, query, queue, transform, KEY, positions)
    torch.autograd.backward([scores.sum(), (moved * moved_key).sum()])
    assert (scores.shape, scores.device.type) == ((4, 12), "meta")


# What it leaves alone


@EACH
def test_each_negative_is_replaced_by_one_and_the_queue_stays(transform: TransformRecipe) -> None:
    query, key, queue = features()
    before = queue.clone()
    assert transformed_logits(query, key, queue, transform, KEY).shape == (4, 1 + 12)
    assert torch.equal(queue, before)


@EACH
def test_neither_key_nor_queue_need_a_gradient(transform: TransformRecipe) -> None:
    query, key, queue = features()
    for rows in (key, queue):
        rows.requires_grad_()
    logits = transformed_logits(query, key.detach(), queue.detach(), transform, KEY)
    torch.autograd.backward(logits.sum())
    assert key.grad is None
    assert queue.grad is None
    assert query.grad is not None


# Invariants


def test_nothing_to_transform_gives_the_logits_of_moco_to_the_bit() -> None:
    query, key, queue = features()
    nothing = TransformRecipe(positives="none", negatives="none")
    expected = plain_logits(query, key, queue)
    assert torch.equal(transformed_logits(query, key, queue, nothing, KEY), expected)


@pytest.mark.parametrize("see", ["weight", "identity"])
def test_weights_of_one_or_a_permutation_that_keeps_all_give_mocos_loss_and_gradient(
    see: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = torch.tensor(1.0 if see == "weight" else 0.3)
    partners = torch.randperm(12) if see == "weight" else torch.arange(12)
    monkeypatch.setattr(logits_module, "positive_weights", lambda *_: torch.ones(4, 1))
    monkeypatch.setattr(logits_module, "mixture", lambda *_: Mixture(partners, weight))
    results = []
    for moco in (True, False):
        query, key, queue = features()
        if moco:
            logits = plain_logits(query, key, queue)
        else:
            logits = transformed_logits(query, key, queue, TransformRecipe(), KEY)
        loss = info_nce(logits, TEMPERATURE)
        results += [loss, torch.autograd.grad(loss, query)[0]]
    torch.testing.assert_close(results[0], results[2])
    torch.testing.assert_close(results[1], results[3], rtol=1e-6, atol=1e-6)


def test_a_weight_of_nought_only_permutes_the_negatives(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, queue = features()
    partners = torch.randperm(12)
    monkeypatch.setattr(logits_module, "mixture", lambda *_: Mixture(partners, torch.tensor(0.0)))
    logits, plain = (
        transformed_logits(query, key, queue, NEGATIVES, KEY),
        plain_logits(query, key, queue),
    )
    torch.testing.assert_close(logits[:, 1:], plain[:, 1:][:, partners])
    torch.testing.assert_close(info_nce(logits, TEMPERATURE), info_nce(plain, TEMPERATURE))


def test_raw_negatives_are_scored_against_the_extrapolated_query() -> None:
    query, key, queue = features()
    weight = positive_weights(POSITIVES, KEY, torch.arange(4), 8)
    found = transformed_logits(query, key, queue, POSITIVES, KEY)[:, 1:]
    torch.testing.assert_close(found, weight * (query @ queue.T) - (weight - 1) * (key @ queue.T))
    raw = transformed_logits(query, key, queue, replace(POSITIVES, score_against="raw"), KEY)
    torch.testing.assert_close(raw[:, 1:], query @ queue.T)


@pytest.mark.parametrize("draw_group", [None, 2])
@pytest.mark.parametrize("transform", [NEGATIVES, EXTRAPOLATED], ids=["interpolate", "extrapolate"])
def test_mixing_with_one_weight_keeps_every_querys_mean_score(
    transform: TransformRecipe, draw_group: int | None
) -> None:
    query, key, queue = features()
    logits = transformed_logits(query, key, queue, replace(transform, draw_group=draw_group), KEY)
    torch.testing.assert_close(logits[:, 1:].mean(dim=1), (query @ queue.T).mean(dim=1))
    torch.testing.assert_close(logits[:, 0], (query * key).sum(dim=1))


@pytest.mark.parametrize("negatives", ["none", "interpolate", "extrapolate", "hard"])
@pytest.mark.parametrize("level", ["batch", "sample", "dimension"])
def test_renormalised_scores_are_cosines(negatives: Any, level: Any) -> None:
    transform = TransformRecipe(negatives=negatives, level=level, renormalise=True)
    logits = transformed_logits(*features(batch=16, size=200), transform, KEY)
    assert logits.abs().max() <= 1 + 1e-12


def test_a_transformed_positive_is_never_easier() -> None:
    query, key, queue = features(batch=16)
    raw = (query * key).sum(dim=1)
    for level in ("batch", "sample", "dimension"):
        transform = TransformRecipe(level=level)
        assert (transformed_logits(query, key, queue, transform, KEY)[:, 0] < raw).all()


@EACH
def test_statistics_of_transformed_scores_equal_a_count_in_plain_loops(
    transform: TransformRecipe,
) -> None:
    logits = transformed_logits(*features(), transform, KEY).detach()
    positive = mean = variance = 0.0
    for row in logits.tolist():
        negatives = row[1:]
        average = sum(negatives) / len(negatives)
        positive += row[0] / len(logits)
        mean += average / len(logits)
        variance += sum((x - average) ** 2 for x in negatives) / (len(negatives) - 1) / len(logits)
    found = score_statistics(logits[:, 0], logits[:, 1:])
    assert [float(x) for x in found] == pytest.approx([positive, mean, variance])


def test_interpolation_shrinks_the_variance_of_a_fresh_queue_as_expected() -> None:
    # Source: E[w^2 + (1 - w)^2] = 0.619 for alpha 1.6, and 2.6 for extrapolation; the variance of
    # scores on the sphere is 1 / D.
    query, queue = unit(8, 16), unit(2000, 16, seed=1)
    expected = {NEGATIVES: 0.619, EXTRAPOLATED: 2.6}
    for transform, factor in expected.items():
        variances = [
            score_statistics(query[:, 0], scores).negative_variance
            for step in range(200)
            for scores in mixed_scores([query], queue, transform, step, torch.arange(8))
        ]
        found = torch.stack(variances).mean()
        assert float(found) == pytest.approx(factor / 16, rel=0.05)


def test_the_loss_is_the_cross_entropy_with_the_positive_first() -> None:
    query, key, queue = (x.detach().float() for x in features())
    logits = transformed_logits(query, key, queue, TransformRecipe(), KEY)
    expected = cross_entropy(logits / TEMPERATURE, torch.zeros(4, dtype=torch.int64))
    torch.testing.assert_close(info_nce(logits, TEMPERATURE), expected)


# Invalid values


@pytest.mark.parametrize(
    "shapes",
    [
        ((4, 8), (3, 8), (12, 8)),
        ((4, 8), (4, 8), (12, 7)),
        ((8,), (8,), (12, 8)),
        ((4, 8), (4, 8), (8,)),
    ],
)
def test_features_that_do_not_fit_are_refused(shapes: tuple[tuple[int, ...], ...]) -> None:
    query, key, queue = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(UserError, match="must have shape"):
        transformed_logits(query, key, queue, TransformRecipe(), KEY)


def test_a_group_that_does_not_fit_the_batch_is_refused() -> None:
    with pytest.raises(UserError, match="a process's 4 rows or be a multiple of them, got 3"):
        transformed_logits(*features(), TransformRecipe(draw_group=3), KEY)
