"""The studies of non-semantic negatives: the choice of the small setting, planted defects."""

from __future__ import annotations

from dataclasses import asdict
from statistics import mean

import pytest

from reproductions.nonsemantic_negatives.scales import PROXY
from studies.nonsemantic_negatives import texture_shortcut as study
from studies.nonsemantic_negatives.texture_shortcut import Setting, measure, show
from studies.search import read_log


def test_the_setting_s_defaults_are_those_of_the_tables() -> None:
    assert Setting().scale() == PROXY


def test_the_baseline_loses_ten_points_by_swapped_textures_in_the_tables_setting() -> None:
    lines = [line for line in read_log(study.LOG) if asdict(Setting()).items() <= line.items()]
    assert len({line["seed"] for line in lines}) >= 3
    assert mean(line["clean"] - line["stylized"] for line in lines) >= 10


def test_a_line_is_a_function_of_setting_and_seed(capsys: pytest.CaptureFixture[str]) -> None:
    setting = Setting(images=256, classes=8, rho=0.7, epochs=2)
    first, second = (measure(setting, 1) for _ in range(2))
    assert first | {"cpu_seconds": 0.0} == second | {"cpu_seconds": 0.0}
    show([first])
    said = capsys.readouterr().out
    assert "images=256 classes=8 rho=0.7 epochs=2" in said
    assert f"lost {first['clean'] - first['stylized']:5.1f}" in said
