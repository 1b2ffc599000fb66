"""Encoders of other programs are found in their files, told from copies and heads, and complete.

The key names are those that each program writes, as in the repository named at each case.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from retable.encoders import ResNetRecipe
from retable.encoders.resnet import DEPTHS
from retable.errors import UserError
from retable.weights import load_encoder
from retable.weights.architecture import recognise
from retable.weights.key_layouts import find_encoder

State = dict[str, Tensor]
RECIPE = ResNetRecipe("resnet18", width=0.0625)


def network(rng_key: int = 1, recipe: ResNetRecipe = RECIPE) -> State:
    """A state in which no two tensors are alike, so that no mix-up goes unseen."""
    state = recipe.build(rng_key).state_dict()
    for counter, (name, value) in enumerate(state.items()):
        if name.endswith("num_batches_tracked"):
            value.fill_(counter)
        elif value.dim() == 1:
            value.copy_(torch.arange(1, value.numel() + 1) / value.numel() + counter + rng_key)
    return state


def below(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {prefix + name: value for name, value in state.items()}


def children(state: State, first: int) -> State:
    """Names of ``nn.Sequential(*resnet.children())``; layer1 is child number ``first``."""
    numbers = {"conv1": "0", "bn1": "1"} | {f"layer{i + 1}": str(first + i) for i in range(4)}
    renamed = {}
    for name, value in state.items():
        start, _, end = name.partition(".")
        renamed[f"{numbers[start]}.{end}"] = value
    return renamed


HEAD = {"0.weight": torch.ones(4, 32), "0.bias": torch.ones(4), "2.weight": torch.ones(2, 4)}
NORM = {"1.weight": torch.ones(4), "1.running_mean": torch.ones(4)}
OPTIMIZER = {
    "state": {0: {"momentum_buffer": torch.ones(4, 3, 7, 7)}},
    "param_groups": [{"lr": 0.03, "params": [0]}],
}


def moco(online: State, copy: State) -> Any:
    """facebookresearch/moco, main_moco.py and moco/builder.py."""
    queries = below("module.encoder_q.", online) | below("module.encoder_q.fc.", HEAD)
    keys = below("module.encoder_k.", copy) | below("module.encoder_k.fc.", HEAD)
    queue = {"module.queue": torch.ones(2, 8), "module.queue_ptr": torch.zeros(1).long()}
    return {
        "epoch": 200,
        "arch": "resnet50",
        "state_dict": queries | keys | queue,
        "optimizer": OPTIMIZER,
    }


def moco_v3(online: State, copy: State) -> Any:
    """facebookresearch/moco-v3, moco/builder.py; arguments saved beside."""
    return {
        "state_dict": below("module.base_encoder.", online)
        | below("module.momentum_encoder.", copy)
        | below("module.predictor.", HEAD),
        "args": argparse.Namespace(arch="resnet50", lr=0.6),
        "best_acc1": numpy.float64(12.5),
    }


def swav(online: State, copy: State) -> Any:
    """facebookresearch/swav, the published swav_800ep_pretrain.pth.tar."""
    return (
        below("module.", online)
        | below("module.projection_head.", HEAD | NORM)
        | {"module.prototypes.weight": torch.ones(3, 2)}
    )


def dino(online: State, copy: State) -> Any:
    """facebookresearch/dino, main_dino.py: the teacher is what is evaluated."""
    return {
        "student": below("module.backbone.", copy) | below("module.head.mlp.", HEAD),
        "teacher": below("backbone.", online) | below("head.mlp.", HEAD),
        "args": argparse.Namespace(arch="resnet50"),
        "optimizer": OPTIMIZER,
    }


def byol(online: State, copy: State) -> Any:
    """lucidrains/byol-pytorch: the network is registered under two names."""
    return (
        below("net.", online)
        | below("online_encoder.net.", online)
        | below("online_encoder.projector.", HEAD)
        | below("target_encoder.net.", copy)
        | below("online_predictor.net.", HEAD)
    )


def barlow_twins(online: State, copy: State) -> Any:
    """facebookresearch/barlowtwins: the published resnet50.pth is torchvision's state dict."""
    return online | below("fc.", {"weight": torch.ones(5, 32), "bias": torch.ones(5)})


