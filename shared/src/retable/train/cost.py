"""The operations of an encoder, and the throughput and utilisation of a training."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from retable.distributed import process_count
from retable.methods.method import Method
from retable.precision import autocast_dtype


@contextlib.contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Put all modules in evaluation mode, and each back into its own mode afterwards."""
    modes = [(each, each.training) for each in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for each, mode in modes:
            each.training = mode


@torch.no_grad()
def forward_flops(encoder: nn.Module, size: int) -> float:
    """Count the floating-point operations of one image (3, size, size), 2 per multiply-add.

    Convolutions and linear layers are counted in a forward pass of one image, which inside
    `retable.train.shape_inference.shapes_only` computes no products. torch's own counter imports
    TorchDynamo and SymPy, which takes seconds.

    >>> forward_flops(nn.Sequential(nn.Conv2d(3, 8, 1)), 4)
    768.0
    """
    counts = []

    def count(layer: nn.Module, _: object, output: Tensor) -> None:
        weight = layer.get_parameter("weight")  # (outputs, what each is a sum of)
        counts.append(2 * output.numel() * weight[0].numel())

    with contextlib.ExitStack() as hooks, evaluation_mode(encoder):
        for layer in encoder.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                hooks.enter_context(layer.register_forward_hook(count))
        encoder.forward(torch.zeros(1, 3, size, size, device=next(encoder.parameters()).device))
    return float(sum(counts))


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the device's matrix-product rate in FLOP/s, in about a tenth of a second."""
    on_gpu = device.type == "cuda"
    side = 8192 if on_gpu else 1024
    a = torch.ones(side, side, device=device, dtype=dtype) * 0.01
    best = 0.0
    for _ in range(4):
        if on_gpu:
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        product = a @ a
        if on_gpu:
            torch.cuda.synchronize(device)
        best = max(best, 2 * side**3 / (time.perf_counter() - start))
        del product
    return best


class Throughput:
    """Images per second since the last restart, and utilisation of the device.

    Utilisation is the rate of the encoder's operations (``Method.encoder_inputs``) as a share of
    the measured matrix-product rate; heads and losses do not count. ``batch`` is the number of
    images of a step over all processes, ``sizes`` are the sides of the views in pixels, and
    ``step`` is the step before the first one that is timed.
    """

    def __init__(
        self, method: Method, batch: int, precision: str, sizes: Sequence[int], step: int
    ) -> None:
        self._batch = batch
        device = next(method.parameters()).device
        dtype = autocast_dtype(precision) or torch.float32
        inputs = method.encoder_inputs(sizes)
        of_side = {side: forward_flops(method.encoder, side) for side in {s for s, _ in inputs}}
        flops = sum(passes * of_side[side] for side, passes in inputs)
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
