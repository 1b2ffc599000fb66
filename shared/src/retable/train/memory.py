"""A rough estimate of the memory that a training needs, without training."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from retable.encoders import EncoderRecipe
from retable.train.cost import evaluation_mode
from retable.train.recipe import PretrainRecipe, build_method
from retable.train.shape_inference import shapes_only

FLOAT = 4
"""Bytes of a view's pixel channel, and of a parameter, its gradient and its momentum."""


Part = tuple[Callable[[Tensor], Any], tuple[int, ...], int]


def training_memory(recipe: PretrainRecipe, images: int) -> float:
    """Estimate the bytes that one process holds when the backward pass begins.

    Counted are all parameters and buffers (of momentum encoders and queues too), gradients and
    momentum of what is trained, the views, and what the encoder keeps of every image for the
    backward pass. Not counted are the activations of heads and losses, activations that a backward
    pass recomputes, and the workspaces of libraries. Compared with measured peaks (float32 and bf16
    on a CPU), the estimate was 0.8 to 1.1 of the peak for small ResNets, VGGs and RevNets under
    five methods, and 0.45 for a RevNet that recomputes its activations. ``images`` is the number
    of images of the process in one forward pass: its share of the batch or micro-batch.
    """
    with shapes_only():
        method = build_method(recipe, seed=0)
    trained = _bytes(value for value in method.parameters() if value.requires_grad)
    copies = 2.0 if recipe.optimizer.momentum else 1.0
    if recipe.precision != "float32":
        copies += 0.5  # autocast keeps the weights in half precision
    sizes = [view.size for view in recipe.views]
    of_image = 3.0 * FLOAT * sum(size**2 for size in sizes)
    passes: dict[int, float] = {}
    for side, count in method.encoder_inputs(sizes):
        passes[side] = passes.get(side, 0.0) + count
    for side, count in passes.items():
        # A forward and a backward pass count as 3; what remains are forward passes alone.
        of_image += count // 3 * _kept(recipe.encoder, side, recipe.precision != "float32")
    everything = _bytes(method.parameters()) + _bytes(method.buffers())
    return everything + copies * trained + of_image * images


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


@functools.lru_cache(maxsize=256)
def _kept(recipe: EncoderRecipe, side: int, half: bool) -> int:
    """Return the bytes that an encoder keeps of one image for the backward pass."""
    with shapes_only():
        encoder = recipe.build(0).eval()
    return kept_bytes(encoder, encoder, (3, side, side), half)


def network_memory(network: nn.Module, parts: Iterable[Part], images: int) -> float:
    """Estimate the bytes of training a network by SGD with momentum, as `training_memory` does.

    ``parts`` are passes of one image through the network: a module or a method, the shape of its
    input without the number of inputs, and that number. Counted are weights, gradients and
    momentum, and what the passes of ``images`` images and their inputs keep.
    """
    trained = _bytes(value for value in network.parameters() if value.requires_grad)
    everything = _bytes(network.parameters()) + _bytes(network.buffers())
    with evaluation_mode(network):
        of_image = sum(
            count * (kept_bytes(network, forward, shape) + FLOAT * math.prod(shape))
            for forward, shape, count in parts
        )
    return everything + 2 * trained + images * of_image


def kept_bytes(
    network: nn.Module,
    forward: Callable[[Tensor], Any],
    shape: tuple[int, ...],
    half: bool = False,
) -> int:
    """Return the bytes that a pass of one input through a part of a network keeps for backward."""
    seen = {_identity(tensor) for tensor in (*network.parameters(), *network.buffers())}
    total = 0

    def keep(tensor: Tensor) -> None:  # nothing, so that wide networks fit
        nonlocal total
        if (identity := _identity(tensor)) not in seen:
            seen.add(identity)
            total += tensor.untyped_storage().nbytes()

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: torch.empty(0))
    with shapes_only(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=half), hooks:
        forward(torch.zeros(1, *shape))
    return total


def _identity(tensor: Tensor) -> Hashable:
    """Return a value that no other storage equals, even after this one's memory is freed."""
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
