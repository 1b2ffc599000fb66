"""The operations of an encoder, and the throughput and utilisation of a training."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from retable.distributed import process_count
from retable.methods.method import Method
from retable.precision import autocast_dtype


@torch.no_grad()
def forward_flops(encoder: nn.Module, size: int) -> float:
    """Count the floating-point operations of one image (3, size, size), 2 per multiply-add.

    Convolutions and linear layers are counted in a forward pass of one image, which inside
    `retable.train.shape_inference.shapes_only` computes no products. torch's own counter imports
    TorchDynamo and SymPy, which takes seconds.

    >>> forward_flops(nn.Sequential(nn.Conv2d(3, 8, 1)), 4)
    768.0
    """
    total = 0

    def count(layer: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        weight = layer.get_parameter("weight")  # (outputs, what each is a sum of)
        total += 2 * output.numel() * weight[0].numel()

    layers = [m for m in encoder.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    modes = [(module, module.training) for module in encoder.modules()]
    try:
        encoder.eval()
        encoder.forward(torch.zeros(1, 3, size, size, device=next(encoder.parameters()).device))
    finally:
        for module, mode in modes:
            module.training = mode
        for hook in hooks:
            hook.remove()
    return float(total)


def encoder_flops(encoder: nn.Module, inputs: Iterable[tuple[int, float]]) -> float:
    """Count the encoder's operations in a training step, for one image.

    Args:
        encoder: the network.
        inputs: sides in pixels and numbers of forward passes, as `Method.encoder_inputs` returns.

    >>> encoder_flops(nn.Sequential(nn.Conv2d(3, 8, 1)), [(4, 3.0), (2, 1.0), (4, 1.0)])
    3264.0
    """
    passes: dict[int, float] = {}
    for side, count in inputs:
        passes[side] = passes.get(side, 0.0) + count
    return sum(count * forward_flops(encoder, side) for side, count in passes.items())


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the device's matrix-product rate in FLOP/s, in about a tenth of a second."""
    side = 8192 if device.type == "cuda" else 1024
    a = torch.ones(side, side, device=device, dtype=dtype) * 0.01
    best = 0.0
    for _ in range(4):
        _wait(device)
        start = time.perf_counter()
        product = a @ a
        _wait(device)
        best = max(best, 2 * side**3 / (time.perf_counter() - start))
        del product
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Throughput:
    """Images per second since the last restart, and utilisation of the device.

    Utilisation is the rate of the encoder's operations (``Method.encoder_inputs``) as a share of
    the measured matrix-product rate; heads and losses do not count.

    Args:
        method: the method in training.
        batch: images of a step, over all processes.
        precision: precision of the recipe.
        sizes: side of each view in pixels.
        step: the step before the first one that is timed.
    """

    def __init__(
        self, method: Method, batch: int, precision: str, sizes: Sequence[int], step: int
    ) -> None:
        self._batch = batch
        device = next(method.parameters()).device
        dtype = autocast_dtype(precision) or torch.float32
        flops = encoder_flops(method.encoder, method.encoder_inputs(sizes))
        self._share_per_rate = flops / matmul_rate(device, dtype)
        self.restart(step)

    def restart(self, step: int) -> None:
        """Restart the clock after a pause of training, for instance for an evaluation."""
        self._step = step
        self._start = time.perf_counter()

    def rates(self, step: int) -> dict[str, float]:
        """Return images per second over all processes, and the utilisation of this process."""
        images = (step - self._step) * self._batch / (time.perf_counter() - self._start)
        own = images / process_count()
        return {"images_per_second": images, "utilisation": own * self._share_per_rate}
