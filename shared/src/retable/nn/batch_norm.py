"""Batch normalisation by groups: the "images per GPU" of a paper as a parameter of the recipe.

Each consecutive group of rows is normalised by its own statistics, on any number of processes.
MoCo's shuffling, which needs several groups, then also works in one process.
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
    """Batch normalisation of consecutive groups of rows in training mode, ordinary in eval mode.

    A group is a part of this process's batch, or it spans the batches of consecutive processes.
    Running statistics are updated with the mean over the groups' statistics.
    """

    group_size: int

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise UserError(
                f"The input of batch norm must have at least 2 dimensions (B, C, ...), got "
                f"{input.ndim}. Pass a batch."
            )

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, group_size={self.group_size}"

    def forward(self, input: Tensor) -> Tensor:
        batch = input.shape[0]
        if not self.training or batch == self.group_size:
            return super().forward(input)
        self._check_input_dim(input)
        if batch % self.group_size == 0:
            return self._normalise_local_groups(input)
        if self.group_size % batch == 0 and (
            distributed.process_count() % (self.group_size // batch) == 0
        ):
            return self._normalise_spanning_group(input)
        raise UserError(
            f"`group_size` must divide a process's batch of {batch} images or be filled by the "
            f"batches of several processes, got {self.group_size} with "
            f"{distributed.process_count()} processes. Change the group, the batch or the number "
            "of processes."
        )

    def _normalise_local_groups(self, input: Tensor) -> Tensor:
        groups = torch.split(input, self.group_size)
        means = variances = None
        if self.running_mean is not None and self.running_var is not None:
            # With momentum 1 torch's fused kernel writes each group's own statistics here. It still
            # reads the old values, times 0: they must not be NaN.
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
            self._update_running_statistics(means.mean(0), variances.mean(0))
        return output

    def _normalise_spanning_group(self, input: Tensor) -> Tensor:
        values = input.float()
        dims = [0, *range(2, input.ndim)]
        statistics = torch.stack(torch.var_mean(values, dims, correction=0))
        span = self.group_size // input.shape[0]
        first = distributed.process_index() // span * span
        shares = distributed.gather_with_gradient(statistics[None])[first : first + span]
        mean = shares[:, 1].mean(0)
        # The shares are equally large: the variance within them plus the variance of their means.
        variance = (shares[:, 0] + (shares[:, 1] - mean).square()).mean(0)
        if self.running_mean is not None:
            count = span * input.numel() // input.shape[1]
            self._update_running_statistics(mean, variance * (count / max(count - 1, 1)))
        shape = [1, -1] + [1] * (input.ndim - 2)
        output = (values - mean.view(shape)) * (variance + self.eps).rsqrt().view(shape)
        if self.weight is not None:
            output = output * self.weight.view(shape)
        if self.bias is not None:
            output = output + self.bias.view(shape)
        return output.to(input.dtype)

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


def group_batch_norm(module: nn.Module, group_size: int) -> nn.Module:
    """Make every batch-norm layer normalise consecutive groups of ``group_size`` rows.

    The network is changed in place and returned. A group has the images of the papers' "per-GPU
    batch" (MoCo: 32), or of the global batch for batch norm synchronised over all devices (SimCLR,
    BYOL). Its size must divide a process's batch, or be a multiple of it: then a group spans
    consecutive processes.
    """
    if group_size < 1:
        raise UserError(
            f"`group_size` must be at least 1 image, got {group_size}. Choose a larger group."
        )
    for layer in module.modules():
        if isinstance(layer, _BatchNorm):
            # The same object with another forward: parameters, buffers, names and references stay.
            layer.__class__ = _GroupBatchNorm
            cast(_GroupBatchNorm, layer).group_size = group_size
    return module


class _PooledBatchNorm(_BatchNorm):
    """Batch normalisation of the rows of all processes together, however many each has."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept every number of dimensions."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or distributed.process_count() == 1:
            return super().forward(input)
        values = input.float()
        dims = [0, *range(2, input.ndim)]
        count = values.numel() // values.shape[1]
        variance, mean = torch.var_mean(values, dims, correction=0)
        own = torch.stack([torch.full_like(mean, count), mean * count, variance * count])
        shares = distributed.gather_with_gradient(own.nan_to_num()[None])
        counts, sums, squares = shares.unbind(1)
        total = counts.sum(0)
        mean = sums.sum(0) / total
        apart = (sums / counts.clamp(min=1) - mean).square() * counts
        variance = (squares + apart).sum(0) / total
        if self.running_mean is not None:
            unbiased = variance.detach() * total / (total - 1).clamp(min=1)
            _GroupBatchNorm._update_running_statistics(self, mean.detach(), unbiased)  # type: ignore[arg-type]
        shape = [1, -1] + [1] * (input.ndim - 2)
        output = (values - mean.view(shape)) * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            output = output * self.weight.view(shape) + self.bias.view(shape)
        return output.to(input.dtype)


