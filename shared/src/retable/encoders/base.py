"""The interface of encoders and of their recipes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

from retable.errors import UserError


class Encoder(nn.Module):
    """A network from images (B, 3, H, W) to features (B, feature_dim), with taps at several depths.

    Subclasses implement `advance`, which computes one tap from the tap before it.

    Attributes:
        feature_dim: F of the features.
        tap_names: names of the taps in order of depth; the last is "pre_logits", the features.
        folds_batch_norms: True lets evaluation multiply each batch norm into the convolution before
            it. The norm of a convolution ``convN`` must be its sibling ``bnN`` (of ``0``, ``1``),
            must have this convolution's output as its only input, and nothing else may read that
            output.
    """

    feature_dim: int
    tap_names: tuple[str, ...]
    folds_batch_norms: bool = False

    def advance(self, name: str, x: Tensor) -> Tensor:
        """Compute the tap ``name`` from the tap before it, the first one from the images."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Return features (B, feature_dim)."""
        x = images
        for name in self.tap_names:
            x = self.advance(name, x)
        return x

    def taps(self, images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Return activations at several depths, computed in one pass that ends at the deepest.

        ``names`` are some of `tap_names`, in any order. Each has a map (B, C, h, w), "pre_logits" a
        vector (B, F).
        """
        for name in names:
            if name not in self.tap_names:
                raise UserError(
                    f"The encoder has no tap {name!r}; use some of {', '.join(self.tap_names)}."
                )
        found: dict[str, Tensor] = {}
        x = images
        for name in self.tap_names:
            if len(found) == len(set(names)):
                break
            x = self.advance(name, x)
            if name in names:
                found[name] = x
        return {name: found[name] for name in names}


class EncoderRecipe(Protocol):
    """A frozen dataclass of plain fields that builds an encoder.

    `retable.encoders.register_encoder` lets encoder files be loaded that name its class.
    """

    def __hash__(self) -> int:
        """Return a hash of the fields: recipes are values."""

    @property
    def label(self) -> str:
        """The encoder in words, for messages and reports."""

    def build(self, rng_key: int) -> Encoder:
        """Return the encoder with weights drawn by `retable.random.initialising`."""