def solo_learn(online: State, copy: State) -> Any:
    """vturrisi/solo-learn, solo/methods/mocov2plus.py, a Lightning checkpoint."""
    return {
        "state_dict": below("backbone.", online)
        | below("momentum_backbone.", copy)
        | below("projector.", HEAD)
        | below("momentum_projector.", HEAD)
        | below("classifier.", {"weight": torch.ones(5, 32)})
        | {"queue": torch.ones(2, 2, 8)},
        "optimizer_states": [OPTIMIZER],
        "pytorch-lightning_version": "2.1",
    }


def lightly(online: State, copy: State) -> Any:
    """lightly-ai/lightly, examples/pytorch/moco.py: children of torchvision's network."""
    return (
        below("backbone.", children(online, 4))
        | below("backbone_momentum.", children(copy, 4))
        | below("projection_head.layers.", HEAD)
        | below("projection_head_momentum.layers.", HEAD)
    )


def lightly_generator(online: State, copy: State) -> Any:
    """lightly-ai/lightly, lightly/models/resnet.py: without pooling, shortcuts named so."""
    state = children(online, 2)
    return {name.replace("downsample", "shortcut"): value for name, value in state.items()}


def vissl(online: State, copy: State) -> Any:
    """facebookresearch/vissl, MODEL_ZOO.md: how to reach the trunk."""
    model = {
        "trunk": below("_feature_blocks.", online),
        "heads": below("0.clf.", HEAD),
    }
    return {"classy_state_dict": {"base_model": {"model": model}}, "phase_idx": 3}


def mmselfsup(online: State, copy: State) -> Any:
    """open-mmlab/mmselfsup 0.x, moco.py: backbone is the first part of encoder_q."""
    return {
        "meta": {"epoch": 200},
        "state_dict": below("backbone.", online)
        | below("encoder_q.0.", online)
        | below("encoder_q.1.mlp.", HEAD)
        | below("encoder_k.0.", copy)
        | below("encoder_k.1.mlp.", HEAD),
    }


def compiled(online: State, copy: State) -> Any:
    """torch.compile around the whole model."""
    return {"model": below("_orig_mod.encoder.", online), "model_ema": below("encoder.", copy)}


CASES: list[tuple[Callable[[State, State], Any], str, str, list[str]]] = [
    (
        moco,
        "state_dict.module.encoder_q.",
        "torchvision",
        [
            "optimizer",
            "state_dict.module.encoder_k",
            "state_dict.module.encoder_q.fc",
            "state_dict.module.queue",
            "state_dict.module.queue_ptr",
        ],
    ),
    (
        moco_v3,
        "state_dict.module.base_encoder.",
        "torchvision",
        ["state_dict.module.momentum_encoder", "state_dict.module.predictor"],
    ),
    (swav, "module.", "torchvision", ["module.projection_head", "module.prototypes"]),
    (dino, "teacher.backbone.", "torchvision", ["optimizer", "student", "teacher.head"]),
    (byol, "net.", "torchvision", ["online_encoder", "online_predictor", "target_encoder"]),
    (barlow_twins, "", "torchvision", ["fc"]),
    (
        solo_learn,
        "state_dict.backbone.",
        "torchvision",
        [
            f"state_dict.{name}"
            for name in (
                "classifier",
                "momentum_backbone",
                "momentum_projector",
                "projector",
                "queue",
            )
        ],
    ),
    (
        lightly,
        "backbone.",
        "sequential",
        ["backbone_momentum", "projection_head", "projection_head_momentum"],
    ),
    (lightly_generator, "", "sequential", []),
    (
        vissl,
        "classy_state_dict.base_model.model.trunk._feature_blocks.",
        "torchvision",
        ["classy_state_dict.base_model.model.heads"],
    ),
    (
        mmselfsup,
        "state_dict.backbone.",
        "torchvision",
        ["state_dict.encoder_k", "state_dict.encoder_q"],
    ),
    (compiled, "model._orig_mod.encoder.", "torchvision", ["model_ema"]),
]


@pytest.mark.parametrize(("program", "prefix", "layout", "dropped"), CASES)
def test_encoder_is_found_in_the_files_of(
    tmp_path: Path,
    program: Callable[[State, State], Any],
    prefix: str,
    layout: str,
    dropped: list[str],
) -> None:
    online, copy = network(1), network(2)
    torch.save(program(online, copy), tmp_path / "checkpoint.pth.tar")
    encoder, recipe, metadata = load_encoder(tmp_path / "checkpoint.pth.tar")
    assert isinstance(recipe, ResNetRecipe)
    assert replace(recipe, stem_pool=None, stem_relu=True) == RECIPE
    state = encoder.state_dict()
    assert all(state[name].equal(value) for name, value in online.items())
    assert metadata["source"] == "checkpoint.pth.tar"
    assert (metadata["prefix"], metadata["layout"]) == (prefix, layout)
    assert metadata["dropped"] == dropped


