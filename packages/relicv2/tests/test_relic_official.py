"""Official checkpoints, on a made tree of Haiku's names and shapes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from relicv2.official import __main__ as command
from relicv2.official import read_official
from relicv2.official.network import HaikuResNetRecipe, same_padding
from retable.encoders.dilation import dilate_
from retable.errors import UserError
from retable.weights import load_encoder

BLOCKS, WIDTH = (3, 4, 6, 3), 4  # ResNet-50 at a 16th of its width
TORSO = "res_net50/~/"


def tree() -> dict[str, Tensor]:
    """Make parameters and states in Haiku's order of dimensions, and a projector's."""
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, Tensor] = {}

    def convolution(name: str, kernel: int, inputs: int, outputs: int) -> None:
        shape = (kernel, kernel, inputs, outputs)
        weight = torch.randn(shape, generator=generator) * (2 / (kernel**2 * inputs)) ** 0.5
        tensors[f"online_params/{name}/w"] = weight

    def norm(name: str, channels: int) -> None:
        def draw() -> Tensor:
            return torch.rand(1, 1, 1, channels, generator=generator)

        tensors[f"online_params/{name}/scale"] = 0.5 + draw()
        tensors[f"online_params/{name}/offset"] = draw() - 0.5
        for of, value in (("mean", draw() - 0.5), ("var", 0.5 + draw())):
            state = f"online_state/{name}/~/{of}_ema"
            tensors[f"{state}/average"] = value
            tensors[f"{state}/hidden"] = draw()
            tensors[f"{state}/counter"] = torch.tensor(7.0)

    convolution(f"{TORSO}initial_conv", 7, 3, WIDTH)
    norm(f"{TORSO}initial_batchnorm", WIDTH)
    inputs = WIDTH
    for group, count in enumerate(BLOCKS):
        middle = WIDTH * 2**group
        for index in range(count):
            block = f"{TORSO}block_group_{group}/~/block_{index}/~/"
            for number, (kernel, before, after) in enumerate(
                [(1, inputs, middle), (3, middle, middle), (1, middle, 4 * middle)]
            ):
                convolution(f"{block}conv_{number}", kernel, before, after)
                norm(f"{block}batchnorm_{number}", after)
            if index == 0:
                convolution(f"{block}shortcut_conv", 1, inputs, 4 * middle)
                norm(f"{block}shortcut_batchnorm", 4 * middle)
            inputs = 4 * middle
    tensors["online_params/projector/linear/w"] = torch.zeros(4, 4)
    tensors["online_params/projector/batch_norm/scale"] = torch.ones(4)
    return tensors


def haiku_features(tensors: dict[str, Tensor], images: Tensor) -> Tensor:
    """Compute the features of even-sided maps from the tree.

    Independent of padding rules: with stride 2 and "SAME" on an even side, Haiku's outputs of a
    3x3 or 7x7 kernel are those of stride 1 at the odd places, and of a 1x1 kernel at the even ones.
    """

    def convolved(x: Tensor, name: str, stride: int) -> Tensor:
        weight = tensors[f"online_params/{name}/w"].permute(3, 2, 0, 1).double()
        full = F.conv2d(x, weight, padding="same")
        first = 0 if weight.shape[-1] == 1 else stride - 1
        return full[:, :, first::stride, first::stride]

    def normed(x: Tensor, name: str) -> Tensor:
        scale, offset = (tensors[f"online_params/{name}/{end}"] for end in ("scale", "offset"))
        mean, variance = (
            tensors[f"online_state/{name}/~/{of}_ema/average"] for of in ("mean", "var")
        )
        flat = [value.double().view(1, -1, 1, 1) for value in (scale, offset, mean, variance)]
        return (x - flat[2]) / (flat[3] + 1e-5).sqrt() * flat[0] + flat[1]

    x = normed(convolved(images.double(), f"{TORSO}initial_conv", 2), f"{TORSO}initial_batchnorm")
    x = F.max_pool2d(x.relu(), 3, stride=1, padding=1)[:, :, 1::2, 1::2]
    for group, count in enumerate(BLOCKS):
        for index in range(count):
            block = f"{TORSO}block_group_{group}/~/block_{index}/~/"
            stride = 2 if group > 0 and index == 0 else 1
            shortcut = x
            if index == 0:
                shortcut = convolved(x, f"{block}shortcut_conv", stride)
                shortcut = normed(shortcut, f"{block}shortcut_batchnorm")
            for number in range(3):
                x = convolved(x, f"{block}conv_{number}", stride if number == 1 else 1)
                x = normed(x, f"{block}batchnorm_{number}")
                x = x.relu() if number < 2 else (x + shortcut).relu()
    return x.mean(dim=(2, 3))


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("official") / "relicv2.safetensors"
    save_file({name: value.contiguous() for name, value in tree().items()}, path)
    return path


def test_a_converted_checkpoint_computes_what_haiku_does(converted: Path) -> None:
    encoder, recipe = read_official(converted)
    assert recipe == HaikuResNetRecipe("resnet50", 1 / 16)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        found = encoder.double()(images.double())
    torch.testing.assert_close(found, haiku_features(tree(), images), rtol=1e-9, atol=1e-9)


def test_the_command_writes_an_encoder_that_everything_loads(
    converted: Path, tmp_path: Path
) -> None:
    assert command.main([str(converted), str(tmp_path / "e.safetensors")]) == 0
    loaded = load_encoder(tmp_path / "e.safetensors")
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded.encoder(images), read_official(converted)[0](images))
    assert loaded.metadata == {"source": "relicv2.safetensors"}


def test_an_official_encoder_is_not_dilated(converted: Path) -> None:
    with pytest.raises(UserError, match="must be a ResNet with torch's padding to be dilated"):
        dilate_(read_official(converted)[0], 2)


@pytest.mark.parametrize("side", range(1, 40))
@pytest.mark.parametrize("kernel", [1, 3, 7])
def test_same_padding_covers_each_side(side: int, kernel: int) -> None:
    # Source: TensorFlow's definition of "SAME".
    before, after = same_padding(side, kernel, 2)
    assert (side + before + after - kernel) // 2 + 1 == -(-side // 2)
    assert 0 <= after - before <= 1 or before + after == 0


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"online_params/res_net50/~/initial_conv/w": None}, "must have one tensor online_params"),
        ({f"online_params/{TORSO}block_group_3/~/block_2/~/conv_1/w": None}, "got none for layer4"),
        (
            {f"online_params/{TORSO}block_group_3/~/block_3/~/conv_0/w": torch.zeros(1, 1, 2, 2)},
            "got one with",
        ),
        (
            {f"online_params/{TORSO}block_group_3/~/block_2/~/shortcut_conv/w": torch.zeros(1)},
            "got a weight layer4.2.downsample.0.weight beyond it",
        ),
        ({f"online_params/{TORSO}initial_batchnorm/scale": None}, "got one with"),
        (
            {f"online_params/{TORSO}block_group_3/~/block_2/~/conv_1/w": torch.zeros(3, 3, 2, 2)},
            "whose layer4.2.conv2.weight has the shape",
        ),
        ({f"online_params/{TORSO}block_group_0/~/block_0/~/shortcut_conv/w": None}, "got none for"),
        (
            {f"online_params/{TORSO}block_group_0/~/block_0/~/shortcut_conv/w": None}
            | {f"online_params/{TORSO}block_group_0/~/block_0/~/shortcut_foo/w": torch.zeros(1)},
            "got none for layer1.0.downsample",
        ),
    ],
)
def test_what_is_no_converted_checkpoint_is_named(
    changed: dict[str, Tensor | None], said: str, tmp_path: Path
) -> None:
    tensors = {**tree(), **changed}
    path = tmp_path / "other.safetensors"
    save_file(
        {name: value.contiguous() for name, value in tensors.items() if value is not None}, path
    )
    with pytest.raises(UserError, match=said):
        read_official(path)
