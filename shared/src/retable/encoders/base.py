"""What all encoders have in common: features that can be tapped at several depths in one pass."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from retable.errors import UserError


class Encoder(nn.Module):
    """A network from images (B, 3, H, W) to features (B, feature_dim), with taps on the way.

    Subclasses say what lies between one tap and the next in `_advance`.

    Attributes:
        feature_dim: F of the features.
        tap_names: in order of depth; the last is "pre_logits", the features themselves.
    """

    feature_dim: int
    tap_names: tuple[str, ...]

    def _advance(self, name: str, x: Tensor) -> Tensor:
        """Return the tap ``name`` of the one before it, the first of the images."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Return features (B, feature_dim)."""
        x = images
        for name in self.tap_names:
            x = self._advance(name, x)
        return x

    def taps(self, images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Return several depths' activations, computed in one pass that ends at the deepest.

        Args:
            images: (B, 3, H, W).
            names: some of `tap_names`, in any order.

        Returns:
            For each name a map (B, C, h, w), or a vector (B, F) for "pre_logits".

        Raises:
            UserError: the encoder has no such tap.
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
            x = self._advance(name, x)
            if name in names:
                found[name] = x
        return {name: found[name] for name in names}