@pytest.mark.parametrize(
    ("name", "rng_key"), [("encoder_k", 2), ("module.encoder_k", 2), ("encoder_q", 1)]
)
def test_another_encoder_of_the_file_is_chosen_by_name(
    tmp_path: Path, name: str, rng_key: int
) -> None:
    torch.save(moco(network(1), network(2)), tmp_path / "moco.pth")
    encoder = load_encoder(f"{tmp_path / 'moco.pth'}#{name}").encoder
    assert encoder.state_dict()["bn1.weight"].equal(network(rng_key)["bn1.weight"])
    with pytest.raises(UserError, match=r"no ResNet under the name 'teacher'.*encoder_q"):
        load_encoder(f"{tmp_path / 'moco.pth'}#teacher")


def test_key_encoder_counts_where_it_is_alone() -> None:
    assert find_encoder(below("encoder_k.", network())).prefix == "encoder_k."


def test_two_encoders_are_a_question_for_the_user(tmp_path: Path) -> None:
    state = below("left.", network(1)) | below("right.", network(2))
    torch.save(state, tmp_path / "two.pth")
    with pytest.raises(UserError, match=r"has 2 ResNets\. Name one as FILE#NAME: left, right"):
        load_encoder(tmp_path / "two.pth")


@pytest.mark.parametrize(
    ("name", "width", "stem"),
    list(zip(DEPTHS, (0.125, 1.0, 2.0) * 2, ("imagenet", "small", "small") * 2, strict=True)),
)
def test_depth_width_and_stem_follow_from_shapes(name: str, width: float, stem: str) -> None:
    recipe = ResNetRecipe(name, width=width, stem=stem)  # type: ignore[arg-type]
    with torch.device("meta"):
        state = recipe.build(rng_key=0).state_dict()
    assert recognise(state) == recipe


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_features_equal_torchvisions(tmp_path: Path, name: str) -> None:
    """Reference: torchvision's network with the same weights."""
    import torchvision

    torch.manual_seed(0)
    reference = getattr(torchvision.models, name)().train()
    images = torch.rand(4, 3, 64, 64)
    with torch.no_grad():
        reference(images)  # statistics other than the fresh ones
    torch.save(reference.state_dict(), tmp_path / "file.pth")
    encoder, recipe, metadata = load_encoder(tmp_path / "file.pth")
    reference.fc = nn.Identity()
    with torch.no_grad():
        torch.testing.assert_close(encoder(images), reference.eval()(images))
    assert recipe == ResNetRecipe(name)
    assert metadata["dropped"] == ["fc"]


def test_lightly_style_children_of_torchvisions_network_load(tmp_path: Path) -> None:
    """Reference: the features that the sequence of children computes."""
    import torchvision

    torch.manual_seed(0)
    sequence = nn.Sequential(*list(torchvision.models.resnet18().children())[:-1])
    images = torch.rand(4, 3, 64, 64)
    with torch.no_grad():
        sequence.train()(images)
        expected = sequence.eval()(images).flatten(1)
        torch.save({"backbone." + k: v for k, v in sequence.state_dict().items()}, tmp_path / "f")
        torch.testing.assert_close(load_encoder(tmp_path / "f").encoder(images), expected)


@pytest.mark.parametrize("kind", ["safetensors", "zip", "old", "half"])
def test_every_kind_of_weights_file_is_read(tmp_path: Path, kind: str) -> None:
    state = network()
    path = tmp_path / "weights"  # the kind is told from the content
    if kind == "safetensors":
        save_file(state, path)
    elif kind == "half":
        torch.save({name: value.half() for name, value in state.items()}, path)
        state = {name: value.half().to(value.dtype) for name, value in state.items()}
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    loaded = load_encoder(path).encoder.state_dict()
    assert all(loaded[name].equal(value) for name, value in state.items())
    assert {value.dtype for value in loaded.values()} == {torch.float32, torch.int64}


def test_checksum_is_that_of_the_file(tmp_path: Path) -> None:
    """Reference: hashlib over the whole content."""
    import hashlib

    torch.save(network(), tmp_path / "file.pth")
    expected = hashlib.sha256((tmp_path / "file.pth").read_bytes()).hexdigest()
    assert load_encoder(tmp_path / "file.pth").metadata["sha256"] == expected


