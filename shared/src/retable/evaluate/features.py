"""Features of all images of a source, in its order, for any number of processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
    EncoderPasses,
    Representation,
    not_finite,
)
from retable.progress import bar

if TYPE_CHECKING:
    from retable.data.source import Source
    from retable.evaluate.protocol import EvalContext
    from retable.views import ViewRecipe


@dataclass(frozen=True)
class Features:
    """Features (n, F) float32 and labels (n,) int64, on the device that computed them."""

    features: Tensor
    labels: Tensor


def gather_uneven(local: Tensor) -> Tensor:
    """Concatenate (n_r, ...) of all processes in rank order where the n_r may differ: (n, ...)."""
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
    """Compute what a classifier gets of every image of a source by tap, all in one pass.

    The encoder's device, which must be that of ``context``, and its precision count. A view with
    random draws needs an ``rng_key``. ``on_progress`` is called with how many images (over all
    processes) a batch has finished. Every process receives all images, in the source's order, or,
    if not ``gathered``, each a part of its own in no order, together every image once.

    Raises:
        UserError: the encoder has no such tap, its features are not finite, or there are fewer
            images than processes.
    """
    if len(source) < process_count():
        raise UserError(
            f"{process_count()} processes share {len(source)} images: expected at least one image "
            "for each, so start fewer processes."
        )
    passes = EncoderPasses(frozen, source, view, representation, context.workers)
    if context.features and not view.is_random and "pixels" in source.description:
        rows = torch.arange(len(source))
        if isinstance(source, EvalSubset):
            passes, rows = replace(passes, source=source.base), source.indices
        cache = FeatureCache(context.features, passes)
        vectors, samples = cache.vectors(rows, gathered=gathered, on_progress=on_progress)
        labels = passes.source.labels.to(samples.device)[samples]
        return {tap: Features(found, labels) for tap, found in vectors.items()}
    share = _share(passes, rng_key, on_progress)
    if not gathered:
        return share
    labels = gather_uneven(next(iter(share.values())).labels)
    return {tap: Features(gather_uneven(own.features), labels) for tap, own in share.items()}


def pooled_features(
    encoder: nn.Module,
    sources: Sequence[Source],
    view: ViewRecipe,
    context: EvalContext,
    name: str,
) -> list[Features]:
    """Return the pooled features of each source, with a progress bar of this name."""
    frozen = freeze(encoder, context.device, context.precision)
    with bar(sum(map(len, sources)), "images", name, shown=context.progress) as shown:
        found = [
            represent(frozen, source, view, Representation(), context, on_progress=shown.update)
            for source in sources
        ]
    return [by_tap[PRE_LOGITS] for by_tap in found]


def _share(
    passes: EncoderPasses, rng_key: int | None, on_progress: Callable[[int], None] | None
) -> dict[str, Features]:
    """Compute this process's contiguous share of a source."""
    own = share_of(len(passes.source), process_index(), process_count())
    rows = torch.arange(own.start, own.stop)
    features: dict[str, Tensor] = {}
    labels = torch.empty(len(rows), dtype=torch.int64, device=passes.frozen.device)
    done = 0
    for vectors, batch_labels, _ in passes.batches(rows, rng_key):
        filled = slice(done, done + len(batch_labels))
        for tap, found in vectors.items():
            if tap not in features:
                features[tap] = found.new_empty(len(rows), found.shape[1])
            features[tap][filled] = found
        labels[filled] = batch_labels
        done = filled.stop
        if on_progress is not None:
            on_progress(len(batch_labels) * process_count())
    # A row's sum is finite where the row is, and takes no copy of the features.
    sums = [found.sum(1, dtype=torch.float64) for found in features.values()]
    odd = (~torch.stack(sums).isfinite().all(0)).sum()
    counts = gather(torch.stack([odd, odd.new_tensor(len(rows))])[None]).sum(0).tolist()
    if counts[0]:
        raise not_finite(*counts)
    return {tap: Features(found, labels) for tap, found in features.items()}
