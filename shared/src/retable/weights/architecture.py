"""Recognise the ResNet that a state dict belongs to, and load state dicts completely."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from retable.encoders import Encoder, EncoderRecipe, ResNetRecipe
from retable.encoders.resnet import DEPTHS
from retable.errors import UserError
from retable.weights.values import is_plain, refuse_unusable

# Ends of names that only variants of ResNets have, and what they are.
_VARIANTS = (
    (r"layer\d\.\d+\.(se|attn|fc\d?|ca|gc|eca|sa)\b.*", "attention in its blocks"),
    (r".*\.(filt|blur\w*|aa)(\..*)?", "anti-aliased down-sampling"),
    (r"layer\d\.\d+\.(convs|bns|conv\d\.(paths|\d+))\b.*", "split convolutions"),
    (r".*\.weight_(orig|mask)", "pruned weights (apply torch.nn.utils.prune.remove first)"),
    (r".*(parametrizations|weight_[gv])\b.*", "parametrised weights (remove the parametrisation)"),
    (r".*(activation_post_process|fake_quant)\b.*", "quantised weights"),
)

# Tensors that nothing reads: counters of batch norm and of thop's profiler.
_COUNTERS = ("num_batches_tracked", "total_ops", "total_params")


def recognise(state: Mapping[str, Tensor]) -> ResNetRecipe:
    """Return the recipe of a ResNet from the shapes of its tensors, under torchvision's names.

    A 7x7 first convolution means the ImageNet stem, a 3x3 one the small stem. What shapes do not
    show is left to `retable.weights.structure`.
    """
    _refuse_variants(state)
    pattern = re.compile(r"layer([1-4])\.\d+\.conv1\.weight")
    stages = [match[1] for name in state if (match := pattern.fullmatch(name))]
    blocks = tuple(stages.count(stage) for stage in "1234")
    bottleneck = "layer1.0.conv3.weight" in state
    names = [name for name, depth in DEPTHS.items() if depth == (blocks, bottleneck)]
    if not names:
        kind = "bottleneck" if bottleneck else "basic"
        raise UserError(
            f"The weights must have the blocks of {', '.join(DEPTHS)}, got {blocks} {kind} blocks "
            "in four stages."
        )
    channels, inputs, *kernel = state["conv1.weight"].shape
    if inputs != 3 or kernel not in ([7, 7], [3, 3]):
        raise UserError(
            "The first convolution must have 3 input channels and a 7x7 kernel (ImageNet stem) or "
            f"3x3 (small stem), got {tuple(state['conv1.weight'].shape)}."
        )
    if bottleneck:
        _refuse_other_bottlenecks(state, channels)
    return ResNetRecipe(
        names[0], width=channels / 64, stem="imagenet" if kernel == [7, 7] else "small"
    )


def _refuse_variants(state: Mapping[str, Tensor]) -> None:
    for name, value in state.items():
        kinds = [what for pattern, what in _VARIANTS if re.fullmatch(pattern, name)]
        if re.fullmatch(r"layer\d\.\d+\.downsample\.1\.weight", name) and value.dim() == 4:
            kinds = ["shortcuts with a pooling (as in ResNet-D)"]
        if kinds:
            raise UserError(
                f"The weights must be of a plain ResNet, got {kinds[0]} ({name}). Use the plain "
                "network's weights."
            )


def _refuse_other_bottlenecks(state: Mapping[str, Tensor], channels: int) -> None:
    inner = state["layer1.0.conv1.weight"].shape[0]
    middle = state.get("layer1.0.conv2.weight")
    if middle is not None and middle.dim() == 4 and 0 < middle.shape[1] < middle.shape[0]:
        what = f"{middle.shape[0] // middle.shape[1]} groups of channels (as in ResNeXt)"
    elif inner != channels:
        what = f"bottlenecks of {inner} channels instead of {channels} (as in Wide ResNets)"
    else:
        return
    raise UserError(
        f"The weights must be of a plain ResNet, got {what}. Use the plain network's weights."
    )


def without_inert(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state without tensors that nothing reads, and with every counter of batch norm.

    Counters may be missing, as in files of before 2018, or of another shape or type.
    """
    kept = {
        name: value
        for name, value in state.items()
        if name in expected or name.rpartition(".")[2] not in _COUNTERS
    }
    for name in expected:
        if name.endswith(".num_batches_tracked"):
            value = kept.get(name)
            usable = value is not None and is_plain(value) and value.numel() == 1
            count = int(value) if usable and value is not None and not value.is_complex() else 0
            kept[name] = torch.tensor(count)
    return kept


def filled_encoder(
    recipe: EncoderRecipe, state: Mapping[str, Tensor], source: str, available: int | None = None
) -> Encoder:
    """Build the encoder of ``recipe`` with the values of ``state``, in evaluation mode.

    ``available`` are the bytes of the file, which no honest weights exceed in number.
    """
    expected = expected_state(recipe)
    state = without_inert(expected, state)
    complaint = f"{source} does not hold a {recipe.label}"
    norms = [name for name in expected if name.endswith("running_mean")]
    if norms and not state.keys() & set(norms):
        raise UserError(
            f"{complaint}: its norms have no running statistics. If they are group norms of 16 "
            "channels a group, name FILE?norm=group."
        )
    refuse_differences(expected, state, complaint)
    counters = ".num_batches_tracked"
    weights = {name: value for name, value in state.items() if not name.endswith(counters)}
    refuse_unusable(weights, source, available)
    encoder = recipe.build(rng_key=0)
    encoder.load_state_dict(state)
    return encoder.eval()


def expected_state(recipe: EncoderRecipe) -> dict[str, Tensor]:
    """Return names and shapes of an encoder's state as tensors on the meta device."""
    try:
        with torch.device("meta"):
            return recipe.build(rng_key=0).state_dict()
    # Shapes that no tensor can have.
    except (OverflowError, RuntimeError, MemoryError) as error:
        raise UserError(
            f"The encoder must be of a size that can be built, got a {recipe.label}."
        ) from error


def refuse_differences(
    expected: Mapping[str, Tensor], state: Mapping[str, Tensor], complaint: str
) -> None:
    """Raise a UserError that names a few tensors if two state dicts differ in names or shapes."""
    shapes = [
        f"{name} of shape {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in expected
        if name in state and state[name].shape != expected[name].shape
    ]
    differences = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in (
            ("missing", [name for name in expected if name not in state]),
            ("unexpected", [name for name in state if name not in expected]),
            ("differing", shapes),
        )
        if names
    ]
    if differences:
        raise UserError(
            f"{complaint}: tensors {'; '.join(differences)}. Check that the file is complete and "
            "of that architecture."
        )
