"""Every job of this repository, one session each; ``nox --list`` shows them.

Packages and tables are found by looking: a folder ``packages/NAME`` makes ``tests-NAME``, and a
script ``reproductions/NAME/TABLE.py`` beside its reference ``TABLE.toml`` makes
``reproduce-NAME-TABLE``. Arguments after ``--`` go to the program that a session runs.
Environments are made by uv, with the versions of ``constraints.txt``.
"""

from __future__ import annotations

import ast
import functools
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import nox

if sys.version_info < (3, 11):  # noqa: UP036 - whoever reads this line has nothing installed
    raise SystemExit(
        f"Retable needs Python 3.11 or newer, this nox runs on {sys.version.split()[0]}: "
        "install nox with a newer Python."
    )

nox.needs_version = ">=2025.2"
nox.options.default_venv_backend = "uv"
nox.options.error_on_missing_interpreters = True
nox.options.sessions = ["lint", "types", "tests"]

ROOT = Path(__file__).parent
CORE = "./shared"
PACKAGES = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))
TABLES = sorted(
    path.relative_to(ROOT)
    for path in ROOT.glob("reproductions/*/*.py")
    if path.with_suffix(".toml").exists()
)
GROUPS = nox.project.load_toml("pyproject.toml")
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""Two test processes with a thread each: more threads than cores only wait for each other."""


def install(session: nox.Session, *what: str, groups: tuple[str, ...] = ()) -> None:
    """Install in the versions that were tested together, with dependency groups of the root."""
    wanted = nox.project.dependency_groups(GROUPS, *groups)
    session.install("-c", "constraints.txt", *what, *wanted)


def editable(*packages: str, extras: str = "") -> list[str]:
    """Return how to install the core, with extras, and packages so that edits count at once."""
    paths = [CORE + extras, *(f"./packages/{package}" for package in packages)]
    return [word for path in paths for word in ("-e", path)]


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format."""
    install(session, groups=("lint",))
    session.run("ruff", "check", *session.posargs, ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check types, strictly."""
    core = editable(*PACKAGES, extras="[plots,tensorboard]")
    install(session, *core, groups=("types", "test"))
    sources = ["shared/src", *(f"packages/{package}/src" for package in PACKAGES)]
    checked = ["shared", "packages", "tests", "noxfile.py"]
    checked += [str(path.relative_to(ROOT)) for path in _scripts("reproductions")]
    checked += [str(path.relative_to(ROOT)) for path in _scripts("benchmarks")]
    _check_types(session, sources, checked)
    # Scripts of one paper import each other by their bare names, which two papers may share.
    for folder in sorted({table.parent for table in TABLES}):
        _check_types(session, [*sources, str(folder)], [str(folder)])


def _check_types(session: nox.Session, sources: list[str], checked: list[str]) -> None:
    session.run("mypy", *session.posargs, *checked, env={"MYPYPATH": os.pathsep.join(sources)})


def _scripts(folder: str) -> list[Path]:
    return sorted((ROOT / folder).glob("*.py"))


@nox.session
def tests(session: nox.Session) -> None:
    """Run all tests; pytest's options after --."""
    core = editable(*PACKAGES, extras="[plots,tensorboard]")
    install(session, *core, groups=("test",))
    session.run("pytest", "-n", "2", *session.posargs, env=ONE_THREAD)


def tests_alone(session: nox.Session, package: str | None) -> None:
    """Run the tests of a package, or of the core, from wheels, where nothing else can be imported.

    The core's run without any package, a package's beside the core: together they run each once.
    """
    place = Path(session.create_tmp()).resolve()
    shutil.rmtree(place)
    sources = [CORE] if package is None else [CORE, f"./packages/{package}"]
    for source in sources:
        session.run("uv", "build", "--quiet", "--wheel", "--out-dir", str(place / "wheels"), source)
    wheels = sorted((place / "wheels").glob("*.whl"))
    core = next(wheel for wheel in wheels if wheel.name.startswith("retable-"))
    own = [str(wheel) for wheel in wheels if wheel != core]
    install(session, f"retable[plots,tensorboard] @ {core.as_uri()}", *own, groups=("test",))
    _copy_tests(place / "tests", sources[-1])
    present = ["retable"] if package is None else ["retable", package]
    absent = [other for other in PACKAGES if other != package]
    check = [str(ROOT / "tests" / "installed_alone.py"), str(ROOT), *present]
    with session.chdir(place / "tests"):
        session.run("python", *check, "--absent", *absent)
        # The doctests are those of the installed module.
        paths = ["--pyargs", f"{sources[-1]}/tests", present[-1]]
        session.run("pytest", "-n", "2", *paths, *session.posargs, env=ONE_THREAD)


def _copy_tests(place: Path, source: str) -> None:
    """Copy a package without its source, and the files that its tests read, laid out as here."""
    shutil.copytree(ROOT / source, place / source, ignore=shutil.ignore_patterns("src", "__py*__"))
    for reference in ROOT.glob("reproductions/*/*.toml"):
        target = place / reference.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(reference, target)
    shutil.copy(ROOT / "pyproject.toml", place)


def make_session(name: str, description: str, job: Callable[[nox.Session], None]) -> None:
    """Register a session that exists because of what was found."""

    def run(session: nox.Session) -> None:
        job(session)

    run.__doc__ = description
    nox.session(name=name)(run)


make_session(
    "tests-core",
    "Run the tests of the core from its wheel, alone.",
    functools.partial(tests_alone, package=None),
)
for _package in PACKAGES:
    make_session(
        f"tests-{_package}",
        f"Run the tests of {_package} from wheels of it and the core, alone.",
        functools.partial(tests_alone, package=_package),
    )


def reproduce(session: nox.Session, script: Path) -> None:
    """Reproduce a table: the script's options after --, among them --help."""
    install(session, *editable(*needed_packages(script), extras="[plots]"))
    session.run("python", str(script), *session.posargs)


def needed_packages(script: Path) -> list[str]:
    """Return the packages that a script imports, itself or through scripts beside it."""
    names, unread = set(), [script]
    seen = {script}
    while unread:
        for name in _imported(unread.pop()):
            names.add(name)
            beside = script.parent / f"{name}.py"
            if beside.exists() and beside not in seen:
                seen.add(beside)
                unread.append(beside)
    return [package for package in PACKAGES if package in names]


def _imported(script: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)


for _script in TABLES:
    make_session(
        f"reproduce-{_script.parent.name}-{_script.stem}",
        f"Reproduce {_script.stem} of {_script.parent.name}; -- --help shows the options.",
        functools.partial(reproduce, script=_script),
    )


@nox.session(name="check-tables")
def check_tables(session: nox.Session) -> None:
    """Run every table at the scale that a check affords, against its stored numbers."""
    install(session, *editable(*PACKAGES, extras="[plots]"))
    session.run("python", "reproductions/check_tables.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Time our steps and a peer's, interleaved in one run."""
    install(session, *editable(*PACKAGES, extras="[plots]"), groups=("bench",))
    for script in _scripts("benchmarks"):
        if not script.name.startswith("_"):
            session.run("python", str(script.relative_to(ROOT)), *session.posargs)


@nox.session
def report(session: nox.Session) -> None:
    """Write one page over all tables: what ran, at which scale, what matched."""
    install(session, *editable(extras="[plots]"))
    session.run("python", "-m", "retable.tables.report", *session.posargs)
