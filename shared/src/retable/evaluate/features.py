"""Features of all images of a source, in its order, for any number of processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from retable.data.plans import share_of
from retable.distributed import broadcast, gather, process_count, process_index
from retable.errors import UserError
from retable.evaluate.cache import FeatureCache
from retable.evaluate.data import EvalSubset
from retable.evaluate.frozen import FrozenEncoder, freeze
from retable.evaluate.representation import (
    PRE_LOGITS,
    Representation,
    forward_passes,
    images_per_call,
    not_finite,
)

if TYPE_CHECKING:
    from pathlib import Path

    from retable.data.source import Source
    from retable.evaluate.protocol import EvalContext
    from retable.views import ViewRecipe


@dataclass(frozen=True)
class Features:
    """Features and labels of n images.

    Attributes:
        features: (n, F) float32, on the device that computed them.
        labels: (n,) int64, on the same device.
    """

    features: Tensor
    labels: Tensor


def gather_uneven(local: Tensor) -> Tensor:
    """Concatenate (n_r, ...) of all processes in rank order where the n_r may differ: (n, ...).

    >>> gather_uneven(torch.zeros(3, 2)).shape
    torch.Size([3, 2])
    """
    if process_count() == 1:
        return local
    counts = gather(torch.tensor([len(local)], device=local.device)).tolist()
    # One process after the other, so that nothing exists but the share and the result, which may
    # fill most of a device.
    result = local.new_empty(sum(counts), *local.shape[1:])
    for process, part in enumerate(torch.split(result, counts)):
        if process == process_index():
            part.copy_(local)
        if len(part):
            broadcast(part, process)
    return result


def extract(
    encoder: nn.Module | FrozenEncoder,
    source: Source,
    view: ViewRecipe,
    *,
    device: torch.device | str,
    batch_size: int | None = None,
    workers: int = 0,
    precision: str = "float32",
    rng_key: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Features:
    """Compute the pooled features of every image of a source, in the source's order.

    Every process computes a contiguous share and receives all. The encoder itself is not touched.

    Args:
        encoder: images (B,3,H,W) -> (B,F) or (B,F,1,1); copied and frozen unless it is already.
        source: the images.
        view: how an image is cut and normalised.
        device: where to compute; the features stay there.
        batch_size: images in one call, default `images_per_call`; does not change the result.
        workers: decoding processes.
        precision: "float32", "bf16" or "fp16" for the encoder; features are float32.
        rng_key: key of the view's draws; None for a view without any.
        on_progress: how many images (over all processes) a batch has finished.

    Raises:
        UserError: the encoder's features are not finite, or there are fewer images than processes.
    """
    frozen = freeze(encoder, device, precision)
    found = _share(
        frozen,
        source,
        view,
        Representation(),
        batch_size,
        workers=workers,
        rng_key=rng_key,
        on_progress=on_progress,
    )
    return _gathered(found)[PRE_LOGITS]


def represent(
    frozen: FrozenEncoder,
    source: Source,
    view: ViewRecipe,
    representation: Representation,
    context: EvalContext,
    *,
    rng_key: int | None = None,
    on_progress: Callable[[int], None] | None = None,
    gathered: bool = True,
) -> dict[str, Features]:
    """Compute what a classifier gets of every image of a source, all taps in one pass.

    Args:
        frozen: the encoder.
        source: the images.
        view: how an image is cut and normalised.
        representation: which layers, of the view or of its patches.
        context: how to compute; its device must be the encoder's, whose precision counts.
        rng_key: key of the view's draws; None for a view without any.
        on_progress: how many images (over all processes) a batch has finished.
        gathered: whether every process receives all images, in the source's order. False: each
            receives a part of its own, in no order, and all have received every image once.

    Returns:
        The features by tap.

    Raises:
        UserError: the encoder has no such tap, its features are not finite, or there are fewer
            images than processes.
    """
    if context.features is not None and not view.is_random and "pixels" in source.description:
        return _kept(
            context.features,
            frozen,
            source,
            view,
            representation,
            workers=context.workers,
            gathered=gathered,
            on_progress=on_progress,
        )
    found = _share(
        frozen,
        source,
        view,
        representation,
        None,
        workers=context.workers,
        rng_key=rng_key,
        on_progress=on_progress,
    )
    return _gathered(found) if gathered else found


def _kept(
    folder: Path,
    frozen: FrozenEncoder,
    source: Source,
    view: ViewRecipe,
    representation: Representation,
    *,
    workers: int,
    gathered: bool,
    on_progress: Callable[[int], None] | None,
) -> dict[str, Features]:
    """Read features from the cache, which makes those that it lacks."""
    _refuse_few(source)
    base, rows = source, torch.arange(len(source))
    if isinstance(source, EvalSubset):
        base, rows = source.base, source.indices
    cache = FeatureCache(folder, frozen, base, view, representation, workers)
    vectors, samples = cache.vectors(rows, gathered=gathered, on_progress=on_progress)
    labels = base.labels.to(samples.device)[samples]
    return {tap: Features(found, labels) for tap, found in vectors.items()}


def _refuse_few(source: Source) -> None:
    if len(source) < process_count():
        raise UserError(
            f"{process_count()} processes share {len(source)} images: expected at least one image "
            "for each, so start fewer processes."
        )


def _share(
    frozen: FrozenEncoder,
    source: Source,
    view: ViewRecipe,
    representation: Representation,
    batch_size: int | None,
    *,
    workers: int,
    rng_key: int | None,
    on_progress: Callable[[int], None] | None,
) -> dict[str, Features]:
    """Compute this process's contiguous share of a source."""
    _refuse_few(source)
    own = share_of(len(source), process_index(), process_count())
    rows = torch.arange(own.start, own.stop)
    batches = forward_passes(
        frozen,
        source,
        view,
        representation,
        rows,
        batch_size=batch_size or images_per_call(frozen.device, representation),
        workers=workers,
        rng_key=rng_key,
    )
    features: dict[str, Tensor] = {}
    labels = torch.empty(len(rows), dtype=torch.int64, device=frozen.device)
    done = 0
    for vectors, batch_labels, _ in batches:
        filled = slice(done, done + len(batch_labels))
        for tap, found in vectors.items():
            if tap not in features:
                features[tap] = found.new_empty(len(rows), found.shape[1])
            features[tap][filled] = found
        labels[filled] = batch_labels
        done = filled.stop
        if on_progress is not None:
            on_progress(len(batch_labels) * process_count())
    shares = {tap: Features(found, labels) for tap, found in features.items()}
    _refuse_not_finite(shares)
    return shares


def _refuse_not_finite(shares: dict[str, Features]) -> None:
    """End all processes with a sentence if one of them has features that are not finite."""
    # A row's sum is finite where the row is, and takes no copy of the features.
    sums = [share.features.sum(1, dtype=torch.float64) for share in shares.values()]
    odd = (~torch.stack(sums).isfinite().all(0)).sum()
    counts = gather(torch.stack([odd, odd.new_tensor(len(sums[0]))])[None]).sum(0).tolist()
    if counts[0]:
        raise not_finite(*counts)


def _gathered(shares: dict[str, Features]) -> dict[str, Features]:
    """Join the processes' shares."""
    labels = gather_uneven(next(iter(shares.values())).labels)
    return {tap: Features(gather_uneven(share.features), labels) for tap, share in shares.items()}
