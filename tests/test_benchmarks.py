"""Every benchmark runs from start to end, at sizes at which its figures mean nothing."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "benchmarks"

# One process for those that only compute: importing takes longer than they do.
COMPUTING = (
    "detectors",
    "logistic",
    "many_views",
    "mixing",
    "nonsemantic",
    "paper_recipe",
    "patches",
    "pretraining",
    "reversible",
    "transforming",
    "views",
)

PROGRAM = """
import runpy, sys
from accelerate.state import AcceleratorState
if __name__ == "__main__":
    names, sys.argv[1:] = sys.argv[1].split(), sys.argv[2:]
    sys.path.insert(0, {folder!r})
    for name in names:
        runpy.run_path({folder!r} + "/" + name + ".py", run_name="__main__")
        AcceleratorState._reset_state()  # the next one may train in another precision
"""


def run(arguments: list[str], lines: Path) -> tuple[str, list[dict[str, object]]]:
    """Return what was printed, and the JSON lines."""
    options = ["--quick", "--dry", "--device", "cpu", "--threads", "1", "--json", str(lines)]
    ended = subprocess.run(
        [sys.executable, *arguments, *options],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout, [json.loads(line) for line in lines.read_text().splitlines()]


def test_every_benchmark_is_tried_here() -> None:
    scripts = {path.stem for path in FOLDER.glob("*.py") if not path.name.startswith("_")}
    assert scripts == {*COMPUTING, "imports"}


def test_steps_views_and_methods_are_timed(tmp_path: Path) -> None:
    program = tmp_path / "all.py"
    program.write_text(PROGRAM.format(folder=str(FOLDER)))
    printed, lines = run([str(program), " ".join(COMPUTING)], tmp_path / "lines.jsonl")
    ratios = {str(line["name"]) for line in lines}
    assert {"R1", "R2", "R3", "R7"} <= ratios
    assert all(line["dry"] for line in lines)
    assert printed.count("the figures mean nothing") == len(COMPUTING)
    with_peer = {str(line["what"]) for line in lines if "lightly" in str(line["what"])}
    assert bool(with_peer) == (importlib.util.find_spec("lightly") is not None)


def test_imports_are_timed(tmp_path: Path) -> None:
    printed, lines = run([str(FOLDER / "imports.py")], tmp_path / "lines.jsonl")
    assert {"import torch", "import retable over import torch"} <= {line["what"] for line in lines}
    assert "R8" in printed


@pytest.mark.parametrize("value", [0.5, 2.0])
def test_a_goal_is_compared_and_never_asserted(
    value: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    from _timing import Goal, Options, Report

    written = tmp_path / "lines.jsonl"
    report = Report("title", Options(torch.device("cpu"), quick=False, dry=False, lines=written))
    for goal in (Goal(at_least=1.0), Goal(at_most=1.0)):
        report.add("ratio", [value, value, 9.0], goal=goal)
    report.show()
    lines = [json.loads(line) for line in written.read_text().splitlines()]
    assert [line["median"] for line in lines] == [value, value]
    expected = ["MISSED", "met"] if value < 1 else ["met", "MISSED"]
    assert [line["verdict"] for line in lines] == expected
    table = capsys.readouterr().out.splitlines()
    assert [row.split()[-1] for row in table[-2:]] == expected


def test_a_round_times_every_side_once_and_ratios_are_those_of_a_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    from _timing import Options, interleave, ratios

    now, order = [0.0], []

    def side(name: str, seconds: float) -> None:
        order.append(name)
        now[0] += seconds * len(order)  # a machine that becomes slower

    seconds = interleave(
        {"a": lambda: side("a", 1.0), "b": lambda: side("b", 2.0)},
        3,
        Options(torch.device("cpu"), quick=False, dry=False, lines=Path()),
        warmup=1,
        clock=lambda: now[0],
    )
    assert "".join(order) == "abbaabba"
    assert seconds == {"a": [4.0, 5.0, 8.0], "b": [6.0, 12.0, 14.0]}
    assert ratios(seconds["b"], seconds["a"]) == [6 / 4, 12 / 5, 14 / 8]
