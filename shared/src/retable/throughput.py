"""How fast training is, and how much of the device that is."""

from __future__ import annotations

import copy
import time

import torch
from torch import nn

from retable.distributed import process_count
from retable.methods.method import Method


def forward_flops(encoder: nn.Module, size: int) -> float:
    """Count the floating-point operations of one image (3, size, size), 2 per multiply-add.

    Counted on meta tensors: nothing is computed or allocated.
    """
    from torch.utils.flop_counter import FlopCounterMode

    shape_only = copy.deepcopy(encoder).to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shape_only(torch.empty(1, 3, size, size, device="meta"))
    return float(counter.get_total_flops())


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the device's matrix-product rate in FLOP/s: the yardstick for a training step.

    Takes about a tenth of a second.
    """
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
    """Images a second since the last call, and the share of the matrix-product rate they make.

    The share counts the encoder's operations alone (``Method.encoder_passes`` forward passes for an
    image), so it is the part of the device's arithmetic that trains the encoder.
    """

    def __init__(self, method: Method, batch: int, precision: str, size: int, step: int) -> None:
        self._batch = batch
        device = next(method.parameters()).device
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
        self._share_per_rate = (
            method.encoder_passes * forward_flops(method.encoder, size) / matmul_rate(device, dtype)
        )
        self.restart(step)

    def restart(self, step: int) -> None:
        """Start the clock: the step before was followed by other work."""
        self._step = step
        self._start = time.perf_counter()

    def rates(self, step: int) -> dict[str, float]:
        """Return images a second over all processes and this process's utilisation."""
        images = (step - self._step) * self._batch / (time.perf_counter() - self._start)
        own = images / process_count()
        return {"images_per_second": images, "utilisation": own * self._share_per_rate}