def test_counters_that_old_files_lack_are_zero(tmp_path: Path) -> None:
    state = {k: v for k, v in network().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth")
    assert load_encoder(tmp_path / "old.pth").encoder.state_dict()["bn1.num_batches_tracked"] == 0


class _Touch:
    """Pickles as an order to make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    content = {"state_dict": network(), "config": _Touch(tmp_path / "touched")}
    torch.save(content, tmp_path / "evil.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"evil\.pth holds the Python object getattr.*foreign code"):
        load_encoder(tmp_path / "evil.pth")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip", b"text", b"\x80\x02}q\x00."])
def test_file_that_is_no_weights_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"file\.pth"):
        load_encoder(tmp_path / "file.pth")


def test_cut_training_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    torch.save(moco(network(1), network(2)), path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"file\.pth is a zip archive whose end is missing"):
        load_encoder(path)


def without(name: str) -> State:
    state = network()
    del state[name]
    return state


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        (without("layer3.0.bn1.running_var"), r"1 missing \(layer3\.0\.bn1\.running_var\)"),
        (
            network() | {"layer1.0.se.fc.weight": torch.ones(2, 2)},
            r"plain ResNet, got attention in its blocks \(layer1\.0\.se\.fc\.weight\)",
        ),
        (
            network() | {"layer4.1.conv2.weight": torch.ones(32, 32, 1, 1)},
            r"1 differing \(layer4\.1\.conv2\.weight of shape \(32, 32, 1, 1\) instead of",
        ),
        (
            without("layer3.1.conv1.weight"),
            r"blocks of resnet18, .* got \(2, 2, 1, 2\) basic blocks",
        ),
        (
            network() | {"conv2.weight": torch.ones(4, 4, 3, 3), "bn2.weight": torch.ones(4)},
            r"parts that torchvision's ResNets do not have \(conv2\.weight, bn2\.weight\)",
        ),
        (
            network() | {"conv1.weight": torch.ones(4, 1, 7, 7)},
            r"first convolution must have 3 input channels .* got \(4, 1, 7, 7\)",
        ),
        (
            {"blocks.0.attn.qkv.weight": torch.ones(3, 3)},
            r"No ResNet found among 1 tensors \(blocks",
        ),
        ({}, r"No ResNet found among 0 tensors"),
    ],
)
def test_networks_that_are_not_ours_are_refused(
    tmp_path: Path, state: State, sentence: str
) -> None:
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(UserError, match=sentence) as caught:
        load_encoder(tmp_path / "other.pth")
    assert "other.pth" in str(caught.value)


def test_wide_resnet_of_torchvision_is_told_from_a_resnet_of_width_two(tmp_path: Path) -> None:
    import torchvision

    with torch.device("meta"):
        reference = torchvision.models.wide_resnet50_2().state_dict()
    state = {name: torch.empty(()).expand(value.shape) for name, value in reference.items()}
    torch.save(state, tmp_path / "wide.pth")
    with pytest.raises(UserError, match=r"got bottlenecks of 128 channels instead of 64"):
        load_encoder(tmp_path / "wide.pth")


def test_torchvisions_own_weights_load_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: a network put where torchvision keeps its downloads."""
    import torchvision

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(0)
    state = torchvision.models.resnet18().state_dict()
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(state, folder / "resnet18-f37072fd.pth")
    encoder, recipe, metadata = load_encoder("torchvision:resnet18")
    assert recipe == ResNetRecipe("resnet18")
    assert encoder.state_dict()["conv1.weight"].equal(state["conv1.weight"])
    assert metadata["source"] == "torchvision:resnet18:IMAGENET1K_V1"


def test_torchvision_without_network_names_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from urllib.error import URLError

    def unreachable(*_: Any, **__: Any) -> None:
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", unreachable)
    with pytest.raises(
        UserError, match=r"cannot be downloaded from https://.*resnet18.*no network"
    ):
        load_encoder("torchvision:resnet18")


@pytest.mark.parametrize("spec", ["torchvision:resnet7", "torchvision:resnet18:BEST"])
def test_unknown_torchvision_weights_are_one_sentence(spec: str) -> None:
    with pytest.raises(UserError, match=r"torchvision has no weights .*\. Use, for example,"):
        load_encoder(spec)
