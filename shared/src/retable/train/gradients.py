"""The gradient landscape: how large gradients are in each module of a network, epoch by epoch.

Zhu et al. (ICCV 2021, supplement, section C) compare trainings by it. Per module the l2 norm of the
gradient over the module's own parameters, taken between the backward pass and the optimizer's step;
of each epoch its mean, standard deviation and maximum over the steps.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import torch
from torch import Tensor, nn

from retable import distributed
from retable.errors import UserError
from retable.train.metrics import MetricsLog, rounded

_PENDING = 256  # steps whose norms wait to be summed together


class GradientLandscape:
    """Norms of a network's gradients by module, summed up over an epoch without asking the device.

    A module counts if it has parameters of its own that are trained: 40 in a ResNet-18, each
    convolution and each batch norm, and 106 in a ResNet-50. In a loop of your own::

        landscape = GradientLandscape(encoder)
        for epoch in range(epochs):
            for batch in batches:
                ...
                loss.backward()
                landscape.measure()
                optimizer.step()
            landscape.write(log, step, epoch + 1)

    Under fp16, call ``scaler.unscale_(optimizer)`` before `measure`. A step with a gradient that
    is not finite, which the scaler skips, is left out.

    Args:
        network: the encoder.

    Attributes:
        modules: names of the M modules, in the order in which they were registered.
    """

    def __init__(self, network: nn.Module) -> None:
        own = {
            name or type(module).__name__: trained
            for name, module in network.named_modules()
            if (trained := [p for p in module.parameters(recurse=False) if p.requires_grad])
        }
        self.modules = list(own)
        self._parameters = [parameter for trained in own.values() for parameter in trained]
        owners = [number for number, trained in enumerate(own.values()) for _ in trained]
        # (parameters, M): a product with it sums over a module's parameters, in a fixed order.
        self._owners = torch.eye(len(own), dtype=torch.float64)[owners]
        self._pending: list[Tensor] = []
        self._sums: Tensor | None = None  # (4, M): steps, norms, their squares; and their maximum

    @torch.no_grad()
    def measure(self) -> None:
        """Take the norms of the gradients that the parameters hold; one without any counts as 0.

        After gradients have been averaged over processes and summed over micro-batches, and before
        anything changes them.
        """
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        if not gradients:
            return
        wide = torch.promote_types(gradients[0].dtype, torch.float32)
        norms = list(torch._foreach_norm(gradients, dtype=wide))
        if len(norms) < len(self._parameters):
            none, found = norms[0].new_zeros(()), iter(norms)
            norms = [none if p.grad is None else next(found) for p in self._parameters]
        self._pending.append(torch.stack(norms))
        if len(self._pending) == _PENDING:
            self._fold()

    @torch.no_grad()
    def _fold(self) -> None:
        """Take the pending steps into the sums, on the device."""
        if not self._pending:
            return
        norms = torch.stack(self._pending).double()
        self._pending.clear()
        if self._owners.device != norms.device:
            self._owners = self._owners.to(norms.device, non_blocking=True)
        taken = norms.isfinite().all(dim=1, keepdim=True)
        squares = torch.where(taken, norms.square(), 0.0) @ self._owners
        steps = taken.sum(dim=0).double().expand(len(self.modules))
        by_module = squares.sqrt()
        sums = torch.stack([steps, by_module.sum(0), squares.sum(0), by_module.amax(0)])
        if self._sums is not None:
            before = self._sums.to(norms.device, non_blocking=True)
            sums = torch.cat([before[:3] + sums[:3], torch.maximum(before[3:], sums[3:])])
        self._sums = sums

    def statistics(self) -> dict[str, tuple[float, float, float]]:
        """Return mean, standard deviation and maximum over the epoch's steps, by module.

        The deviation is that of these very steps (divided by their number). Empty if no step had a
        finite gradient. Reads the device once.
        """
        self._fold()
        if self._sums is None:
            return {}
        steps, totals, squares, maxima = self._sums.cpu()
        if not steps[0] > 0:
            return {}
        means = totals / steps
        deviations = (squares / steps - means.square()).clamp_min(0.0).sqrt()
        columns = torch.stack([means, deviations, maxima], dim=1).tolist()
        return {name: (m, d, x) for name, (m, d, x) in zip(self.modules, columns, strict=True)}

    def write(self, log: MetricsLog | str | os.PathLike[str], step: int, epoch: int) -> None:
        """Write the epoch's line of kind "gradients" and begin the next epoch.

        On several processes all of them call it, having measured the same gradients; the first
        writes.

        Args:
            log: where to; a path is that of a ``metrics.jsonl`` or of the folder where it is.
            step: steps made.
            epoch: epochs made.
        """
        statistics = self.statistics()
        self._sums = None
        if not statistics or distributed.process_index() > 0:
            return
        log = log if isinstance(log, MetricsLog) else MetricsLog.of(log)
        by_module = {name: [rounded(x) for x in found] for name, found in statistics.items()}
        means = ((name, step, mean) for name, (mean, _, _) in by_module.items())
        log.write("gradients", step, {"epoch": epoch, "modules": by_module}, means)

    def state(self) -> Tensor | None:
        """Return the sums of an epoch that has begun, to be kept with the training state."""
        self._fold()
        return self._sums

    def restore(self, state: Tensor | None) -> None:
        """Continue an epoch from sums kept earlier."""
        self._pending.clear()
        self._sums = state


class Landscape(NamedTuple):
    """The gradient landscape of a run over E epochs and M modules.

    Attributes:
        epochs: E numbers, ascending, counted from 1.
        modules: M names, from the input of the network to its output.
        mean: (E, M) float64, mean norm over the steps of an epoch.
        std: (E, M), their standard deviation.
        maximum: (E, M), their maximum.
    """

    epochs: list[int]
    modules: list[str]
    mean: Tensor
    std: Tensor
    maximum: Tensor


def read_landscape(run: str | os.PathLike[str]) -> Landscape:
    """Read the gradient landscape of a run.

    Args:
        run: its folder, or its ``metrics.jsonl``.

    Raises:
        UserError: nothing was recorded there, or not of one network.
    """
    log = MetricsLog.of(run)
    by_epoch = {line["epoch"]: line["modules"] for line in log.read("gradients")}
    if not by_epoch:
        raise UserError(
            f"{log.path} has no line of kind gradients: expected the folder of a run that has made "
            "an epoch, or its metrics.jsonl."
        )
    epochs = sorted(by_epoch)
    modules = list(by_epoch[epochs[0]])
    if any(list(by_epoch[epoch]) != modules for epoch in epochs):
        raise UserError(f"{log.path} holds gradients of several networks: give the log of one run.")
    rows = [[by_epoch[epoch][name] for name in modules] for epoch in epochs]
    mean, std, maximum = torch.tensor(rows, dtype=torch.float64).unbind(dim=2)
    return Landscape(epochs, modules, mean, std, maximum)
