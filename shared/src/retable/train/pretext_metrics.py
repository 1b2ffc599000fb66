"""Metrics of a method on images that it was not trained on.

The accuracy in a pretext task, for instance: whether the task was learnt, not what the features are
good for.
"""

from __future__ import annotations

import torch
from torch import Tensor

from retable import distributed
from retable.data.plans import EvaluationPlan, share_of
from retable.data.source import Source
from retable.data.workers import make_view_loader
from retable.errors import UserError
from retable.methods.method import Batch, Method, Progress
from retable.precision import autocast_dtype
from retable.random import derive_key
from retable.train.cost import evaluation_mode
from retable.views import ViewRecipe
from retable.views.sampling import to_device


@torch.no_grad()
def pretext_metrics(
    method: Method,
    source: Source,
    views: tuple[ViewRecipe, ...],
    progress: Progress,
    *,
    workers: int = 0,
    precision: str = "float32",
    batch_size: int = 64,
) -> dict[str, float]:
    """Return the loss and the metrics of a method in evaluation mode, means over all images.

    Every process measures a contiguous share of the images and receives the means of all. Views and
    the method's own draws are those of an image's place in the data set: the same at every call, on
    any number of processes. The method stays as it was, its modes and buffers too.

    The method's ``has_pretext_metrics`` must be true: its metrics are means over images, and in
    evaluation mode its forward pass depends on no other image and waits for no other process. There
    must be an image for each process, or a UserError is raised. No number depends on
    ``batch_size``, the images of a process at a time.
    """
    processes = distributed.process_count()
    if len(source) < processes:
        raise UserError(
            f"{processes} processes share {len(source)} held-out images: expected at least one "
            "image for each, so start fewer processes."
        )
    device = next(method.parameters()).device
    dtype = autocast_dtype(precision)
    sums: dict[str, Tensor] = {}
    rng_key = derive_key(0, "held-out images")
    keys = tuple(derive_key(rng_key, "view", view) for view in range(len(views)))
    draws = derive_key(rng_key, "draws")
    own = share_of(len(source), distributed.process_index(), processes)
    plan = EvaluationPlan(torch.arange(own.start, own.stop), batch_size, rng_key, keys)
    loader = make_view_loader(source, views, workers=workers, device=device, resident=None)
    with evaluation_mode(method):
        for _, indices, made, layers in loader.batches(plan, range(plan.steps)):
            places = to_device(indices, device)
            labels = to_device(source.labels[indices], device)
            batch = Batch(made, labels, places, places, progress, draws, layers)
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                output = method(batch)
            for name, value in {"loss": output.loss, **output.metrics}.items():
                scalar = torch.as_tensor(value, dtype=torch.float64, device=device)
                sums[name] = sums.get(name, 0.0) + len(places) * scalar
    totals = distributed.total(torch.stack(list(sums.values())))
    return dict(zip(sums, (totals / len(source)).tolist(), strict=True))
