import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from retable import random
from retable.encoders import ResNetRecipe
from retable.errors import UserError
from retable.evaluate.classifier import accuracy
from retable.evaluate.data import source_opener
from retable.evaluate.geometry import Geometry
from retable.evaluate.knn import Knn, knn_scores, nearest
from retable.evaluate.protocol import EvalContext
from retable.testing import run_processes


def directions(rng_key: int, n: int, dim: int = 6) -> Tensor:
    return random.normal(rng_key, torch.arange(n * dim)).view(n, dim)


@given(
    n=st.integers(1, 9),
    m=st.integers(1, 30),
    rows=st.integers(1, 10),
    columns=st.integers(1, 31),
    share=st.floats(0, 1),
    rng_key=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_blocked_search_equals_a_full_sort(
    n: int, m: int, rows: int, columns: int, share: float, rng_key: int
) -> None:
    queries, bank = directions(rng_key, n).double(), directions(rng_key + 1, m).double()
    k = max(1, round(share * m))
    values, positions = nearest(queries, bank, k, rows=rows, columns=columns)
    expected, order = (queries @ bank.T).sort(dim=1, descending=True)
    torch.testing.assert_close(values, expected[:, :k])
    assert torch.equal(positions, order[:, :k])


def test_scores_equal_the_votes_in_plain_loops() -> None:
    # Reference: Wu et al. 2018, section 3.4, in loops over Python floats.
    queries, bank = directions(0, 5), directions(1, 40)
    labels = random.integers(2, torch.arange(40), 3)
    ours = knn_scores(queries, bank, labels, classes=3, k=7, temperature=0.1)
    for query, scores in zip(queries.tolist(), ours.tolist(), strict=True):
        cosines = []
        for row, label in zip(bank.tolist(), labels.tolist(), strict=True):
            dot = sum(a * b for a, b in zip(query, row, strict=True))
            cosines.append((dot / math.hypot(*query) / math.hypot(*row), label))
        votes = [0.0, 0.0, 0.0]
        for cosine, label in sorted(cosines, reverse=True)[:7]:
            votes[label] += math.exp(cosine / 0.1)
        strongest = math.exp(max(cosines)[0] / 0.1)
        assert scores == pytest.approx([vote / strongest for vote in votes], rel=1e-4)


def test_one_neighbour_finds_itself() -> None:
    bank = directions(0, 50)
    labels = torch.arange(50)
    scores = knn_scores(3 * bank, bank, labels, classes=50, k=1)
    assert accuracy(scores, labels)["top1"] == 100


def test_a_small_temperature_approaches_the_nearest_neighbour() -> None:
    queries, bank = directions(0, 30), directions(1, 200)
    labels = random.integers(2, torch.arange(200), 5)
    one = knn_scores(queries, bank, labels, classes=5, k=1)
    cold = knn_scores(queries, bank, labels, classes=5, k=100, temperature=1e-5)
    assert torch.equal(one.argmax(1), cold.argmax(1))
    assert bool(cold.isfinite().all())


@pytest.mark.parametrize("k", [0, 41])
def test_more_neighbours_than_images_end_with_a_sentence(k: int) -> None:
    with pytest.raises(UserError, match=f"k = {k} has 40 training images"):
        knn_scores(directions(0, 5), directions(1, 40), torch.zeros(40).long(), classes=1, k=k)


@pytest.mark.parametrize("scale", [1e-30, 1e20, 1e36])
def test_features_of_any_size_have_the_neighbours_of_their_directions(scale: float) -> None:
    queries, bank = directions(0, 20), directions(1, 60)
    labels = random.integers(2, torch.arange(60), 4)
    expected = knn_scores(queries, bank, labels, classes=4, k=5)
    found = knn_scores(queries * scale, bank * scale, labels, classes=4, k=5)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
    mixed = knn_scores(queries, torch.cat([bank[:30] * scale, bank[30:]]), labels, classes=4, k=5)
    torch.testing.assert_close(mixed, expected, atol=1e-4, rtol=1e-3)


def test_features_of_zeros_vote_alike() -> None:
    scores = knn_scores(torch.zeros(3, 6), torch.zeros(8, 6), torch.arange(8), classes=8, k=8)
    assert torch.equal(scores, torch.ones(3, 8))


def neighbours_and_geometry() -> dict[str, float]:
    encoder = ResNetRecipe("small_resnet8", width=0.25).build(rng_key=0)
    opened = source_opener("shapes?count=90&test_count=37&classes=4&size=16", None)
    context = EvalContext("cpu")
    metrics = Knn(k=5).run(encoder, opened, context, seed=0)
    return metrics | Geometry().run(encoder, opened, context, seed=0)


def test_two_processes_find_the_neighbours_of_one() -> None:
    expected = neighbours_and_geometry()
    for found in run_processes(neighbours_and_geometry, 2):
        assert found == pytest.approx(expected, rel=1e-5)
