"""The noxfile discovers packages and tables, and keeps the environments of its sessions."""

import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FIXED = {
    "lint",
    "types",
    "tests",
    "tests-core",
    "tests-lowest",
    "check-tables",
    "bench",
    "build",
    "report",
}


def nox(root: Path, *options: str) -> str:
    # A session's own variables would reach into the inner nox.
    variables = {name: v for name, v in os.environ.items() if not name.startswith("NOX")}
    ended = subprocess.run(
        [sys.executable, "-m", "nox", "-f", str(root / "noxfile.py"), *options],
        cwd=root,
        env=variables,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def sessions(root: Path) -> dict[str, str]:
    """Return name -> description."""
    listed = [line for line in nox(root, "--list").splitlines() if line[:2] in ("* ", "- ")]
    return dict(line[2:].split(" -> ") for line in listed)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A repository with what nox looks at, and nothing else."""
    for name in ("noxfile.py", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    for found in [*ROOT.glob("packages/*/pyproject.toml"), *ROOT.glob("reproductions/*/*")]:
        if found.is_file():
            place = tmp_path / found.relative_to(ROOT)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(found, place)
    return tmp_path


def expected(root: Path) -> set[str]:
    packages = {f"tests-{path.parent.name}" for path in root.glob("packages/*/pyproject.toml")}
    tables = {
        f"reproduce-{path.parent.name}-{path.stem}"
        for path in root.glob("reproductions/*/*.py")
        if path.with_suffix(".toml").exists()
    }
    return FIXED | packages | tables


def test_the_sessions_are_those_of_the_folders() -> None:
    found = sessions(ROOT)
    assert found.keys() == expected(ROOT)
    assert {"tests-mochi", "reproduce-mochi-table1"} <= found.keys()
    assert all(found.values()), "a session without a description"


def test_a_new_package_and_a_new_table_have_sessions(copy: Path) -> None:
    before = sessions(copy).keys()
    package = copy / "packages" / "another_paper"
    package.mkdir()
    (package / "pyproject.toml").touch()
    table = copy / "reproductions" / "another_paper" / "table9.py"
    table.parent.mkdir()
    table.touch()
    assert sessions(copy).keys() - before == {"tests-another_paper"}  # no reference numbers yet
    table.with_suffix(".toml").touch()
    new = sessions(copy).keys() - before
    assert new == {"tests-another_paper", "reproduce-another_paper-table9"}


def test_a_table_installs_the_packages_that_it_imports_through_other_scripts(copy: Path) -> None:
    for name in ("another_paper", "third_paper", "fourth_paper"):
        (copy / "packages" / name).mkdir()
        (copy / "packages" / name / "pyproject.toml").touch()
    table = copy / "reproductions" / "another_paper" / "table9.py"
    study = copy / "studies" / "another_paper" / "floor.py"
    for path in (table, study):
        path.parent.mkdir(parents=True)
    table.write_text(
        "from reproductions.another_paper import common\nimport another_paper.method\n"
    )
    table.with_name("common.py").write_text("from studies.another_paper.floor import ROWS\n")
    study.write_text("def rows():\n    from mochi.method import MoCHiRecipe\n")
    # Neither a name in a text nor another folder's script is an import of this one.
    table.with_name("other.py").write_text("import third_paper\n")
    program = "\n".join(
        (
            "from pathlib import Path",
            "import noxfile",
            "print(*noxfile.needed_packages(Path('reproductions/another_paper/table9.py')))",
        )
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=copy, capture_output=True, text=True, check=True
    )
    assert ended.stdout.split() == ["another_paper", "mochi"]


SMALL = """
import nox
from noxfile import environment, run

nox.options.default_venv_backend = "none"

@nox.session
def small(session):
    with environment(session, "./thing-1-py3-none-any.whl") as place:
        run(session, place, "python", "-c", session.posargs[0])
"""
"""A session whose environment holds one module, made without a network."""


@pytest.fixture
def small(copy: Path) -> Path:
    """The copied repository with a session that is made in a moment."""
    (copy / "small.py").write_text(SMALL)
    write_wheel(copy, value=1)
    return copy


def write_wheel(folder: Path, value: int) -> None:
    """Write a wheel of the module ``thing``, with one value."""
    facts = "thing-1.dist-info"
    with zipfile.ZipFile(folder / "thing-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("thing.py", f"VALUE = {value}\n")
        wheel.writestr(f"{facts}/METADATA", "Metadata-Version: 2.1\nName: thing\nVersion: 1\n")
        tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr(f"{facts}/WHEEL", tags)
        wheel.writestr(f"{facts}/RECORD", "")


def start_small(root: Path, program: str, **variables: str) -> subprocess.Popen[str]:
    inherited = {name: v for name, v in os.environ.items() if not name.startswith("NOX")}
    inherited["PYTHONPATH"] = str(root)
    return subprocess.Popen(
        [sys.executable, "-m", "nox", "-f", str(root / "small.py"), "-s", "small", "--", program],
        cwd=root,
        env=inherited | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return said


def test_two_runs_of_a_session_at_the_same_time_share_its_environment(small: Path) -> None:
    # Each waits for the other within the session: both must be in it at once.
    program = (
        "import pathlib, sys, time, thing\n"
        "pathlib.Path({own!r}).touch()\n"
        "end = time.monotonic() + 60\n"
        "while not pathlib.Path({other!r}).exists():\n"
        "    assert time.monotonic() < end\n"
        "    time.sleep(0.01)\n"
        "import calendar, thing"
    )
    both = [
        start_small(small, program.format(own=own, other=other))
        for own, other in (("first", "second"), ("second", "first"))
    ]
    said = [end(process) for process in both]
    assert sum("Making the environment" in text for text in said) == 1


def test_a_second_run_installs_nothing_and_needs_no_network(small: Path) -> None:
    assert "Making the environment" in end(start_small(small, "import thing"))
    # Where nothing is installed, uv is not called.
    (small / "thing-1-py3-none-any.whl").unlink()
    again = end(start_small(small, "import thing", UV_OFFLINE="1", UV_NO_CACHE="1"))
    assert "Making the environment" not in again


@pytest.mark.parametrize("name", ["constraints.txt", "packages/mochi/pyproject.toml"])
def test_an_environment_is_made_again_when_its_settings_change(small: Path, name: str) -> None:
    end(start_small(small, "import thing"))
    write_wheel(small, value=2)
    with open(small / name, "a") as settings:
        settings.write("\n# changed\n")
    said = end(start_small(small, "import thing; print('value', thing.VALUE)"))
    assert "Making the environment" in said
    assert "value 2" in said


def test_an_environment_whose_making_was_cut_short_is_made_again(small: Path) -> None:
    end(start_small(small, "import thing"))
    (small / ".nox" / "small" / "retable-environment.json").unlink()
    (small / ".nox" / "small" / "bin" / "python").unlink()
    assert "Making the environment" in end(start_small(small, "import thing"))


def test_an_environment_in_use_is_not_made_again_under_its_user(small: Path) -> None:
    program = "import time, pathlib; pathlib.Path('in').touch(); {wait}; import calendar, thing"
    first = start_small(small, program.format(wait="time.sleep(3)"))
    deadline = time.monotonic() + 60
    while not (small / "in").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (small / "constraints.txt").write_text("# changed\n")
    second = start_small(small, "import thing")
    end(first)
    assert "Making the environment" in end(second)
