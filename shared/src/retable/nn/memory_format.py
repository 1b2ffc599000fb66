"""Memory format of networks that are trained."""

from __future__ import annotations

import torch
from torch import nn

_LANES = 8
"""Float32 numbers of a vector of AVX2."""


def trains_channels_last(network: nn.Module, device: torch.device) -> bool:
    """Return whether a network can be trained in the memory format "channels last".

    On CPUs without AVX-512 the weight gradient of a strided 1 x 1 convolution with fewer than 8
    input channels writes beyond its memory in this format (oneDNN in torch 2.15). Tiny networks
    alone have such layers: those of tests, not those of papers.
    """
    if device.type != "cpu" or "AVX512" in torch.backends.cpu.get_cpu_capability():
        return True
    return not any(
        isinstance(layer, nn.Conv2d)
        and layer.kernel_size == (1, 1)
        and max(layer.stride) > 1
        and layer.in_channels < _LANES
        for layer in network.modules()
    )
