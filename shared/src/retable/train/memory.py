"""How much memory a training takes, estimated without training: what a step holds at its widest.

When the backward pass begins, there are the parameters, the optimizer's state, the views and all
that the forward pass kept; gradients come as activations go. What kernels and libraries take for
themselves is not counted. Of peaks that were measured (small networks, float32 and bf16, a CPU) the
estimate is 0.8 to 1.1; two thirds with ``reversible_backward``, where little is kept.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from retable.encoders import EncoderRecipe, ResidualRecipe, build_encoder
from retable.encoders.units import Branch
from retable.errors import UserError
from retable.methods.method import Batch, Method, MethodRecipe, Progress
from retable.train.recipe import PretrainRecipe
from retable.train.shape_inference import shapes_only, zeros_for_product

FLOAT = 4
"""Bytes of a parameter, of its gradient and of its momentum, whatever the precision."""

FEW = 4
"""Images that a method is measured with, if it takes so few."""


@dataclass(frozen=True)
class Memory:
    """What one process holds, in bytes.

    Attributes:
        state: parameters and buffers, those of momentum copies and queues too.
        optimizer: gradients and momentum of what is trained; under mixed precision also the copies
            of the weights in half precision.
        activations: the views and what the forward pass keeps for the backward pass.
    """

    state: float
    optimizer: float
    activations: float

    @property
    def total(self) -> float:
        """Return the sum."""
        return self.state + self.optimizer + self.activations


def training_memory(recipe: PretrainRecipe, images: int) -> Memory:
    """Estimate the memory of a process that takes so many images at a time.

    Args:
        recipe: of the pretraining.
        images: a process's share of the batch, or the part of it that is differentiated at once.

    Raises:
        UserError: the method cannot share its batch so.
    """
    encoder = _encoder_weights(recipe.encoder)
    sizes = tuple(view.size for view in recipe.views)
    method = _method_part(
        cast(Hashable, recipe.method),
        encoder.feature_dim,
        sizes,
        Progress(recipe.epochs - 1, 1, recipe.epochs),
        recipe.precision,
        images,
    )
    trained = method.trained + method.trained_encoders * encoder.parameters
    copies = 2.0 if recipe.optimizer.momentum else 1.0
    if recipe.precision != "float32":
        copies += 0.5
    state = method.state + method.encoders * (encoder.parameters + encoder.buffers)
    of_image = 3.0 * FLOAT * sum(size**2 for size in sizes)
    for side, count in method.encoded:
        of_image += count * _encoder_activations(recipe.encoder, side, recipe.precision)
    return Memory(state, copies * trained, method.kept(images) + of_image * images)


@dataclass(frozen=True)
class _EncoderWeights:
    feature_dim: int
    parameters: int
    buffers: int


@functools.lru_cache(maxsize=256)
def _encoder_weights(recipe: EncoderRecipe) -> _EncoderWeights:
    with shapes_only():
        encoder = build_encoder(recipe, 0)
    return _EncoderWeights(
        encoder.feature_dim, _bytes(encoder.parameters()), _bytes(encoder.buffers())
    )


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@functools.lru_cache(maxsize=256)
def _encoder_activations(recipe: EncoderRecipe, side: int, precision: str) -> float:
    """Return the bytes that an encoder keeps of one image, beside the image."""
    kept, _ = _kept_by_encoder(recipe, side, precision)
    if isinstance(recipe, ResidualRecipe) and recipe.reversible_backward:
        plain = replace(recipe, reversible_backward=False)
        kept += _kept_by_encoder(plain, side, precision)[1]
    return kept


def _kept_by_encoder(recipe: EncoderRecipe, side: int, precision: str) -> tuple[float, float]:
    """Return the bytes that are kept of one image, and what a unit computed anew would hold.

    The latter is what the largest branch keeps, and six halves of a map in float32: the residual,
    the input's other half, and four of gradients.
    """
    with shapes_only():
        encoder = build_encoder(recipe, 0).train()
    rows = 2  # batch norm of one number does not exist
    images = torch.zeros(rows, 3, side, side)
    begin = most = 0
    with _counting(precision, encoder, images) as kept:

        def enter(*_: object) -> None:
            nonlocal begin
            begin = kept()

        def leave(branch: nn.Module, inputs: object, residual: Tensor) -> None:
            nonlocal most
            most = max(most, kept() - begin + 6 * FLOAT * residual.numel())

        for module in encoder.modules():
            if isinstance(module, Branch):
                module.register_forward_pre_hook(enter)
                module.register_forward_hook(leave)
        encoder.forward(images)
    return kept() / rows, most / rows


@contextmanager
def _counting(precision: str, module: nn.Module, *inputs: Tensor) -> Iterator[Callable[[], int]]:
    """Count the bytes that forward passes in the block keep, beside the module's own and inputs.

    What is kept is let go at once: a wide network's would not fit.
    """
    seen = {_identity(tensor) for tensor in (*module.parameters(), *module.buffers(), *inputs)}
    total = 0

    def keep(tensor: Tensor) -> None:
        nonlocal total
        identity = _identity(tensor)
        if identity not in seen:
            seen.add(identity)
            total += tensor.untyped_storage().nbytes()

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, _refuse)
    half = precision != "float32"
    with shapes_only(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=half), hooks:
        yield lambda: total


def _refuse(packed: object) -> Tensor:
    raise RuntimeError("nothing was kept for a backward pass")


def _identity(tensor: Tensor) -> Hashable:
    """Return what no other storage will be equal to, also when this one's memory is free again."""
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


