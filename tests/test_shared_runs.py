"""A baseline that several tables share is trained once: runs are found by their content."""

import json
from pathlib import Path
from typing import Any

import pytest

from retable.evaluate.linear import LinearProbe
from retable.evaluate.logistic.probe import LogisticProbe
from retable.reproduce.command import load_table
from retable.reproduce.plan import TableSelection, plan_runs, resolve_rows
from retable.views import center

SCRIPTS = Path(__file__).parents[1] / "reproductions" / "feature_transform"


def runs_of(table: str, scale: str) -> dict[str, str]:
    """Return which run each training of a table is."""
    rows = resolve_rows(load_table(SCRIPTS / f"{table}.py"), TableSelection(scale=scale))
    return {name: run.name for run in plan_runs(rows, (0,)) for name in run.rows}


@pytest.mark.parametrize("scale", ["paper", "proxy", "smoke"])
def test_tables_of_feature_transformation_share_their_trainings(scale: str) -> None:
    table2, table6, table7, figure3, momentum = (
        runs_of(name, scale) for name in ("table2", "table6", "table7", "figure3", "main_momentum")
    )
    assert table2["no_ft/res50"] == table6["moco_v1"] == table7["moco_v1"]
    assert table2["start_0/res50"] == table6["both"]
    assert (table7["neg_in"], table7["neg_ex"]) == (table6["neg_in"], table6["neg_ex"])
    assert table2["no_ft/res18"] == momentum["m_099"] == figure3["moco"]
    for start in ("start_0", "start_2", "start_30", "start_50"):
        assert figure3[start] == table2[f"{start}/res18"]
    assert len(set(table6.values())) == len(table6)


def test_feature_transformation_follows_the_paper_and_its_code_at_paper_scale_only() -> None:
    # Source: the released code's list of steps and its probe; small views have MoCo's order.
    table = load_table(SCRIPTS / "table6.py")
    full, small = (
        resolve_rows(table, TableSelection(scale=scale))["both"] for scale in ("paper", "proxy")
    )
    for row, position in ((full, "before_gray"), (small, "after_gray")):
        assert {view.jitter_position for view in row.pretrain.views} == {position}
    (probe,), (converged,) = full.evaluations, small.evaluations
    assert isinstance(probe, LinearProbe)
    assert probe.train_view is not None
    assert probe.train_view.crop_scale == (0.2, 1.0)
    assert isinstance(converged, LogisticProbe)
    assert converged.view == center(32)


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
        json.loads((tmp_path / "tables" / f"mochi-{table}-smoke" / "metrics.json").read_text())
        for table in ("table1", "figure3b", "figure3c")
    ]
    probed = [figures[0]["moco_v2"], figures[1]["s0_sp0"], figures[2]["moco_v2"]]
    assert len({found["0"]["linear.top1"] for found in probed}) == 1
