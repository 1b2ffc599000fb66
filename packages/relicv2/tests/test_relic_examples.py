import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
LOOP, LOADER = EXAMPLES / "own_loop.py", EXAMPLES / "own_loader.py"


@pytest.mark.wheel
def test_the_loop_runs_and_learns() -> None:
    losses = runpy.run_path(str(LOOP))["main"]()
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


@pytest.mark.wheel
def test_the_loader_makes_large_and_small_views() -> None:
    shapes = runpy.run_path(str(LOADER))["main"]()
    assert len(shapes) == 4
    assert {tuple(map(tuple, of)) for of in shapes} == {
        ((16, 3, 32, 32), (16, 3, 32, 32), (16, 3, 16, 16))
    }


@pytest.mark.parametrize(("example", "lines"), [(LOOP, 60), (LOADER, 60)])
def test_the_examples_fit_a_screen(example: Path, lines: int) -> None:
    assert len(example.read_text().splitlines()) <= lines