class _StandIn(nn.Module):
    """Stands in for an encoder: keeps its input alone, and notes what it would be trained on."""

    def __init__(self, feature_dim: int) -> None:
        super().__init__()
        self.feature_dim = feature_dim
        self.weight = nn.Parameter(torch.zeros(1, 1))
        self.seen: list[tuple[int, int]] = []

    def forward(self, images: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            self.seen.append((images.shape[-1], len(images)))
        # Under autocast an encoder keeps a copy of its own making.
        kept = images[:0] if torch.is_autocast_enabled("cpu") else images
        return zeros_for_product(kept, self.weight, (len(images), self.feature_dim))


@dataclass(frozen=True)
class _MethodPart:
    """What a method holds beside its encoders.

    Attributes:
        state: bytes of parameters and buffers.
        trained: bytes of the parameters that are trained.
        encoders: how many copies of the encoder there are.
        trained_encoders: how many of them are trained.
        encoded: sides, and how many inputs of that side are trained on for one image.
        polynomial: bytes that are kept of n images, coefficients of 1, n and n^2.
    """

    state: int
    trained: int
    encoders: int
    trained_encoders: int
    encoded: tuple[tuple[int, float], ...]
    polynomial: tuple[float, float, float]

    def kept(self, images: int) -> float:
        """Return the bytes that are kept of so many images."""
        constant, linear, square = self.polynomial
        return constant + linear * images + square * images**2


@functools.lru_cache(maxsize=256)
def _method_part(
    recipe: MethodRecipe,
    feature_dim: int,
    sizes: tuple[int, ...],
    progress: Progress,
    precision: str,
    images: int,
) -> _MethodPart:
    """Measure a method around a stand-in of its encoder.

    With a few images: all sizes are polynomials of their number.
    """
    with shapes_only():
        new = recipe.build(_StandIn(feature_dim), 0).train()
    for rows in (FEW, *(rows for rows in range(FEW, images + 1) if images % rows == 0)):
        try:
            (method, first), (_, second), (_, third) = (
                _forward_pass(new, sizes, progress, precision, rows * times) for times in (1, 2, 3)
            )
            break
        except UserError:  # there are methods that want whole groups of images
            if rows >= images:
                raise
    square = (third - 2 * second + first) / (2 * rows**2)
    linear = (second - first) / rows - 3 * rows * square
    constant = first - linear * rows - square * rows**2
    stand_ins = [module for module in method.modules() if isinstance(module, _StandIn)]
    own = [stand_in.weight for stand_in in stand_ins]
    encoded: dict[int, float] = {}
    for side, count in (seen for stand_in in stand_ins for seen in stand_in.seen):
        encoded[side] = encoded.get(side, 0.0) + count / rows
    trained = [value for value in method.parameters() if value.requires_grad]
    return _MethodPart(
        state=_bytes(method.parameters()) + _bytes(method.buffers()) - _bytes(own),
        trained=_bytes(trained) - _bytes(weight for weight in own if weight.requires_grad),
        encoders=len(own),
        trained_encoders=sum(weight.requires_grad for weight in own),
        encoded=tuple(encoded.items()),
        polynomial=(constant, linear, square),
    )


def _forward_pass(
    new: Method, sizes: tuple[int, ...], progress: Progress, precision: str, rows: int
) -> tuple[Method, int]:
    """Pass black images through a copy of a method; return it, and the bytes that it keeps."""
    method = copy.deepcopy(new)  # some make a second step only after the first has been taken
    places = torch.arange(rows)
    views = tuple(torch.zeros(1, 3, size, size).expand(rows, -1, -1, -1) for size in sizes)
    batch = Batch(views, torch.zeros_like(places), places, places, progress, 0)
    with _counting(precision, method, *views) as kept:
        method(batch)
    return method, kept()
