"""What weights do not show is read from the file, named, or assumed and said.

Reference of all features: the network of plain PyTorch, torchvision or timm that the file is of.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from retable import cli
from retable.encoders import ResNetRecipe
from retable.errors import UserError
from retable.settings import fingerprint
from retable.train.recipe import InitialWeights
from retable.weights import assumption, export_encoder, load_encoder, save_encoder

ALL = {"stride": 2, "padding": 3, "pool": "max", "downsampling": "torchvision"}


def with_statistics(network: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.get_buffer("running_mean").normal_(0, 0.1, generator=generator)
                module.get_buffer("running_var").uniform_(0.5, 1.5, generator=generator)
    return network.eval()


def resnet(name: str = "resnet18", stem: nn.Conv2d | None = None, pool: bool = True) -> Any:
    """Build torchvision's network without classifier, perhaps with another stem."""
    torch.manual_seed(0)
    network = getattr(torchvision.models, name)()
    network.fc = nn.Identity()
    if stem is not None:
        network.conv1 = stem
    if not pool:
        network.maxpool = nn.Identity()
    return with_statistics(network)


def small(stride: int = 1, padding: int = 1) -> nn.Conv2d:
    torch.manual_seed(1)
    return nn.Conv2d(3, 64, 3, stride, padding, bias=False)


