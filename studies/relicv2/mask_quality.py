"""How well saliency masks cover the objects of the built-in images, which are known.

    python studies/relicv2/mask_quality.py
    python studies/relicv2/mask_quality.py --learned --encoder runs/relicv2-...

Prints the mean intersection over union of each handcrafted map above 1/2, of their mean, and of
the mean after a dense random field, with the seconds of an image on one core: for images with a
plain background, and for all others. ``--learned`` also trains a saliency network on other images
of the same size and prints what its masks reach.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from relicv2.saliency.dense_crf import DenseCRF
from relicv2.saliency.handcrafted import MAPS
from relicv2.saliency.learning import LearningRecipe, fuse, refined_maps
from relicv2.saliency.network import SaliencyNetwork
from relicv2.saliency.superpixels import Floats
from retable.data.shapes.dataset import Shapes
from retable.domains import Count, integer
from retable.reproduce.command import guarded
from retable.weights import load_encoder

SIDE, IMAGES = 64, 40
RECIPE = LearningRecipe(epochs=10, lr=1e-3, fusion_epochs=30, fusion_lr=1e-3)
"""A small encoder that is trained for few epochs needs higher rates than the official ones."""


class Quality(NamedTuple):
    """Mean intersection over union on plain and on other backgrounds, and seconds of an image."""

    plain: float
    other: float
    seconds: float


def overlap(mask: Tensor, truth: Tensor) -> float:
    """Return intersection over union of masks bool (H, W)."""
    return float((mask & truth).sum() / (mask | truth).sum())


def scenes(count: int, split: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return images (n, 3, S, S), masks bool (n, S, S) and whether each background is plain."""
    shapes = Shapes(count, size=SIDE, split=split, rho=0.0)
    indices = torch.arange(count)
    plain = shapes.factors(indices)["background_texture"] == 0
    return shapes.images(indices), shapes.masks(indices), plain


def quality(
    mask_of: Callable[[Tensor], Tensor], images: Tensor, truth: Tensor, plain: Tensor
) -> Quality:
    """Measure the masks bool (H, W) of images uint8 (3, H, W)."""
    start = time.process_time()
    found = [mask_of(image) for image in images]
    seconds = (time.process_time() - start) / len(images)
    shares = torch.tensor([overlap(*pair) for pair in zip(found, truth, strict=True)])
    return Quality(float(shares[plain].mean()), float(shares[~plain].mean()), seconds)


def handcrafted() -> dict[str, Callable[[Tensor], Tensor]]:
    """Return the masks of each map, of their mean, and of the mean after the field."""

    def above(map_of: Callable[[Tensor], Floats]) -> Callable[[Tensor], Tensor]:
        return lambda image: torch.from_numpy(map_of(image) > 0.5)

    def mean(image: Tensor) -> Floats:
        found: Floats = np.mean([map_of(image) for map_of in MAPS.values()], axis=0)
        return found

    single = {name: above(map_of) for name, map_of in MAPS.items()}
    field = above(lambda image: DenseCRF().refine(mean(image), image))
    return single | {"mean": above(mean), "mean, field": field}


def learned(encoder: str, count: int) -> Callable[[Tensor], Tensor]:
    """Train a network on handcrafted maps of ``count`` images and return its masks."""
    images, _, _ = scenes(count, "train")

    def network() -> SaliencyNetwork:
        return SaliencyNetwork(load_encoder(encoder).encoder, dilated=1, rng_key=0)

    refined = {}
    for method, map_of in MAPS.items():
        made = [torch.from_numpy(map_of(image)) for image in images]
        maps = (torch.stack(made) * 255).round().to(torch.uint8)
        for iteration in range(RECIPE.iterations):
            maps = refined_maps(
                network(), images, maps, RECIPE, method=method, iteration=iteration, workers=2
            )
        refined[method] = maps
    trained = network()
    fuse(trained, images, refined, RECIPE)

    def mask_of(image: Tensor) -> Tensor:
        probability = trained.predict(image).double().numpy()
        return torch.from_numpy(DenseCRF().refine(probability, image) > 0.5)

    return mask_of


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--learned", action="store_true")
    parser.add_argument("--encoder", default="untrained:small_resnet8")
    parser.add_argument("--training-images", type=integer(Count), default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    images, truth, plain = scenes(IMAGES, "test")
    print(f"{IMAGES} images of {SIDE} px, {int(plain.sum())} with a plain background")
    print(f"{'':14} {'plain':>7} {'other':>7} {'s/image':>9}")
    makers = handcrafted()
    if options.learned:
        makers["learned, field"] = learned(options.encoder, options.training_images)
    for name, mask_of in makers.items():
        found = quality(mask_of, images, truth, plain)
        print(f"{name:14} {found.plain:7.3f} {found.other:7.3f} {found.seconds:9.3f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
