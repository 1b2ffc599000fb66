"""The encoders keep the core's contract: taps, files, evaluation, estimates."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from retable import cli, random, views
from retable.encoders import EncoderRecipe
from retable.errors import UserError
from retable.evaluate.frozen import freeze
from retable.methods import SupervisedRecipe
from retable.testing import check_encoder
from retable.train.cost import forward_flops
from retable.train.memory import training_memory
from retable.train.optim import OptimizerRecipe
from retable.train.recipe import PretrainRecipe
from retable.train.shape_inference import shapes_only
from retable.weights import export_encoder, load_encoder, save_encoder
from revisiting_ssl.encoders import ResidualRecipe, VggRecipe

torch.set_num_threads(1)

TINY: dict[str, Any] = {"units": (1, 2, 1, 1), "bottleneck": False, "widening": 1}
VGG = VggRecipe(1, (1, 1, 2, 1, 1), (True, True, True, True, False), fc_kernel=2)
RECIPES: dict[str, EncoderRecipe] = {
    "v1": ResidualRecipe("v1", units=(1, 1, 1, 1), widening=1),
    "v2": ResidualRecipe("v2", last_relu=False, **TINY),
    "no skip": ResidualRecipe("v2", (1, 1, 1), False, 1, (1, 2, 1), 3, 1, False, skip=False),
    "reversible": ResidualRecipe("reversible", root_stride=1, **TINY),
    "recomputing": ResidualRecipe("reversible", reversible_backward=True, **TINY),
    "vgg": VGG,
}
each_encoder = pytest.mark.parametrize("name", RECIPES)


def with_statistics(encoder: nn.Module) -> nn.Module:
    """Give batch norms other statistics and scales than the initial ones."""
    for position, module in enumerate(encoder.modules()):
        if isinstance(module, nn.BatchNorm2d):
            draws = random.uniform(position, torch.arange(4 * module.num_features)).view(4, -1)
            module.weight.data, module.bias.data = draws[0] + 0.5, draws[1] - 0.5
            module.running_mean, module.running_var = draws[2] - 0.5, draws[3] + 0.5
    return encoder


@each_encoder
def test_an_encoder_keeps_the_contract_of_the_core(name: str) -> None:
    check_encoder(RECIPES[name])


@each_encoder
def test_an_encoder_file_gives_back_encoder_and_recipe(tmp_path: Path, name: str) -> None:
    recipe = RECIPES[name]
    encoder = with_statistics(recipe.build(rng_key=1)).eval()
    save_encoder(tmp_path / "file", encoder, recipe, {"method": "rotation"})
    loaded, loaded_recipe, metadata = load_encoder(tmp_path / "file")
    assert (loaded_recipe, metadata) == (recipe, {"method": "rotation"})
    images = torch.linspace(-9, 9, 3 * 3 * 32 * 32).sin().view(3, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(images), encoder(images))


def test_files_name_the_kinds_that_earlier_versions_wrote(tmp_path: Path) -> None:
    from safetensors import safe_open

    for name, kind in (("v1", "ResidualRecipe"), ("vgg", "VggRecipe")):
        recipe = RECIPES[name]
        save_encoder(tmp_path / "file", recipe.build(rng_key=1), recipe, {})
        with safe_open(tmp_path / "file", framework="pt") as file:
            assert json.loads(file.metadata()["retable"])["kind"] == kind


def test_encoders_that_differ_in_a_relu_are_distinguished_by_their_recipe(tmp_path: Path) -> None:
    for last_relu in (True, False):
        recipe = ResidualRecipe("v2", (1, 1, 1, 1), widening=1, last_relu=last_relu)
        save_encoder(tmp_path / str(last_relu), recipe.build(rng_key=1), recipe, {})
    plain, minus = (load_encoder(tmp_path / name).encoder for name in ("True", "False"))
    assert all(
        torch.equal(value, minus.state_dict()[name]) for name, value in plain.state_dict().items()
    )
    images = torch.linspace(-9, 9, 2 * 3 * 32 * 32).sin().view(2, 3, 32, 32)
    with torch.no_grad():
        assert (plain(images) >= 0).all()
        assert (minus(images) < 0).any()


def test_labels_are_the_names_of_the_papers_tables(tmp_path: Path) -> None:
    labels = {name: recipe.label for name, recipe in RECIPES.items()}
    assert labels["v2"].startswith(
        "ResNet12 v2 (-) 1x with a 7x7/2 root, pooling and block strides 1,"
    )
    assert labels["no skip"].startswith(
        "ResNet8 v2 1x without skip connections with a 3x3/1 root, no pool"
    )
    assert labels["reversible"].startswith("RevNet12 1x with a 7x7/1 root")
    assert labels["vgg"].startswith("VGG9-BN 1x for 2x2 maps")
    assert ResidualRecipe("v1", widening=12).label.startswith("ResNet50 v1 12x ")
    assert ResidualRecipe("v2", (2, 2, 2, 2), False).label.startswith("ResNet18 v2 4x ")
    with pytest.raises(UserError, match=r"not a VGG19-BN 8x .*block1\.1\.0\.weight"):
        save_encoder(tmp_path / "file", VGG.build(1), VggRecipe(), {})
    for name in ("v1", "vgg"):
        with pytest.raises(UserError, match=r"got a (ResNet14 v1|VGG9-BN) 1x "):
            export_encoder(RECIPES[name].build(1), RECIPES[name], "torchvision")


@each_encoder
def test_taps_of_the_frozen_copy_are_those_of_the_encoder_in_eval_mode(name: str) -> None:
    encoder: Any = with_statistics(RECIPES[name].build(rng_key=0)).eval()
    images = random.normal(0, torch.arange(2 * 3 * 32 * 32)).view(2, 3, 32, 32)
    found = freeze(encoder, "cpu").taps(images, encoder.tap_names)
    for tap in encoder.tap_names:
        with torch.no_grad():
            expected = encoder.taps(images, (tap,))[tap]
        scale = float(expected.abs().max())
        torch.testing.assert_close(found[tap], expected, rtol=0, atol=1e-5 * scale)


def test_the_command_evaluates_an_encoder_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = ResidualRecipe("reversible", (1, 1, 1, 1), False, 1, root_pool=False)
    save_encoder(tmp_path / "encoder.safetensors", recipe.build(rng_key=0), recipe, {})
    data = "shapes?count=40&test_count=20&size=16&classes=4"
    options = ["--protocol", "knn", "--set", "k=5", "--data", data, "--size", "16", "--json"]
    assert cli.main(["evaluate", str(tmp_path), *options]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["encoder"]["name"].startswith("RevNet10 1x with a 7x7/2 root")
    assert report["encoder"]["recipe"]["kind"] == "ResidualRecipe"
    assert 0 <= report["results"]["top1"] <= 100


@pytest.mark.parametrize(
    ("recipe", "multiply_adds"),
    [
        (ResidualRecipe("v1", widening=16), 16 * 4.09e9),  # of ResNet-50, torchvision
        (VggRecipe(widening=32), 16 * 19.6e9),  # of VGG-19, torchvision
    ],
    ids=["resnet", "vgg"],
)
def test_wide_encoders_are_counted_without_running_them(
    recipe: EncoderRecipe, multiply_adds: float
) -> None:
    with shapes_only():
        flops = forward_flops(recipe.build(0), 224)
    assert flops == pytest.approx(2 * multiply_adds, rel=0.08)


def test_a_reversible_backward_pass_is_estimated_to_take_less_memory() -> None:
    plain = ResidualRecipe("reversible", widening=1)
    view, optimizer = views.crop_and_flip(64), OptimizerRecipe()
    kept, recomputed = (
        training_memory(
            PretrainRecipe(SupervisedRecipe(4), "shapes", (view,), encoder, optimizer, 1, 64), 64
        )
        for encoder in (plain, replace(plain, reversible_backward=True))
    )
    assert recomputed < 0.4 * kept


def test_importing_the_package_registers_its_encoders() -> None:
    program = (
        "import sys\n"
        "import revisiting_ssl\n"
        "from retable.encoders.registry import recipe_class\n"
        "print(recipe_class('VggRecipe').__module__, recipe_class('ResidualRecipe').__module__)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ended.stdout.split() == [
        "revisiting_ssl.encoders.vgg",
        "revisiting_ssl.encoders.residual",
    ]


def test_the_package_declares_its_encoders_to_the_core() -> None:
    import tomllib

    path = Path(__file__).parents[1] / "pyproject.toml"
    if not path.exists():
        pytest.skip("an installed copy has no pyproject.toml")
    declared = tomllib.loads(path.read_text())["project"]["entry-points"]["retable.encoders"]
    assert declared == {
        name: f"revisiting_ssl.encoders:{name}" for name in ("ResidualRecipe", "VggRecipe")
    }
