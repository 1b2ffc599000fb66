"""An encoder file gives back the encoder to the bit, or says why it cannot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor, nn

from retable.encoders import Encoder, ResNetRecipe, register_encoder
from retable.errors import UserError
from retable.files import digest_of_tensors
from retable.methods import SupervisedRecipe
from retable.nn.batch_norm import group_batch_norm
from retable.random import derive_key, initialising
from retable.testing import check_encoder
from retable.train.optim import OptimizerRecipe
from retable.train.recipe import PretrainRecipe, build_method
from retable.views import crop_and_flip
from retable.weights import export_encoder, load_encoder, save_encoder

TINY = ResNetRecipe("resnet18", width=0.0625, stem="small")


def with_statistics(encoder: nn.Module) -> nn.Module:
    """Give batch normalisation other statistics than the fresh ones."""
    with torch.no_grad():
        encoder.train()(torch.linspace(-1, 1, 4 * 3 * 32 * 32).view(4, 3, 32, 32))
    return encoder


def same_state(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(left[k].equal(right[k]) for k in left)


@pytest.mark.parametrize(
    ("name", "norm"),
    [("resnet18", "batch"), ("resnet50", "group"), ("small_resnet8", "batch")],
)
def test_every_encoder_comes_back_to_the_bit(tmp_path: Path, name: str, norm: str) -> None:
    recipe = ResNetRecipe(name, width=0.0625, stem="small", norm=norm)  # type: ignore[arg-type]
    encoder = with_statistics(recipe.build(rng_key=1))
    metadata = {"method": "moco", "epoch": 3, "loss": 0.1, "nested": {"β": [1, None]}}
    save_encoder(tmp_path / "encoder.safetensors", encoder, recipe, metadata)
    loaded, loaded_recipe, loaded_metadata = load_encoder(tmp_path / "encoder.safetensors")
    assert same_state(loaded, encoder)
    assert loaded_recipe == recipe
    assert loaded_metadata == metadata
    assert not loaded.training
    assert encoder.training, "saving changes nothing"


@register_encoder
@dataclass(frozen=True)
class StripesRecipe:
    """An encoder that a user brings: means of convolutions' maps."""

    channels: tuple[int, ...] = (8, 4)

    @property
    def label(self) -> str:
        return f"stripes of {self.channels} channels"

    def build(self, rng_key: int) -> Stripes:
        with initialising(rng_key):
            return Stripes(self.channels)


class Stripes(Encoder):
    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.feature_dim = channels[-1]
        self.tap_names = (*(f"conv{i}" for i in range(len(channels))), "pre_logits")
        for i, (inputs, outputs) in enumerate(pairwise((3, *channels))):
            self.add_module(f"conv{i}", nn.Conv2d(inputs, outputs, 3))

    def advance(self, name: str, x: Tensor) -> Tensor:
        if name == "pre_logits":
            return x.mean((2, 3))
        maps: Tensor = self.get_submodule(name)(x)
        return maps.relu()


def test_a_registered_encoder_of_the_user_comes_back_with_its_recipe(tmp_path: Path) -> None:
    recipe = StripesRecipe((6, 5, 4))
    check_encoder(recipe)
    encoder = recipe.build(rng_key=1)
    save_encoder(tmp_path / "file", encoder, recipe, {"method": "rotation"})
    loaded, loaded_recipe, metadata = load_encoder(tmp_path / "file")
    assert same_state(loaded, encoder)
    assert loaded_recipe == recipe, "lists of JSON are tuples again"
    assert hash(loaded_recipe) == hash(recipe)
    assert metadata == {"method": "rotation"}
    images = torch.linspace(-9, 9, 3 * 3 * 32 * 32).sin().view(3, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(images), encoder(images))
    with pytest.raises(UserError, match=r"got a stripes of \(6, 5, 4\) channels"):
        export_encoder(encoder, recipe, "torchvision")
    with pytest.raises(UserError, match=r"not a stripes of \(8, 4\) channels.*conv2\.weight"):
        save_encoder(tmp_path / "other", encoder, StripesRecipe(), {})


@dataclass(frozen=True)
class UnregisteredRecipe(StripesRecipe):
    """Stripes that files cannot name."""


def test_a_recipe_that_files_cannot_name_is_refused_before_training(tmp_path: Path) -> None:
    recipe = UnregisteredRecipe()
    sentence = r"`UnregisteredRecipe` must be registered.*Decorate the class with retable\.enc"
    with pytest.raises(UserError, match=sentence):
        save_encoder(tmp_path / "file", recipe.build(rng_key=1), recipe, {})
    view = crop_and_flip(16)
    pretraining = PretrainRecipe(
        SupervisedRecipe(2), "shapes", (view,), recipe, OptimizerRecipe(), epochs=1, batch=4
    )
    with pytest.raises(UserError, match=sentence):
        build_method(pretraining, seed=0)


