"""Features of a whole source, in its order, whatever the number of processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retable.distributed import gather, process_count, process_index
from retable.errors import UserError
from retable.evaluate.frozen import FrozenEncoder, freeze

if TYPE_CHECKING:
    from retable.data.source import Source
    from retable.views import ViewRecipe


@dataclass(frozen=True)
class Features:
    """What an encoder makes of n images.

    Attributes:
        features: (n, F) float32, on the device that computed them.
        labels: (n,) int64, on the same device.
    """

    features: Tensor
    labels: Tensor


def images_per_call(device: torch.device | str) -> int:
    """Return how many images go through a frozen encoder at once; it changes speed, not results."""
    return 512 if torch.device(device).type == "cuda" else 128


def gather_uneven(local: Tensor) -> Tensor:
    """Concatenate (n_r, ...) of all processes in rank order where the n_r may differ: (n, ...).

    >>> gather_uneven(torch.zeros(3, 2)).shape
    torch.Size([3, 2])
    """
    if process_count() == 1:
        return local
    counts = gather(torch.tensor([len(local)], device=local.device)).tolist()
    padding = max(counts) - len(local)
    padded = F.pad(local, [0, 0] * (local.ndim - 1) + [0, padding])
    parts = torch.split(gather(padded), max(counts))
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def extract(
    encoder: nn.Module | FrozenEncoder,
    source: Source,
    view: ViewRecipe,
    *,
    device: torch.device | str,
    batch_size: int | None = None,
    workers: int = 0,
    precision: str = "float32",
    key: int | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Features:
    """Compute the features of every image of a source, on all processes, in the source's order.

    Every process computes a contiguous share and receives all. The encoder itself is not touched.

    Args:
        encoder: images (B,3,H,W) -> (B,F) or (B,F,1,1); copied and frozen unless it is already.
        source: the images.
        view: how an image is cut and normalised.
        device: where to compute; the features stay there.
        batch_size: images in one call, default `images_per_call`; does not change the result.
        workers: decoding processes.
        precision: "float32", "bf16" or "fp16" for the encoder; features are float32.
        key: key of the view's draws; None for a view without any.
        on_batch: told how many images (over all processes) a batch has finished.

    Raises:
        UserError: the encoder's features are not finite, or there are fewer images than processes.
    """
    from retable.data.loader import iterate
    from retable.data.plans import share_of

    if len(source) < process_count():
        raise UserError(
            f"{process_count()} processes share {len(source)} images: expected at least one image "
            "for each, so start fewer processes."
        )
    frozen = freeze(encoder, device, precision)
    batch_size = batch_size or images_per_call(device)
    share = share_of(len(source), process_index(), process_count())
    features = torch.empty(len(share), 0, device=frozen.device)
    labels = torch.empty(len(share), dtype=torch.int64, device=frozen.device)
    done = 0
    batches = iterate(source, view, batch_size, key=key, workers=workers, device=frozen.device)
    for views, batch_labels, _ in batches:
        found = frozen(views)
        if done == 0:
            features = found.new_empty(len(share), found.shape[1])
        rows = slice(done, done + len(found))
        features[rows], labels[rows] = found, batch_labels
        done += len(found)
        if on_batch is not None:
            on_batch(len(views) * process_count())
    gathered = Features(gather_uneven(features), gather_uneven(labels))
    _check(gathered)
    return gathered


def _check(gathered: Features) -> None:
    finite = gathered.features.isfinite().all(1)
    if not bool(finite.all()):
        raise UserError(
            f"the encoder's features of {int((~finite).sum())} of {len(finite)} images are not "
            "finite: expected finite numbers, so check the checkpoint or evaluate in float32."
        )
