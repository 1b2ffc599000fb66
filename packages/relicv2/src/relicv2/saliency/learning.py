"""Saliency learned from handcrafted maps, without labels: Nguyen et al., DeepUSPS, NeurIPS 2019.

First the maps of each method are refined by themselves: a network learns from them, and what it
says after every epoch, fitted to the edges of the images, is averaged to the maps that the next
iteration learns from, each time from the initial weights. Then one network learns from the refined
maps of all methods. ReLICv2 (section F.2.1) starts from a self-supervised encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from relicv2.saliency.dense_crf import DenseCRF
from relicv2.saliency.losses import averaged, saliency_loss, threshold_of
from relicv2.saliency.network import SaliencyNetwork
from relicv2.saliency.superpixels import Floats
from retable.domains import Count, Positive, Seed
from retable.errors import UserError
from retable.nn.checks import Shaped, check_shapes
from retable.processes import worker_pool
from retable.random import derive_key, permutation
from retable.settings import validate_fields

Pixels = NDArray[np.uint8]

FUSION_BETA_SQUARED = 4.0
"""Weight of recall in the second stage (the official code)."""

DECAY_POWER = 0.9
"""The learning rate falls as (1 - epoch / epochs) to this power (the official code)."""


@dataclass(frozen=True)
class LearningRecipe:
    """How a saliency network is trained.

    Attributes:
        iterations: refinements of each method's maps, 3.
        epochs: epochs of an iteration, at least 2; 25 in the official code, ReLICv2's are not
            known.
        lr: learning rate of Adam in the first iteration, doubled in each (ReLICv2). Its start is
            not known; 1e-6 for the official network.
        fusion_epochs: epochs of the second stage; 200 in the official code.
        fusion_lr: its learning rate; 1e-4 in the official code.
        batch: images of a step; 10.
        crf: the field that predictions are fitted to their images by, after every epoch.
        seed: seed of the order of the images and of the classifier's weights.
    """

    iterations: Count = 3
    epochs: Count = 25
    lr: Positive = 1e-5
    fusion_epochs: Count = 200
    fusion_lr: Positive = 1e-4
    batch: Count = 10
    crf: DenseCRF = field(default_factory=DenseCRF)
    seed: Seed = 0

    def __post_init__(self) -> None:
        validate_fields(self)
        if self.epochs < 2:
            raise UserError(
                f"`epochs` must be at least 2, got {self.epochs}: the average of one epoch stays "
                "below the threshold, so that nothing would be foreground. Use 25."
            )


Loss = Callable[[Tensor, Tensor], Tensor]
"""Predictions (B, H, W) and the positions (B,) of their images -> a scalar."""


def train(
    network: SaliencyNetwork,
    images: Tensor,
    loss: Loss,
    *,
    epochs: int,
    lr: float,
    batch: int,
    rng_key: int,
) -> Iterator[Tensor]:
    """Train a network in place and yield after each epoch what it said of the images during it.

    Args:
        network: on the device of the computation.
        images: (N, 3, H, W) uint8, anywhere.
        loss: of a batch.
        epochs: epochs.
        lr: learning rate of Adam at the start.
        batch: images of a step; the last of an epoch may have fewer, but two. (The official code
            takes only numbers of images that the batch divides.)
        rng_key: draws the order of the images.

    Yields:
        (N, H, W) float32 on the CPU.
    """
    check_shapes(Shaped("images", images, "N 3 H W", kind="any"))
    if len(images) < 2:
        raise UserError(
            f"`images` must be at least 2, got {len(images)}: batch norm has no statistics of one."
        )
    device = next(network.parameters()).device
    optimizer = torch.optim.Adam(network.parameters(), lr)
    network.train()
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - epoch / epochs) ** DECAY_POWER
        said = torch.empty(len(images), *images.shape[2:])
        for positions in _batches(permutation(rng_key, len(images), number=epoch), batch):
            predictions = network(images[positions].to(device))
            said[positions] = predictions.detach().cpu()
            optimizer.zero_grad(set_to_none=True)
            loss(predictions, positions).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        yield said


def _batches(order: Tensor, batch: int) -> list[Tensor]:
    """Split positions into batches; one that would be left alone joins the batch before it."""
    found = list(torch.split(order, batch))
    if len(found) > 1 and len(found[-1]) == 1:
        found[-2:] = [torch.cat(found[-2:])]
    return found


def refined_maps(
    network: SaliencyNetwork,
    images: Tensor,
    maps: Tensor,
    recipe: LearningRecipe,
    *,
    method: str,
    iteration: int,
    workers: int = 1,
) -> Tensor:
    """Return the maps that one iteration makes of a method's maps, (N, H, W) uint8.

    Args:
        network: with its initial weights; it is trained in place.
        images: (N, 3, H, W) uint8.
        maps: (N, H, W) uint8, 255 for certain foreground: the method's, or the last iteration's.
        recipe: of the learning.
        method: one of `relicv2.saliency.losses.THRESHOLDS`.
        iteration: counted from 0.
        workers: processes that fit predictions to their images.
    """
    threshold = threshold_of(method, iteration)
    device = next(network.parameters()).device

    def loss(predictions: Tensor, positions: Tensor) -> Tensor:
        return saliency_loss(predictions, probabilities(maps[positions]).to(device), threshold)

    epochs = train(
        network,
        images,
        loss,
        epochs=recipe.epochs,
        lr=recipe.lr * 2**iteration,
        batch=recipe.batch,
        rng_key=derive_key(recipe.seed, "saliency", method, iteration),
    )
    average = torch.zeros(maps.shape)
    with _fitting(recipe.crf, workers) as fit:
        for said in epochs:
            average = averaged(average, fit(said, images))
    return (average * 255).round().to(torch.uint8)


def fuse(
    network: SaliencyNetwork, images: Tensor, maps: Mapping[str, Tensor], recipe: LearningRecipe
) -> None:
    """Train a network in place on the refined maps of all methods, each (N, H, W) uint8.

    The loss is the mean over the methods.
    """
    device = next(network.parameters()).device

    def loss(predictions: Tensor, positions: Tensor) -> Tensor:
        losses = [
            saliency_loss(
                predictions,
                probabilities(of_method[positions]).to(device),
                beta_squared=FUSION_BETA_SQUARED,
            )
            for of_method in maps.values()
        ]
        return torch.stack(losses).mean()

    for _ in train(
        network,
        images,
        loss,
        epochs=recipe.fusion_epochs,
        lr=recipe.fusion_lr,
        batch=recipe.batch,
        rng_key=derive_key(recipe.seed, "saliency", "fusion"),
    ):
        pass
    network.eval()


def probabilities(maps: Tensor) -> Tensor:
    """Return maps uint8 as float32 in [0, 1]."""
    return maps.float() / 255


Fit = Callable[[Tensor, Tensor], Tensor]


@contextmanager
def _fitting(crf: DenseCRF, workers: int) -> Iterator[Fit]:
    """Give a function that fits predictions (N, H, W) to their images (N, 3, H, W)."""
    fit_one = partial(_fitted, crf)

    def fit(said: Tensor, images: Tensor, mapped: Callable[..., Iterator[Floats]]) -> Tensor:
        return torch.from_numpy(np.stack([*mapped(fit_one, said.numpy(), images.numpy())]))

    if workers == 1:
        yield partial(fit, mapped=map)
        return
    with worker_pool(workers, "saliency maps") as pool:
        yield partial(fit, mapped=partial(pool.map, chunksize=8))


def _fitted(crf: DenseCRF, saliency: Floats, image: Pixels) -> Floats:
    refined = crf.refine(saliency.astype(np.float64), torch.from_numpy(image))
    return refined.astype(np.float32)
