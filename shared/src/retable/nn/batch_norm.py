"""Batch normalisation by groups, so that "images per GPU" is a recipe's number, not the hardware's.

Papers normalise over the images of one GPU. Here each consecutive group of rows is normalised by
its own statistics, on however many processes; and MoCo's shuffling, which needs several groups,
works in one process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from retable import distributed
from retable.errors import UserError
from retable.random import permutation


class _GroupBatchNorm(_BatchNorm):
    """Batch normalisation of consecutive groups of rows; in eval mode the ordinary one.

    A group is a part of this process's batch, or spans the batches of consecutive processes.
    Running statistics move by the mean over the groups' statistics.
    """

    group_size: int

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise UserError(f"Batch norm got {input.ndim} dimensions; give it (B, C, ...).")

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, group_size={self.group_size}"

    def forward(self, input: Tensor) -> Tensor:
        batch = input.shape[0]
        if not self.training or batch == self.group_size:
            return super().forward(input)
        self._check_input_dim(input)
        if batch % self.group_size == 0:
            return self._normalise_parts(input)
        if self.group_size % batch == 0 and (
            distributed.process_count() % (self.group_size // batch) == 0
        ):
            return self._normalise_across(input)
        raise UserError(
            f"The batch-norm group of {self.group_size} images fits neither a process's batch of "
            f"{batch} nor {distributed.process_count()} of them together; change the batch, the "
            "group or the number of processes so that one divides the other."
        )

    def _normalise_parts(self, input: Tensor) -> Tensor:
        """Normalise several groups within this process's batch."""
        groups = torch.split(input, self.group_size)
        means = variances = None
        if self.running_mean is not None and self.running_var is not None:
            # Momentum 1 makes torch's fused kernel write each group's own statistics here. It still
            # reads what was there, times 0, which must not be NaN.
            means = self.running_mean.new_zeros(len(groups), self.num_features)
            variances = torch.zeros_like(means)
        output = torch.cat(
            [
                F.batch_norm(
                    group,
                    None if means is None else means[index],
                    None if variances is None else variances[index],
                    self.weight,
                    self.bias,
                    training=True,
                    momentum=1.0,
                    eps=self.eps,
                )
                for index, group in enumerate(groups)
            ]
        )
        if means is not None and variances is not None:
            self._follow(means.mean(0), variances.mean(0))
        return output

    def _normalise_across(self, input: Tensor) -> Tensor:
        """Normalise this process's share of a group that spans consecutive processes."""
        dims = [0, *range(2, input.ndim)]
        values = input.float()
        statistics = torch.stack(torch.var_mean(values, dims, correction=0))
        span = self.group_size // input.shape[0]
        first = distributed.process_index() // span * span
        shares = distributed.gather_with_gradient(statistics[None])[first : first + span]
        mean = shares[:, 1].mean(0)
        # The shares are equally large: the variance within them plus the variance of their means.
        variance = (shares[:, 0] + (shares[:, 1] - mean).square()).mean(0)
        if self.running_mean is not None:
            count = span * input.numel() // input.shape[1]
            self._follow(mean, variance * (count / max(count - 1, 1)))
        shape = [1, -1] + [1] * (input.ndim - 2)
        output = (values - mean.view(shape)) * (variance + self.eps).rsqrt().view(shape)
        if self.weight is not None:
            output = output * self.weight.view(shape)
        if self.bias is not None:
            output = output + self.bias.view(shape)
        return output.to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


def group_batch_norm(module: nn.Module, group_size: int) -> nn.Module:
    """Let every batch-norm layer normalise consecutive groups of ``group_size`` rows by themselves.

    Args:
        module: any network; changed in place and returned.
        group_size: images of a group, the papers' "per-GPU batch" (MoCo: 32), or the global batch
            for batch norm synchronised over all devices (SimCLR, BYOL). A process's batch must be
            a multiple of it, or it of a process's batch: then it spans consecutive processes.

    Raises:
        UserError: the group is empty; at the first step, group and batch do not fit.

    >>> network = group_batch_norm(nn.Sequential(nn.BatchNorm1d(3)), 4)
    >>> network(torch.randn(8, 3)).shape
    torch.Size([8, 3])
    """
    if group_size < 1:
        raise UserError(f"The batch-norm group is {group_size}; use at least one image.")
    for layer in module.modules():
        if isinstance(layer, _BatchNorm):
            # The same object with another forward: parameters, buffers, names and references stay.
            layer.__class__ = _GroupBatchNorm
            cast(_GroupBatchNorm, layer).group_size = group_size
    return module


