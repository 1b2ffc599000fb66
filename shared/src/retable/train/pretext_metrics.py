"""What a method measures of itself, on images that it was not trained on.

The accuracy in a pretext task, for instance: whether the task was learnt, not what the features are
good for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from retable import distributed
from retable.data.plans import BatchSpec, EvaluationPlan, share_of
from retable.data.source import Source
from retable.data.workers import make_view_loader
from retable.errors import UserError
from retable.methods.method import Batch, Method, Progress
from retable.precision import autocast_dtype
from retable.random import derive_key
from retable.views import ViewRecipe
from retable.views.sampling import to_device

BATCH = 64
"""Images of a process at a time; no gradient is kept, and no number depends on it."""


@torch.no_grad()
def pretext_metrics(
    method: Method,
    source: Source,
    views: tuple[ViewRecipe, ...],
    progress: Progress,
    *,
    workers: int = 0,
    precision: str = "float32",
    batch_size: int = BATCH,
) -> dict[str, float]:
    """Return the loss and the metrics of a method in evaluation mode, means over all images.

    Every process measures a contiguous share of the images and receives the means of all. Views and
    the method's own draws are those of an image's place in the data set: the same at every call, on
    any number of processes. The method stays as it was, its modes and buffers too.

    Args:
        method: one whose ``has_pretext_metrics`` is true: its metrics are means over images, and in
            evaluation mode its forward pass depends on no other image and waits for no other
            process.
        source: the images.
        views: what it is trained on.
        progress: where its training stands.
        workers: decoding processes.
        precision: "float32", "bf16" or "fp16" for the forward passes.
        batch_size: images of a process at a time.

    Returns:
        "loss" and the names of `StepOutput.metrics`.

    Raises:
        UserError: there are fewer images than processes.
    """
    processes = distributed.process_count()
    if len(source) < processes:
        raise UserError(
            f"{processes} processes share {len(source)} held-out images: expected at least one "
            "image for each, so start fewer processes."
        )
    device = next(method.parameters()).device
    kind = autocast_dtype(precision)
    sums: dict[str, Tensor] = {}
    with _evaluating(method):
        for batch in _batches(source, views, progress, batch_size, workers, device):
            with nullcontext() if kind is None else torch.autocast(device.type, dtype=kind):
                output = method(batch)
            count = len(batch.indices)
            for name, value in {"loss": output.loss, **output.metrics}.items():
                scalar = torch.as_tensor(value, dtype=torch.float64, device=device)
                sums[name] = sums.get(name, 0.0) + count * scalar
    totals = distributed.total(torch.stack(list(sums.values())))
    return dict(zip(sums, (totals / len(source)).tolist(), strict=True))


@contextmanager
def _evaluating(method: nn.Module) -> Iterator[None]:
    """Put all modules in evaluation mode, and each back into its own."""
    modes = [(module, module.training) for module in method.modules()]
    method.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _batches(
    source: Source,
    views: tuple[ViewRecipe, ...],
    progress: Progress,
    batch_size: int,
    workers: int,
    device: torch.device,
) -> Iterator[Batch]:
    """Yield this process's share of the images, in their order."""
    rng_key = derive_key(0, "held-out images")
    own = share_of(len(source), distributed.process_index(), distributed.process_count())
    rows = EvaluationPlan(torch.arange(own.start, own.stop), batch_size, rng_key)
    plan = _Plan(rows, tuple(derive_key(rng_key, "view", view) for view in range(len(views))))
    loader = make_view_loader(source, views, workers=workers, device=device, resident=None)
    draws = derive_key(rng_key, "draws")
    for _, indices, made, layers in loader.batches(plan, range(rows.steps)):
        places = to_device(indices, device)
        labels = to_device(source.labels[indices], device)
        yield Batch(made, labels, places, places, progress, draws, layers)


@dataclass(frozen=True)
class _Plan:
    """Plans given samples with a key for each of several views."""

    rows: EvaluationPlan
    keys: tuple[int, ...]

    def __call__(self, step: int) -> BatchSpec:
        spec = self.rows(step)
        return BatchSpec(step, spec.indices, self.keys, spec.image_key)