def pool_batch_norm(module: nn.Module) -> nn.Module:
    """Make every batch-norm layer normalise the rows of all processes together.

    The network is changed in place and returned. Unlike a group of `group_batch_norm`, rows need
    not be images, and processes may have different numbers of them: regions of a detector.
    """
    for layer in module.modules():
        if isinstance(layer, _BatchNorm):
            layer.__class__ = _PooledBatchNorm
    return module


@contextmanager
def rows_per_image(module: nn.Module, rows: int) -> Iterator[None]:
    """Inside the block, count ``rows`` consecutive rows of a batch as one image.

    For several crops of an image in one pass (SwAV's multi-crop), which must be adjacent,
    (B, crops, ...) flattened to (B * crops, ...): a group then holds the same number of images with
    all their crops. Layers that `group_batch_norm` has not changed normalise all rows.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, _GroupBatchNorm)]
    for layer in layers:
        layer.group_size *= rows
    try:
        yield
    finally:
        for layer in layers:
            layer.group_size //= rows


@contextmanager
def without_running_statistics(module: nn.Module) -> Iterator[None]:
    """Inside the block, leave the running statistics of batch norm as they are, in training mode.

    For inputs unlike those that the network is evaluated on, such as small crops: they are
    normalised by their own statistics, as always.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]
    before = [(layer, layer.momentum, layer.num_batches_tracked) for layer in layers]
    for layer, _, count in before:
        layer.momentum = 0.0  # the share of the new statistics
        layer.num_batches_tracked = None if count is None else count.clone()
    try:
        yield
    finally:
        for layer, momentum, count in before:
            layer.momentum, layer.num_batches_tracked = momentum, count


@torch.no_grad()
def average_statistics(module: nn.Module) -> None:
    """Set every batch-norm layer's running statistics to their mean over processes, in place.

    Call it on all processes before anything is evaluated or saved.
    """
    if distributed.process_count() == 1:
        return
    layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]
    statistics = [x for layer in layers for x in (layer.running_mean, layer.running_var)]
    buffers = [buffer for buffer in statistics if buffer is not None]
    if not buffers:
        return
    averaged = distributed.mean(torch.cat(buffers))
    parts = torch.split(averaged, [len(buffer) for buffer in buffers])
    for buffer, values in zip(buffers, parts, strict=True):
        buffer.copy_(values)


@torch.no_grad()
def shuffled(function: Callable[[Tensor], Tensor], images: Tensor, rng_key: int) -> Tensor:
    """Apply a network to shuffled images and return the outputs in the images' order (shuffle-BN).

    Each batch-norm group then holds images from anywhere in the global batch, so that a query and
    its key do not share statistics (He et al., 2020, section 3.3). With `group_batch_norm` the
    result does not depend on the number of processes.

    ``function`` maps images (B_r, ...) to embeddings (B_r, D), returned without gradient; it is
    called once, on this process's share of the permutation that ``rng_key`` draws, equal on all
    processes.
    """
    everything = distributed.gather(images)
    order = permutation(rng_key, everything.shape[0])
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(order.shape[0])
    # Without blocking: the host does not wait until the device has the 2 KB of indices.
    order, inverse = (rows.to(images.device, non_blocking=True) for rows in (order, inverse))
    outputs = function(everything[distributed.own_slice(order)])
    return distributed.gather(outputs)[distributed.own_slice(inverse)]


@contextmanager
def precise_statistics(module: nn.Module) -> Iterator[None]:
    """Inside the block, running statistics become the mean over the batches that pass.

    "Precise batch norm" (Wu and Johnson, arXiv 2105.07576): run training batches in training mode
    without gradient. Outside, statistics follow the last batches of a training whose weights moved.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the mean of all
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
