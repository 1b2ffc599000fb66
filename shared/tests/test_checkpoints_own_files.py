"""An encoder file gives back the encoder to the bit, or says why it cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import nn

from retable.encoders import (
    ENCODER_NAMES,
    EncoderRecipe,
    ResidualRecipe,
    ResNetRecipe,
    VggRecipe,
    build_encoder,
)
from retable.errors import UserError
from retable.files import digest_of_tensors
from retable.nn.batch_norm import group_batch_norm
from retable.random import derive_key
from retable.weights import export_encoder, load_encoder, save_encoder
from retable.weights.architecture import encoder_label

TINY = ResNetRecipe("resnet18", width=0.0625, stem="small")


def with_statistics(encoder: nn.Module) -> nn.Module:
    """Give batch normalisation other statistics than the fresh ones."""
    with torch.no_grad():
        encoder.train()(torch.linspace(-1, 1, 4 * 3 * 32 * 32).view(4, 3, 32, 32))
    return encoder


def same_state(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(left[k].equal(right[k]) for k in left)


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("name", ENCODER_NAMES)
def test_every_encoder_comes_back_to_the_bit(tmp_path: Path, name: str, norm: str) -> None:
    recipe = ResNetRecipe(name, width=0.0625, stem="small", norm=norm)  # type: ignore[arg-type]
    encoder = with_statistics(build_encoder(recipe, rng_key=1))
    metadata = {"method": "moco", "epoch": 3, "loss": 0.1, "nested": {"β": [1, None]}}
    save_encoder(tmp_path / "encoder.safetensors", encoder, recipe, metadata)
    loaded, loaded_recipe, loaded_metadata = load_encoder(tmp_path / "encoder.safetensors")
    assert same_state(loaded, encoder)
    assert loaded_recipe == recipe
    assert loaded_metadata == metadata
    assert not loaded.training
    assert encoder.training, "saving changes nothing"


OTHERS: tuple[EncoderRecipe, ...] = (
    ResidualRecipe("v1", (1, 1, 1, 1), widening=1),
    ResidualRecipe("v2", (2, 1, 1, 1), False, 1, last_relu=False),
    ResidualRecipe("v2", (1, 1, 1), False, 1, (1, 2, 1), 3, 1, False, skip=False),
    ResidualRecipe("reversible", (1, 2, 1, 1), widening=1, strides=(1, 2, 2, 1), root_stride=1),
    ResidualRecipe("reversible", (1, 1, 1, 1), False, 1, reversible_backward=True),
    VggRecipe(1, (1, 1, 2, 1, 1), (True, True, True, True, False), fc_kernel=2),
)


@pytest.mark.parametrize("recipe", OTHERS, ids=encoder_label)
def test_encoders_of_the_other_kinds_come_back_with_their_recipe(
    tmp_path: Path, recipe: EncoderRecipe
) -> None:
    encoder = with_statistics(build_encoder(recipe, rng_key=1))
    save_encoder(tmp_path / "file", encoder, recipe, {"method": "rotation"})
    loaded, loaded_recipe, metadata = load_encoder(tmp_path / "file")
    assert same_state(loaded, encoder)
    assert loaded_recipe == recipe
    assert metadata == {"method": "rotation"}
    images = torch.linspace(-9, 9, 3 * 3 * 32 * 32).sin().view(3, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(images), encoder.eval()(images))


def test_a_file_names_its_kind_and_one_without_is_a_resnet_under_torchvisions_names(
    tmp_path: Path,
) -> None:
    from safetensors.torch import load_file, save_file

    path = tmp_path / "file"
    for recipe in (TINY, OTHERS[0]):
        save_encoder(path, build_encoder(recipe, rng_key=1), recipe, {})
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["retable"])
        assert header["kind"] == type(recipe).__name__
        tensors = load_file(path)
        kind = header.pop("kind")
        save_file(tensors, path, metadata={"retable": json.dumps(header)})
        if recipe == TINY:
            assert load_encoder(path).recipe == TINY
        else:
            with pytest.raises(UserError, match="header that this version cannot read"):
                load_encoder(path)
        save_file(tensors, path, metadata={"retable": json.dumps(header | {"kind": kind + "2"})})
        with pytest.raises(UserError, match=f"cannot read .'{kind}2'.*install the version"):
            load_encoder(path)


def test_encoders_that_differ_in_a_relu_are_told_apart_by_their_recipe(tmp_path: Path) -> None:
    for last_relu in (True, False):
        recipe = ResidualRecipe("v2", (1, 1, 1, 1), widening=1, last_relu=last_relu)
        save_encoder(tmp_path / str(last_relu), build_encoder(recipe, rng_key=1), recipe, {})
    plain, minus = (load_encoder(tmp_path / name) for name in ("True", "False"))
    assert same_state(plain.encoder, minus.encoder)
    images = torch.linspace(-9, 9, 2 * 3 * 32 * 32).sin().view(2, 3, 32, 32)
    with torch.no_grad():
        assert (plain.encoder(images) >= 0).all()
        assert (minus.encoder(images) < 0).any()


def test_encoders_are_named_as_in_the_papers_tables(tmp_path: Path) -> None:
    names = [encoder_label(recipe) for recipe in OTHERS]
    assert len(set(names)) == len(names)
    assert names[1].startswith("ResNet12 v2 (-) 1x with a 7x7/2 root, pooling and block strides 1,")
    assert names[2].startswith("ResNet8 v2 1x without skip connections with a 3x3/1 root, no pool")
    assert names[3].startswith("RevNet17 1x with a 7x7/1 root")
    assert encoder_label(ResidualRecipe("v1", widening=12)).startswith("ResNet50 v1 12x ")
    assert encoder_label(ResidualRecipe("v2", (2, 2, 2, 2), False)).startswith("ResNet18 v2 4x ")
    assert names[5].startswith("VGG9-BN 1x for 2x2 maps")
    with pytest.raises(UserError, match=r"not a VGG19-BN 8x .*block1\.1\.0\.weight"):
        save_encoder(tmp_path / "file", build_encoder(OTHERS[5], 1), VggRecipe(), {})


def test_the_other_kinds_are_exported_to_no_other_program() -> None:
    for recipe in (OTHERS[0], OTHERS[5]):
        encoder = build_encoder(recipe, rng_key=1)
        with pytest.raises(UserError, match=r"got a (ResNet14 v1|VGG9-BN) 1x "):
            export_encoder(encoder, recipe, "torchvision")


def test_equal_encoders_are_equal_files(tmp_path: Path) -> None:
    encoder = build_encoder(TINY, rng_key=1)
    for name in "abcd":
        save_encoder(tmp_path / name, encoder, TINY, {"x": 1, "y": 2})
    assert len({(tmp_path / name).read_bytes() for name in "abcd"}) == 1


def test_memory_format_and_wrappers_leave_no_trace(tmp_path: Path) -> None:
    encoder = build_encoder(TINY, rng_key=1)
    save_encoder(tmp_path / "plain", encoder, TINY, {})
    encoder.to(memory_format=torch.channels_last)
    wrapped = nn.Module()
    wrapped._orig_mod = nn.Module()  # what torch.compile calls the module inside
    wrapped._orig_mod.module = encoder  # what data parallelism calls it
    save_encoder(tmp_path / "wrapped", wrapped, TINY, {})
    assert (tmp_path / "plain").read_bytes() == (tmp_path / "wrapped").read_bytes()


def test_grouped_batch_norm_saves_as_plain_batch_norm(tmp_path: Path) -> None:
    encoder = build_encoder(TINY, rng_key=1)
    group_batch_norm(encoder, 2)
    with_statistics(encoder)
    save_encoder(tmp_path / "file", encoder, TINY, {})
    loaded = load_encoder(tmp_path / "file").encoder
    assert same_state(loaded, encoder)
    images = torch.linspace(-9, 9, 3 * 3 * 32 * 32).sin().view(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), encoder.eval()(images))


def test_file_is_readable_by_safetensors_alone_under_torchvision_names(tmp_path: Path) -> None:
    encoder = build_encoder(TINY, rng_key=1)
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
    }
    assert header["metadata"] == {"method": "moco"}


def test_folder_of_a_run_stands_for_its_encoder(tmp_path: Path) -> None:
    encoder = build_encoder(TINY, rng_key=1)
    save_encoder(tmp_path / "run" / "encoder.safetensors", encoder, TINY, {})
    assert same_state(load_encoder(tmp_path / "run").encoder, encoder)
    with pytest.raises(UserError, match=r"without encoder\.safetensors.*finish the run"):
        load_encoder(tmp_path)


def test_encoder_of_another_recipe_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"not a resnet34 of width 0\.0625.*layer1\.2\.conv1\.weight"
    ):
        save_encoder(
            tmp_path / "file",
            build_encoder(TINY, rng_key=1),
            ResNetRecipe("resnet34", width=0.0625, stem="small"),
            {},
        )
    assert not (tmp_path / "file").exists()


def test_loading_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    save_encoder(tmp_path / "file", build_encoder(TINY, rng_key=1), TINY, {})
    before = torch.get_rng_state()
    load_encoder(tmp_path / "file")
    assert torch.get_rng_state().equal(before)


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("own") / "file"
    recipe = ResNetRecipe("small_resnet8", width=0.0625)
    save_encoder(path, build_encoder(recipe, rng_key=1), recipe, {"method": "moco"})
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
    with pytest.raises(UserError, match=r"format 2; expected format 1, install"):
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
    assert same_state(encoder, build_encoder(TINY, derive_key(3, "encoder")))
    assert load_encoder("untrained:small_resnet8").recipe == ResNetRecipe("small_resnet8")


@pytest.mark.parametrize(
    "spec", ["resnet18?depth=2", "resnet18?width=wide", "resnet18?width", "vgg"]
)
def test_wrong_untrained_spec_is_one_sentence(spec: str) -> None:
    with pytest.raises(UserError, match=r"\.$"):
        load_encoder(f"untrained:{spec}")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.pth: no such file"):
        load_encoder(tmp_path / "nothing.pth")
