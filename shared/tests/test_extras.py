"""A missing optional dependency is one sentence with a command that installs it."""

import importlib.metadata
import importlib.util
import subprocess
import sys

import pytest
import torch

from retable import extras, progress
from retable.cli import main
from retable.data.sources import open_source
from retable.errors import UserError

MISSING = {"accelerate": "train", "datasets": "train", "tqdm": "train", "matplotlib": "plots"}


@pytest.mark.parametrize("module", MISSING)
def test_a_missing_module_is_named_with_its_extra(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=r"^A picture needs ") as caught:
        extras.require(module, MISSING[module], "A picture")
    said = str(caught.value)
    assert f"A picture needs {module}, which is not installed. Run `" in said
    assert said.endswith(f"(the extra `{MISSING[module]}` of retable).")


def test_an_installed_module_is_no_error() -> None:
    extras.require("torch", "train", "Training")


@pytest.mark.parametrize(("pip", "words"), [(True, "-m pip install"), (False, "uv pip install")])
def test_the_command_installs_into_this_environment(
    pip: bool, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if pip else None)
    command = extras.install_command("train", "scipy")
    assert words in command
    assert sys.executable in command


def test_the_command_names_all_packages_of_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = ["torch>=2", "tqdm>=4; extra == 'train'", 'scipy; extra == "train"', "x; extra=='y'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: declared)
    assert extras.requirements("train") == ["tqdm>=4", "scipy"]
    assert extras.install_command("train", "scipy").endswith("'tqdm>=4' 'scipy'")


def test_without_metadata_the_command_names_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", unknown)
    assert extras.requirements("train") == []
    assert extras.install_command("train", "scipy").endswith(" 'scipy'")


def test_a_progress_bar_without_tqdm_is_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(UserError, match="needs tqdm, which is not installed"):
        progress.bar(3, "steps")


def test_the_command_line_ends_with_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    words = ["evaluate", "untrained:small_resnet8", "--protocol", "knn", "--data", "hf:any/name"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "needs datasets, which is not installed. Run `" in said
    assert said.count("\n") == 1


def test_without_the_extras_all_can_be_imported_and_the_core_computes() -> None:
    hidden = ("accelerate", "datasets", "matplotlib", "pyarrow", "scipy", "tensorboard", "tqdm")
    program = f"""
import importlib, pkgutil, sys
sys.modules.update(dict.fromkeys({hidden!r}))
import retable
for module in pkgutil.walk_packages(retable.__path__, "retable."):
    if module.name != "retable.cli.__main__":
        importlib.import_module(module.name)
import torch
from retable.encoders import ResNetRecipe
assert ResNetRecipe("small_resnet8").build(0)(torch.zeros(2, 3, 32, 32)).isfinite().all()
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def installed() -> importlib.metadata.Distribution | None:
    try:
        return importlib.metadata.distribution("retable")
    except importlib.metadata.PackageNotFoundError:
        return None


@pytest.mark.wheel
@pytest.mark.skipif(installed() is None, reason="retable is on the import path only")
class TestDistribution:
    """What the installed distribution holds."""

    def test_every_extra_has_its_packages(self) -> None:
        assert [
            extras.requirements(name)[0][:10] for name in ("train", "plots", "tensorboard")
        ] == [
            "accelerate",
            "matplotlib",
            "tensorboar",
        ]

    def test_the_licence_is_in_it(self) -> None:
        found = installed()
        assert found is not None
        (licence,) = (path for path in found.files or [] if path.name == "LICENSE")
        assert "Apache License" in licence.read_text()

    def test_the_command_is_installed(self) -> None:
        (entry,) = importlib.metadata.entry_points(group="console_scripts", name="retable")
        assert entry.load() is main


@pytest.mark.wheel
def test_the_class_lists_are_installed() -> None:
    from retable.data.subsets import imagenet100_ids

    assert len(imagenet100_ids()) == 100


@pytest.mark.wheel
def test_the_built_in_images_are_drawn() -> None:
    image = open_source("shapes?count=4", "train").image(0)
    assert image.dtype == torch.uint8
    assert image.float().std() > 1
