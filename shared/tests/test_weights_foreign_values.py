"""What stands beside the weights of a file, around them, or in their place."""

from __future__ import annotations

import argparse
import collections
import datetime
import pathlib
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from retable import cli
from retable.encoders import ResNetRecipe
from retable.errors import UserError
from retable.weights import load_encoder

RECIPE = ResNetRecipe("resnet18", width=0.0625)
State = dict[str, Tensor]


def network() -> State:
    return RECIPE.build(rng_key=1).state_dict()


def renamed(change: Callable[[str], str]) -> State:
    return {change(name): value for name, value in network().items()}


def assert_is_network(path: Path | str) -> None:
    state = load_encoder(path).encoder.state_dict()
    assert all(state[name].equal(value) for name, value in network().items())


SCALARS = ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")
BESIDE: dict[str, Any] = {
    **{f"numpy {kind}": numpy.zeros(1, kind)[0] for kind in SCALARS},
    "numpy text": numpy.str_("resnet18"),
    "numpy bytes": numpy.bytes_(b"resnet18"),
    "numpy date": numpy.datetime64("2020-01-01"),
    "numpy record": numpy.zeros(1, [("a", "f4")])[0],
    "numpy array": numpy.arange(3),
    "numpy generator": numpy.random.RandomState(0).get_state(),
    "arguments": argparse.Namespace(arch="resnet18", lr=0.1, when=datetime.timedelta(1)),
    "time": datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC),
    "path": pathlib.PurePosixPath("runs/1"),
    "defaultdict": collections.defaultdict(int, {"a": 1}),
    "deque": collections.deque([1.0, 2.0], maxlen=5),
    "counter": collections.Counter("aab"),
    "frozenset": frozenset({1, 2}),
    "range": range(3),
    "namespace": types.SimpleNamespace(a=1),
    "bytes": bytearray(b"abc"),
    "complex": 1j,
}


@pytest.mark.parametrize("what", BESIDE)
@pytest.mark.parametrize("zipped", [True, False])
def test_inert_values_beside_the_tensors_are_left_out(
    tmp_path: Path, what: str, zipped: bool
) -> None:
    content = {"state_dict": network(), "extra": BESIDE[what]}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    assert_is_network(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("module", "name", "base"),
    [
        ("omegaconf.dictconfig", "DictConfig", object),
        ("pytorch_lightning.utilities.parsing", "AttributeDict", dict),
        ("yacs.config", "CfgNode", dict),
        ("easydict", "EasyDict", dict),
    ],
)
def test_settings_of_packages_that_are_not_installed_are_left_out(
    tmp_path: Path, module: str, name: str, base: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = type(name, (base,), {"__module__": module})
    parents = (module.partition(".")[0], module)
    for parent in parents:
        monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
    setattr(sys.modules[module], name, made)
    settings: Any = made()
    if base is dict:
        settings["lr"] = 0.1
    settings.__dict__["_content"] = {"lr": 0.1}
    torch.save({"state_dict": network(), "hyper_parameters": settings}, tmp_path / "w.pth")
    for parent in parents:
        monkeypatch.setitem(sys.modules, parent, None)  # importing it fails, also where it is there
    assert_is_network(tmp_path / "w.pth")
    assert load_encoder(tmp_path / "w.pth").metadata["ignored"] == [f"{module}.{name}"]


def test_other_objects_are_named_without_advice_to_run_them(tmp_path: Path) -> None:
    torch.save({"state_dict": network(), "model": torch.nn.Linear(2, 2)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"Python object torch\.nn\.modules\.linear\.Lin") as caught:
        load_encoder(tmp_path / "w.pth")
    assert "weights_only" not in str(caught.value)
    assert "Save the state dict alone" in str(caught.value)


def with_weight(change: Callable[[Tensor], Tensor], name: str = "layer1.0.conv1.weight") -> State:
    state = network()
    state[name] = change(state[name])
    return state


def filled_with(value: float) -> Callable[[Tensor], Tensor]:
    return lambda weight: weight.clone().fill_(value)


def quantised(weight: Tensor) -> Tensor:
    return torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("change", "what"),
    [
        (Tensor.to_sparse, "sparse values"),
        (lambda weight: weight.view(weight.shape[0], -1).to_sparse_csr(), "differing"),
        (lambda weight: weight.to(torch.int8), "whole numbers"),
        (lambda weight: (weight * 255).to(torch.uint8), "whole numbers"),
        (lambda weight: weight.to(torch.int64), "whole numbers"),
        (lambda weight: weight > 0, "true and false"),
        (quantised, "quantised values"),
        (lambda weight: weight.to("meta"), "shapes without values"),
        (lambda weight: weight.to(torch.complex64), "complex values"),
        (lambda weight: weight.to(torch.float8_e4m3fn), "torch.float8_e4m3fn values"),
        (filled_with(float("nan")), "NaN or infinite values"),
        (filled_with(float("inf")), "NaN or infinite values"),
        (lambda weight: torch.full_like(weight, 1e300, dtype=torch.float64), "beyond float32"),
    ],
)
def test_values_that_are_no_weights_are_refused(
    tmp_path: Path, change: Callable[[Tensor], Tensor], what: str
) -> None:
    torch.save(with_weight(change), tmp_path / "w.pth")
    with pytest.raises(UserError, match=rf"w\.pth.*{what}.*layer1\.0\.conv1\.weight|{what}"):
        load_encoder(tmp_path / "w.pth")


def test_negative_variances_are_refused(tmp_path: Path) -> None:
    torch.save(with_weight(filled_with(-1.0), "bn1.running_var"), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"got negative variances in bn1\.running_var\. Use a che"):
        load_encoder(tmp_path / "w.pth")


def test_a_copy_with_other_values_is_told_from_the_weights_whatever_they_are(
    tmp_path: Path,
) -> None:
    sparse = {f"b.{name}": value.to_sparse() for name, value in network().items() if value.dim()}
    plain = {f"a.{name}": value for name, value in network().items()}
    torch.save(sparse | plain, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"has 1 ResNets|No ResNet|2 ResNets.*: a, b"):
        load_encoder(tmp_path / "w.pth")
    assert_is_network(f"{tmp_path}/w.pth#a")


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64", "parameter", "safetensors"])
def test_dense_floating_point_weights_of_every_kind_are_read(tmp_path: Path, kind: str) -> None:
    state = network()
    if kind == "parameter":
        torch.save(
            {name: torch.nn.Parameter(v, v.dim() > 0 and False) for name, v in state.items()},
            tmp_path / "w",
        )
    elif kind == "safetensors":
        save_file(state, tmp_path / "w")
    else:
        changed = {n: v.to(getattr(torch, kind)) if v.dim() else v for n, v in state.items()}
        torch.save(changed, tmp_path / "w")
    loaded = load_encoder(tmp_path / "w").encoder.state_dict()
    for name, value in state.items():
        torch.testing.assert_close(loaded[name], value, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.reshape(1),
        lambda value: value.float(),
        lambda value: value.to(torch.int32),
        lambda value: torch.zeros(3),
        lambda value: value.to("meta"),
    ],
)
def test_counters_of_any_shape_and_type_do_no_harm(
    tmp_path: Path, change: Callable[[Tensor], Tensor]
) -> None:
    state = {n: change(v) if n.endswith("num_batches_tracked") else v for n, v in network().items()}
    torch.save(state, tmp_path / "w.pth")
    assert_is_network(tmp_path / "w.pth")