def test_names_of_registered_recipes_are_unique_and_recipes_frozen() -> None:
    other: Any = dataclass(frozen=True)(type("ResNetRecipe", (), {"__module__": __name__}))
    with pytest.raises(UserError, match=r"must have another name, got that of retable\.encoders"):
        register_encoder(other)
    with pytest.raises(UserError, match="`Loose` must be a frozen dataclass"):
        register_encoder(type("Loose", (), {}))
    assert register_encoder(StripesRecipe) is StripesRecipe


def with_kind(path: Path, kind: str | None) -> Path:
    """Rewrite an encoder file as one that names another kind of encoder, or none."""
    from safetensors.torch import load_file, save_file

    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["retable"])
    header.pop("kind")
    header |= {"kind": kind} if kind else {}
    save_file(load_file(path), path, metadata={"retable": json.dumps(header)})
    return path


@pytest.mark.parametrize("kind", [None, "EncoderRecipe", "ResNetRecipe"])
def test_resnets_of_earlier_versions_files_load(tmp_path: Path, kind: str | None) -> None:
    encoder = TINY.build(rng_key=1)
    save_encoder(tmp_path / "file", encoder, TINY, {})
    loaded, recipe, _ = load_encoder(with_kind(tmp_path / "file", kind))
    assert recipe == TINY
    assert same_state(loaded, encoder)


def test_fields_of_another_kind_are_refused(tmp_path: Path) -> None:
    recipe = StripesRecipe()
    save_encoder(tmp_path / "file", recipe.build(rng_key=1), recipe, {})
    with pytest.raises(UserError, match=r"header that this version cannot read.*`channels`"):
        load_encoder(with_kind(tmp_path / "file", None))


def test_an_unknown_kind_is_named_and_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "innocent_looking.py").write_text("Recipe = 1")
    monkeypatch.syspath_prepend(str(tmp_path))
    save_encoder(tmp_path / "file", TINY.build(rng_key=1), TINY, {})
    for kind in ("innocent_looking.Recipe", "innocent_looking:Recipe", "innocent_looking"):
        with pytest.raises(
            UserError,
            match=rf"file: The encoder kind `{kind}` must be .*Install or import the package",
        ):
            load_encoder(with_kind(tmp_path / "file", kind))
    assert "innocent_looking" not in sys.modules


def test_an_installed_package_declares_its_encoders_by_entry_points(tmp_path: Path) -> None:
    recipe = StripesRecipe((6, 4))
    save_encoder(tmp_path / "file", recipe.build(rng_key=1), recipe, {})
    with_kind(tmp_path / "file", "PackagedRecipe")
    lines = Path(__file__).read_text(encoding="utf-8")
    start, end = lines.index("@register_encoder\n"), lines.index("def test_a_registered_encoder")
    module = "\n".join(
        (
            "from dataclasses import dataclass",
            "from itertools import pairwise",
            "from torch import Tensor, nn",
            "from retable.encoders import Encoder, register_encoder",
            "from retable.random import initialising",
            lines[start:end].replace("StripesRecipe", "PackagedRecipe"),
        )
    )
    (tmp_path / "packaged.py").write_text(f"from __future__ import annotations\n{module}")
    (tmp_path / "packaged-1.0.dist-info").mkdir()
    (tmp_path / "packaged-1.0.dist-info" / "METADATA").write_text("Name: packaged\nVersion: 1.0\n")
    (tmp_path / "packaged-1.0.dist-info" / "entry_points.txt").write_text(
        "[retable.encoders]\nPackagedRecipe = packaged:PackagedRecipe\n"
    )
    program = (
        "import sys\nfrom retable.weights import load_encoder\n"
        "assert 'packaged' not in sys.modules\nprint(load_encoder(sys.argv[1]).recipe)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "file")],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    )
    assert ended.stdout == "PackagedRecipe(channels=(6, 4))\n"


def test_equal_encoders_are_equal_files(tmp_path: Path) -> None:
    encoder = TINY.build(rng_key=1)
    for name in "abcd":
        save_encoder(tmp_path / name, encoder, TINY, {"x": 1, "y": 2})
    assert len({(tmp_path / name).read_bytes() for name in "abcd"}) == 1


def test_memory_format_and_wrappers_leave_no_trace(tmp_path: Path) -> None:
    encoder = TINY.build(rng_key=1)
    save_encoder(tmp_path / "plain", encoder, TINY, {})
    encoder.to(memory_format=torch.channels_last)
    wrapped = nn.Module()
    wrapped._orig_mod = nn.Module()  # what torch.compile calls the module inside
    wrapped._orig_mod.module = encoder  # what data parallelism calls it
    save_encoder(tmp_path / "wrapped", wrapped, TINY, {})
    assert (tmp_path / "plain").read_bytes() == (tmp_path / "wrapped").read_bytes()


def test_grouped_batch_norm_saves_as_plain_batch_norm(tmp_path: Path) -> None:
    encoder = TINY.build(rng_key=1)
    group_batch_norm(encoder, 2)
    with_statistics(encoder)
    save_encoder(tmp_path / "file", encoder, TINY, {})
    loaded = load_encoder(tmp_path / "file").encoder
    assert same_state(loaded, encoder)
    images = torch.linspace(-9, 9, 3 * 3 * 32 * 32).sin().view(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), encoder.eval()(images))


