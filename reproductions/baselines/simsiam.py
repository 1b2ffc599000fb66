"""SimSiam without its stopped gradient, which collapses (Chen & He 2021, section 4.1)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from retable.methods import SimSiam, SimSiamRecipe


@dataclass(frozen=True)
class NoStopGradientRecipe(SimSiamRecipe):
    """SimSiam whose targets carry gradient too."""

    def build(self, encoder: nn.Module, rng_key: int) -> NoStopGradient:
        """Return the method; ``rng_key`` draws the heads' weights."""
        return NoStopGradient(encoder, self, rng_key)


class NoStopGradient(SimSiam):
    """Move each view's projection towards the other view's prediction, too."""

    def branches(self, view: Tensor) -> tuple[Tensor, Tensor]:
        """Return predictions and projections (B_r, D) of one view, both with gradient."""
        projections = self.projector(self.encoder(view))
        return self.predictor(projections), projections