@contextmanager
def rows_per_image(module: nn.Module, rows: int) -> Iterator[None]:
    """Count ``rows`` consecutive rows of a batch as one image, inside the block.

    For several crops of an image in one pass (SwAV's multi-crop): a group then holds as many images
    as before with all their crops. Lay the crops of an image side by side, (B, crops, ...) made
    (B * crops, ...); one crop after the other, a group's images would depend on the number of
    processes. Layers that `group_batch_norm` has not changed normalise all rows, as ever.

    >>> layer = group_batch_norm(nn.BatchNorm1d(3), 4)
    >>> with rows_per_image(layer, 2):
    ...     print(layer)
    _GroupBatchNorm(3, eps=1e-05, group_size=8)
    """
    layers = [layer for layer in module.modules() if isinstance(layer, _GroupBatchNorm)]
    for layer in layers:
        layer.group_size *= rows
    try:
        yield
    finally:
        for layer in layers:
            layer.group_size //= rows


class NormConditions:
    """How the batch norms of networks normalise now, to compute something once more as it was.

    For backward passes that compute activations anew: outside of `rows_per_image`, say, or after
    ``eval()``.

    Args:
        networks: any modules; kept, not copied.
    """

    def __init__(self, *networks: nn.Module) -> None:
        layers = [layer for network in networks for layer in network.modules()]
        self._conditions = [
            (layer, {name: getattr(layer, name) for name in _CONDITIONS if hasattr(layer, name)})
            for layer in layers
            if isinstance(layer, _BatchNorm)
        ]

    @contextmanager
    def repeated(self) -> Iterator[None]:
        """Inside the block, normalise so again, but let no running statistics move.

        >>> layer = nn.BatchNorm1d(2)
        >>> with NormConditions(layer).repeated():
        ...     _ = layer(torch.ones(4, 2))
        >>> layer.running_mean
        tensor([0., 0.])
        """
        found = []
        for layer, conditions in self._conditions:
            buffers = dict(layer._buffers)
            found.append((layer, {name: getattr(layer, name) for name in conditions}, buffers))
            for name, value in conditions.items():
                setattr(layer, name, value)
            if layer.training:
                layer._buffers.update(dict.fromkeys(buffers))
        try:
            yield
        finally:
            for layer, conditions, buffers in found:
                for name, value in conditions.items():
                    setattr(layer, name, value)
                layer._buffers.update(buffers)


_CONDITIONS = ("training", "group_size")


@torch.no_grad()
def average_statistics(module: nn.Module) -> None:
    """Set every batch-norm layer's running statistics to their mean over processes, in place.

    Call it on all processes before anything is evaluated or saved. In a single process it does
    nothing.
    """
    if distributed.process_count() == 1:
        return
    buffers = [
        buffer
        for layer in module.modules()
        if isinstance(layer, _BatchNorm)
        for buffer in (layer.running_mean, layer.running_var)
        if buffer is not None
    ]
    if not buffers:
        return
    averaged = distributed.mean(torch.cat([buffer.flatten() for buffer in buffers]))
    parts = torch.split(averaged, [buffer.numel() for buffer in buffers])
    for buffer, values in zip(buffers, parts, strict=True):
        buffer.copy_(values.view_as(buffer))


@torch.no_grad()
def shuffled(function: Callable[[Tensor], Tensor], images: Tensor, rng_key: int) -> Tensor:
    """Apply a network to shuffled images and return the results in the images' order (shuffle-BN).

    Each batch-norm group then holds images from anywhere in the global batch, so that a query and
    its key do not share statistics (MoCo, section 3.3). With `group_batch_norm` the result does not
    depend on the number of processes.

    Args:
        function: images (B_r, ...) to embeddings (B_r, D), called once on this process's share.
        images: (B_r, ...), this process's part of the global batch.
        rng_key: random key of the permutation, the same on all processes.

    Returns:
        (B_r, D) without gradient.

    >>> shuffled(lambda images: images.flatten(1), torch.zeros(4, 3, 2, 2), rng_key=0).shape
    torch.Size([4, 12])
    """
    everything = distributed.gather(images)
    order = permutation(rng_key, everything.shape[0])
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(order.shape[0])
    # Without blocking: the host need not wait until the device has the 2 KB of indices.
    order, inverse = (rows.to(images.device, non_blocking=True) for rows in (order, inverse))
    outputs = function(everything[distributed.own_slice(order)])
    return distributed.gather(outputs)[distributed.own_slice(inverse)]