def test_counters_of_a_profiler_do_no_harm(tmp_path: Path) -> None:
    """``thop.profile`` leaves such buffers in every module."""
    extra = {f"{part}.total_ops": torch.zeros(1).double() for part in ("conv1", "layer1.0.conv1")}
    torch.save(network() | extra | {"total_params": torch.zeros(1)}, tmp_path / "w.pth")
    assert_is_network(tmp_path / "w.pth")


def after(start: str, wrapper: str) -> Callable[[str], str]:
    """Put a wrapper behind the first part of names that begin with ``start``."""

    def change(name: str) -> str:
        first, _, rest = name.partition(".")
        return f"{first}.{wrapper}.{rest}" if first.startswith(start) else name

    return change


def sequential(wrapper: str) -> Callable[[str], str]:
    numbers = {"conv1": 0, "bn1": 1} | {f"layer{i}": 3 + i for i in range(1, 5)}

    def change(name: str) -> str:
        first, _, rest = name.partition(".")
        return f"{numbers[first]}.{wrapper}.{rest}"

    return change


def in_blocks(wrapper: str) -> Callable[[str], str]:
    def change(name: str) -> str:
        parts = name.split(".")
        return ".".join([*parts[:2], wrapper, *parts[2:]]) if name.startswith("layer") else name

    return change


@pytest.mark.parametrize(
    "change",
    [
        after("layer", "_orig_mod"),
        after("", "_orig_mod"),
        after("layer", "module"),
        after("layer", "_fsdp_wrapped_module"),
        after("layer", "_checkpoint_wrapped_module"),
        after("layer", "module._orig_mod"),
        after("layer", "net"),
        after("conv1", "encoder_q"),
        in_blocks("_orig_mod"),
        in_blocks("module"),
        in_blocks("net"),
        sequential("_orig_mod"),
        sequential("net"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "backbone.", "module.encoder_q.", "_orig_mod.net.0."])
def test_wrappers_inside_the_trunk_are_removed(
    tmp_path: Path, change: Callable[[str], str], prefix: str
) -> None:
    torch.save({"state_dict": renamed(lambda name: prefix + change(name))}, tmp_path / "w.pth")
    assert_is_network(tmp_path / "w.pth")


def test_wrapped_and_plain_names_that_would_meet_are_not_mixed(tmp_path: Path) -> None:
    other = {name: value + 1 for name, value in renamed(after("layer", "net")).items()}
    torch.save(network() | other, tmp_path / "w.pth")
    with pytest.raises(UserError, match="unexpected"):
        load_encoder(tmp_path / "w.pth")


ESCAPE = "\x1b[31m\x07"


def test_escape_sequences_of_a_file_reach_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heads: State = {f"{ESCAPE}head.weight": torch.ones(2, 2)}
    torch.save(network() | heads, tmp_path / "good.pth")
    torch.save({f"{ESCAPE}a": torch.ones(2)}, tmp_path / "none.pth")
    torch.save(network() | {f"layer1.{ESCAPE}": torch.ones(2)}, tmp_path / "extra.pth")
    save_file(heads, tmp_path / "st", metadata={"retable": '{"kind": "\\u001b[31m"}'})
    (tmp_path / "text.pth").write_text(f"{ESCAPE}denied")
    data = ["--data", "shapes?count=32&test_count=100&size=32", "--protocol", "geometry"]
    assert cli.main(["evaluate", str(tmp_path / "good.pth"), *data, "--device", "cpu"]) == 0
    for name in ("none.pth", "extra.pth", "st", "text.pth"):
        assert cli.main(["evaluate", str(tmp_path / name), *data]) == 2
    printed = capsys.readouterr()
    assert "\\x1b[31m\\x07head" in printed.out
    assert (printed.out + printed.err).replace("\n", "").isprintable()
    assert printed.err.count("\\x1b[31m") >= 3
