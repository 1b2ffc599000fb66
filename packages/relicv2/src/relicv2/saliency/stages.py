"""The stages of a learned saliency in a folder: each is made once, and what is there is kept.

A stage depends on the images, the settings and the stages before it, and on nothing else, so that
an interrupted learning continues to the same network.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from relicv2.saliency.handcrafted import MAPS
from relicv2.saliency.learning import LearningRecipe, fuse, refined_maps
from relicv2.saliency.network import SaliencyNetwork, load_network, save_network
from retable.data.decoding import UnreadableImageError, decode, read_image_file, stamps
from retable.data.source import checksum
from retable.encoders import EncoderRecipe
from retable.errors import UserError
from retable.files import claim, digest_of_tensors, write_bytes
from retable.processes import worker_pool
from retable.random import derive_key, permutation
from retable.settings import to_plain
from retable.text import printable
from retable.weights import load_encoder
from retable.weights.weights_files import read_weights

NETWORK = "network.safetensors"
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Learning:
    """Learning of a saliency network from a folder of images.

    Attributes:
        source: folder of the images.
        names: paths of the images below it.
        target: folder of the stages.
        encoder: the initial encoder, as `retable.weights.load_encoder` reads it.
        recipe: settings of the learning.
        images: number of images that are drawn; 2,500 in the paper, as in DeepUSPS's training.
        side: side that they are resized to; 432 in the official code of DeepUSPS.
        device: "cpu", "cuda" or "cuda:N".
        workers: processes that make the maps and fit predictions to their images.
    """

    source: Path
    names: tuple[str, ...]
    target: Path
    encoder: str
    recipe: LearningRecipe
    images: int = 2500
    side: int = 432
    device: str = "cpu"
    workers: int = 1

    def __post_init__(self) -> None:
        if len(self.names) < self.images:
            raise UserError(
                f"`--images` must be at most the images of {self.source}, {len(self.names)}, got "
                f"{self.images}. Take fewer."
            )

    def claim_target(self) -> None:
        """Write what the stages depend on, or check that it is what stands there.

        Raises:
            UserError: the folder has other settings, or stages of other images.
        """
        names = self.chosen()
        files = [str(self.source / name) for name in names]
        encoder = digest_of_tensors(load_encoder(self.encoder).encoder.state_dict())
        content = {
            "recipe": to_plain(self.recipe),
            "encoder": encoder,
            "images": self.images,
            "side": self.side,
            "files": checksum([*names, *stamps(files)]),
        }
        claim(self.target / "learning.json", "saliency", content)

    def chosen(self) -> list[str]:
        """Draw the images."""
        order = permutation(derive_key(self.recipe.seed, "saliency", "images"), len(self.names))
        return [self.names[number] for number in order[: self.images].sort().values.tolist()]

    def read_images(self) -> Tensor:
        """Return the drawn images (N, 3, S, S) uint8."""
        return torch.stack([self._read(name) for name in self.chosen()])

    def _read(self, name: str) -> Tensor:
        try:
            image = decode(read_image_file(str(self.source / name), name), name)
        except UnreadableImageError as error:
            raise UserError(
                f"`SOURCE` must hold images, got {printable(name)} ({error.fault}). Remove it."
            ) from error
        size = (self.side, self.side)
        resized = F.interpolate(image[None].float(), size, mode="bicubic", antialias=True)
        return resized.round().clamp(0, 255).to(torch.uint8)[0]

    def network(self) -> tuple[SaliencyNetwork, EncoderRecipe]:
        """Return the network with its initial weights, and the recipe of its encoder."""
        loaded = load_encoder(self.encoder)
        rng_key = derive_key(self.recipe.seed, "saliency", "classifier")
        network = SaliencyNetwork(loaded.encoder, side=self.side, rng_key=rng_key)
        return network.to(self.device), loaded.recipe

    def stages(self) -> Iterator[tuple[str, int]]:
        """Return the stages of maps in order: a method, and 0 or the number of iterations."""
        for method in MAPS:
            for made in range(self.recipe.iterations + 1):
                yield method, made

    def path_of(self, method: str, made: int) -> Path:
        """Return the file of a stage of maps."""
        return self.target / f"{method}-{made}.safetensors"

    def make_maps(self, images: Tensor, method: str, made: int) -> None:
        """Make a stage of maps and write it."""
        if made == 0:
            maps = self._handcrafted(images, method)
        else:
            network, _ = self.network()
            maps = refined_maps(
                network,
                images,
                read_maps(self.path_of(method, made - 1)),
                self.recipe,
                method=method,
                iteration=made - 1,
                workers=self.workers,
            )
        write_maps(self.path_of(method, made), maps)

    def is_made(self, method: str, made: int) -> bool:
        """Return whether a stage of maps is there and whole."""
        return _is_whole(self.path_of(method, made), read_maps)

    def has_network(self) -> bool:
        """Return whether the network is there and whole."""
        return _is_whole(self.target / NETWORK, load_network)

    def _handcrafted(self, images: Tensor, method: str) -> Tensor:
        map_of = functools.partial(_map_of, method)
        if self.workers == 1:
            found = [*map(map_of, images.numpy())]
        else:
            with worker_pool(self.workers, "saliency maps") as pool:
                found = [*pool.map(map_of, images.numpy(), chunksize=8)]
        return torch.from_numpy(np.stack(found))

    def make_network(self, images: Tensor) -> None:
        """Train the network on the refined maps of all methods and write it."""
        network, encoder = self.network()
        last = self.recipe.iterations
        maps = {method: read_maps(self.path_of(method, last)) for method in MAPS}
        fuse(network, images, maps, self.recipe)
        save_network(self.target / NETWORK, network, encoder)


def _map_of(method: str, image: Pixels) -> Pixels:
    found = MAPS[method](torch.from_numpy(image))
    return np.rint(found.astype(np.float32) * 255).astype(np.uint8)


def _is_whole(path: Path, read: Callable[[Path], object]) -> bool:
    """Return whether a file is there and whole; one that is not is removed, to be made again."""
    if not path.exists():
        return False
    try:
        read(path)
    except UserError as error:
        print(printable(f"{error} It is made again."))
        path.unlink()
        return False
    return True


def write_maps(path: Path, maps: Tensor) -> None:
    """Write maps (N, H, W) uint8 with their checksum, atomically."""
    from safetensors.torch import save

    tensors = {"maps": maps.contiguous()}
    write_bytes(path, save(tensors, metadata={"sha256": digest_of_tensors(tensors)}))


def read_maps(path: Path) -> Tensor:
    """Read maps of `write_maps`.

    Raises:
        UserError: the file is damaged.
    """
    found = read_weights(path)
    if found.header.get("sha256") != digest_of_tensors(found.tensors):
        raise UserError(f"{path} is damaged: its maps do not have the checksum of its header.")
    return found.tensors["maps"]
