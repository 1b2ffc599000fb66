"""The studies of the proxy scale: its search, and the noise of what was recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from reproductions.baselines.arms import ARMS
from reproductions.revisiting_ssl.recipes import TASKS
from reproductions.revisiting_ssl.scales import SMOKE
from retable.reproduce.shrinking import PROXY
from retable.tables.statistics import Spread, interval_of_mean
from retable.tables.verdict import seeds_to_resolve
from studies import noise, proxy_facts, proxy_search
from studies.proxy_search import Setting, measure, show
from studies.revisiting_ssl import proxy_search as pretext_search
from studies.search import read_log


def test_the_setting_s_defaults_are_those_of_the_proxy_scale() -> None:
    assert Setting().scale() == PROXY


def test_every_line_of_the_log_names_an_arm_and_its_outcome() -> None:
    lines = read_log(proxy_search.LOG)
    assert {line["arm"] for line in lines} <= ARMS.keys()
    assert all(0 < line["knn"] < 100 and 0 < line["logistic"] < 100 for line in lines)


def test_a_line_is_a_function_of_setting_arm_and_seed() -> None:
    setting = Setting(images=128, classes=8, epochs=2, queue=64)
    first, second = (measure(setting, "moco_t007", 1) for _ in range(2))
    assert first | {"cpu_seconds": 0.0} == second | {"cpu_seconds": 0.0}
    assert (first["arm"], first["seed"], first["images"]) == ("moco_t007", 1, 128)


@pytest.mark.slow
def test_facts_are_tested_in_another_setting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "--rows moco_t007 --seeds 1 2 --jobs 1 --set epochs=2 --set queue=64"
    small = ["--set", "images=128", "--set", "classes=8", "--set", "converged=false"]
    arguments = ["proxy_facts.py", "--runs", str(tmp_path), *words.split(), *small]
    monkeypatch.setattr("sys.argv", arguments)
    assert proxy_facts.main() == 0
    *_, negatives, positives, counts = capsys.readouterr().out.splitlines()
    assert negatives.startswith("contradicted")  # two epochs separate no images
    assert positives.endswith("Positives are far above them.")
    assert sum(int(count.split()[0]) for count in counts.split(", ")) == 2
    recipes = [path.read_text() for path in tmp_path.glob("*/recipe.json")]
    assert len(recipes) == 2
    assert all("count=128&test_count=10000&size=32&classes=8" in recipe for recipe in recipes)


def test_differences_are_paired_by_seed(capsys: pytest.CaptureFixture[str]) -> None:
    line = {"escape": 3, "cpu_seconds": 1.0, "images": 4000}
    values = {("moco_v2", 0): 80.0, ("moco_v2", 1): 90.0, ("moco_t007", 1): 84.0}
    lines = [
        {"arm": arm, "seed": seed, "knn": value, "logistic": value + 1.0, **line}
        for (arm, seed), value in values.items()
    ]
    show(lines)
    assert "moco_v2 - moco_t007: knn +6.0, logistic +6.0 (1 seeds)" in capsys.readouterr().out


SMALL = replace(SMOKE, data=SMOKE.data.replace("count=256", "count=64", 1))


@pytest.mark.parametrize("task", ["rotation", "exemplar"])
def test_a_line_of_a_pretext_task_says_how_well_it_was_learnt(task: str) -> None:
    first, second = (pretext_search.measure(SMALL, task, None, 1) for _ in range(2))
    seconds = {"cpu_seconds": 0.0, "evaluation_seconds": 0.0}
    assert first | seconds == second | seconds
    assert (first["task"], first["seed"], first["epochs"]) == (task, 1, 1)
    assert (first["task_accuracy"] is None) == (task == "exemplar")
    assert (first["fallback_share"] is None) == (task != "exemplar")


def test_every_line_of_the_pretext_log_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    lines = read_log(pretext_search.LOG)
    pretext_search.show(lines)
    assert len(capsys.readouterr().out.splitlines()) == len(lines)
    assert {line["task"] for line in lines} <= {*TASKS, "supervised"}


@pytest.mark.parametrize("std", [0.1, 0.9, 3.0])
def test_seeds_resolve_a_half_width_as_the_fewest_that_do(std: float) -> None:
    count = seeds_to_resolve(Spread(std, 4), 1.0)
    assert count is not None
    widths = [
        interval_of_mean(0.0, Spread(std, n - 1), n).high for n in (count - 1, count) if n > 1
    ]
    assert widths[-1] <= 1.0
    assert count == 2 or widths[0] > 1.0


def test_no_hundred_seeds_resolve_what_is_too_noisy() -> None:
    assert seeds_to_resolve(Spread(10.0, 4), 1.0) is None


def test_the_noise_of_every_recorded_table_is_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["noise.py"])
    assert noise.main() == 0
    out = capsys.readouterr().out
    for path in Path(noise.REPRODUCTIONS).glob("*/*.proxy.toml"):
        assert f"{path.parent.name}-{path.name.partition('.')[0]}, " in out
    assert proxy_search.LOG.exists()
