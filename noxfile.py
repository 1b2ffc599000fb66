"""Sessions of this repository; ``nox --list`` shows them.

The noxfile discovers packages and tables from the folder layout: a folder ``packages/NAME`` makes
``tests-NAME``, and a script ``reproductions/NAME/TABLE.py`` with a reference ``TABLE.toml`` makes
``reproduce-NAME-TABLE``. Arguments after ``--`` go to the program that a session runs.

A session's environment is ``.nox/SESSION``, made by uv with the versions of ``constraints.txt``. It
is made once and again when what it holds has changed; otherwise nothing is installed, so that a
session also runs without a network. Delete the folder to make it from the beginning.
"""

from __future__ import annotations

import ast
import contextlib
import fcntl
import functools
import hashlib
import json
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import nox
from nox.virtualenv import UV

if sys.version_info < (3, 11):  # noqa: UP036 - whoever reads this line has nothing installed
    raise SystemExit(
        f"Retable needs Python 3.11 or newer, this nox runs on {sys.version.split()[0]}. "
        "Install nox with a newer Python."
    )

nox.needs_version = ">=2025.2"
# Environments are made below, not by nox: its second run of a session would delete the first's.
nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "tests"]

ROOT = Path(__file__).resolve().parent
ENVIRONMENTS = ROOT / ".nox"
CORE = "shared"
PACKAGES = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))
SCRIPTS = ("reproductions", "studies")
"""Folders of scripts that import each other by dotted names from the root."""
TABLES = sorted(
    path.relative_to(ROOT)
    for path in ROOT.glob("reproductions/*/*.py")
    if path.with_suffix(".toml").exists()
)
GROUPS = nox.project.load_toml("pyproject.toml")
CONSTRAINED = ("-c", "constraints.txt")
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""Two test processes with a thread each: more threads than cores only wait for each other."""


@contextlib.contextmanager
def environment(
    session: nox.Session,
    *what: str,
    groups: tuple[str, ...] = (),
    wheels: Sequence[str] = (),
    extras: str = "",
    lowest: bool = False,
) -> Iterator[Path]:
    """Run a block with the session's environment, which stays as it is until the block ends.

    Runs of one session share a lock on their environment. Making it takes the lock alone, and so
    waits until no other run uses it.

    Args:
        session: the session; its programs come from the environment.
        what: requirements, as ``uv pip install`` takes them.
        groups: dependency groups of the root.
        wheels: folders of distributions to build and install from wheels, the core first.
        extras: extras of the core where it is installed from a wheel, for instance "[train]".
        lowest: whether every requirement that is stated here has its lowest version, instead of
            that of ``constraints.txt``.
    """
    folder = ENVIRONMENTS / session.name
    wanted = [*what, *nox.project.dependency_groups(GROUPS, *groups)]
    stamp = folder / "retable-environment.json"
    content = _content(wanted, wheels)
    ENVIRONMENTS.mkdir(exist_ok=True)
    (ENVIRONMENTS / ".gitignore").write_text("*\n", encoding="utf-8")
    with open(ENVIRONMENTS / f"{session.name}.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        while not _is_made(folder, stamp, content):
            fcntl.flock(lock, fcntl.LOCK_UN)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is_made(folder, stamp, content):
                versions = ["--resolution", "lowest-direct"] if lowest else CONSTRAINED
                _make(session, folder, wanted, wheels, extras, versions)
                stamp.write_text(content, encoding="utf-8")
            fcntl.flock(lock, fcntl.LOCK_SH)
        session.env["VIRTUAL_ENV"] = str(folder)
        session.env["PATH"] = os.pathsep.join([str(folder / "bin"), os.environ["PATH"]])
        # uv installs sources alone. Where Python may not write what it compiles of them, each
        # process that a test starts would compile torch again, for ten seconds.
        session.env["PYTHONDONTWRITEBYTECODE"] = ""
        session.env["PYTHONPYCACHEPREFIX"] = str(folder / "pycache")
        yield folder


def _content(wanted: Sequence[str], wheels: Sequence[str]) -> str:
    """Describe all that an environment depends on."""
    # The groups of the root are among what is wanted; its settings of tools install nothing.
    settings = ["constraints.txt", "reproductions/pyproject.toml"]
    settings += [f"{folder}/pyproject.toml" for folder in (CORE, *_package_folders(PACKAGES))]
    files = [ROOT / name for name in settings if (ROOT / name).exists()]
    for folder in wheels:
        files += sorted(path for path in (ROOT / folder / "src").rglob("*") if _is_source(path))
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(ROOT)}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    content = {"wanted": [*wanted, *wheels], "python": sys.version, "files": digest.hexdigest()}
    return json.dumps(content | {"root": str(ROOT)})


def _is_source(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts


def _is_made(folder: Path, stamp: Path, content: str) -> bool:
    """Say whether the environment is there, with its Python, and holds what is wanted."""
    made = (folder / "bin" / "python").exists() and stamp.exists()
    return made and stamp.read_text(encoding="utf-8") == content


def _make(
    session: nox.Session,
    folder: Path,
    wanted: list[str],
    wheels: Sequence[str],
    extras: str,
    versions: Sequence[str],
) -> None:
    session.log(f"Making the environment {folder.relative_to(ROOT)}")
    shutil.rmtree(folder, ignore_errors=True)
    run_uv(session, "venv", "--quiet", "--python", sys.executable, str(folder))
    for source in wheels:
        place = str(folder / "wheels")
        run_uv(session, "build", "--quiet", "--wheel", "--out-dir", place, f"./{source}")
    for wheel in sorted((folder / "wheels").glob("*.whl")):
        core = wheel.name.startswith("retable-")
        wanted = [*wanted, f"retable{extras} @ {wheel.as_uri()}" if core else str(wheel)]
    python = str(folder / "bin" / "python")
    run_uv(session, "pip", "install", "--python", python, *versions, *wanted)


def run_uv(session: nox.Session, *words: str) -> None:
    session.run_install(UV, *words, external=True, silent=words[:2] == ("pip", "install"))


def run(
    session: nox.Session,
    folder: Path,
    program: str,
    *words: str,
    env: Mapping[str, str] | None = None,
    silent: bool = False,
) -> None:
    """Run a program of the environment ``folder``; ``silent`` shows its output if it fails."""
    session.run(str(folder / "bin" / program), *words, env=env, silent=silent, external=True)


def editable(*packages: str, extras: str = "") -> list[str]:
    """Return how to install the core, with extras, and packages so that edits count at once."""
    paths = [f"./{CORE}{extras}", *(f"./{folder}" for folder in _package_folders(packages))]
    return [word for path in paths for word in ("-e", path)]


def with_scripts(*packages: str, extras: str = "[train,plots,detection]") -> list[str]:
    """Return the same with the table scripts, which import each other from the root."""
    return [*editable(*packages, extras=extras), "-e", "./reproductions"]


def _package_folders(packages: Iterable[str]) -> list[str]:
    return [f"packages/{package}" for package in packages]


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format."""
    with environment(session, groups=("lint",)) as place:
        run(session, place, "ruff", "check", *session.posargs, ".")
        run(session, place, "ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check types, strictly."""
    wanted = with_scripts(*PACKAGES, extras="[train,plots,detection,tensorboard]")
    sources = [f"{folder}/src" for folder in (CORE, *_package_folders(PACKAGES))]
    checked = [CORE, "packages", "tests", "conftest.py", "noxfile.py", "benchmarks", *SCRIPTS]
    variables = {"MYPYPATH": os.pathsep.join(sources)}
    with environment(session, *wanted, groups=("types", "test")) as place:
        run(session, place, "mypy", *session.posargs, *checked, env=variables)


@nox.session
def tests(session: nox.Session) -> None:
    """Run all tests; options of pytest after --."""
    wanted = with_scripts(*PACKAGES, extras="[train,plots,detection,tensorboard]")
    with environment(session, *wanted, groups=("test",)) as place:
        words = ["-n", "2", "--dist", "worksteal", *session.posargs]
        run(session, place, "pytest", *words, env=ONE_THREAD)


@nox.session(name="tests-lowest")
def tests_lowest(session: nox.Session) -> None:
    """Run the quick tests with the lowest versions that the distributions declare."""
    wanted = with_scripts(*PACKAGES, extras="[train,plots,detection,tensorboard]")
    with environment(session, *wanted, groups=("test",), lowest=True) as place:
        words = ["-n", "2", "--dist", "worksteal", "-m", "not slow", *session.posargs]
        run(session, place, "pytest", *words, env=ONE_THREAD)


def tests_alone(session: nox.Session, package: str | None) -> None:
    """Check that wheels of a package, or of the core, hold all that they need.

    Nothing else of this repository can be imported. The doctests are those of the installed
    modules, the examples run, and of the tests those with the mark ``wheel``: all others have run
    in the session ``tests``. ``-- -m ''`` runs every test of the distribution.
    """
    sources = [CORE, *_package_folders([package] if package else [])]
    present = ["retable", *([package] if package else [])]
    absent = [other for other in PACKAGES if other != package]
    check = [str(ROOT / "tests" / "installed_alone.py"), str(ROOT), *present]
    with (
        environment(
            session, groups=("test",), wheels=sources, extras="[train,plots,detection,tensorboard]"
        ) as place,
        tempfile.TemporaryDirectory() as temporary,
        session.chdir(temporary),
    ):
        _copy_tests(Path(temporary), sources[-1])
        run(session, place, "python", *check, "--absent", *absent)
        for example in sorted(Path(sources[-1]).glob("examples/*.py")):
            run(session, place, "python", str(example), env=ONE_THREAD, silent=True)
        run(session, place, "pytest", "-q", "--pyargs", present[-1], env=ONE_THREAD)
        words = ["pytest", "-m", "wheel", *session.posargs, f"{sources[-1]}/tests"]
        run(session, place, *words, env=ONE_THREAD)


def _copy_tests(place: Path, source: str) -> None:
    """Copy a distribution without its source, and the reference files that its tests read."""
    shutil.copytree(ROOT / source, place / source, ignore=shutil.ignore_patterns("src", "__py*__"))
    for reference in ROOT.glob("reproductions/*/*.toml"):
        target = place / reference.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(reference, target)
    shutil.copy(ROOT / "pyproject.toml", place)


def make_session(name: str, description: str, job: Callable[[nox.Session], None]) -> None:
    """Register a session for a package or a table."""

    def run_job(session: nox.Session) -> None:
        job(session)

    run_job.__doc__ = description
    nox.session(name=name)(run_job)


make_session(
    "tests-core",
    "Check the wheel of the core, alone: imports, doctests, examples, tests with the mark wheel.",
    functools.partial(tests_alone, package=None),
)
for _package in PACKAGES:
    make_session(
        f"tests-{_package}",
        f"Check the wheels of {_package} and the core, alone.",
        functools.partial(tests_alone, package=_package),
    )


def reproduce(session: nox.Session, script: Path) -> None:
    """Reproduce a table: the script's options after --, among them --help."""
    with environment(session, *with_scripts(*needed_packages(script))) as place:
        run(session, place, "python", str(script), *session.posargs)


def needed_packages(script: Path) -> list[str]:
    """Return the packages that a script imports, itself or through other scripts.

    Args:
        script: relative to the root, as are the scripts that it imports by their dotted names,
            for instance ``reproductions.mochi.recipes``.
    """
    names, unread = set(), [script]
    seen = {script}
    while unread:
        for name in _imported(unread.pop()):
            top, *rest = name.split(".")
            names.add(top)
            if top not in SCRIPTS or not rest:
                continue
            other = Path(top, *rest).with_suffix(".py")
            if (ROOT / other).exists() and other not in seen:
                seen.add(other)
                unread.append(other)
    return [package for package in PACKAGES if package in names]


def _imported(script: Path) -> Iterator[str]:
    """Yield the dotted names of imported modules, and what is imported from them."""
    for node in ast.walk(ast.parse((ROOT / script).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


for _script in TABLES:
    make_session(
        f"reproduce-{_script.parent.name}-{_script.stem}",
        f"Reproduce {_script.stem} of {_script.parent.name}; -- --help shows the options.",
        functools.partial(reproduce, script=_script),
    )


@nox.session(name="check-tables")
def check_tables(session: nox.Session) -> None:
    """Train the rows that recorded tables name for the check and compare them; -- --full: all."""
    with environment(session, *with_scripts(*PACKAGES)) as place:
        run(session, place, "python", "reproductions/check_tables.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Time our steps and a peer's, interleaved in one run."""
    wanted = editable(*PACKAGES, extras="[train,plots]")
    with environment(session, *wanted, groups=("bench",)) as place:
        for script in sorted((ROOT / "benchmarks").glob("[!_]*.py")):
            run(session, place, "python", str(script.relative_to(ROOT)), *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """Build wheels and source archives of a release into dist/; each must have its licence."""
    folder = ROOT / "dist"
    shutil.rmtree(folder, ignore_errors=True)
    for source in (CORE, *_package_folders(PACKAGES)):
        run_uv(session, "build", "--quiet", "--out-dir", str(folder), f"./{source}")
    wheels = sorted(folder.glob("*.whl"))
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as content:
            names = content.namelist()
        if not any(name.endswith(".dist-info/licenses/LICENSE") for name in names):
            session.error(f"{wheel.name} has no licence: name it under license-files.")
    session.log(f"{len(wheels)} wheels and their sources in dist/")


@nox.session
def report(session: nox.Session) -> None:
    """Write one page over all tables: what ran, at which scale, what matched."""
    with environment(session, *editable(extras="[train,plots]")) as place:
        run(session, place, "python", "-m", "retable.tables.report", *session.posargs)
