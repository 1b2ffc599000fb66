"""Exported weights load strictly in the other program and give equal features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from retable.encoders import ResNetRecipe
from retable.encoders.resnet import DEPTHS
from retable.errors import UserError
from retable.weights import Layout, export_encoder, load_encoder, save_export
from retable.weights.architecture import recognise
from retable.weights.key_layouts import find_encoder, to_detectron2, to_torchvision

TINY = ResNetRecipe("resnet18", width=0.0625)


def trained(recipe: ResNetRecipe) -> tuple[nn.Module, Tensor, Tensor]:
    """Return an encoder with statistics other than the fresh ones, images and their features."""
    encoder = recipe.build(rng_key=1)
    images = torch.linspace(-99, 99, 2 * 3 * 40 * 40).sin().view(2, 3, 40, 40)
    with torch.no_grad():
        encoder.train()(images)
        features = encoder.eval()(images)
    return encoder, images, features


def with_small_stem(network: Any) -> Any:
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


@pytest.mark.parametrize(("name", "stem"), [("resnet18", "small"), ("resnet50", "imagenet")])
def test_torchvision_loads_strictly_with_equal_features(name: str, stem: str) -> None:
    """Reference: torchvision's network."""
    import torchvision

    recipe = ResNetRecipe(name, stem=stem)  # type: ignore[arg-type]
    encoder, images, features = trained(recipe)
    network = getattr(torchvision.models, name)()
    network.fc = nn.Identity()
    if stem == "small":
        with_small_stem(network)
    network.load_state_dict(export_encoder(encoder, recipe, "torchvision"), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(images), features)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_timm_loads_strictly_with_equal_features(name: str) -> None:
    """Reference: timm's network."""
    timm = pytest.importorskip("timm")
    recipe = ResNetRecipe(name)
    encoder, images, features = trained(recipe)
    network = timm.create_model(name, num_classes=0)
    network.load_state_dict(export_encoder(encoder, recipe, "timm"), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(images), features)
    back = find_encoder(network.state_dict())
    assert recognise(back.state) == recipe
    assert all(back.state[name].equal(value) for name, value in encoder.state_dict().items())


@pytest.mark.parametrize("name", ["resnet101", "resnet152", "resnet200"])
def test_deeper_networks_have_the_names_of_timm(name: str) -> None:
    """Reference: timm's networks, which go to ResNet-200."""
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        expected = timm.create_model(name, num_classes=0).state_dict()
        ours = ResNetRecipe(name).build(rng_key=0).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in expected.items()}


@pytest.mark.parametrize(
    ("ours", "detectron2"),
    [
        ("conv1.weight", "stem.conv1.weight"),
        ("bn1.running_mean", "stem.conv1.norm.running_mean"),
        ("layer1.0.conv1.weight", "res2.0.conv1.weight"),
        ("layer2.3.bn3.bias", "res3.3.conv3.norm.bias"),
        ("layer3.5.conv2.weight", "res4.5.conv2.weight"),
        ("layer4.0.downsample.0.weight", "res5.0.shortcut.weight"),
        ("layer4.0.downsample.1.running_var", "res5.0.shortcut.norm.running_var"),
    ],
)
def test_detectron2_names(ours: str, detectron2: str) -> None:
    """Reference: the renaming rules of MoCo's conversion script, applied by hand."""
    assert to_detectron2(ours) == detectron2


@pytest.mark.parametrize("name", DEPTHS)
def test_detectron2_names_translate_back_and_never_meet(name: str) -> None:
    with torch.device("meta"):
        names = list(ResNetRecipe(name).build(rng_key=0).state_dict())
    translated = [to_detectron2(each) for each in names]
    assert [to_torchvision(each, "detectron2") for each in translated] == names
    assert len(set(translated)) == len(names)


def test_detectron2_file_is_what_its_checkpointer_reads(tmp_path: Path) -> None:
    """Reference: DetectionCheckpointer takes ``model`` and matches names by their ends."""
    encoder = TINY.build(rng_key=1)
    save_export(tmp_path / "out.pth", encoder, TINY, "detectron2")
    content = torch.load(tmp_path / "out.pth", weights_only=True)
    assert content["matching_heuristics"] is True
    assert content["model"]["stem.conv1.weight"].equal(encoder.state_dict()["conv1.weight"])


@pytest.mark.parametrize(
    ("layout", "ending", "stem"),
    [
        ("torchvision", ".pth", "imagenet"),
        ("torchvision", ".safetensors", "small"),
        ("timm", ".safetensors", "imagenet"),
        ("timm", ".pth", "small"),
        ("detectron2", ".pth", "imagenet"),
    ],
)
def test_every_export_is_imported_again_to_the_bit(
    tmp_path: Path, layout: Layout, ending: str, stem: str
) -> None:
    recipe = ResNetRecipe("resnet50", width=0.0625, stem=stem)  # type: ignore[arg-type]
    encoder, _, _ = trained(recipe)
    save_export(tmp_path / f"out{ending}", encoder, recipe, layout)
    loaded, loaded_recipe, _ = load_encoder(tmp_path / f"out{ending}")
    state = loaded.state_dict()
    assert all(state[name].equal(value) for name, value in encoder.state_dict().items())
    assert loaded_recipe == recipe


def test_exported_tensors_are_copies() -> None:
    encoder = TINY.build(rng_key=1)
    before = encoder.state_dict()["conv1.weight"].clone()
    export_encoder(encoder, TINY, "torchvision")["conv1.weight"].zero_()
    assert encoder.state_dict()["conv1.weight"].equal(before)


@pytest.mark.parametrize(
    ("recipe", "layout", "sentence"),
    [
        (
            ResNetRecipe("small_resnet8"),
            "timm",
            r"must be resnet18 to resnet200 .*, got a small_resnet8",
        ),
        (
            ResNetRecipe("resnet18", width=0.0625, stem="small"),
            "detectron2",
            r"Detectron2 has no resnet18 .*small stem",
        ),
        (ResNetRecipe("resnet200", width=0.0625), "detectron2", r"Detectron2 has no resnet200"),
        (
            ResNetRecipe("resnet18", 0.0625, norm="group"),
            "detectron2",
            r"Detectron2 .* group norm",
        ),
        (TINY, "keras", r"must be one of torchvision, timm, detectron2, got 'keras'\."),
    ],
)
def test_networks_that_the_other_program_lacks_are_refused(
    recipe: ResNetRecipe, layout: Any, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        export_encoder(recipe.build(rng_key=0), recipe, layout)


@pytest.mark.parametrize(
    ("name", "layout"),
    [("out.pkl", "torchvision"), ("out", "timm"), ("out.safetensors", "detectron2")],
)
def test_endings_that_the_other_program_does_not_open_are_refused(
    tmp_path: Path, name: str, layout: Layout
) -> None:
    with pytest.raises(UserError, match=rf"in the {layout} layout must end in \."):
        save_export(tmp_path / name, TINY.build(rng_key=0), TINY, layout)
    assert list(tmp_path.iterdir()) == []
