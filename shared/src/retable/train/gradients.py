"""The gradient landscape: gradient norms of each module of a network, by epoch.

Zhu et al. (ICCV 2021, supplement, section C) compare trainings by it. For each module it is the l2
norm of the gradient over the module's own parameters, between the backward pass and the optimizer's
step; for each epoch the mean, standard deviation and maximum over its steps.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import torch
from torch import Tensor, nn

from retable import distributed
from retable.errors import UserError
from retable.train.metrics import MetricsLog, rounded

_PENDING = 256  # steps whose norms are summed together


class GradientLandscape:
    """Gradient norms of a network by module, summed over an epoch without waiting for the device.

    Modules with trained parameters of their own count: 40 in a ResNet-18, each convolution and each
    batch norm, and 106 in a ResNet-50. In your own loop::

        landscape = GradientLandscape(encoder)
        for epoch in range(epochs):
            for batch in batches:
                ...
                loss.backward()
                landscape.measure()
                optimizer.step()
            landscape.write(log, step, epoch + 1)

    Under fp16, call ``scaler.unscale_(optimizer)`` before `measure`. A step with a non-finite
    gradient, which the scaler skips, is left out.

    Attributes:
        modules: names of the M modules, in the order of registration.
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
        """Add the norms of the parameters' gradients; a parameter without gradient counts as 0.

        Call it after gradients have been averaged over processes and summed over micro-batches, and
        before anything changes them.
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
        """Add the pending steps to the sums, on the device."""
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

        The deviation is the population's (divided by the number of steps). Empty if no step had a
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
        """Write the epoch's line of kind "gradients" and start the next epoch.

        All processes call it after measuring the same gradients; the first one writes. ``step`` and
        ``epoch`` are the numbers of steps and epochs made; ``log`` is a log, a path of a
        ``metrics.jsonl``, or the folder that contains it.
        """
        statistics = self.statistics()
        self._sums = None
        if not statistics or distributed.process_index() > 0:
            return
        by_module = {name: [rounded(x) for x in found] for name, found in statistics.items()}
        means = ((name, step, mean) for name, (mean, _, _) in by_module.items())
        line = {"epoch": epoch, "modules": by_module}
        MetricsLog.of(log).write("gradients", step, line, means)

    def state(self) -> Tensor | None:
        """Return the sums of the current epoch, for the training state."""
        self._fold()
        return self._sums

    def restore(self, state: Tensor | None) -> None:
        """Continue an epoch from the sums of `state`."""
        self._pending.clear()
        self._sums = state


class Landscape(NamedTuple):
    """The gradient landscape of a run over E epochs and M modules.

    Attributes:
        epochs: E epochs, ascending, counted from 1.
        modules: M names, from the input of the network to its output.
        mean: (E, M) float64, mean norm over the steps of an epoch.
        std: (E, M) float64, standard deviation over the steps.
        maximum: (E, M) float64, maximum over the steps.
    """

    epochs: list[int]
    modules: list[str]
    mean: Tensor
    std: Tensor
    maximum: Tensor


def read_landscape(run: str | os.PathLike[str]) -> Landscape:
    """Read the gradient landscape of a run, from its folder or its ``metrics.jsonl``."""
    log = MetricsLog.of(run)
    log.verify_complete()
    by_epoch = {line["epoch"]: line["modules"] for line in log.read("gradients")}
    if not by_epoch:
        raise UserError(
            f"{log.path} has no line of kind gradients. Pass the folder of a run that has finished "
            "an epoch, or its metrics.jsonl."
        )
    epochs = sorted(by_epoch)
    modules = list(by_epoch[epochs[0]])
    if any(list(by_epoch[epoch]) != modules for epoch in epochs):
        raise UserError(f"{log.path} holds gradients of several networks. Pass the log of one run.")
    rows = [[by_epoch[epoch][name] for name in modules] for epoch in epochs]
    mean, std, maximum = torch.tensor(rows, dtype=torch.float64).unbind(dim=2)
    return Landscape(epochs, modules, mean, std, maximum)
