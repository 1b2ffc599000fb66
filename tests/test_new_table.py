"""``retable new table`` writes a table that runs as it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from retable import cli
from retable.tables import load_reference


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the current folder look like a checkout."""
    (tmp_path / "reproductions" / "baselines").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_a_new_table_runs_at_smoke_scale_as_it_is(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["new", "table", "mine/first"]) == 0
    *written, hint = capsys.readouterr().out.splitlines()
    folder = Path("reproductions/mine")
    assert written == [str(folder / name) for name in ("__init__.py", "first.py", "first.toml")]
    assert hint == "Try it: nox -s reproduce-mine-first -- --scale smoke"
    assert "@" not in "".join(Path(path).read_text() for path in written)
    assert load_reference(folder / "first.toml").table.id == "first"
    words = ["--scale", "smoke", "--jobs", "1", "--quiet"]
    ended = subprocess.run(
        [sys.executable, str(folder / "first.py"), *words], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert "MoCo v2, temperature 0.1" in ended.stdout
    assert (checkout / "runs" / "tables" / "mine-first-smoke" / "table.json").exists()


@pytest.mark.parametrize(
    "name", ["first", "mine/", "Mine/first", "mine/first/x", "mine/../x", "1/x"]
)
def test_a_name_that_no_module_can_have_is_refused(
    checkout: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["new", "table", name]) == 2
    assert "`PACKAGE/TABLE` must be two names" in capsys.readouterr().err
    assert not list(checkout.glob("reproductions/*/*"))


def test_an_existing_table_stays(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference = checkout / "reproductions" / "baselines" / "facts.toml"
    reference.write_text("mine")
    assert cli.main(["new", "table", "baselines/facts"]) == 2
    said = capsys.readouterr().err
    assert "must be new, but reproductions/baselines/facts.toml exists." in said
    assert reference.read_text() == "mine"
    assert not reference.with_suffix(".py").exists()


def test_outside_a_checkout_the_command_says_where_to_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["new", "table", "mine/first"]) == 2
    assert "must run in a checkout" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
