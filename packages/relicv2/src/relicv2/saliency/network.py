"""A network that marks the foreground: an encoder's last map, two logits for each of its places."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relicv2.saliency.losses import foreground
from retable.encoders import Encoder, EncoderRecipe
from retable.encoders.dilation import dilate_
from retable.encoders.registry import encoder_kind, recipe_class
from retable.errors import UserError
from retable.files import digest_of_tensors, write_bytes
from retable.nn.checks import Shaped, check_shapes
from retable.random import initialising
from retable.settings import from_plain
from retable.views.recipe import IMAGENET_MEAN, IMAGENET_STD
from retable.weights.weights_files import read_weights

_HEADER = "saliency"

PADDED = 8
"""Images are padded to multiples of it, the stride of two dilated stages."""


class SaliencyNetwork(nn.Module):
    """Images uint8 (B, 3, H, W) to probabilities of foreground (B, H, W), float32.

    Logits of the encoder's last map are enlarged to the image. Dilation instead of the last strides
    makes the map finer (`retable.encoders.dilation`); the paper does not state its own stride.

    Args:
        encoder: its last tap but one is a map of ``feature_dim`` channels. It is dilated in place.
        dilated: number of last stages without stride, 2 as in DeepUSPS's network.
        side: side of the images that it is trained on, in pixels; 432 as there.
        rng_key: draws the classifier's weights.
    """

    def __init__(
        self, encoder: Encoder, *, dilated: int = 2, side: int = 432, rng_key: int
    ) -> None:
        super().__init__()
        dilate_(encoder, dilated)
        self.encoder = encoder
        self.dilated = dilated
        self.side = side
        with initialising(rng_key):
            self.classifier = nn.Conv2d(encoder.feature_dim, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the probabilities of foreground."""
        check_shapes(Shaped("images", images, "B 3 H W", kind="any"))
        mean, std = (images.new_tensor(of, dtype=torch.float32) for of in _STATISTICS)
        inputs = (images / 255.0 - mean[:, None, None]) / std[:, None, None]
        tap = self.encoder.tap_names[-2]
        logits = self.classifier(self.encoder.taps(inputs, [tap])[tap])
        size = images.shape[2:]
        return foreground(F.interpolate(logits, size, mode="bilinear", align_corners=False))

    @torch.no_grad()
    def predict(self, image: Tensor) -> Tensor:
        """Return the probabilities (H, W) of one image uint8 (3, H, W).

        It is padded below and to the right by its reflection; one too thin for that by its last
        rows and columns.
        """
        height, width = image.shape[1:]
        below, right = -height % PADDED, -width % PADDED
        mode = "reflect" if below < height and right < width else "replicate"
        padded = F.pad(image[None].float(), (0, right, 0, below), mode=mode)
        return cast(Tensor, self(padded.to(torch.uint8)))[0, :height, :width]


_STATISTICS = (IMAGENET_MEAN, IMAGENET_STD)


def save_network(
    path: str | os.PathLike[str], network: SaliencyNetwork, recipe: EncoderRecipe
) -> None:
    """Write a network as safetensors, atomically; ``recipe`` is that of its encoder."""
    from safetensors.torch import save

    state = {
        name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()
    }
    header = {
        "kind": encoder_kind(recipe),
        "recipe": dataclasses.asdict(recipe),  # type: ignore[call-overload]
        "dilated": network.dilated,
        "side": network.side,
        "sha256": digest_of_tensors(state),
    }
    text = json.dumps(header, sort_keys=True, allow_nan=False)
    write_bytes(path, save(state, metadata={_HEADER: text}))


def load_network(path: str | os.PathLike[str]) -> SaliencyNetwork:
    """Load a file of `save_network`, in evaluation mode on the CPU.

    Raises:
        UserError: there is no such file, or it is none or a damaged one of `save_network`.
    """
    found = read_weights(Path(path))
    try:
        header = json.loads(found.header[_HEADER])
        recipe = from_plain(recipe_class(header["kind"]), header["recipe"])
        dilated, side, digest = header["dilated"], header["side"], header["sha256"]
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{path} must be a saliency network, got another file. Train one by "
            "`python -m relicv2.saliency`."
        ) from error
    if digest_of_tensors(found.tensors) != digest:
        raise UserError(
            f"{path} is damaged: its weights do not have the checksum of its header. Copy it again."
        )
    network = SaliencyNetwork(recipe.build(0), dilated=dilated, side=side, rng_key=0)
    network.load_state_dict(found.tensors)
    return network.eval()