def below(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


def difference(network: nn.Module, spec: object) -> float:
    """Return the largest difference of features, relative to the largest feature."""
    images = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = load_encoder(str(spec)).encoder(images).flatten(1)
        theirs = network(images).flatten(1)
    return float((ours - theirs).abs().max() / theirs.abs().max())


def solo_learn(network: Any, prefix: str = "backbone.") -> dict[str, Any]:
    classifier = {"classifier.weight": torch.ones(10, 512)}
    return {"state_dict": below(prefix, network.state_dict()) | classifier}


@pytest.mark.parametrize("prefix", ["backbone.", "encoder."])
def test_the_padded_stem_of_solo_learn_is_taken_and_said(tmp_path: Path, prefix: str) -> None:
    network = resnet(stem=small(padding=2), pool=False)
    path = tmp_path / "w.pth"
    torch.save(solo_learn(network, prefix), path)
    assert difference(network, path) < 1e-5
    metadata = load_encoder(path).metadata
    assert metadata["assumed"]["padding"] == 2
    assert "as in files of solo-learn: stride=1, padding=2, pool=none" in assumption(metadata)


def test_a_named_padding_replaces_that_of_solo_learn(tmp_path: Path) -> None:
    network = resnet(stem=small(), pool=False)
    torch.save(solo_learn(network), tmp_path / "w.pth")
    assert difference(network, f"{tmp_path}/w.pth?padding=1") < 1e-5
    loaded = load_encoder(f"{tmp_path}/w.pth?padding=1")
    assert loaded.recipe == ResNetRecipe("resnet18", stem="small")
    assert "solo-learn" not in assumption(loaded.metadata)


@pytest.mark.parametrize(
    ("network", "query", "recipe"),
    [
        (lambda: resnet(stem=small(), pool=False), "", ResNetRecipe("resnet18", stem="small")),
        (
            lambda: resnet(stem=small(padding=2), pool=False),
            "?padding=2",
            ResNetRecipe("resnet18", stem="small", stem_padding=2),
        ),
        (
            lambda: resnet(stem=small(stride=2)),
            "?stride=2&pool=max",
            ResNetRecipe("resnet18", stem="small", stem_stride=2, stem_pool="max"),
        ),
        (
            lambda: resnet(stem=nn.Conv2d(3, 64, 7, 1, 3, bias=False)),
            "?stride=1",
            ResNetRecipe("resnet18", stem_stride=1),
        ),
        (lambda: resnet(pool=False), "?pool=none", ResNetRecipe("resnet18", stem_pool="none")),
        (resnet, "?stride=2&padding=3&pool=max", ResNetRecipe("resnet18")),
    ],
)
def test_a_named_stem_gives_the_features_of_its_network(
    tmp_path: Path, network: Callable[[], Any], query: str, recipe: ResNetRecipe
) -> None:
    reference = network()
    torch.save(reference.state_dict(), tmp_path / "w.pth")
    spec = f"{tmp_path}/w.pth{query}"
    assert difference(reference, spec) < 1e-5
    loaded = load_encoder(spec)
    assert loaded.recipe == recipe
    assert not loaded.metadata["assumed"].keys() & {
        part.split("=")[0] for part in query[1:].split("&")
    }


def test_strides_in_the_first_convolution_can_be_named(tmp_path: Path) -> None:
    """He et al.'s released networks and Detectron2's MSRA models stride in the 1x1 convolution."""
    network = resnet("resnet50")
    for stage in (network.layer2, network.layer3, network.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    assert difference(network, f"{tmp_path}/w.pth?downsampling=caffe") < 1e-5
    assert difference(network, f"{tmp_path}/w.pth") > 0.01


@pytest.mark.parametrize(
    ("left_out", "told"),
    [
        (("maxpool",), {"pool"}),
        (("relu", "maxpool"), {"pool"}),
        ((), set()),
    ],
)
def test_numbers_of_children_tell_what_stands_before_the_first_stage(
    tmp_path: Path, left_out: tuple[str, ...], told: set[str]
) -> None:
    children = resnet().named_children()
    sequence = nn.Sequential(*[m for n, m in children if n not in (*left_out, "fc")]).eval()
    torch.save(below("backbone.", sequence.state_dict()), tmp_path / "w.pth")
    assert difference(sequence, tmp_path / "w.pth") < 1e-5
    assert load_encoder(tmp_path / "w.pth").metadata["assumed"].keys() == ALL.keys() - told


def test_a_stand_in_for_pooling_can_be_named(tmp_path: Path) -> None:
    sequence = nn.Sequential(*list(resnet(pool=False).children())[:-1]).eval()
    torch.save(sequence.state_dict(), tmp_path / "w.pth")
    assert difference(sequence, f"{tmp_path}/w.pth?pool=none") < 1e-5


def test_group_norm_has_to_be_named(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = torchvision.models.resnet18(norm_layer=lambda c: nn.GroupNorm(c // 16, c))
    network.fc = nn.Identity()
    torch.save(network.eval().state_dict(), tmp_path / "w.pth")
    assert difference(network, f"{tmp_path}/w.pth?norm=group") < 1e-5
    with pytest.raises(UserError, match=r"no running statistics.*name FILE\?norm=group\."):
        load_encoder(tmp_path / "w.pth")


@pytest.mark.parametrize("name", ["resnetblur50", "resnetaa50", "resnetblur18"])
def test_an_anti_aliased_network_is_refused_where_the_file_names_it(
    tmp_path: Path, name: str
) -> None:
    """Its shapes are those of the plain network, so a file without names says what was assumed."""
    timm = pytest.importorskip("timm")
    state = timm.create_model(name, num_classes=0).state_dict()
    torch.save({"arch": name, "state_dict": state}, tmp_path / "named.pth")
    torch.save(state, tmp_path / f"{name}-84f4748f.pth")
    torch.save(state, tmp_path / "silent.pth")
    for file in ("named.pth", f"{name}-84f4748f.pth"):
        with pytest.raises(UserError, match=rf"{file}: .*got an anti-aliased one .*{name}"):
            load_encoder(tmp_path / file)
    said = assumption(load_encoder(tmp_path / "silent.pth").metadata)
    assert "downsampling=torchvision (strides as in torchvision's, without blur or dil" in said


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("resnet50d", "got a deep stem"),
        ("seresnet50", "got attention in its blocks"),
        ("resnext50_32x4d", "got 32 groups of channels"),
        ("wide_resnet50_2", "got bottlenecks of 128 channels instead of 64"),
        ("res2net50_26w_4s", "got split convolutions"),
        ("resnet50_gn", "no running statistics"),
        ("resnet26", r"got \(2, 2, 2, 2\) bottleneck blocks"),
    ],
)
def test_other_networks_of_timm_are_named(tmp_path: Path, name: str, sentence: str) -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        shapes = timm.create_model(name, num_classes=0).state_dict()
    state = {key: torch.zeros(()).expand(value.shape) for key, value in shapes.items()}
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(UserError, match=sentence):
        load_encoder(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("?paddin=2", r"must be one of stem, stride, padding, pool, relu, downsampling, norm, giv"),
        ("?padding=2&padding=1", r"given once, got 'padding'"),
        ("?padding", r"must have options such as padding=2&pool=none .*got 'padding'"),
        ("?padding=two", r"`padding` must be a whole number, got 'two'\."),
        ("?pool=mean", r"`pool` must be max or none, got 'mean'\."),
        ("?stride=0", r"stem_stride` must be at least 1, got 0"),
        ("?stem=small", r"`stem` must be imagenet for a first convolution of 7x7, got 'small'"),
        ("?downsampling=caffe", r"must be torchvision for a ResNet of basic blocks"),
    ],
)
def test_wrong_options_are_one_sentence(tmp_path: Path, query: str, sentence: str) -> None:
    recipe = ResNetRecipe("resnet18", width=0.0625)
    torch.save(recipe.build(0).state_dict(), tmp_path / "w.pth")
    with pytest.raises(UserError, match=sentence):
        load_encoder(f"{tmp_path}/w.pth{query}")


def test_options_go_with_the_name_of_one_of_several_networks(tmp_path: Path) -> None:
    a, b = (ResNetRecipe("resnet18", 0.0625).build(key).state_dict() for key in (1, 2))
    torch.save(below("a.", a) | below("b.", b), tmp_path / "two?.pth")
    for spec in ("two?.pth#b?pool=none", "two?.pth?pool=none#b"):
        loaded = load_encoder(tmp_path / spec)
        assert loaded.recipe.stem_pool == "none"  # type: ignore[attr-defined]
        assert loaded.encoder.state_dict()["conv1.weight"].equal(b["conv1.weight"])


def test_our_own_files_tell_everything_and_take_no_options(tmp_path: Path) -> None:
    recipe = ResNetRecipe("resnet18", 0.0625, stem="small", stem_padding=2, stem_relu=False)
    save_encoder(tmp_path / "own", recipe.build(rng_key=1), recipe, {})
    loaded = load_encoder(tmp_path / "own")
    assert loaded.recipe == recipe
    assert assumption(loaded.metadata) == ""
    with pytest.raises(UserError, match=r"own names its own recipe.*got padding\. Leave"):
        load_encoder(f"{tmp_path}/own?padding=1")


def test_options_are_part_of_the_weights_that_a_training_starts_from(tmp_path: Path) -> None:
    recipe = ResNetRecipe("resnet18", 0.0625)
    torch.save(recipe.build(0).state_dict(), tmp_path / "w.pth")
    named = InitialWeights.of(f"{tmp_path}/w.pth?pool=none")
    assert named.state(ResNetRecipe("resnet18", 0.0625, stem_pool="none"))
    with pytest.raises(UserError, match="no pooling"):
        named.state(recipe)
    assert fingerprint(named) != fingerprint(InitialWeights.of(f"{tmp_path}/w.pth"))


@pytest.mark.parametrize("as_json", [True, False])
def test_evaluate_says_once_what_was_assumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    torch.save(ResNetRecipe("resnet18", 0.0625).build(0).state_dict(), tmp_path / "w.pth")
    spec = f"{tmp_path}/w.pth?padding=3"
    data = ["--data", "shapes?count=32&test_count=100&size=32", "--protocol", "geometry"]
    arguments = ["evaluate", spec, *data, "--device", "cpu"]
    assert cli.main([*arguments, *(["--json"] if as_json else [])]) == 0
    printed = capsys.readouterr().out
    if as_json:
        metadata = json.loads(printed)["encoder"]["metadata"]
        assert metadata["assumed"] == {name: ALL[name] for name in ALL if name != "padding"}
    else:
        assert printed.count("assumed") == 1
        assert "does not tell: stride=2, pool=max, downsampling=torchvision" in printed


def test_an_export_says_what_was_assumed_and_needs_an_equal_stem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = resnet(stem=small(padding=2), pool=False)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    output = tmp_path / "out.pth"
    spec = f"{tmp_path}/w.pth?padding=2"
    assert cli.main(["export", spec, "--layout", "torchvision", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "small stem, stem padding 2 in the torchvision layout" in printed
    assert "assumed, since the file does not tell: stride=1, pool=none" in printed
    network.load_state_dict(torch.load(output, weights_only=True), strict=True)
    recipe = ResNetRecipe("resnet50", 0.0625, stem_pool="none")
    with pytest.raises(UserError, match=r"Detectron2 has no resnet50 .*no pooling"):
        export_encoder(recipe.build(0), recipe, "detectron2")
