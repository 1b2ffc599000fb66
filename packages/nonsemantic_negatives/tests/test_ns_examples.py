import math
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
OWN, LIGHTLY = EXAMPLES / "own_loop.py", EXAMPLES / "lightly_loop.py"


@pytest.mark.wheel
def test_the_example_runs_and_learns() -> None:
    losses = runpy.run_path(str(OWN))["main"]()
    assert losses[-1] < losses[6]


def test_the_loop_of_lightly_runs_with_negatives() -> None:
    pytest.importorskip("lightly")
    losses = runpy.run_path(str(LIGHTLY))["main"](epochs=1)
    assert len(losses) == 4
    assert all(0 < loss < 3 * math.log(256) for loss in losses)


@pytest.mark.parametrize(("example", "lines"), [(OWN, 60), (LIGHTLY, 80)])
def test_the_examples_fit_a_screen_and_know_nothing_of_retable(example: Path, lines: int) -> None:
    text = example.read_text()
    assert len(text.splitlines()) <= lines
    assert "retable" not in text
