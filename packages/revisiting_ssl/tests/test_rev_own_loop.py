import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "own_loop.py"


@pytest.mark.wheel
@pytest.mark.parametrize("task", ["rotation", "exemplar", "jigsaw", "location"])
def test_the_example_runs_and_learns(task: str) -> None:
    losses = runpy.run_path(str(EXAMPLE))["main"](task)
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


def test_the_example_fits_a_screen_and_knows_nothing_of_retable() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
    assert "retable" not in text
