"""The noxfile finds packages and tables by looking."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FIXED = {"lint", "types", "tests", "tests-core", "check-tables", "bench", "report"}


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


def test_a_table_installs_the_packages_that_its_script_and_its_neighbours_import(
    copy: Path,
) -> None:
    for name in ("another_paper", "third_paper"):
        (copy / "packages" / name).mkdir()
        (copy / "packages" / name / "pyproject.toml").touch()
    folder = copy / "reproductions" / "another_paper"
    folder.mkdir()
    (folder / "table9.toml").touch()
    (folder / "table9.py").write_text("from common import ROWS\nimport another_paper.method\n")
    (folder / "common.py").write_text("def rows():\n    from mochi.method import MoCHiRecipe\n")
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