def test_file_is_readable_by_safetensors_alone_under_torchvision_names(tmp_path: Path) -> None:
    encoder = TINY.build(rng_key=1)
    save_encoder(tmp_path / "file", encoder, TINY, {"method": "moco"})
    with safe_open(tmp_path / "file", framework="pt") as file:
        assert file.get_tensor("layer4.1.bn2.weight").equal(
            encoder.state_dict()["layer4.1.bn2.weight"]
        )
        header = json.loads(file.metadata()["retable"])
    assert header["recipe"] == {
        "name": "resnet18",
        "width": 0.0625,
        "stem": "small",
        "norm": "batch",
        "zero_init_residual": False,
        "stem_stride": None,
        "stem_padding": None,
        "stem_pool": None,
        "stem_relu": True,
        "downsampling": "torchvision",
    }
    assert header["metadata"] == {"method": "moco"}


def test_folder_of_a_run_stands_for_its_encoder(tmp_path: Path) -> None:
    encoder = TINY.build(rng_key=1)
    save_encoder(tmp_path / "run" / "encoder.safetensors", encoder, TINY, {})
    assert same_state(load_encoder(tmp_path / "run").encoder, encoder)
    with pytest.raises(UserError, match=r"has no encoder\.safetensors\. Finish the run"):
        load_encoder(tmp_path)


def test_encoder_of_another_recipe_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"not a resnet34 of width 0\.0625.*layer1\.2\.conv1\.weight"
    ):
        save_encoder(
            tmp_path / "file",
            TINY.build(rng_key=1),
            ResNetRecipe("resnet34", width=0.0625, stem="small"),
            {},
        )
    assert not (tmp_path / "file").exists()


def test_loading_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    save_encoder(tmp_path / "file", TINY.build(rng_key=1), TINY, {})
    before = torch.get_rng_state()
    load_encoder(tmp_path / "file")
    assert torch.get_rng_state().equal(before)


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("own") / "file"
    recipe = ResNetRecipe("small_resnet8", width=0.0625)
    save_encoder(path, recipe.build(rng_key=1), recipe, {"method": "moco"})
    return path.read_bytes()


sharing_tmp_path = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)


@given(data=st.data())
@sharing_tmp_path
def test_cut_file_is_refused(tmp_path: Path, content: bytes, data: st.DataObject) -> None:
    path = tmp_path / "file"
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(UserError, match="file"):
        load_encoder(path)


@given(data=st.data())
@sharing_tmp_path
def test_altered_file_is_refused_or_gives_the_same_weights(
    tmp_path: Path, content: bytes, data: st.DataObject
) -> None:
    position = data.draw(st.integers(0, len(content) - 1))
    altered = bytearray(content)
    altered[position] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path / "file"
    path.write_bytes(altered)
    try:
        encoder = load_encoder(path).encoder
    except UserError:
        return
    path.write_bytes(content)
    assert same_state(encoder, load_encoder(path).encoder)


def test_altered_weight_is_named_as_damage(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match=r"damaged.*checksum"):
        load_encoder(path)


def test_newer_format_names_the_remedy(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content.replace(b'\\"format\\": 1', b'\\"format\\": 2'))
    with pytest.raises(UserError, match=r"must be 1, got 2\. Install"):
        load_encoder(path)


def test_digest_sees_name_type_shape_and_value_but_not_order() -> None:
    a, b = torch.zeros(2), torch.ones(2)
    digest = digest_of_tensors({"a": a, "b": b})
    assert digest == digest_of_tensors({"b": b.clone(), "a": a})
    assert digest != digest_of_tensors({"a": b, "b": a})
    assert digest != digest_of_tensors({"a": a, "c": b})
    assert digest != digest_of_tensors({"a": a.view(2, 1), "b": b})
    assert digest != digest_of_tensors({"a": a.view(torch.int32), "b": b})
    assert digest_of_tensors({"a": a.bfloat16()}) == digest_of_tensors({"a": a.bfloat16()})


def test_untrained_encoder_is_a_function_of_its_spec() -> None:
    encoder, recipe, metadata = load_encoder("untrained:resnet18?width=0.0625&stem=small&seed=3")
    assert recipe == TINY
    assert metadata["seed"] == 3
    assert same_state(encoder, TINY.build(derive_key(3, "encoder")))
    assert load_encoder("untrained:small_resnet8").recipe == ResNetRecipe("small_resnet8")


@pytest.mark.parametrize(
    "spec", ["resnet18?depth=2", "resnet18?width=wide", "resnet18?width", "vgg"]
)
def test_wrong_untrained_spec_is_one_sentence(spec: str) -> None:
    with pytest.raises(UserError, match=r"\.$"):
        load_encoder(f"untrained:{spec}")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.pth does not exist\. Pass a PyTorch"):
        load_encoder(tmp_path / "nothing.pth")
