import math
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
OWN, LIGHTLY = EXAMPLES / "own_loop.py", EXAMPLES / "lightly_loop.py"
README = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")


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


@pytest.mark.parametrize("example", [OWN, LIGHTLY])
def test_the_readme_shows_lines_that_the_examples_run(example: Path) -> None:
    lines = {line.strip() for line in example.read_text().splitlines()}
    shown = README.split(f"<!-- from examples/{example.name} -->")[1].split("```")[1]
    wanted = [line.strip() for line in shown.splitlines()[1:] if line.strip()]
    assert wanted
    for line in wanted:
        if line not in lines:
            pytest.fail(f"README shows a line that the example does not have: {line}")
