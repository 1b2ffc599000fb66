import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "own_loop.py"


@pytest.mark.wheel
def test_the_example_runs_and_learns() -> None:
    losses = runpy.run_path(str(EXAMPLE))["main"]()
    assert losses[-1] < losses[6]


def test_the_example_fits_a_screen_and_knows_nothing_of_retable() -> None:
    text = EXAMPLE.read_text()
    assert len(text.splitlines()) <= 60
    assert "retable" not in text
