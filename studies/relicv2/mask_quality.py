"""How well saliency masks cover objects, which are known.

    python studies/relicv2/mask_quality.py
    python studies/relicv2/mask_quality.py --learned --encoder runs/relicv2-...

Prints the mean intersection over union of each handcrafted map above 1/2, of their mean, and of
the mean after a dense random field, with the seconds of an image on one core, for four kinds of
images: built-in images with a plain background and all others, and `simple_scenes` of flat colours
and of textures. The first line is the best that a map of superpixels can reach: each superpixel
belongs to the object if most of its pixels do. ``--learned`` also trains a saliency network on
other built-in images and prints what its masks reach.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from relicv2.saliency.dense_crf import DenseCRF
from relicv2.saliency.handcrafted import MAPS, fused
from relicv2.saliency.learning import LearningRecipe, fuse, refined_maps
from relicv2.saliency.network import SaliencyNetwork
from relicv2.saliency.superpixels import Bools, Floats, as_array, means, segment
from retable.data.shapes.dataset import Shapes
from retable.domains import Count, integer
from retable.reproduce.command import guarded
from retable.weights import load_encoder

SIDE, IMAGES, AREA, SUPERPIXELS = 64, 40, 0.14, 200
RECIPE = LearningRecipe(epochs=10, lr=1e-3, fusion_epochs=30, fusion_lr=1e-3)
"""A small encoder that is trained for few epochs needs higher rates than the official ones."""


class Scene(NamedTuple):
    """An image uint8 (3, S, S), its object bool (S, S) and the kind of image."""

    image: Tensor
    truth: Tensor
    kind: str


KINDS = ("plain", "other", "flat", "textured")


def overlap(mask: Tensor, truth: Tensor) -> float:
    """Return intersection over union of masks bool (H, W)."""
    return float((mask & truth).sum() / (mask | truth).sum())


def scenes(count: int, split: str) -> list[Scene]:
    """Return built-in images, on plain backgrounds or others."""
    shapes = Shapes(count, size=SIDE, split=split, rho=0.0)
    indices = torch.arange(count)
    plain = shapes.factors(indices)["background_texture"] == 0
    kinds = ["plain" if is_plain else "other" for is_plain in plain]
    return list(map(Scene, shapes.images(indices), shapes.masks(indices), kinds))


def simple_scenes(count: int) -> list[Scene]:
    """Return images of an ellipse or a rectangle on 14 % of the image, every other one textured."""
    generator = np.random.default_rng(0)
    made = []
    for number in range(count):
        kind = KINDS[2 + number % 2]
        inside = simple_outline(generator, is_box=number % 4 > 1)
        near, far = distant_colours(generator)
        image = np.where(inside[..., None], near, far) + generator.normal(0, 0.02, (SIDE, SIDE, 3))
        if kind == "textured":
            waves = [grating(generator) for _ in range(2)]
            image += 0.15 * np.where(inside, *waves)[..., None]
        pixels = torch.from_numpy((image.clip(0, 1) * 255).round().astype(np.uint8))
        made.append(Scene(pixels.permute(2, 0, 1), torch.from_numpy(inside), kind))
    return made


def simple_outline(generator: np.random.Generator, *, is_box: bool) -> Bools:
    """Return a turned ellipse or rectangle (S, S) of 14 % of the area, away from the border."""
    aspect, angle = generator.uniform(0.6, 1.0), generator.uniform(0, np.pi)
    rows, columns = (np.indices((SIDE, SIDE)) + 0.5) / SIDE - generator.uniform(0.4, 0.6, (2, 1, 1))
    along = np.cos(angle) * rows + np.sin(angle) * columns
    across = np.cos(angle) * columns - np.sin(angle) * rows
    radius = np.sqrt(AREA / (4 if is_box else np.pi) / aspect)
    axes = np.abs(along) / radius, np.abs(across) / (aspect * radius)
    inside: Bools = (np.maximum(*axes) if is_box else np.hypot(*axes)) < 1
    return inside


def distant_colours(generator: np.random.Generator) -> Floats:
    """Return two RGB colours (2, 3) whose distance is at least 0.4."""
    while True:
        pair = generator.uniform(0.15, 0.85, (2, 3))
        if np.linalg.norm(pair[0] - pair[1]) >= 0.4:
            return pair


def grating(generator: np.random.Generator) -> Floats:
    """Return stripes (S, S) in [-1, 1], 4 to 10 pixels apart."""
    angle, period = generator.uniform(0, np.pi), generator.uniform(4, 10)
    rows, columns = np.indices((SIDE, SIDE))
    found: Floats = np.sin(2 * np.pi / period * (np.cos(angle) * rows + np.sin(angle) * columns))
    return found


def quality(mask_of: Callable[[Scene], Tensor], seen: Sequence[Scene]) -> list[float]:
    """Return the mean overlap of masks bool (S, S) for each of `KINDS`, and seconds of an image."""
    start = time.process_time()
    found = [mask_of(scene) for scene in seen]
    seconds = (time.process_time() - start) / len(seen)
    shares: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for mask, scene in zip(found, seen, strict=True):
        shares[scene.kind].append(overlap(mask, scene.truth))
    return [*(float(np.mean(shares[kind])) for kind in KINDS), seconds]


def of_superpixels(scene: Scene) -> Tensor:
    """Return the best mask that superpixels allow."""
    segments = segment(as_array(scene.image), SUPERPIXELS)
    inside = means(segments.labels, scene.truth.numpy().astype(np.float64)[..., None])[:, 0]
    return torch.from_numpy(segments.paint(inside) > 0.5)


def handcrafted() -> dict[str, Callable[[Tensor], Tensor]]:
    """Return the masks of each map, of their mean, and of the mean after the field."""

    def above(map_of: Callable[[Tensor], Floats]) -> Callable[[Tensor], Tensor]:
        return lambda image: torch.from_numpy(map_of(image) > 0.5)

    single = {name: above(map_of) for name, map_of in MAPS.items()}
    field = above(partial(fused, crf=DenseCRF()))
    return single | {"mean": above(fused), "mean, field": field}


def learned(encoder: str, count: int) -> Callable[[Tensor], Tensor]:
    """Train a network on handcrafted maps of ``count`` images and return its masks."""
    images = torch.stack([scene.image for scene in scenes(count, "train")])

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


def line(name: str, found: Sequence[float]) -> str:
    """Return a line of the table."""
    return f"{name:14} {' '.join(f'{value:8.3f}' for value in found[:-1])} {found[-1]:9.3f}"


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--learned", action="store_true")
    parser.add_argument("--encoder", default="untrained:small_resnet8")
    parser.add_argument("--training-images", type=integer(Count), default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    seen = scenes(IMAGES, "test") + simple_scenes(IMAGES)
    print(f"{IMAGES} built-in images and {IMAGES} simple ones, {SIDE} px")
    print(f"{'':14} {' '.join(f'{kind:>8}' for kind in KINDS)} {'s/image':>9}")
    print(line("superpixels", quality(of_superpixels, seen)), flush=True)
    makers = handcrafted()
    if options.learned:
        makers["learned, field"] = learned(options.encoder, options.training_images)
    for name, mask_of in makers.items():
        print(line(name, quality(lambda scene, of=mask_of: of(scene.image), seen)), flush=True)  # type: ignore[misc]
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
