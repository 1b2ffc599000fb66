"""An encoder made ready for evaluation: a copy that nothing can train."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from retable.encoders import Encoder
from retable.errors import UserError
from retable.files import digest_of_tensors
from retable.precision import autocast_dtype


def _unwrapped(encoder: nn.Module) -> nn.Module:
    """Return what data parallelism and `torch.compile` have wrapped."""
    while True:
        if isinstance(encoder, nn.parallel.DistributedDataParallel):
            encoder = encoder.module
        elif isinstance(getattr(encoder, "_orig_mod", None), nn.Module):
            encoder = encoder.get_submodule("_orig_mod")
        else:
            return encoder


def _norm_name(convolution: str) -> str:
    """Return the name of a convolution's norm, see `retable.encoders.Encoder.folds_batch_norms`."""
    return "1" if convolution == "0" else convolution.replace("conv", "bn")


def fold_batch_norms(encoder: Encoder) -> None:
    """Multiply the batch norms of an encoder in eval mode into the convolutions before them.

    Changes the encoder for good: it gives the same features, to rounding, in two thirds of the time
    (small_resnet8, 32 px, one core of a CPU), and cannot be trained or saved any more.
    """
    for parent in list(encoder.modules()):
        children = dict(parent.named_children())
        for name, convolution in children.items():
            norm = children.get(_norm_name(name))
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(convolution, norm))
                setattr(parent, _norm_name(name), nn.Identity())


def structure(encoder: nn.Module) -> str:
    """Hash what an encoder computes apart from its weights: its modules and their settings.

    Strides, poolings or a missing last ReLU do not show in weights.
    """
    state = hashlib.blake2b(digest_size=16)
    for name, module in encoder.named_modules():
        settings = {
            setting: value
            for setting, value in sorted(vars(module).items())
            if setting != "training" and _is_plain(value)
        }
        kind = f"{type(module).__module__}.{type(module).__qualname__}"
        state.update(f"{name} {kind} {settings!r}\n".encode())
    state.update(digest_of_tensors(dict(encoder.named_buffers())).encode())  # also those not saved
    return state.hexdigest()


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return True
    return value is None or isinstance(value, bool | int | float | str)


class FrozenEncoder(nn.Module):
    """A copy of an encoder in eval mode on one device: images (B,3,H,W) -> float32 (B,F).

    The original keeps its weights, its running statistics, its mode and its device, whatever
    happens here. Batch norms use their running statistics, so a feature depends on its image alone
    and features may be computed in any order and in batches of any size (Goyal et al. 2019 and
    MoCo's `main_lincls.py` keep the encoder in eval mode while the classifier is trained). Hence
    batch norms are folded into convolutions where the encoder declares `folds_batch_norms`.

    ``digest`` is a hash of the original's weights and buffers, ``structure`` one of its modules,
    see `structure`; ``precision`` is that of the forward passes.
    """

    def __init__(self, encoder: nn.Module, device: torch.device | str, precision: str) -> None:
        super().__init__()
        self.device = torch.device(device)
        self.precision = precision
        self._type = autocast_dtype(precision)
        frozen = copy.deepcopy(_unwrapped(encoder)).eval().requires_grad_(False).to(self.device)
        self.digest = digest_of_tensors(frozen.state_dict())
        self.structure = structure(frozen)
        if isinstance(frozen, Encoder) and frozen.folds_batch_norms:
            fold_batch_norms(frozen)
        self.encoder = frozen.to(memory_format=torch.channels_last)

    @property
    def tap_names(self) -> tuple[str, ...]:
        """The layers that `taps` gives, in order of depth; "pre_logits" alone if it names none."""
        names: tuple[str, ...] = getattr(self.encoder, "tap_names", ("pre_logits",))
        return names

    def forward(self, images: Tensor) -> Tensor:
        """Return pooled features (B, F), float32, on the device."""
        return self.taps(images, ("pre_logits",))["pre_logits"]

    @torch.no_grad()
    def taps(self, images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Return the named layers' maps (B, C, h, w) or vectors (B, F), float32, on the device.

        "pre_logits" are the pooled features (B, F).
        """
        for name in names:
            if name not in self.tap_names:
                raise UserError(
                    f"the encoder has no tap {name!r}: expected one of {', '.join(self.tap_names)}."
                )
        images = images.to(self.device, non_blocking=True)
        images = images.contiguous(memory_format=torch.channels_last)
        half = self._type is not None
        with torch.autocast(self.device.type, self._type) if half else nullcontext():
            if tuple(names) == ("pre_logits",):
                found = {"pre_logits": self.encoder(images)}
            else:
                taps: Any = self.encoder.taps
                found = taps(images, names)
        maps = {name: found[name].float() for name in names}
        if "pre_logits" in maps:
            maps["pre_logits"] = maps["pre_logits"].flatten(1)
        return maps


def freeze(
    encoder: nn.Module, device: torch.device | str, precision: str = "float32"
) -> FrozenEncoder:
    """Make the copy that evaluation uses; a frozen encoder is returned as it is."""
    if isinstance(encoder, FrozenEncoder):
        return encoder
    return FrozenEncoder(encoder, device, precision)
