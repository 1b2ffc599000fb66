"""Imports point one way: studies -> reproductions -> packages -> core, and down inside the core."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = ROOT / "shared" / "src" / "retable"
PACKAGES = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))

# From the ground up; a module may import from its own line and from lines above it. Weights stand
# below the loop, which saves encoders, and need nothing but the encoders themselves.
ORDER = (
    "errors text extras code",
    "exit_status crashes stopping",
    "domains outputs variables files random distributed precision processes settings devices",
    "progress nn",
    "encoders",
    "weights views",
    "data",
    "methods",
    "train",
    "evaluate",
    "plots",
    "tables",
    "reproduce",
    "cli",
)
LINE = {module: number for number, line in enumerate(ORDER) for module in line.split()}
FREE = {"__init__", "testing"}
"""`testing` has tools for tests; nothing in the core may import it."""

HEAVY = (
    "torchvision",
    "datasets",
    "accelerate",
    "matplotlib",
    "safetensors",
    "PIL",
    "tqdm",
    "scipy",
    "pyarrow",
    "tensorboard",
)


def imported(path: Path) -> Iterator[tuple[str, ...]]:
    """Yield every imported dotted name of a file, wherever the statement stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield tuple(alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports by a relative name"
            assert node.module is not None
            for alias in node.names:
                yield (*node.module.split("."), alias.name)


def core_module(path: Path) -> str:
    return path.relative_to(CORE).parts[0].removesuffix(".py")


def sources(folder: Path) -> list[Path]:
    found = sorted(folder.rglob("*.py"))
    assert found
    return found


def test_every_module_of_the_core_has_its_line() -> None:
    modules = {core_module(path) for path in sources(CORE)}
    assert modules - FREE == LINE.keys()


def test_nothing_in_the_core_imports_upwards() -> None:
    upwards = []
    for path in sources(CORE):
        own = core_module(path)
        for name in imported(path):
            if name[0] != "retable" or own in FREE or name[1:] == ("__version__",):
                continue
            other = name[1]
            if other in FREE or (other != own and LINE[other] > LINE[own]):
                upwards.append(f"{path.relative_to(CORE)} imports {'.'.join(name)}")
    assert upwards == []


def test_the_core_imports_no_package() -> None:
    tops = {name[0] for path in sources(CORE) for name in imported(path)}
    assert tops.isdisjoint(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_no_other_package_and_no_script(package: str) -> None:
    others = {*PACKAGES, "reproductions", "studies"} - {package}
    tops = {name[0] for path in sources(ROOT / "packages" / package) for name in imported(path)}
    assert tops.isdisjoint(others)


def test_the_core_imports_no_script() -> None:
    tops = {name[0] for path in sources(CORE) for name in imported(path)}
    assert tops.isdisjoint({"reproductions", "studies"})


def test_reproductions_import_no_study() -> None:
    tops = {name[0] for path in sources(ROOT / "reproductions") for name in imported(path)}
    assert "studies" not in tops
    assert {"retable", "reproductions"} <= tops


@pytest.mark.parametrize("folder", ["reproductions", "studies"])
def test_scripts_import_their_neighbours_by_dotted_names(folder: str) -> None:
    bare = [
        f"{path.relative_to(ROOT)} imports {'.'.join(name)}"
        for path in sources(ROOT / folder)
        for name in imported(path)
        if path.with_name(f"{name[0]}.py").exists()
    ]
    assert bare == []


def test_scripts_do_not_hide_the_packages_of_the_same_names() -> None:
    """A script in ``reproductions`` that is run by its path has that folder first on the path."""
    program = f"""
import sys
sys.path.insert(0, {str(ROOT / "reproductions")!r})
import reproductions.mochi
import mochi
print(mochi.MoCHiRecipe.__name__)
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ended.stdout.split() == ["MoCHiRecipe"]


@pytest.mark.parametrize("package", ["retable", *PACKAGES])
def test_importing_all_of_a_package_loads_nothing_heavy_beside_torch(package: str) -> None:
    program = f"""
import importlib, pkgutil, sys
import torch
torch_loads = set(sys.modules)
package = importlib.import_module({package!r})
for module in pkgutil.walk_packages(package.__path__, {package + "."!r}):
    if ".detection.networks." not in module.name:  # subclasses of torchvision's parts
        importlib.import_module(module.name)
loaded = {{name.partition(".")[0] for name in set(sys.modules) - torch_loads}}
print(*sorted(loaded & set({HEAVY!r})))
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ended.stdout.split() == []


def test_the_environment_check_sees_what_does_not_belong() -> None:
    script = ROOT / "tests" / "installed_alone.py"
    command = [sys.executable, str(script), str(ROOT), "torch", "no_such_module"]
    ended = subprocess.run(
        [*command, "--absent", "ast", "no_other_module"], capture_output=True, text=True
    )
    assert ended.returncode == 1
    assert ended.stdout.splitlines()[:2] == [
        "no_such_module cannot be imported",
        "ast can be imported",
    ]
