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


def test_the_readme_shows_the_lines_that_the_example_runs() -> None:
    readme = (EXAMPLE.parents[1] / "README.md").read_text()
    example = {line.strip() for line in EXAMPLE.read_text().splitlines()}
    shown = readme.split("<!-- from examples/own_loop.py -->")[1].split("```")[1]
    lines = [line.strip() for line in shown.splitlines()[1:] if line.strip()]
    assert lines
    for line in lines:
        if line not in example:
            pytest.fail(f"README shows a line that the example does not have: {line}")
