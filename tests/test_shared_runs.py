"""A baseline that several tables share is trained once: runs are found by their content."""

import json
from pathlib import Path
from typing import Any

import pytest


def trace(runs: Path) -> dict[str, tuple[int, int]]:
    """Return what a second training or evaluation would change of every file of the runs."""
    found = {}
    for path in sorted(runs.glob("moco-*/**/*")):
        if path.is_file() and path.name != "lock":
            facts = path.stat()
            found[str(path.relative_to(runs))] = (facts.st_ino, facts.st_mtime_ns)
    return found


@pytest.mark.slow
def test_a_baseline_of_three_tables_is_trained_once(reproduce: Any, tmp_path: Path) -> None:
    smoke = ("--scale", "smoke", "--rows")
    reproduce.run("table1", tmp_path, *smoke, "moco_v2")
    trained = trace(tmp_path)
    assert sum(name.endswith("encoder.safetensors") for name in trained) == 1

    reproduce.run("figure3b", tmp_path, *smoke, "s0_sp0")
    assert trace(tmp_path) == trained

    # This one also wants another evaluation of it: made in the same directory, nothing else moves.
    reproduce.run("figure3c", tmp_path, *smoke, "moco_v2")
    again = trace(tmp_path)
    assert {name: again[name] for name in trained} == trained
    new = {Path(name).parent.name.partition("-")[0] for name in again.keys() - trained.keys()}
    assert new == {"geometry"}

    figures = [
        json.loads((tmp_path / "tables" / f"mochi-{table}-smoke" / "figures.json").read_text())
        for table in ("table1", "figure3b", "figure3c")
    ]
    probed = [figures[0]["moco_v2"], figures[1]["s0_sp0"], figures[2]["moco_v2"]]
    assert len({found["0"]["linear.top1"] for found in probed}) == 1
