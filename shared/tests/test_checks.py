"""Public functions of `retable.nn` refuse arguments that do not fit, in one form of sentence."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from retable.errors import UserError
from retable.nn import heads
from retable.nn.checks import Shaped, check_shapes, row_weight, unit_rows
from retable.nn.losses import Pairs, info_nce, nt_xent, view_pairs
from retable.nn.momentum import MomentumCopy, MomentumRecipe
from retable.nn.patches import PatchGrid, cut_patches, standardise
from retable.nn.queues import KeyQueue, Moments
from retable.nn.scores import queue_score_statistics, score_statistics
from retable.testing import SENTENCES, Described, check_refusals


def unit(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator), dim=-1)


def enqueue(keys: Tensor, labels: Tensor) -> None:
    KeyQueue(8, 3, rng_key=0, labels=True).enqueue(keys, labels)


def statistics_of_queue(queries: Tensor, keys: Tensor) -> object:
    moments = Moments(4, torch.zeros(3).double(), torch.eye(3).double())
    return queue_score_statistics(queries, keys, moments)


def patches(images: Tensor, positions: Tensor) -> Tensor:
    return cut_patches(images, PatchGrid(cell=2, patch=2), 1, positions)


FIVE = torch.arange(5)
PAIR: Described = {"first": ("B D", unit(5, 3)), "second": ("B D", unit(5, 3, seed=1))}
FUNCTIONS: dict[str, tuple[Callable[..., object], Described]] = {
    "info_nce": (lambda logits: info_nce(logits, 0.2), {"logits": ("B 1+K", unit(5, 3))}),
    "nt_xent": (lambda first, second: nt_xent(first, second, 0.2), PAIR),
    "view_pairs": (view_pairs, PAIR),
    "Pairs.logits": (
        lambda **tensors: Pairs(**tensors).logits(),
        {
            "anchors": ("A D", unit(4, 3)),
            "partners": ("A D", unit(4, 3)),
            "columns": ("C D", unit(7, 3)),
            "masked": ("A C", torch.zeros(4, 7, dtype=torch.bool)),
        },
    ),
    "score_statistics": (
        score_statistics,
        {"positives": ("B", unit(5)), "negatives": ("B K", unit(5, 7))},
    ),
    "queue_score_statistics": (
        statistics_of_queue,
        {"queries": ("B D", unit(5, 3)), "keys": ("B D", unit(5, 3))},
    ),
    "enqueue": (enqueue, {"keys": ("b D", unit(5, 3)), "labels": ("b", FIVE)}),
    "cut_patches": (
        patches,
        {"images": ("b C H W", torch.rand(5, 3, 6, 6)), "positions": ("b", FIVE)},
    ),
    "standardise": (standardise, {"images": ("... C H W", torch.rand(2, 3, 4, 4))}),
}
EACH = pytest.mark.parametrize(("function", "described"), FUNCTIONS.values(), ids=FUNCTIONS)


@EACH
def test_only_tensors_that_fit_are_accepted(
    function: Callable[..., object], described: Described
) -> None:
    assert check_refusals(function, described) >= 4


@pytest.mark.wheel
def test_a_user_error_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="`temperature` must be positive"):
        info_nce(torch.zeros(2, 3), float("nan"))


# How a fault is said


@pytest.mark.parametrize(
    ("arguments", "sentences"),
    [
        (
            [
                Shaped("query", unit(4, 3), "B D"),
                Shaped("queue", unit(9, 3), "K D"),
                Shaped("cosines", unit(4, 10), "B K", remedy="Leave out the positive's column."),
            ],
            "`cosines` must have shape (4, 9), got (4, 10). Leave out the positive's column.",
        ),
        (
            [Shaped("query", unit(4, 3), "B D"), Shaped("queue", unit(3, 9), "K D")],
            "`queue` must have shape (K, 3), got (3, 9). Transpose it.",
        ),
        (
            [Shaped("query", unit(4, 3), "B D"), Shaped("queue", unit(9, 5), "K D")],
            "`queue` must have shape (K, 3), got (9, 5). Make it fit `query` (4, 3).",
        ),
        (
            [Shaped("query", unit(4, 3), "B D"), Shaped("queue", unit(9, 3)[:0], "K D")],
            "`queue` must have shape (K, 3), none of them 0, got (0, 3). Pass at least one row.",
        ),
        (
            [Shaped("logits", unit(4, 1), "B 1+K")],
            "`logits` must have shape (B, 1 + K), got (4, 1). Give it 2 dimensions.",
        ),
        (
            [Shaped("query", unit(4, 3), "B D"), Shaped("queue", unit(9, 3).double(), "K D")],
            "`queue` must be torch.float32, as `query` is, got torch.float64. "
            "Convert one of them.",
        ),
    ],
)  # fmt: skip
def test_a_fault_names_the_argument_the_shape_and_the_remedy(
    arguments: list[Shaped], sentences: str
) -> None:
    with pytest.raises(UserError) as refused:
        check_shapes(*arguments)
    assert str(refused.value) == sentences


def test_half_and_single_precision_fit_together() -> None:
    check_shapes(Shaped("query", unit(4, 3).bfloat16(), "B D"), Shaped("queue", unit(9, 3), "K D"))


# Lengths of rows


@settings(deadline=None)
@given(length=st.floats(0, 10), count=st.integers(1, 5))
def test_rows_are_refused_unless_their_length_is_one(length: float, count: int) -> None:
    rows = unit(count, 6)
    rows[count // 2] *= length
    if abs(length - 1) < 9e-3:
        assert unit_rows("query", rows, "unit") is rows
    elif abs(length - 1) > 1.1e-2:
        with pytest.raises(UserError, match="`query` must have rows of length 1, got a mean"):
            unit_rows("query", rows, "unit")


def test_rows_without_a_number_or_a_direction_are_refused() -> None:
    for value in (0.0, float("nan"), float("inf")):
        rows = unit(3, 6)
        rows[1] = value
        with pytest.raises(UserError, match="must have rows of length 1"):
            unit_rows("query", rows, "unit")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_unit_rows_that_were_rounded_to_half_precision_fit(dtype: torch.dtype) -> None:
    rows = unit(200, 128).to(dtype)
    assert unit_rows("query", rows, "unit") is rows


def test_rows_are_normalised_in_float32_at_least_with_their_gradient() -> None:
    for dtype, expected in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        rows = (0.39 * unit(4, 6)).to(dtype).requires_grad_()
        normalised = unit_rows("query", rows, "normalise")
        assert normalised.dtype == expected
        torch.testing.assert_close(normalised.norm(dim=1), torch.ones(4, dtype=expected))
        normalised.sum().backward()  # type: ignore[no-untyped-call]
        assert rows.grad is not None


def test_compiled_code_gives_nan_for_rows_of_another_length_and_reads_nothing() -> None:
    rows = unit(3, 6)
    rows[1] *= 0.39
    found = torch.compile(unit_rows, backend="eager", fullgraph=True)("query", rows, "unit")
    assert torch.equal(found[[0, 2]], rows[[0, 2]])
    assert found[1].isnan().all()
    assert unit_rows("query", rows.to("meta"), "unit").is_meta


def test_the_treatment_of_rows_is_one_of_three() -> None:
    with pytest.raises(UserError, match="`rows` must be 'unit', 'normalise' or 'unchecked'"):
        unit_rows("query", unit(2, 3), "normalize")  # type: ignore[arg-type]


# Weights


@given(count=st.integers(1, 6), dim=st.integers(1, 6))
def test_a_weight_for_each_row_goes_along_the_rows_also_of_a_square(count: int, dim: int) -> None:
    weight = torch.rand(count)
    found = row_weight("weight", weight, torch.zeros(count, dim))
    assert torch.equal(torch.as_tensor(found), weight[:, None])


@pytest.mark.parametrize("shape", [(3,), (1, 3), (3, 5), (1,), (4, 1), (5, 3, 1)])
def test_weights_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"must be one number or have shape \(5,\), \(5, 1\) or"):
        row_weight("weight", torch.ones(shape), torch.zeros(5, 3))


# Numbers


@pytest.mark.parametrize(
    "build",
    [
        lambda: heads.linear_head(8, 0, rng_key=0),
        lambda: heads.mlp_head(8, hidden_dim=0, rng_key=0),
        lambda: heads.simclr_head(-8, rng_key=0),
        lambda: heads.byol_head(8, hidden_dim=0, rng_key=0),
        lambda: heads.simsiam_projector(8, 0, rng_key=0),
        lambda: heads.simsiam_predictor(0, rng_key=0),
        lambda: heads.linear_head(8, rng_key=torch.Generator()),  # type: ignore[arg-type]
        lambda: heads.linear_head(8, rng_key=0.5),  # type: ignore[arg-type]
        lambda: heads.linear_head(8, rng_key=2**63),
        lambda: KeyQueue(4, 0, rng_key=0),
        lambda: MomentumCopy(torch.nn.Linear(2, 2)).update(1.5),
        lambda: MomentumCopy(torch.nn.Linear(2, 2)).update(float("nan")),
        lambda: MomentumRecipe(kind="cosine").at(1, 0),
        lambda: MomentumRecipe(kind="cosine").at(5, 4),
        lambda: info_nce(torch.zeros(2, 3), float("inf")),
        lambda: cut_patches(torch.zeros(1, 3, 6, 6), PatchGrid(cell=2, patch=2), 0.5),  # type: ignore[arg-type]
    ],
)
def test_numbers_outside_their_range_are_refused(build: Callable[[], object]) -> None:
    with pytest.raises(UserError) as refused:
        build()
    assert SENTENCES.fullmatch(str(refused.value)), str(refused.value)
