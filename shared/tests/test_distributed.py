import math
import os
import time

import pytest
import torch
from torch import Tensor

from retable import distributed
from retable.testing import run_processes


def report_place() -> tuple[int, int]:
    return distributed.process_index(), distributed.process_count()


def exercise(rows: Tensor) -> dict[str, Tensor]:
    own = distributed.own_slice(rows).clone().requires_grad_()
    gathered = distributed.gather_with_gradient(own)
    weights = torch.arange(1.0, rows.numel() + 1).view_as(rows)
    # The same global loss everywhere: backward sums over processes.
    (gradient,) = torch.autograd.grad((weights * gathered.square()).sum(), own)
    return {
        "gathered": distributed.gather(own),
        "mean": distributed.mean(own.detach().sum()),
        "gradient": gradient,
    }


def fail_on_one() -> None:
    if distributed.process_index() == 1:
        raise ValueError("planted")
    torch.distributed.barrier()


def hang() -> None:
    time.sleep(60)


def die() -> None:
    os._exit(3)


def test_results_come_in_rank_order() -> None:
    assert run_processes(report_place, 3) == [(0, 3), (1, 3), (2, 3)]


def test_gather_slices_and_means_equal_the_definitions() -> None:
    # Source: the definitions, on the whole batch in one process.
    rows = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    weights = torch.arange(1.0, 13).view(6, 2)
    results = run_processes(exercise, 2, rows)
    for rank, result in enumerate(results):
        assert torch.equal(result["gathered"], rows)
        torch.testing.assert_close(result["mean"], rows.sum() / 2)
        # Two processes held the same loss; averaging over them gives its gradient.
        expected = (2 * weights * rows)[3 * rank : 3 * rank + 3]
        torch.testing.assert_close(result["gradient"] / 2, expected)


def test_one_process_is_the_identity() -> None:
    rows = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    result = exercise(rows)
    assert torch.equal(result["gathered"], rows)
    assert math.isclose(result["mean"].item(), rows.sum().item(), rel_tol=1e-6)
    assert torch.equal(distributed.own_slice(rows), rows)


def test_a_failing_process_ends_the_others_and_shows_its_traceback() -> None:
    with pytest.raises(RuntimeError, match=r"process 1 failed:(.|\n)*ValueError: planted"):
        run_processes(fail_on_one, 2)


def test_a_dying_process_is_detected() -> None:
    with pytest.raises(RuntimeError, match="died without a result"):
        run_processes(die, 2)


def test_a_hanging_process_is_ended() -> None:
    with pytest.raises(RuntimeError, match="did not finish within the timeout"):
        run_processes(hang, 1, timeout=4)
