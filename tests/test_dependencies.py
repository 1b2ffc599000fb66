"""Distributions declare what they import, and import what they declare."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
DISTRIBUTIONS = sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))
DISTRIBUTIONS.append(ROOT / "shared")
MODULES = {
    "faster-coco-eval": "faster_coco_eval",
    "pillow": "PIL",
    "pydensecrf2": "pydensecrf",
    "pytest-xdist": "xdist",
    "scikit-image": "skimage",
    "scikit-learn": "sklearn",
}
"""Import names of distributions that have another name there."""
LIGHT = {"numpy", "PIL", "safetensors", "torch", "torchvision"}
"""Requirements of the core itself, which every method package installs."""


def modules_of(requirements: list[str]) -> set[str]:
    """Return the import names of requirements; ``retable[plots]`` counts as all of the core's."""
    found = set()
    for text in requirements:
        requirement = Requirement(text)
        found.add(MODULES.get(requirement.name, requirement.name))
        if requirement.name == "retable":
            extras = project(ROOT / "shared")["optional-dependencies"]
            for extra in requirement.extras:
                found |= modules_of(extras[extra])
    return found


def project(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    return found


def imports(folders: list[Path]) -> Iterator[str]:
    """Yield every foreign module that the files below some folders import, at any place."""
    own = {path.name.removesuffix(".py") for folder in folders for path in folder.rglob("*")}
    own |= {path.name for path in ROOT.glob("*/")}
    for path in sorted(path for folder in folders for path in folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            tops = {name.partition(".")[0] for name in names}
            yield from tops - own - sys.stdlib_module_names


@pytest.mark.parametrize("folder", DISTRIBUTIONS, ids=lambda folder: folder.name)
def test_a_distribution_declares_exactly_what_it_imports(folder: Path) -> None:
    declared = project(folder)
    extras = [
        name for group in declared.get("optional-dependencies", {}).values() for name in group
    ]
    imported = set(imports([folder / "src"]))
    assert imported <= modules_of(declared["dependencies"] + extras)
    assert modules_of(declared["dependencies"]) <= imported
    if folder.name == "shared":
        # `torch.utils.tensorboard` imports the one, of the other files are read.
        assert modules_of(extras) - {"tensorboard", "skimage"} <= imported


def test_the_core_needs_what_one_method_needs() -> None:
    assert modules_of(project(ROOT / "shared")["dependencies"]) == LIGHT


def test_tests_and_benchmarks_import_what_their_sessions_install() -> None:
    root = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    core = project(ROOT / "shared")
    installed = [name for group in root.values() for name in group] + core["dependencies"]
    installed += [name for extra in core["optional-dependencies"].values() for name in extra]
    packages = {path.parent.name for path in ROOT.glob("packages/*/pyproject.toml")}
    folders = [ROOT / "tests", ROOT / "benchmarks", ROOT / "shared" / "tests"]
    folders += ROOT.glob("packages/*/tests")
    assert set(imports(folders)) <= modules_of(installed) | packages | {"retable", "noxfile"}


@pytest.mark.parametrize("folder", DISTRIBUTIONS, ids=lambda folder: folder.name)
def test_a_distribution_has_the_licence_authors_and_addresses(folder: Path) -> None:
    found = project(folder)
    assert found["license-files"] == ["LICENSE"]
    assert (folder / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert found["authors"]
    assert all(address.startswith("https://") for address in found["urls"].values())
